"""The flusher: everything journalled reaches the ledger once, whatever the ledger does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faas.model.errors import Conflict, StoreUnavailable
from faas.ports import Entry
from faas.stores.flusher import BUSY_ENTRIES, BUSY_FACTOR, Flusher
from faas.stores.journal import Journal
from faas.stores.memory import MemoryLedger
from faas.waiting import either
from tests.usage_samples import make_entry

pytestmark = pytest.mark.anyio


class WatchedLedger(MemoryLedger):
    """Counts its batches; ``sure`` is what ``durable`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.sure = True
        self.went_back = False

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        last = await super().apply(journal_id, entries)
        self.batches.append(len(entries))
        await asyncio.sleep(0)
        return last

    async def durable(self) -> bool:
        await super().durable()
        if self.went_back:
            self.went_back = False
            raise Conflict("The ledger went back.")
        return self.sure

    def forget_from(self, journal_id: str, sequence: int) -> None:
        del self._usage[sequence:]
        self._last[journal_id] = sequence

    def wipe(self) -> None:
        self._usage.clear()
        self._last.clear()

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self._usage]


@pytest.fixture
def ledger() -> WatchedLedger:
    return WatchedLedger()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal", segment_bytes_max=900)
    yield opened
    opened.close()


def make_flusher(journal: Journal, ledger: WatchedLedger, settle_s: float = 3600, batch_max: int = 20) -> Flusher:
    return Flusher(
        journal,
        ledger,
        interval_s=0.005,
        sync_s=0.01,
        settle_s=settle_s,
        backoff_max_s=0.02,
        batch_max=batch_max,
    )


@asynccontextmanager
async def running(flusher: Flusher) -> AsyncIterator[Flusher]:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flusher.run())
        yield flusher
        await flusher.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def record(flusher: Flusher, *numbers: int) -> list[str]:
    entries = [make_entry(number) for number in numbers]
    for entry in entries:
        flusher.record(entry)
    return [entry.record.id for entry in entries]


async def test_records_arrive_in_order_in_batches_of_at_most_the_maximum(
    journal: Journal, ledger: WatchedLedger
) -> None:
    async with running(make_flusher(journal, ledger)) as flusher:
        expected = record(flusher, *range(1, 101))
        await until(lambda: flusher.pending == 0)
    assert ledger.ids == expected
    assert max(ledger.batches) == 20
    assert len(ledger.batches) < 12


async def test_what_an_earlier_run_left_behind_is_sent(journal: Journal, ledger: WatchedLedger) -> None:
    expected = record(make_flusher(journal, ledger), *range(1, 31))
    journal.close()
    again = Journal(journal._dir)
    async with running(make_flusher(again, ledger)) as flusher:
        expected += record(flusher, *range(31, 41))
        await until(lambda: len(ledger.ids) == 40 and flusher.pending == 0)
    assert ledger.ids == expected
    again.close()


async def test_settled_entries_are_trimmed_and_others_are_not(journal: Journal, ledger: WatchedLedger) -> None:
    ledger.sure = False
    async with running(make_flusher(journal, ledger)) as flusher:
        record(flusher, *range(1, 101))
        await until(lambda: flusher.pending == 0)
        await asyncio.sleep(0.05)
        assert journal.first_kept == 1
        ledger.sure = True
        await until(lambda: not journal.can_trim(100))
    assert 80 < journal.first_kept <= 101


async def test_where_the_server_cannot_say_time_settles(journal: Journal, ledger: WatchedLedger) -> None:
    ledger.sure = False
    async with running(make_flusher(journal, ledger, settle_s=0.05)) as flusher:
        record(flusher, *range(1, 101))
        await until(lambda: not journal.can_trim(100) and flusher.pending == 0)
    assert 80 < journal.first_kept <= 101


async def test_a_ledger_that_is_away_is_waited_for_and_nothing_is_lost(
    journal: Journal, ledger: WatchedLedger, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    ledger.available = False
    async with running(make_flusher(journal, ledger)) as flusher:
        expected = record(flusher, *range(1, 51))
        await until(lambda: "wait in the journal" in caplog.text)
        expected += record(flusher, *range(51, 61))
        assert flusher.pending == 60
        ledger.available = True
        await until(lambda: flusher.pending == 0)
        await until(lambda: "takes usage records again" in caplog.text)
    assert ledger.ids == expected
    assert caplog.text.count("wait in the journal") == 1


async def test_a_ledger_that_went_back_gets_it_again(journal: Journal, ledger: WatchedLedger) -> None:
    ledger.sure = False
    async with running(make_flusher(journal, ledger)) as flusher:
        expected = record(flusher, *range(1, 51))
        await until(lambda: flusher.pending == 0)
        ledger.forget_from(journal.id, 30)
        ledger.went_back = True  # noticed while nothing else happens
        await until(lambda: len(ledger.ids) == 50)
        ledger.forget_from(journal.id, 20)
        expected += record(flusher, 51)  # noticed by the gap
        await until(lambda: len(ledger.ids) == 51)
    assert ledger.ids == expected


async def test_a_ledger_that_lost_what_was_trimmed_gets_the_rest_under_a_new_name(
    journal: Journal, ledger: WatchedLedger, caplog: pytest.LogCaptureFixture
) -> None:
    flusher = make_flusher(journal, ledger)
    record(flusher, *range(1, 101))
    journal.trim(50)
    kept, old = journal.first_kept, journal.id
    async with running(flusher):
        record(flusher, 101)
        await until(lambda: flusher.pending == 0)
    assert ledger.ids == [f"{n:032x}-1" for n in range(kept, 102)]
    assert journal.id != old
    assert f"1 to {kept - 1} of this node are gone" in caplog.text


async def test_closing_sends_what_is_left_and_settles_it(journal: Journal, ledger: WatchedLedger) -> None:
    flusher = Flusher(journal, ledger, interval_s=3600)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flusher.run())
        await asyncio.sleep(0)
        expected = record(flusher, *range(1, 101))
        await flusher.close()
    assert ledger.ids == expected
    assert flusher.pending == 0
    assert journal.first_kept > 80
    record(flusher, 101)
    assert flusher.pending == 1, "still journalled"


async def test_closing_without_a_ledger_ends_and_says_what_stays(
    journal: Journal, ledger: WatchedLedger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.available = False
    async with running(make_flusher(journal, ledger)) as flusher:
        record(flusher, 1, 2, 3)
    assert "3 usage records stay in the journal" in caplog.text


async def test_closing_a_ledger_that_hangs_ends_in_time(
    journal: Journal, ledger: WatchedLedger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(journal_id: str, entries: Sequence[Entry]) -> int:
        await asyncio.Event().wait()
        return 0

    monkeypatch.setattr(ledger, "apply", hang)
    flusher = make_flusher(journal, ledger)
    task = asyncio.create_task(flusher.run())
    record(flusher, 1)
    await asyncio.sleep(0.05)
    await flusher.close(wait_s=0.05)
    assert "did not answer in time" in caplog.text
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_kick_flushes_at_once_and_a_full_batch_kicks(journal: Journal, ledger: WatchedLedger) -> None:
    flusher = Flusher(journal, ledger, interval_s=3600, batch_max=20)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flusher.run())
        record(flusher, *range(1, 21))
        await until(lambda: len(ledger.ids) == 20)
        record(flusher, 21)
        flusher.kick()
        await until(lambda: len(ledger.ids) == 21)
        await flusher.close()


async def test_a_busy_node_gathers_for_longer(
    journal: Journal, ledger: WatchedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def told(event: asyncio.Event, wait_s: float) -> bool:
        if event is flusher._kick:
            waits.append(wait_s)
        return await either(event, wait_s)

    monkeypatch.setattr("faas.stores.flusher.either", told)
    flusher = Flusher(journal, ledger, interval_s=0.001)
    async with running(flusher):
        record(flusher, *range(1, BUSY_ENTRIES + 1))
        await until(lambda: flusher.pending == 0)
        for number in (BUSY_ENTRIES + 1, BUSY_ENTRIES + 2):
            record(flusher, number)
            await until(lambda: flusher.pending == 0)
        assert waits == [0.001, 0.001 * BUSY_FACTOR, 0.001]
    assert len(ledger.ids) == BUSY_ENTRIES + 2


async def test_a_full_disk_is_the_recorders_to_hear_and_leaves_the_rest_alone(
    journal: Journal, ledger: WatchedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(make_flusher(journal, ledger)) as flusher:
        record(flusher, 1)

        def full(entry: Entry) -> int:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal, "append", full)
        with pytest.raises(OSError, match="No space"):
            record(flusher, 2)
        monkeypatch.undo()
        record(flusher, 3)
        await until(lambda: len(ledger.ids) == 2)


async def test_a_disk_that_cannot_sync_is_said_and_flushing_goes_on(
    journal: Journal, ledger: WatchedLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journal, "sync", broken)
    async with running(make_flusher(journal, ledger)) as flusher:
        record(flusher, 1)
        await until(lambda: "could not be synced" in caplog.text and flusher.pending == 0)
    monkeypatch.undo()


async def test_a_disk_of_the_server_that_does_not_take_it_is_said_once(
    journal: Journal, ledger: WatchedLedger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    async def slow() -> bool:
        nonlocal tries
        tries += 1
        raise StoreUnavailable("The disk of Redis did not take it.")

    monkeypatch.setattr(ledger, "durable", slow)
    async with running(make_flusher(journal, ledger)) as flusher:
        record(flusher, *range(1, 51))
        await until(lambda: tries > 3)
        assert journal.first_kept == 1
    assert caplog.text.count("keeps what is flushed") == 1


async def test_what_a_server_lost_under_an_earlier_name_is_sent_again_though_it_has_a_later_one(
    tmp_path: Path, ledger: WatchedLedger
) -> None:
    first = Journal(tmp_path / "journal")
    first.append(make_entry(1))
    earlier = first.id
    first.close()
    again = Journal(tmp_path / "journal")
    flusher = make_flusher(again, ledger)
    await flusher._flush()
    ledger.forget_from(earlier, 0)
    flusher.record(make_entry(2))
    await flusher._flush()
    assert ledger.ids == [make_entry(2).record.id]
    ledger.went_back = True
    async with running(flusher):
        await until(lambda: len(ledger.ids) == 2)
    assert sorted(ledger.ids) == [make_entry(number).record.id for number in (1, 2)]
    again.close()


async def test_what_a_wiped_ledger_took_under_a_later_name_is_not_sent_again_under_another(
    tmp_path: Path, ledger: WatchedLedger
) -> None:
    """A name's first batch fits a ledger that is empty: that it was wiped is noticed only afterwards."""
    journal = Journal(tmp_path / "journal", segment_bytes_max=900)
    flusher = make_flusher(journal, ledger)
    record(flusher, *range(1, 101))
    await flusher._flush()
    journal.trim(50)
    kept = journal.first_kept
    journal.close()
    again = Journal(tmp_path / "journal", segment_bytes_max=900)
    flusher = make_flusher(again, ledger)
    await flusher._flush()
    ledger.wipe()
    flusher.record(make_entry(101))
    await flusher._flush()
    assert ledger.ids == [make_entry(101).record.id]
    ledger.went_back = True
    async with running(flusher):
        await until(lambda: len(ledger.ids) >= 102 - kept and flusher.pending == 0)
        flusher.record(make_entry(102))
    assert sorted(ledger.ids) == [make_entry(number).record.id for number in range(kept, 103)]
    again.close()


async def test_time_settles_nothing_that_a_ledger_lost_and_got_again(
    journal: Journal, ledger: WatchedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server cannot say what is on its disk: the time begins anew, however the loss was noticed."""
    now_s = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    ledger.sure = False
    flusher = make_flusher(journal, ledger, settle_s=120)
    record(flusher, *range(1, 101))
    await flusher._flush()
    await flusher._settle()
    ledger.forget_from(journal.id, 50)
    record(flusher, 101)
    with pytest.raises(Conflict):
        await flusher._flush()
    await flusher._flush()
    assert len(ledger.ids) == 101
    now_s = 121.0
    await flusher._settle()
    assert journal.first_kept == 1
    now_s = 242.0
    await flusher._settle()
    assert not journal.can_trim(100)
