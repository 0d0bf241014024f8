"""A queue that a test fills and watches, for consumers; and waiting for what they do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from faas.model.errors import StoreUnavailable
from faas.model.message import Batch, Delivery, Message, Outcome, QueueName, Send, Wanted
from faas.ports.events import Done
from tests.unit.queue_fakes import FakeQueues

ORDERS = QueueName("default", "orders")
DOWN = StoreUnavailable("nobody answers")


def delivery(name: str, body: bytes = b"x", attempt: int = 1, **more: object) -> Delivery:
    return Delivery(Message(name, body, **more), f"receipt-{name}", attempt, 1000, 0)  # type: ignore[arg-type]


async def until(true: Callable[[], bool]) -> None:
    """Wait for it; fails after ten seconds."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


class FilledQueues(FakeQueues):
    """``take`` hands out of ``ready``, whatever the queue's name; everything that is asked is kept."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.ready = [delivery(name) for name in names]
        self.wait_ms: int | None = None
        self.takes = 0
        self.asked: list[int] = []  # batches, of each take
        self.settled: list[Outcome] = []
        self.sent: list[Send] = []
        self.renewals: list[list[str]] = []
        self.gone: set[str] = set()  # receipts that are no longer ours
        self.held_back: asyncio.Event | None = None  # a take waits for it
        self.full: list[QueueName] = []  # what ``busy`` says
        self.rung: asyncio.Queue[QueueName | StoreUnavailable] = asyncio.Queue()

    async def take(self, queue: QueueName, trigger: str, node: str, wanted: Wanted) -> Batch:
        self.takes += 1
        self._check()
        await asyncio.sleep(0)
        if self.held_back is not None:
            await self.held_back.wait()
        count, batches = wanted.messages, wanted.batches
        self.asked.append(batches)
        taken, self.ready = self.ready[: count * batches], self.ready[count * batches :]
        some, *more = [taken[at : at + count] for at in range(0, len(taken), count)] or [[]]
        return Batch(some, None if some else self.wait_ms, more)

    async def settle(self, queue: QueueName, outcomes: Sequence[Outcome], sends: Sequence[Send] = ()) -> list[str]:
        await asyncio.sleep(0)
        self._check()
        self.settled += outcomes
        self.sent += sends
        return [each.receipt for each in outcomes if each.receipt in self.gone]

    async def renew(self, queue: QueueName, receipts: Sequence[str], lease_ms: int) -> list[str]:
        self._check()
        self.renewals.append(list(receipts))
        return [each for each in receipts if each in self.gone]

    async def busy(self) -> list[QueueName]:
        self._check()
        return self.full

    async def bells(self) -> AsyncIterator[QueueName]:
        while True:
            rung = await self.rung.get()
            if isinstance(rung, StoreUnavailable):
                raise rung
            yield rung


class FakeWork:
    """``Work`` that does what ``then`` says with each batch, once ``go`` is set (at first it is)."""

    def __init__(self, then: Callable[[Sequence[Delivery]], Done]) -> None:
        self.then = then
        self.batches: list[list[str]] = []
        self.running = 0
        self.most = 0
        self.go = asyncio.Event()
        self.go.set()

    async def perform(self, batch: Sequence[Delivery]) -> Done:
        self.batches.append([each.message.id for each in batch])
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            return self.then(batch)
        finally:
            self.running -= 1
