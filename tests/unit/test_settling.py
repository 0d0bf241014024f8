"""Batches that end at the same time are settled together, and none of them is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from faas.model.errors import StoreUnavailable
from faas.model.message import Ack, Message, Outcome, QueueName, Send
from faas.triggers.settling import TOGETHER_MAX, Settling
from tests.unit.consumer_fakes import DOWN, ORDERS, until
from tests.unit.queue_fakes import FakeQueues

pytestmark = pytest.mark.anyio


class Steps(FakeQueues):
    """Each settling waits for ``go``; a receipt in ``fails`` makes it raise that."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[str]] = []
        self.go = asyncio.Event()
        self.fails: dict[str, Exception] = {}

    async def settle(self, queue: QueueName, outcomes: Sequence[Outcome], sends: Sequence[Send] = ()) -> list[str]:
        self.steps.append([each.receipt for each in outcomes])
        await self.go.wait()
        for each in outcomes:
            if each.receipt in self.fails:
                raise self.fails[each.receipt]
        return [each.receipt for each in outcomes if each.receipt.startswith("gone")]


async def begun(settling: Settling, queues: Steps, *batches: str) -> list[asyncio.Task[set[str]]]:
    """The first is being told, the others wait."""
    tasks = []
    for batch in batches:
        outcomes = [Ack(receipt) for receipt in batch.split()]
        tasks.append(asyncio.ensure_future(settling.settle(outcomes, ())))
        await until(lambda: bool(queues.steps))
    await asyncio.sleep(0)
    return tasks


async def test_what_ends_meanwhile_goes_in_one_step_and_each_hears_of_its_own() -> None:
    queues = Steps()
    tasks = await begun(Settling(queues, ORDERS), queues, "a", "b gone-b", "c", "gone-d")
    queues.go.set()
    assert await asyncio.gather(*tasks) == [set(), {"gone-b"}, set(), {"gone-d"}]
    assert queues.steps == [["a"], ["b", "gone-b", "c", "gone-d"]]


async def test_no_more_go_together_than_may() -> None:
    queues = Steps()
    many = " ".join(f"m{number}" for number in range(TOGETHER_MAX - 1))
    tasks = await begun(Settling(queues, ORDERS), queues, "a", many, "b c", "d")
    queues.go.set()
    await asyncio.gather(*tasks)
    assert queues.steps == [["a"], many.split(), ["b", "c", "d"]]


async def test_what_sends_something_goes_alone() -> None:
    queues, send = Steps(), Send(ORDERS, Message("m", b""))
    settling = Settling(queues, ORDERS)
    tasks = await begun(settling, queues, "a", "b")
    tasks.append(asyncio.ensure_future(settling.settle([Ack("gone-s")], [send])))
    await until(lambda: len(queues.steps) == 2)
    queues.go.set()
    assert await asyncio.gather(*tasks) == [set(), set(), {"gone-s"}]
    assert queues.steps == [["a"], ["gone-s"], ["b"]]


async def test_a_store_that_is_away_is_said_to_all_and_asked_once() -> None:
    queues = Steps()
    queues.fails["c"] = DOWN
    tasks = await begun(Settling(queues, ORDERS), queues, "a", "b", "c")
    queues.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert found[0] == set()
    assert all(isinstance(each, StoreUnavailable) for each in found[1:])
    assert queues.steps == [["a"], ["b", "c"]]


async def test_an_outcome_that_cannot_be_told_harms_no_other_batch() -> None:
    queues = Steps()
    queues.fails["c"] = ValueError("a bug")
    tasks = await begun(Settling(queues, ORDERS), queues, "a", "b", "c", "d")
    queues.go.set()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [found[0], found[1], found[3]] == [set()] * 3
    assert isinstance(found[2], ValueError)


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_one_that_is_cancelled_takes_no_other_with_it(cancelled: int) -> None:
    queues = Steps()
    tasks = await begun(Settling(queues, ORDERS), queues, "a", "b", "c", "d")
    tasks[cancelled].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    queues.go.set()
    await asyncio.wait(tasks)
    left = [task for number, task in enumerate(tasks) if number != cancelled]
    assert [task.result() for task in left] == [set()] * 3
    told = {receipt for step in queues.steps for receipt in step}
    assert told >= set("abcd") - {"abcd"[cancelled]}


async def test_a_cancelled_step_is_made_by_the_next_for_all_that_were_in_it() -> None:
    queues = Steps()
    tasks = await begun(Settling(queues, ORDERS), queues, "a", "b", "c")
    tasks[0].cancel()
    await until(lambda: len(queues.steps) == 2)
    tasks[1].cancel()
    await until(lambda: len(queues.steps) == 3)
    queues.go.set()
    await asyncio.wait(tasks)
    assert tasks[2].result() == set()
    assert queues.steps == [["a"], ["b", "c"], ["c"]]
