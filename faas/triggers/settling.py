"""What became of batches, told to the store: those that end while it is being told others go there together.

Theory of operation. As the group commit of a database: one settling is under way at a time, and whatever ends meanwhile
is the next one. So a batch that ends alone waits for nothing, and the more batches end the fewer steps each one costs.
What is sent along with a batch goes with its outcomes alone, because whether it is sent depends on these.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from faas.model.errors import StoreUnavailable
from faas.model.message import Outcome, QueueName, Send
from faas.ports.events import MessageQueue

TOGETHER_MAX: Final = 100  # outcomes in one step, unless one batch has more


class _Told:
    """A batch's outcomes, and what the store said to them."""

    __slots__ = ("error", "lost", "outcomes")

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = outcomes
        self.lost: set[str] | None = None  # None = not told yet
        self.error: Exception | None = None


class Settling:
    """Of one consumer's queue."""

    def __init__(self, queue: MessageQueue, name: QueueName) -> None:
        self._queue = queue
        self._name = name
        self._waiting: list[_Told] = []
        self._telling = asyncio.Lock()

    async def settle(self, outcomes: Sequence[Outcome], sends: Sequence[Send]) -> set[str]:
        """As ``MessageQueue.settle``."""
        if sends:
            return set(await self._queue.settle(self._name, outcomes, sends))
        ours = _Told(outcomes)
        self._waiting.append(ours)
        try:
            async with self._telling:
                while ours.lost is None and ours.error is None:
                    await self._tell(self._next())
        finally:
            if ours in self._waiting:  # cancelled before its turn
                self._waiting.remove(ours)
        if ours.error is not None:
            raise ours.error
        return ours.lost or set()

    def _next(self) -> list[_Told]:
        """Those that go together, first come first served."""
        some = [self._waiting.pop(0)]
        room = TOGETHER_MAX - len(some[0].outcomes)
        while self._waiting and len(self._waiting[0].outcomes) <= room:
            some.append(self._waiting.pop(0))
            room -= len(some[-1].outcomes)
        return some

    async def _tell(self, some: Sequence[_Told]) -> None:
        try:
            lost = set(await self._queue.settle(self._name, [outcome for each in some for outcome in each.outcomes]))
        except Exception as error:  # noqa: BLE001 - it is raised by each whose batch was told
            if len(some) > 1 and not isinstance(error, StoreUnavailable):  # one of them is at fault
                for each in some:
                    await self._tell([each])
                return
            for each in some:
                each.error = error
            return
        except BaseException:  # we are cancelled, the others are not: it is said twice rather than never
            self._waiting[:0] = [each for each in some if each.lost is None and each.error is None]
            raise
        for each in some:
            each.lost = {outcome.receipt for outcome in each.outcomes if outcome.receipt in lost}
