"""Usage events on their way from the journal to whoever bills with them: each at least once, under a stable id.

Theory of operation
-------------------
The exporter is a second reader of the node's journal, which has every usage record exactly, in order, before its caller
has the answer. It reads from the files and looks once in ``interval_s`` whether there is more: calls do not know of it.
How far it is, it keeps in a file beside the journal (``export``), written after the destination has taken a batch. So
a destination that is away for hours, a node that is killed and a store that starts anew change nothing but the time of
arrival; what was under way may arrive twice, with the same ``id`` and ``source``.

The journal keeps what was not exported (``Journal.hold``) up to ``backlog_bytes_max``. Beyond that the oldest events
are given up, which the log says: the ledger has their records, the destination does not.

What a destination answers:

* 2xx: it has the batch.
* 400, 413, 422: it does not like what is in it (``Refused``). Halves are sent, down to the one event that it refuses.
  Refused ``REFUSALS_MAX`` times, with pauses, that one is written to a file (``export.refused.jsonl``) and passed over.
* anything else, or nothing in time: it is asked again, with full jitter (Brooker, "Exponential Backoff And Jitter",
  AWS 2015) and not before its ``Retry-After``, for as long as it takes.

The first start with a destination begins with what is recorded from then on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Collection
from pathlib import Path
from typing import Final, Protocol

from faas.metering.events import EventWriter
from faas.stores.codec import unpack
from faas.stores.journal import Journal
from faas.stores.journal_reader import Place, Reading, find, read
from faas.stores.segments import JournalDamaged, packed_of, sync_directory
from faas.waiting import either

log = logging.getLogger("faas.stores.export")

INTERVAL_S: Final = 1.0
BATCH_MAX: Final = 500
SLICE: Final = 20  # events written between two looks at what else the node has to do: some 0.3 ms
BACKOFF_S: Final = 0.5
BACKOFF_MAX_S: Final = 60.0
REFUSALS_MAX: Final = 10
CLOSE_WAIT_S: Final = 3.0

PLACE_FILE: Final = "export"
REFUSED_FILE: Final = "export.refused.jsonl"


class Undelivered(Exception):
    """The destination does not have the batch; it may be sent again after ``wait_s`` at the earliest."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Refused(Undelivered):
    """The destination does not want these events."""


class Destination(Protocol):
    name: str  # for people, without secrets

    async def send(self, events: bytes) -> None:
        """A JSON array of CloudEvents; returns when the destination has them. Raises ``Undelivered``."""


