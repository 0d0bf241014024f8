"""How many messages a second arq handles: ``python arq_peer.py REDIS_URL COUNT`` in an environment of its own.

All are enqueued first; the time is from the start of the worker, whose tasks do nothing, to the last one's end. Without
results, and with a poll as short and as many jobs at once as served it best.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from arq.connections import ArqRedis
from arq.worker import Worker
from redis.asyncio import from_url

BODY = '{"order": 1, "items": [1, 2, 3]}'
AT_ONCE = 200
POLL_S = 0.001


async def main(url: str, count: int) -> None:
    handled = 0

    async def work(_: object, body: str) -> None:
        nonlocal handled
        assert body == BODY
        handled += 1

    pool = ArqRedis(connection_pool=from_url(url).connection_pool)
    for start in range(0, count, AT_ONCE):
        await asyncio.gather(*(pool.enqueue_job("work", BODY) for _ in range(start, min(start + AT_ONCE, count))))
    worker = Worker(
        [work], redis_pool=pool, burst=True, max_jobs=AT_ONCE, poll_delay=POLL_S, keep_result=0, handle_signals=False
    )
    worker.functions["work"] = worker.functions.pop(next(iter(worker.functions)))
    begin = time.perf_counter()
    await worker.main()
    seconds = time.perf_counter() - begin
    assert handled == count, (handled, count)
    print(json.dumps({"per_second": count / seconds}))
    await pool.aclose()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
