"""The set of consumers: which there are, and what wakes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from faas.events.filters import Filter
from faas.model.manifest import QueueTrigger
from faas.model.message import Ack, QueueName, calls_of
from faas.model.trigger import TriggerSpec
from faas.ports.events import Done
from faas.triggers.consumer import Source
from faas.triggers.consumers import EVERY, Consumers, Interest, Made
from tests.unit.consumer_fakes import DOWN, ORDERS, FakeWork, FilledQueues, delivery, until
from tests.unit.queue_fakes import FakeTriggers

pytestmark = pytest.mark.anyio
CALLS = calls_of("default", "hello")


class Followed(FakeTriggers):
    """Triggers that tell who watches."""

    def __init__(self) -> None:
        super().__init__()
        self.follower: Callable[[Sequence[TriggerSpec]], None] = lambda _found: None

    def watch(self, changed: Callable[[Sequence[TriggerSpec]], None]) -> None:
        self.follower = changed
        changed(self.all)

    def become(self, *triggers: TriggerSpec) -> None:
        self.all = list(triggers)
        self.follower(self.all)


def trigger(name: str = "eat", *, enabled: bool = True, **queue: object) -> TriggerSpec:
    settings = QueueTrigger(name="orders", **queue)  # type: ignore[arg-type]
    return TriggerSpec(id=f"{name}.orders", namespace="default", function=name, queue=settings, enabled=enabled)


class World:
    def __init__(self) -> None:
        self.queues = FilledQueues()
        self.triggers = Followed()
        self.work = FakeWork(lambda batch: Done([Ack(each.receipt) for each in batch]))
        self.made: list[str] = []
        self.others: Callable[[], list[Interest]] = list
        self.consumers = Consumers(
            self.queues, self.triggers, "node", self.for_trigger, [self.for_queue], jitter=lambda: 0.0
        )

    def for_trigger(self, found: TriggerSpec, own: Filter | None, others: Callable[[], list[Interest]]) -> Made:
        self.made.append(found.key)
        self.others = others
        return self.source(ORDERS, found.key), self.work

    def for_queue(self, queue: QueueName) -> Made | None:
        if queue != CALLS:
            return None
        self.made.append(str(queue))
        return self.source(queue, str(queue)), self.work

    def source(self, queue: QueueName, name: str) -> Source:
        async def lease_ms() -> int:
            return 60_000

        return Source(queue, name, 1, 0, 5, lease_ms)

    def fill(self, *names: str) -> None:
        self.queues.ready += [delivery(name) for name in names]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.consumers.run())
        try:
            yield
        finally:
            await self.consumers.close(1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_enabled_triggers_are_served_paused_ones_are_not_and_both_follow_changes() -> None:
    world = World()
    world.triggers.become(trigger("eat"), trigger("idle", enabled=False))
    world.fill("a")
    async with world.running():
        await until(lambda: world.queues.settled == [Ack("receipt-a")])
        assert world.made == ["default/eat.orders"]
        world.triggers.become(trigger("eat", enabled=False), trigger("idle", enabled=False))
        world.fill("b")
        world.queues.rung.put_nowait(ORDERS)
        await asyncio.sleep(0.01)
        assert len(world.queues.settled) == 1
        world.triggers.become(trigger("eat"), trigger("idle", enabled=False))
        await until(lambda: len(world.queues.settled) == 2)
        world.triggers.become(trigger("idle"))
        assert world.made == ["default/eat.orders", "default/eat.orders", "default/idle.orders"]


async def test_a_trigger_that_stays_as_it_was_keeps_its_consumer_and_one_that_changed_ends_what_it_has() -> None:
    world = World()
    world.triggers.become(trigger())
    world.work.go.clear()
    world.fill("a")
    async with world.running():
        await until(lambda: world.work.running == 1)
        world.triggers.become(trigger(), trigger("other", enabled=False))
        assert len(world.made) == 1
        world.triggers.become(trigger(batch=3))
        assert len(world.made) == 2
        world.work.go.set()
        await until(lambda: world.queues.settled == [Ack("receipt-a")])


async def test_a_bell_wakes_the_consumers_of_its_queue() -> None:
    world = World()
    world.triggers.become(trigger())
    async with world.running():
        await until(lambda: world.queues.takes == 1)
        world.fill("a")
        world.queues.rung.put_nowait(ORDERS)
        await until(lambda: world.queues.settled == [Ack("receipt-a")])
        takes = world.queues.takes
        world.queues.rung.put_nowait(QueueName("default", "unknown"))
        await asyncio.sleep(0.01)
        assert world.queues.takes == takes


async def test_a_hidden_queue_has_a_consumer_only_while_it_holds_something() -> None:
    world = World()
    async with world.running():
        world.fill("a")
        world.queues.rung.put_nowait(CALLS)
        await until(lambda: world.queues.settled == [Ack("receipt-a")])
        assert world.made == [str(CALLS)]
        world.queues.rung.put_nowait(EVERY)  # who looks finds it empty
        await asyncio.sleep(0.01)
        world.queues.full = [CALLS]
        world.fill("b")
        world.queues.rung.put_nowait(EVERY)
        await until(lambda: len(world.queues.settled) == 2)
        assert world.made == [str(CALLS)] * 2


async def test_a_lost_bell_is_made_up_for_by_looking() -> None:
    world = World()
    world.triggers.become(trigger())
    async with world.running():
        await until(lambda: world.queues.takes == 1)
        world.fill("a")
        world.queues.full = [ORDERS]
        await until(lambda: world.queues.settled == [Ack("receipt-a")])


async def test_a_store_that_is_away_is_said_once_and_all_goes_on_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    world = World()
    world.triggers.become(trigger())
    async with world.running():
        await until(lambda: world.queues.takes == 1)
        world.queues.down = True
        for _ in range(3):
            world.queues.rung.put_nowait(DOWN)
        world.queues.rung.put_nowait(ORDERS)
        await until(lambda: world.queues.takes >= 2)
        world.fill("a")
        world.queues.down = False
        world.queues.rung.put_nowait(EVERY)
        await until(lambda: world.queues.settled == [Ack("receipt-a")])
    assert len([record for record in caplog.records if "nobody answers" in record.message]) == 1


async def test_a_trigger_with_a_filter_that_is_wrong_takes_nothing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.triggers.become(trigger("bad", filter={"body": {"x": 1}}), trigger("eat", filter={"body": {"x": [1]}}))
    async with world.running():
        await until(lambda: world.made == ["default/eat.orders"])
        assert "body.x" in caplog.text
        assert world.others() == []
        world.triggers.become(trigger("eat", filter={"body": {"x": [1]}}), trigger("all", enabled=False))
        world.others = list
        world.triggers.become(trigger("eat", filter={"body": {"x": [2]}}), trigger("all", enabled=False))
        assert world.others() == [Interest(None, enabled=False)]


async def test_what_became_of_messages_is_counted() -> None:
    world = World()
    world.triggers.become(trigger())
    world.fill("a", "b")
    async with world.running():
        await until(lambda: len(world.queues.settled) == 2)
        await until(lambda: world.consumers.counts == {("default", "orders", "acked"): 2})


async def test_states_are_of_the_namespaces_that_have_triggers_or_messages() -> None:
    world = World()
    world.triggers.become(trigger())
    await world.queues.send([(ORDERS, delivery("a").message)])  # type: ignore[list-item]
    await world.queues.send([(QueueName("shop", "sold"), delivery("b").message)])  # type: ignore[list-item]
    async with world.running():
        await until(lambda: bool(world.made))
        assert [state.queue for state in await world.consumers.states()] == [ORDERS]
        world.queues.full = [QueueName("shop", "sold")]
        assert [str(state.queue) for state in await world.consumers.states()] == ["default/orders", "shop/sold"]
