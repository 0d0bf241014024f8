"""Any history of appends, flushes, trims, deaths, torn ends and lost servers: every record counts exactly once.

A state machine drives a real journal (small segments) and a ledger; a model of plain lists says what must be true.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from faas.model.errors import Conflict
from faas.ports import Entry
from faas.stores.flusher import Flusher
from faas.stores.journal import Journal
from faas.stores.memory import MemoryLedger
from tests.usage_samples import make_entry

SEGMENT_BYTES = 900  # five entries or so


def at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run what never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class LosingLedger(MemoryLedger):
    """A server with a disk: what was not made durable may be lost when it is killed."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[str, int] = {}
        self.disk: tuple[dict[str, int], int] = ({}, 0)

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        self._told[journal_id] = await super().apply(journal_id, entries)
        return self._told[journal_id]

    async def last_sequence(self, journal_id: str) -> int:
        last = await super().last_sequence(journal_id)
        if journal_id in self._last:
            self._told[journal_id] = last
        return last

    async def durable(self) -> bool:
        for name, last in self._told.items():
            if self._last.get(name, 0) < last:
                self._told.clear()
                raise Conflict("The ledger went back.")
        self.save()
        return True

    def save(self) -> None:
        self.disk = (dict(self._last), len(self._usage))

    def lose(self) -> None:
        """Killed and started again."""
        last, count = self.disk
        self._last = dict(last)
        del self._usage[count:]

    def wipe(self) -> None:
        self._last.clear()
        self._usage.clear()
        self.save()

    def ids(self) -> list[str]:
        return [record.id for record in self._usage]


class JournalAndLedger(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="faas-journal-"))
        self.ledger = LosingLedger()
        self.count = 0
        self.appended: list[str] = []
        self.excused: set[str] = set()  # may be missing: lost with the power or by a wiped server
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.directory, segment_bytes_max=SEGMENT_BYTES)
        self.flusher = Flusher(self.journal, self.ledger, batch_max=7)

    @rule(count=st.integers(1, 12))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.count += 1
            entry = make_entry(self.count)
            self.flusher.record(entry)
            assert entry.sequence == self.journal.last_sequence
            self.appended.append(entry.record.id)

    @rule()
    def flush(self) -> None:
        with contextlib.suppress(Conflict):
            at_once(self.flusher._flush())
            assert self.flusher.pending == 0

    @rule()
    def settle(self) -> None:
        """As the task does it: a server that went back is asked again."""
        try:
            at_once(self.flusher._settle())
        except Conflict:
            self.flusher._applied = None

    @rule()
    def come_to_rest(self) -> None:
        for _ in range(4):
            self.flush()
            self.settle()
        assert self.flusher.pending == 0
        assert set(self.ledger.ids()) >= set(self.appended) - self.excused

    @rule()
    def the_node_dies(self) -> None:
        self.journal.close()
        self.open()

    @rule(torn=st.binary(min_size=1, max_size=400))
    def the_node_dies_in_a_write(self, torn: bytes) -> None:
        self.journal.close()
        with max(self.directory.glob("*.log")).open("ab") as file:
            file.write(torn)
        self.open()

    @precondition(lambda self: self.journal.last_sequence >= self.journal._segments[-1])
    @rule()
    def the_power_fails(self) -> None:
        """The last entry had not reached the disk; the ledger may have it already."""
        lost = self.appended[-1]
        self.journal.close()
        path = max(self.directory.glob("*.log"))
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size - 1)
        self.appended.pop()
        self.excused.add(lost)
        self.open()

    @rule()
    def the_server_saves(self) -> None:
        self.ledger.save()

    @rule()
    def the_server_dies(self) -> None:
        self.ledger.lose()

    @rule()
    def the_server_is_wiped(self) -> None:
        """What was safe there is the wiper's loss; it may come again, as far as it is still journalled."""
        self.excused.update(self.ledger.ids())
        self.ledger.wipe()

    @rule(start=st.integers(0, 200), size=st.integers(1, 9))
    def an_old_batch_comes_again(self, start: int, size: int) -> None:
        after = max(self.journal.first_kept - 1, start)
        entries = self.journal.pending(after, size) if after < self.journal.last_sequence else []
        if entries:
            before = copy.copy(self.ledger._last)
            name = str(self.journal.name_of(entries[0].sequence))
            if entries[-1].sequence <= before.get(name, -1):
                usage = list(self.ledger.ids())
                at_once(self.ledger.apply(name, entries))
                assert self.ledger.ids() == usage

    @invariant()
    def nothing_counts_twice(self) -> None:
        ids = self.ledger.ids()
        assert len(ids) == len(set(ids))

    def teardown(self) -> None:
        self.come_to_rest()
        self.journal.close()
        shutil.rmtree(self.directory)


TestJournalAndLedger = JournalAndLedger.TestCase
TestJournalAndLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
