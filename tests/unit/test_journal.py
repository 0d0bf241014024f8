"""The journal: what was acknowledged is there after any death, in order and without a gap."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas.model.errors import Conflict
from faas.stores.journal import BATCH_BYTES_MAX, TAIL_BYTES_MAX, Journal
from faas.stores.segments import ENTRY_BYTES_MAX, MAGIC, JournalDamaged, base_of
from tests.usage_samples import make_entry, segment_files

SEGMENT_BYTES = 2500  # some twenty entries


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal", segment_bytes_max=SEGMENT_BYTES)
    yield opened
    opened.close()


def fill(journal: Journal, count: int) -> None:
    for number in range(journal.last_sequence + 1, journal.last_sequence + count + 1):
        assert journal.append(make_entry(number)) == number


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal._dir, segment_bytes_max=SEGMENT_BYTES)


def numbers(journal: Journal, after: int, limit: int = 10_000) -> list[int]:
    """Sequences of everything pending, each checked to be the entry that was appended under it."""
    found: list[int] = []
    while entries := journal.pending(found[-1] if found else after, limit):
        for entry in entries:
            assert entry.record.invocation_id == f"{entry.sequence:032x}"
            found.append(entry.sequence)
    return found


def test_entries_come_back_as_they_were_appended(journal: Journal) -> None:
    detail = {"error": {"code": "function-error", "traceback": "äö\n"}, "exit": None}
    entry = make_entry(1, detail, attempt=3)
    assert journal.append(entry) == 1 == entry.sequence == journal.last_sequence
    again = reopened(journal)
    assert list(again.pending(0, 10)) == [entry]
    again.close()


def test_pending_pages_through_segments_from_memory_and_from_disk(journal: Journal) -> None:
    fill(journal, 100)
    assert len(journal._segments) > 3
    assert numbers(journal, 0, 7) == list(range(1, 101))
    assert numbers(journal, 60) == list(range(61, 101))
    assert numbers(journal, 10, 7) == list(range(11, 101)), "going back reads from disk"
    assert list(journal.pending(100, 10)) == []
    again = reopened(journal)
    assert numbers(again, 33, 7) == list(range(34, 101))
    fill(again, 10)
    assert numbers(again, 0, 7) == list(range(1, 111))
    again.close()


def test_what_no_longer_fits_in_memory_is_read_from_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    count = 0
    while journal._offset < TAIL_BYTES_MAX + 20_000:
        fill(journal, 100)
        count += 100
    assert numbers(journal, 0, 500) == list(range(1, count + 1))
    journal.close()


@pytest.mark.parametrize("reopen", [False, True], ids=["from memory", "from disk"])
def test_a_batch_is_bounded_in_bytes(tmp_path: Path, reopen: bool) -> None:
    journal = Journal(tmp_path)
    size = BATCH_BYTES_MAX // 4
    for number in range(1, 11):
        journal.append(make_entry(number, {"error": "x" * size}))
    journal.append(make_entry(11, {"error": "x" * (ENTRY_BYTES_MAX - 1000)}))
    if reopen:
        journal.close()
        journal = Journal(tmp_path)
    batches = [journal.pending(0, 100)]
    while batches[-1].last < 11:
        batches.append(journal.pending(batches[-1].last, 100))
    assert [batch.first for batch in batches[1:]] == [batch.last + 1 for batch in batches[:-1]]
    assert all(sum(map(len, batch.frames)) < 2 * BATCH_BYTES_MAX for batch in batches[:-1])
    assert sum(map(len, batches[-1].frames)) < ENTRY_BYTES_MAX + 2 * BATCH_BYTES_MAX
    assert [entry.record for batch in batches for entry in batch] == [make_entry(n).record for n in range(1, 12)]
    journal.close()


def test_trim_deletes_whole_segments_and_the_sequence_goes_on(journal: Journal) -> None:
    fill(journal, 100)
    assert not journal.can_trim(5)
    journal.trim(5)
    assert journal.first_kept == 1
    journal.trim(60)
    assert 1 < journal.first_kept <= 61
    with pytest.raises(ValueError, match="was trimmed"):
        journal.pending(0, 1)
    assert numbers(journal, 60) == list(range(61, 101))
    journal.trim(100)
    again = reopened(journal)
    assert again.append(make_entry(101)) == 101
    again.close()


def test_a_new_process_gives_its_entries_a_new_name(journal: Journal) -> None:
    fill(journal, 10)
    first = journal.id
    again = reopened(journal)
    fill(again, 5)
    assert again.id != first
    assert base_of(again.id) == 10
    assert str(again.name_of(10)) == first
    assert str(again.name_of(11)) == again.id
    assert [entry.sequence for entry in again.pending(8, 100)] == [9, 10], "one name at a time"
    assert [entry.sequence for entry in again.pending(10, 100)] == [11, 12, 13, 14, 15]
    again.close()


def test_names_go_with_their_entries(journal: Journal) -> None:
    fill(journal, 60)
    again = reopened(journal)
    assert len(again.names) == 2
    fill(again, 60)
    again.trim(119)
    assert [str(name) for name in again.names] == [again.id]
    third = reopened(again)
    assert [name.base for name in third.names] == [60, 120]
    third.close()
    fourth = reopened(third)
    assert [name.base for name in fourth.names] == [60, 120], "a name that was never used is not kept"
    fourth.close()


def test_rebase_renames_all_that_is_left_and_lasts(journal: Journal) -> None:
    fill(journal, 100)
    journal.trim(50)
    old, kept = journal.id, journal.first_kept
    journal.rebase()
    assert journal.id != old
    assert base_of(journal.id) == kept - 1
    renamed = journal.id
    again = reopened(journal)
    assert str(again.name_of(100)) == renamed
    again.close()


def test_one_process_at_a_time(journal: Journal) -> None:
    with pytest.raises(Conflict, match="FAAS_HOME"):
        Journal(journal._dir)
    journal.close()
    journal.close()
    Journal(journal._dir).close()


@pytest.mark.parametrize("torn", [b"\x00", b"\x00\x00\x00\x40\x11\x22\x33\x44half", b"\xff" * 300, b"\x00" * 5000])
def test_a_torn_end_is_cut_off_and_kept_aside(journal: Journal, torn: bytes) -> None:
    fill(journal, 5)
    journal.close()
    path = journal._dir / segment_files(journal._dir)[-1]
    with path.open("ab") as file:
        file.write(torn)
    again = Journal(journal._dir)
    assert again.last_sequence == 5
    fill(again, 1)
    assert numbers(again, 0) == [1, 2, 3, 4, 5, 6]
    assert [p.read_bytes() for p in journal._dir.glob("*.torn")] == [torn]
    again.close()


def test_every_length_of_a_cut_file_opens(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "whole")
    fill(journal, 3)
    journal.close()
    (name,) = segment_files(tmp_path / "whole")
    whole = (tmp_path / "whole" / name).read_bytes()
    for length in range(len(whole)):
        directory = tmp_path / str(length)
        directory.mkdir()
        (directory / name).write_bytes(whole[:length])
        cut = Journal(directory)
        assert cut.last_sequence == max(0, (length - len(MAGIC)) // ((len(whole) - len(MAGIC)) // 3))
        fill(cut, 2)
        assert numbers(cut, 0) == list(range(1, cut.last_sequence + 1))
        cut.close()


def test_numbers_lost_with_the_power_are_not_taken_for_entries_the_ledger_has(journal: Journal) -> None:
    fill(journal, 10)
    before = journal.id
    journal.close()
    path = journal._dir / segment_files(journal._dir)[-1]
    os.truncate(path, path.stat().st_size - 300)  # what had not reached the disk; the ledger may have had it
    again = Journal(journal._dir)
    assert again.last_sequence < 10
    again.append(make_entry(again.last_sequence + 1))
    assert str(again.name_of(again.last_sequence)) != before
    again.close()


def test_a_damaged_segment_is_given_up_and_the_rest_is_sent(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    fill(journal, 100)
    starts = list(journal._segments)
    journal.close()
    damaged = journal._dir / segment_files(journal._dir)[1]
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    again = Journal(journal._dir, segment_bytes_max=SEGMENT_BYTES)
    found = numbers(again, 0)
    lost = sorted(set(range(1, 101)) - set(found))
    assert lost == list(range(lost[0], starts[2]))
    assert starts[1] < lost[0]
    assert f"{lost[0]} to {lost[-1]} cannot be billed" in caplog.text
    assert damaged.with_suffix(".damaged").read_bytes() == content
    assert again.name_of(starts[2]) != again.name_of(lost[0] - 1), "the ledger would refuse the gap under the old name"
    assert again.name_of(starts[2]).base == starts[2] - 1
    assert numbers(again, 0) == found
    again.close()


def test_damage_to_the_end_while_running_is_said(journal: Journal) -> None:
    fill(journal, 3)
    journal._tail.clear()
    os.truncate(journal._dir / segment_files(journal._dir)[-1], 20)
    with pytest.raises(JournalDamaged, match=r"\.log"):
        journal.pending(0, 10)


def test_what_cannot_be_packed_or_is_too_large_changes_nothing(journal: Journal) -> None:
    fill(journal, 1)
    with pytest.raises(TypeError):
        journal.append(make_entry(2, {"error": object()}))
    with pytest.raises(OverflowError):
        journal.append(make_entry(2, bytes_in=2**70))
    with pytest.raises(ValueError, match="bytes"):
        journal.append(make_entry(2, {"error": "x" * ENTRY_BYTES_MAX}))
    with pytest.raises(ValueError, match="id of attempt"):
        journal.append(make_entry(2, id="a" * 32 + "-2"))
    assert list(journal.pending(1, 10)) == []
    journal.append(make_entry(2, {"error": "lone \ud800 surrogate"}))
    assert journal.pending(1, 1)[0].detail["error"] == "lone ? surrogate"
    again = reopened(journal)
    assert again.pending(1, 1)[0].detail["error"] == "lone ? surrogate"
    again.close()


def test_several_are_appended_with_one_write_and_all_or_none(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = list[int]()
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        writes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    entries = [make_entry(number) for number in (1, 2, 3)]
    assert journal.append(*entries) == 3
    assert [entry.sequence for entry in entries] == [1, 2, 3]
    assert len(writes) == 1
    bad = [make_entry(4), make_entry(5, {"error": object()})]
    with pytest.raises(TypeError):
        journal.append(*bad)
    assert journal.last_sequence == 3
    assert journal.append(bad[0]) == 4
    again = reopened(journal)
    assert numbers(again, 0) == [1, 2, 3, 4]
    again.close()


def test_a_journal_of_another_version_is_left_alone(journal: Journal) -> None:
    fill(journal, 3)
    journal.close()
    path = journal._dir / segment_files(journal._dir)[-1]
    content = MAGIC[:-1] + b"1" + path.read_bytes()[len(MAGIC) :]
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match="another version"):
        Journal(journal._dir)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("together", "room"), [(1, 50), (3, 0), (3, 20), (3, 300)])
def test_a_full_disk_raises_and_the_journal_stays_sound(tmp_path: Path, together: int, room: int) -> None:
    """The kernel's own answer to a full disk, by the file size limit: some bytes are written, whole entries even, and
    none of it counts.
    """
    journal = Journal(tmp_path / "j")
    fill(journal, 3)
    size = (tmp_path / "j" / segment_files(tmp_path / "j")[0]).stat().st_size
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, old_limit[1]))
        for _ in range(3):
            with pytest.raises(OSError, match=r"fitted|large") as caught:
                journal.append(*(make_entry(number) for number in range(4, 4 + together)))
            assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
            assert journal.last_sequence == 3
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert numbers(journal, 0) == [1, 2, 3]
    fill(journal, 2)
    again = reopened(journal)
    assert numbers(again, 0) == [1, 2, 3, 4, 5]
    assert not list((tmp_path / "j").glob("*.torn"))
    again.close()


def test_no_room_for_a_new_segment_raises_and_room_heals_it(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    while journal._offset < SEGMENT_BYTES:
        fill(journal, 1)
    last = journal.last_sequence
    real_write = os.write

    def full(fd: int, data: bytes) -> int:
        if data == MAGIC:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_write(fd, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.append(make_entry(last + 1))
    assert len(segment_files(journal._dir)) == 1
    monkeypatch.undo()
    fill(journal, 5)
    assert numbers(journal, 0) == list(range(1, last + 6))


def test_sync_runs_beside_appends_and_keeps_no_descriptor(journal: Journal) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            journal.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    try:
        fill(journal, 2000)
    finally:
        done.set()
        thread.join()
    journal.sync()
    assert len(journal._segments) > 50
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert numbers(journal, 0) == list(range(1, 2001))


WRITER = """
import os, sys
from pathlib import Path
from faas.stores.journal import Journal
from tests.usage_samples import make_entry
journal = Journal(Path(sys.argv[1]), segment_bytes_max=20_000)
while True:
    sequence = journal.append(make_entry(journal.last_sequence + 1))
    os.write(1, b"%d\\n" % sequence)