class Exporter:
    """Owns the way from one journal to one destination. ``namespaces``: only theirs; empty = all."""

    def __init__(
        self,
        journal: Journal,
        destination: Destination,
        *,
        namespaces: Collection[str] = (),
        backlog_bytes_max: int,
        interval_s: float = INTERVAL_S,
        batch_max: int = BATCH_MAX,
        backoff_s: float = BACKOFF_S,
        backoff_max_s: float = BACKOFF_MAX_S,
        rng: random.Random | None = None,
    ) -> None:
        """Raises ``OSError``."""
        self._journal = journal
        self._destination = destination
        self._namespaces = frozenset(namespaces)
        self._backlog_bytes_max = backlog_bytes_max
        self._interval_s = interval_s
        self._batch_max = self._batch = batch_max
        self._backoff_s = backoff_s
        self._backoff_max_s = backoff_max_s
        self._rng = rng or random.Random()
        self._writer = EventWriter()
        self._directory, segments = journal.segments
        self._place = find(segments, _first_place(self._directory, journal))
        self._stop = asyncio.Event()
        self._running: asyncio.Event | None = None  # set when ``run`` has ended
        self._failures = 0
        self._refusals = 0  # of the event that is next
        self.lost = 0  # given up for want of room or for damage
        self.refused = 0  # set aside
        journal.hold(self._place.after, backlog_bytes_max)

    @property
    def pending(self) -> int:
        """Records that the destination does not have yet."""
        return self._journal.last_sequence - self._place.after

    async def run(self) -> None:
        """Export until ``close``. Trouble is said in the log and tried again."""
        self._running = asyncio.Event()
        wait_s = 0.0
        try:
            while not self._stop.is_set():
                if await either(self._stop, wait_s):
                    return  # ``close`` sends what is left
                try:
                    await self._export()
                except (Undelivered, JournalDamaged, OSError, ValueError) as error:
                    wait_s = self._back_off(error)
                else:
                    wait_s = self._interval_s
        finally:
            self._running.set()

    async def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """End ``run``; what can be sent within ``wait_s`` is sent, the rest stays in the journal."""
        failing = self._failures > 0
        self._stop.set()
        try:
            async with asyncio.timeout(wait_s):
                if self._running is not None:
                    await self._running.wait()
                if not failing:
                    await self._export()
        except (Undelivered, JournalDamaged, OSError, ValueError, TimeoutError) as error:
            log.info("the last export before the end failed: %s", str(error) or "no answer in time")
        if self.pending:
            log.warning("%d usage events stay in the journal until the next start", self.pending)

    # -- one batch after the other ----------------------------------------------------------------------------------

    async def _export(self) -> None:
        """What is there by now, oldest first."""
        upto = self._journal.last_sequence
        while self._place.after < upto:
            directory, segments = self._journal.segments
            reading = await asyncio.to_thread(read, directory, segments, self._place, upto, self._batch)
            if reading.missed:
                self._say_missed(reading)
                self._place = find(segments, reading.place.after - len(reading.frames))  # so that it is said once
            events = await self._written(reading)
            try:
                if events:
                    await self._destination.send(b"[" + b",".join(events) + b"]")
            except Refused as error:
                if len(reading.frames) > 1:
                    self._batch = len(reading.frames) // 2
                    continue
                self._refusals += 1
                if self._refusals < REFUSALS_MAX:
                    raise
                await asyncio.to_thread(_set_aside, self._directory, events[0])
                self.refused += 1
                log.error("%s, %d times. It is in %s now.", error, self._refusals, self._directory / REFUSED_FILE)
            else:
                self._recovered()
                self._batch = min(self._batch + max(1, self._batch // 4), self._batch_max)
            self._refusals = 0
            await self._move_to(reading.place)

    async def _written(self, reading: Reading) -> list[bytes]:
        """The events of the namespaces to be exported, in slices: calls come between."""
        events: list[bytes] = []
        for begin in range(0, len(reading.frames), SLICE):
            for framed in reading.frames[begin : begin + SLICE]:
                record, _detail = unpack(packed_of(framed))
                if not self._namespaces or record.namespace in self._namespaces:
                    events.append(self._writer.event(record).encode())
            await asyncio.sleep(0)
        return events

    async def _move_to(self, place: Place) -> None:
        await asyncio.to_thread(_write_place, self._directory, place.after)
        self._place = place
        self._journal.hold(place.after, self._backlog_bytes_max)

    def _say_missed(self, reading: Reading) -> None:
        first = self._place.after + 1
        self.lost += reading.missed
        log.error(
            "%d usage events (records %d to %d of this node) will not reach %s: the journal has them no more, because"
            " they came to more than FAAS_EXPORT_BACKLOG or while there was no export, or because it is damaged there."
            " The ledger has what was let go: faas usage.",
            reading.missed,
            first,
            first + reading.missed - 1,
            self._destination.name,
        )

    # -- trouble ----------------------------------------------------------------------------------------------------

    def _back_off(self, error: Exception) -> float:
        """Seconds until it is tried again."""
        self._failures += 1
        if self._failures == 1 or not isinstance(error, Undelivered):
            log.warning("usage events wait in the journal (%d so far): %s", self.pending, error)
        wait_s: float = min(self._backoff_s * 2.0 ** min(self._failures, 16), self._backoff_max_s)
        least_s = error.wait_s if isinstance(error, Undelivered) else 0.0
        return least_s + self._backoff_s / 2 + self._rng.random() * wait_s

    def _recovered(self) -> None:
        if self._failures:
            log.info("%s takes usage events again; %d wait", self._destination.name, self.pending)
        self._failures = 0


# -- on disk --------------------------------------------------------------------------------------------------------


def _first_place(directory: Path, journal: Journal) -> int:
    """After which entry to begin."""
    try:
        text = (directory / PLACE_FILE).read_text()
    except FileNotFoundError:
        _write_place(directory, journal.last_sequence)
        sync_directory(directory)
        return journal.last_sequence
    try:
        after = int(text)
    except ValueError:
        log.error("%s is damaged: all usage events that are still here are exported again", directory / PLACE_FILE)
        return journal.first_kept - 1
    return min(after, journal.last_sequence)  # a power failure may have cost the journal its end


def _write_place(directory: Path, after: int) -> None:
    temporary = directory / f"{PLACE_FILE}.new"
    with temporary.open("w") as file:
        file.write(f"{after}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / PLACE_FILE)


def _set_aside(directory: Path, event: bytes) -> None:
    with (directory / REFUSED_FILE).open("ab") as file:
        file.write(event + b"\n")
        file.flush()
        os.fsync(file.fileno())
