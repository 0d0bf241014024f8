"""Consumers on a real Valkey: two nodes, one of which dies with batches in its hands, and a server that is killed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from faas.model.message import Ack, Again, Bury, Delivery, Message, Outcome, QueueName, Send
from faas.ports.events import Done
from faas.stores.queues import RedisQueues
from faas.triggers.consumer import Consumer, Source
from tests.contract.valkeys import emptied, running_valkey

pytestmark = pytest.mark.anyio
QUEUE = QueueName("default", "orders")
MESSAGES = 200
GROUPS = 5
POISON = {f"m{n}" for n in range(0, MESSAGES, 50)}
AT_ONCE = 4


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_valkey() as found:
        yield found


class Handler:
    """``Work`` that keeps what it handled. Poison fails with all that is in its batch; the third time it is buried."""

    def __init__(self) -> None:
        self.handled: list[Delivery] = []
        self.running = 0
        self.most = 0
        self.hangs = False

    async def perform(self, batch: Sequence[Delivery]) -> Done:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(3600 if self.hangs else random.random() * 0.01)
        finally:
            self.running -= 1
        if any(each.message.id in POISON for each in batch):
            return Done([self.failed(each) for each in batch])
        self.handled += batch
        return Done([Ack(each.receipt) for each in batch])

    def failed(self, each: Delivery) -> Outcome:
        return Bury(each.receipt, "poison") if each.attempt >= 3 else Again(each.receipt, 1, "poison")


def consumer(queues: RedisQueues, work: Handler, node: str) -> Consumer:
    async def lease_ms() -> int:
        return 300

    return Consumer(queues, node, Source(QUEUE, "default/eat.orders", 7, 0, AT_ONCE, lease_ms), work)


async def test_all_are_handled_and_groups_stay_in_order_though_a_node_dies(url: str) -> None:
    async with emptied(url) as client:
        queues = RedisQueues(client)
        sends = [
            Send(QUEUE, Message(f"m{n}", b"x", group=f"g{n % (GROUPS + 1)}" if n % (GROUPS + 1) else ""))
            for n in range(MESSAGES)
        ]
        await queues.send(sends)
        lost, kept = Handler(), Handler()
        lost.hangs = True
        dying, living = consumer(queues, lost, "one"), consumer(queues, kept, "two")
        dying.ring()
        async with asyncio.timeout(20):
            while lost.running < AT_ONCE:
                await asyncio.sleep(0.005)
            await dying.close(0)  # as kill -9: nothing is settled
            living.ring()
            while True:
                state = await queues.state(QUEUE)
                assert state is not None
                if state.depth == 0:
                    break
                await asyncio.sleep(0.02)
            await living.close(1)
        times = Counter(each.message.id for each in kept.handled)
        assert set(times) == {f"m{n}" for n in range(MESSAGES)} - POISON
        assert set(times.values()) == {1}
        assert kept.most <= AT_ONCE
        for group in range(1, GROUPS + 1):
            order = [int(each.message.id[1:]) for each in kept.handled if each.message.group == f"g{group}"]
            assert order == sorted(order)
        dead = await queues.dead(QUEUE, 100)
        assert {each.delivery.message.id for each in dead} == POISON
        assert state.counts["expired"] > 0


async def test_a_queue_that_is_deleted_under_a_consumer_is_served_again_when_it_is_back(url: str) -> None:
    async with emptied(url) as client:
        queues = RedisQueues(client)
        work = Handler()
        work.hangs = True
        made = consumer(queues, work, "one")
        await queues.send([Send(QUEUE, Message("a", b"x"))])
        made.ring()
        async with asyncio.timeout(20):
            while not work.running:
                await asyncio.sleep(0.005)
            await queues.delete(QUEUE)
            work.hangs = False
            await queues.send([Send(QUEUE, Message("b", b"x"))])
            made.ring()
            while [each.message.id for each in work.handled] != ["b"]:
                await asyncio.sleep(0.005)
        await made.close(0)
        state = await queues.state(QUEUE)
        assert state is not None
        assert (state.depth, state.dead) == (0, 0)