"""


def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """Twenty lives of one journal, each ended by SIGKILL somewhere in the middle of appending."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    acknowledged = 0
    for life in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, env=environment
        )
        assert process.stdout is not None
        for _ in range(1 + life * 37 % 400):
            acknowledged = int(process.stdout.readline())
        process.kill()
        rest = process.stdout.read().split(b"\n")[:-1]
        process.stdout.close()
        process.wait()
        acknowledged = int(rest[-1]) if rest else acknowledged
        journal = Journal(tmp_path, segment_bytes_max=20_000)
        assert acknowledged <= journal.last_sequence <= acknowledged + 1
        assert numbers(journal, journal.first_kept - 1) == list(range(journal.first_kept, journal.last_sequence + 1))
        journal.trim(journal.last_sequence - 50)
        journal.close()


def test_what_another_reader_holds_stays_and_what_a_ledger_lost_is_not_let_go_by_it(tmp_path: Path) -> None:
    directory = tmp_path / "held"
    journal = Journal(directory, segment_bytes_max=900)
    for number in range(1, 101):
        journal.append(make_entry(number))
    journal.hold(0, 2**30)
    journal.trim(100)
    assert journal.first_kept == 1
    journal.hold(50, 2**30)
    assert 1 < journal.first_kept <= 51
    kept = journal.first_kept
    journal.rebase()  # the ledger gets all of it again
    journal.hold(100, 2**30)
    assert journal.first_kept == kept
    journal.trim(100)
    assert segment_files(directory) == [f"{journal.first_kept:020d}.log"]
    journal.close()
