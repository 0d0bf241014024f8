"""Dead letters that come back at a rate: the delays stand in the store, and nobody has to stay for them."""

from __future__ import annotations

from typing import Any

import pytest

from faas.model.message import Bury, Message, QueueName, Send, Wanted
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client, ask

pytestmark = pytest.mark.anyio
QUEUE = QueueName("default", "jobs")
COUNT = 450  # more than one step of the store


async def dead_letters(queues: RedisQueues, count: int) -> list[str]:
    ids = [f"{number:032x}" for number in range(count)]
    await queues.send([Send(QUEUE, Message(each, b"{}")) for each in ids])
    batch = await queues.take(QUEUE, "t", "n", Wanted(count, 60_000))
    await queues.settle(QUEUE, [Bury(each.receipt, "no") for each in batch.deliveries])
    return ids


async def dues_ms(client: Client) -> dict[str, int]:
    """When each delayed message is due, Unix ms, in that order."""
    found: Any = await ask(client.zrange("faas:queue:default/jobs:delayed", 0, -1, withscores=True))
    return {message_id.decode(): int(due_ms) for message_id, due_ms in found}


async def now_ms(client: Client) -> int:
    seconds, us = await ask(client.time())
    return int(seconds) * 1000 + int(us) // 1000


async def test_each_comes_later_than_the_one_before_over_all_steps(client: Client) -> None:
    queues = RedisQueues(client)
    ids = await dead_letters(queues, COUNT)
    before_ms = await now_ms(client)
    assert await queues.redrive(QUEUE, None, COUNT, first_ms=60_000, spread_ms=20.5) == COUNT
    after_ms = await now_ms(client)
    found = await dues_ms(client)
    assert list(found) == ids, "the oldest first"
    for place, due_ms in enumerate(found.values()):
        assert before_ms <= due_ms - int(60_000 + 20.5 * place) <= after_ms
    state = await queues.state(QUEUE)
    assert state is not None
    assert (state.ready, state.delayed, state.dead) == (0, COUNT, 0)
    nothing = await queues.take(QUEUE, "t", "n", Wanted(10, 60_000))
    assert not nothing.deliveries
    assert nothing.wait_ms is not None


async def test_named_ones_keep_the_rate_and_the_first_comes_at_once(client: Client) -> None:
    queues = RedisQueues(client)
    ids = await dead_letters(queues, 4)
    assert await queues.redrive(QUEUE, [ids[2], "none", ids[1]], 10, spread_ms=60_000) == 2
    assert list(await dues_ms(client)) == [ids[1]]
    assert await queues.redrive(QUEUE, None, 10) == 2, "without a rate all at once"
    state = await queues.state(QUEUE)
    assert state is not None
    assert (state.ready, state.delayed) == (3, 1)
