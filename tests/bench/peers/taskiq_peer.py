"""How many messages a second taskiq handles: ``python taskiq_peer.py REDIS_URL COUNT`` in an environment of its own.

On a Redis stream with acknowledgement. All are sent first; the time is from the start of the receiver, whose tasks do
nothing, to the last one's end.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from taskiq.receiver import Receiver
from taskiq_redis import RedisStreamBroker

BODY = '{"order": 1, "items": [1, 2, 3]}'
AT_ONCE = 200


async def main(url: str, count: int) -> None:
    broker = RedisStreamBroker(url, queue_name="peer-taskiq", xread_count=AT_ONCE)
    handled, done = 0, asyncio.Event()

    @broker.task(task_name="work")  # type: ignore[untyped-decorator, unused-ignore]
    async def work(body: str) -> None:
        nonlocal handled
        assert body == BODY
        handled += 1
        if handled == count:
            done.set()

    await broker.startup()
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(work.kiq(BODY) for _ in range(start, min(start + AT_ONCE, count))))
    broker.is_worker_process = True
    receiver = Receiver(broker, max_async_tasks=AT_ONCE, max_prefetch=AT_ONCE, run_startup=False)
    begin = time.perf_counter()
    listening = asyncio.create_task(receiver.listen(done))
    await done.wait()
    seconds = time.perf_counter() - begin
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    print(json.dumps({"per_second": count / seconds}))
    await broker.shutdown()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
