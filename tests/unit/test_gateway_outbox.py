"""Sends of many callers in few steps of the store: nothing lost, nothing mixed up, whoever fails or leaves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from faas.gateway.outbox import Outbox
from faas.model.errors import StoreUnavailable
from faas.model.message import SEND_MAX, Message, QueueName, Send

pytestmark = pytest.mark.anyio
QUEUE = QueueName("default", "jobs")


def sends(*ids: str, size: int = 1) -> list[Send]:
    return [Send(QUEUE, Message(each, b"x" * size)) for each in ids]


class Store:
    """Each step waits until it is let through; one with a message of ``failing`` fails."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.through = asyncio.Event()
        self.failing: set[str] = set()
        self.busy = False

    async def send(self, together: Sequence[Send]) -> list[str]:
        assert not self.busy, "one step at a time"
        self.busy = True
        try:
            await self.through.wait()
            if self.failing.intersection(send.message.id for send in together):
                raise StoreUnavailable("gone")
            self.steps.append([send.message.id for send in together])
            return [f"known-{send.message.id}" for send in together]
        finally:
            self.busy = False


def start(outbox: Outbox, *given: list[Send]) -> list[asyncio.Task[list[str]]]:
    return [asyncio.create_task(outbox.send(each)) for each in given]


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_comes_meanwhile_goes_together_and_each_gets_its_own_ids() -> None:
    store = Store()
    tasks = start(Outbox(store.send), sends("a"), sends("b", "c"), sends("d"))
    await turns()
    store.through.set()
    assert await asyncio.gather(*tasks) == [["known-a"], ["known-b", "known-c"], ["known-d"]]
    assert store.steps == [["a"], ["b", "c", "d"]]


async def test_a_step_has_its_limits() -> None:
    store = Store()
    many = sends(*(str(n) for n in range(SEND_MAX)))
    tasks = start(Outbox(store.send), sends("a"), sends("b"), many, sends("c", size=900_000), sends("d", size=900_000))
    await turns()
    store.through.set()
    await asyncio.gather(*tasks)
    assert [len(step) for step in store.steps] == [1, 1, SEND_MAX, 1, 1]


async def test_a_failure_is_that_of_its_step_alone() -> None:
    store = Store()
    outbox = Outbox(store.send)
    store.failing = {"a", "f"}
    (first,) = start(outbox, sends("a"))
    await turns()
    rest = start(outbox, sends("b"), sends("c"))
    store.through.set()
    found = await asyncio.gather(first, *rest, return_exceptions=True)
    assert isinstance(found[0], StoreUnavailable)
    assert found[1:] == [["known-b"], ["known-c"]]
    store.through.clear()
    again = start(outbox, sends("d"), sends("e"), sends("f"))
    await turns()
    store.through.set()
    found = await asyncio.gather(*again, return_exceptions=True)
    assert [type(each) for each in found] == [list, StoreUnavailable, StoreUnavailable]
    assert await outbox.send(sends("g")) == ["known-g"]


@pytest.mark.parametrize("leaves", [[0], [1], [2], [0, 1], [1, 2], [0, 1, 2]])
async def test_callers_that_leave_take_nobody_with_them(leaves: list[int]) -> None:
    store = Store()
    outbox = Outbox(store.send)
    tasks = start(outbox, sends("0"), sends("1"), sends("2"), sends("3"))
    await turns()
    for index in leaves:
        tasks[index].cancel()
    await turns()
    store.through.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    for index, each in enumerate(found):
        if index in leaves:
            assert isinstance(each, asyncio.CancelledError)
        else:
            assert each == [f"known-{index}"]
    assert await outbox.send(sends("next")) == ["known-next"]


async def test_a_leader_that_leaves_while_others_share_its_step_leaves_theirs_to_the_next() -> None:
    store = Store()
    outbox = Outbox(store.send)
    (first,) = start(outbox, sends("0"))
    await turns()
    tasks = start(outbox, sends("1"), sends("2"), sends("3"))
    await turns()
    store.through.set()
    await first
    store.through.clear()
    await turns()  # "1" leads, with "2" and "3"
    tasks[0].cancel()
    await turns()
    store.through.set()
    assert await asyncio.gather(*tasks[1:]) == [["known-2"], ["known-3"]]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_everybody_hears_and_the_outbox_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    stored: set[str] = set()

    async def send(together: Sequence[Send]) -> list[str]:
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        if rng.random() < 0.2:
            raise StoreUnavailable("gone")
        ids = [send.message.id for send in together]
        stored.update(ids)
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        return ids

    outbox = Outbox(send)
    tasks: list[asyncio.Task[list[str]]] = []
    for number in range(200):
        tasks += start(outbox, sends(*(f"{number}.{n}" for n in range(rng.randint(1, 3)))))
        if rng.random() < 0.2:
            rng.choice(tasks).cancel()
        if rng.random() < 0.5:
            await asyncio.sleep(0)
    async with asyncio.timeout(30):
        found = await asyncio.gather(*tasks, return_exceptions=True)
    for index, ids in enumerate(found):
        if isinstance(ids, list):
            assert ids == [f"{index}.{n}" for n in range(len(ids))]
            assert stored.issuperset(ids), "what is confirmed is stored"
        else:
            assert isinstance(ids, StoreUnavailable | asyncio.CancelledError)
    assert len(stored) > 100
