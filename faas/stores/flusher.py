"""From the journal to the ledger: the task that empties the one into the other.

Theory of operation
-------------------
``record`` journals an entry and wakes the task, which sends what has gathered after ``interval_s``, or at once when
``batch_max`` entries wait. A busy node waits ``BUSY_FACTOR`` times as long: much of what a batch costs does not depend
on its size. The ledger ignores what it has seen, so after any doubt (a lost connection, a conflict, a start) the task
asks how far the ledger is and goes on from there: nothing is lost, nothing is added twice.

Entries are let go of in two steps. *Applied*: the ledger has them in memory. *Settled*: they are on the server's disk
(``Ledger.durable``); where the server cannot say, they count as settled after ``settle_s`` of the server still having
them. Only settled entries are trimmed, so a server that was killed and lost its last second gets them again.

When the ledger is away the journal grows and the task retries with full jitter (Brooker, "Exponential Backoff And
Jitter", AWS 2015), for as long as it takes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from typing import Final

from faas.model.errors import Conflict, FaasError, StoreUnavailable
from faas.ports import Entry, Ledger
from faas.stores.journal import Journal
from faas.stores.segments import JournalDamaged
from faas.waiting import either

log = logging.getLogger("faas.stores.flusher")

INTERVAL_S: Final = 0.05
BUSY_FACTOR: Final = 4
BUSY_ENTRIES: Final = 20  # in the last interval, or more
BATCH_MAX: Final = 500
SYNC_S: Final = 1.0
SETTLE_S: Final = 120.0
BACKOFF_S: Final = 0.05
BACKOFF_MAX_S: Final = 5.0
CLOSE_WAIT_S: Final = 5.0
CLOSE_TRIES: Final = 3

_TROUBLE: Final = (FaasError, JournalDamaged, OSError, ValueError)


class Flusher:
    """Owns the way out of one journal. Before ``run`` and after ``close`` a ``record`` is journalled all the same."""

    def __init__(
        self,
        journal: Journal,
        ledger: Ledger,
        *,
        interval_s: float = INTERVAL_S,
        batch_max: int = BATCH_MAX,
        sync_s: float = SYNC_S,
        settle_s: float = SETTLE_S,
        backoff_max_s: float = BACKOFF_MAX_S,
        rng: random.Random | None = None,
    ) -> None:
        self._journal = journal
        self._ledger = ledger
        self._interval_s = interval_s
        self._batch_max = batch_max
        self._sync_s = sync_s
        self._settle_s = settle_s
        self._backoff_max_s = backoff_max_s
        self._rng = rng or random.Random()
        self._applied: int | None = None  # None = to be asked
        self._settled = journal.first_kept - 1
        self._waiting: deque[tuple[float, int]] = deque()  # applied when, up to where; of a server that cannot say
        self._work = asyncio.Event()
        self._kick = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: asyncio.Event | None = None  # set when ``run`` has ended
        self._gathered = 0
        self._failures = 0
        self._work.set()  # what an earlier run left behind

    @property
    def pending(self) -> int:
        """Entries that the ledger does not have yet, as far as is known."""
        applied = self._applied if self._applied is not None else self._settled
        return self._journal.last_sequence - applied

    def record(self, *entries: Entry) -> None:
        """Journal entries, all or none; they are safe when this returns. Raises what ``Journal.append`` raises."""
        self._journal.append(*entries)
        before = self._gathered
        self._gathered += len(entries)
        if before == 0:
            self._work.set()
        if before < self._batch_max <= self._gathered:
            self._kick.set()

    def kick(self) -> None:
        """Flush now instead of at the next interval."""
        self._work.set()
        self._kick.set()

    async def run(self) -> None:
        """Flush until ``close``. Trouble with the ledger or the disk is said in the log and tried again."""
        if self._stop.is_set():
            return
        self._running = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._flush_always())
                tasks.create_task(self._settle_always())
        finally:
            self._running.set()

    async def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """End ``run`` after sending everything that can be sent within ``wait_s``; the rest stays in the journal."""
        self._stop.set()
        self.kick()
        try:
            async with asyncio.timeout(wait_s):
                if self._running is not None:
                    await self._running.wait()
                await self._finish()
        except (TimeoutError, *_TROUBLE) as error:
            log.warning(
                "%d usage records stay in the journal until the next start: %s",
                self.pending,
                str(error) or "the ledger did not answer in time",
            )

    async def _finish(self) -> None:
        for tries_left in reversed(range(CLOSE_TRIES)):
            try:
                await self._flush()
                await self._settle()
            except Conflict:
                if not tries_left:
                    raise
                self._doubt()
            else:
                return

    # -- flushing ---------------------------------------------------------------------------------------------------

    async def _flush_always(self) -> None:
        busy = False
        while not self._stop.is_set():
            await self._work.wait()
            await either(self._kick, self._interval_s * BUSY_FACTOR if busy else self._interval_s)
            if self._stop.is_set():
                return  # ``close`` sends what is left
            self._work.clear()
            self._kick.clear()
            busy = self._gathered >= BUSY_ENTRIES
            self._gathered = 0
            try:
                await self._flush()
            except _TROUBLE as error:
                await self._back_off(error)
            else:
                self._recovered()

    async def _flush(self) -> None:
        """Send what is there by now, oldest first."""
        journal, upto = self._journal, self._journal.last_sequence
        while True:
            applied = self._applied
            if applied is None:
                applied = self._applied = await self._where()
            if applied >= upto:
                return
            batch = journal.pending(applied, self._batch_max)
            try:
                await self._ledger.apply(str(journal.name_of(batch.first)), batch)
            except Conflict:
                self._doubt()
                raise
            if self._applied is not None:  # else the server was found to have gone back meanwhile
                self._applied = batch.last

    def _doubt(self) -> None:
        """The ledger may have gone back: it is asked how far it is, and has to have anew what waits to be settled."""
        self._applied = None
        self._waiting.clear()

    async def _where(self) -> int:
        """How far the ledger is, in this journal's sequences: up to the first of its names that it does not have whole.

        A server that lost its last second may have a later name's entries and lack some of an earlier one's: they were
        sent anew under the later name only after the loss.
        """
        journal = self._journal
        names = journal.names
        ends = [name.base for name in names[1:]] + [journal.last_sequence]
        found = names[0].base
        for name, end in zip(names, ends, strict=True):
            last = await self._ledger.last_sequence(str(name)) if end > name.base else end
            found = min(max(last, name.base), end)
            if found < end:
                break
        if found + 1 < journal.first_kept:
            log.error(
                "The ledger has lost usage records that were flushed before (it was wiped, exchanged, or restored from"
                " a backup): %d to %d of this node are gone; what is still journalled is sent again.",
                found + 1,
                journal.first_kept - 1,
            )
            journal.rebase()
            return journal.first_kept - 1
        return found

    async def _back_off(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1 or not isinstance(error, StoreUnavailable | Conflict):
            log.warning("usage records wait in the journal (%d so far): %s", self.pending, error)
        wait_s = min(BACKOFF_S * 2 ** min(self._failures, 16), self._backoff_max_s)
        await either(self._stop, BACKOFF_S / 2 + self._rng.random() * wait_s)
        if not isinstance(error, StoreUnavailable):
            self._doubt()
        self._work.set()

    def _recovered(self) -> None:
        if self._failures:
            log.info("the ledger takes usage records again")
        self._failures = 0

    # -- settling ---------------------------------------------------------------------------------------------------

    async def _settle_always(self) -> None:
        settled_before = True
        while not self._stop.is_set():
            await either(self._stop, self._sync_s)
            try:
                await asyncio.to_thread(self._journal.sync)
            except OSError as error:
                log.error("the journal could not be synced to disk: %s", error)
            try:
                await self._settle()
            except Conflict as error:
                log.warning("%s It is sent again.", error.message)
                self._doubt()
                self.kick()
            except StoreUnavailable as error:
                if settled_before:
                    log.warning("the journal keeps what is flushed for now: %s", error.message)
                settled_before = False
                self._waiting.clear()  # a server that comes back begins anew
            except OSError as error:
                log.error("the journal could not be trimmed: %s", error)
            else:
                settled_before = True

    async def _settle(self) -> None:
        """Let go of what is on the server's disk."""
        applied = self._applied
        if applied is None or applied <= self._settled:
            return
        if not await self._ledger.durable():
            now = asyncio.get_running_loop().time()
            self._waiting.append((now, applied))
            if now - self._waiting[0][0] < self._settle_s:
                return
            _, applied = self._waiting.popleft()
        self._settled = max(self._settled, applied)
        self._journal.trim(self._settled)
