"""The node's write-ahead journal: a usage record is here before the caller has its answer.

Theory of operation
-------------------
A directory of append-only segments (``faas.stores.segments`` has the format), each named by the sequence of its first
entry. ``append`` is one ``write`` into the page cache: a ``kill -9`` of the node loses nothing, and a background
``sync`` (``fdatasync``, about once a second) bounds what a power failure can take. No call waits for the disk.

Invariants:

* Sequences are 1, 2, 3... without a gap, over restarts too: there is always a last segment, and its name carries the
  next sequence even when every entry was trimmed.
* Only the end of the last segment can be torn (the process died in ``write``, the disk was full, the power failed).
  Opening cuts it off and keeps what it cut in a file beside it.
* An entry is deleted only once it is in ``trim``'s range, a whole segment at a time, and never from the segment being
  written. ``hold`` keeps it longer, for who else reads the journal.
* One process has the journal open: an exclusive lock, which the kernel lets go of when the process dies.

Why a journal has several names: the ledger ignores sequences that it has seen under a name. After a power failure, or
from a restored backup, the disk may hold less than the ledger has seen, and the numbers that were lost are given
again, to other entries. So each opening takes a new name for what it will append; earlier entries keep theirs.
``rebase`` renames what is left of a name, for a ledger that lost what was trimmed of it (a wiped or exchanged Redis).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, NamedTuple

from faas.ports import Entry
from faas.stores.batch import Batch
from faas.stores.codec import Encoder
from faas.stores.segments import (
    MAGIC,
    JournalDamaged,
    Name,
    check_version,
    frame,
    lock,
    new_name,
    read_names,
    scan,
    sync_directory,
    write_names,
)

log = logging.getLogger("faas.stores.journal")

SEGMENT_BYTES_MAX: Final = 8 * 2**20
TAIL_BYTES_MAX: Final = 2**20  # kept in memory for the flusher; what is older is read back from disk
BATCH_BYTES_MAX: Final = 2**20  # of one batch, unless a single entry is larger


class _Position(NamedTuple):
    """Where in which segment the entry after ``after`` begins."""

    after: int
    segment: int
    offset: int


class Journal:
    """Append-only, single owner. Everything but ``sync`` belongs to the event loop's thread."""

    def __init__(self, directory: Path, segment_bytes_max: int = SEGMENT_BYTES_MAX) -> None:
        """Open or create. Raises ``Conflict`` when another process has it open, ``JournalDamaged``, ``OSError``."""
        self._dir = directory
        self._segment_bytes_max = segment_bytes_max
        self._pack = Encoder().pack
        self._tail: deque[bytes] = deque()  # the newest frames
        self._tail_bytes = 0
        self._retired: deque[int] = deque()  # descriptors of full segments that ``sync`` has yet to sync and close
        self._sync_lock = threading.Lock()
        self._dirty = False
        self._torn = False  # the segment may end in half an entry
        self._done = 0  # up to where entries may go
        self._held_after: int | None = None  # after which they may not yet, unless there are too many of them
        self._held_bytes_max = 0
        self._fd = -1
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_fd = lock(directory)
        try:
            self._names = read_names(directory)
            self._segments = sorted(int(path.stem) for path in directory.glob("*.log"))
            if self._segments:
                self._open_last_segment()
            else:
                self._sequence = max((name.base for name in self._names), default=0)
                self._create_segment()
            self._take_name()
        except BaseException:
            self.close()
            raise
        self._position = _Position(self._segments[0] - 1, self._segments[0], len(MAGIC))

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The name of what is appended now."""
        return str(self._names[-1])

    @property
    def names(self) -> list[Name]:
        """Names of what is still here, oldest first."""
        return list(self._names)

    @property
    def last_sequence(self) -> int:
        """Of the newest entry ever appended; 0 when there has been none."""
        return self._sequence

    @property
    def first_kept(self) -> int:
        """Sequence of the oldest entry still here (``last_sequence + 1`` when there is none)."""
        return self._segments[0]

    @property
    def segments(self) -> tuple[Path, list[int]]:
        """Where the segments are, and the sequences that they begin with."""
        return self._dir, list(self._segments)

    def can_trim(self, upto_sequence: int) -> bool:
        """Whether ``trim`` would delete anything."""
        if len(self._segments) < 2 or self._segments[1] - 1 > upto_sequence:
            return False
        held = self._held_after is not None and self._segments[1] - 1 > self._held_after
        return not held or len(self._segments) * self._segment_bytes_max > self._held_bytes_max

    def name_of(self, sequence: int) -> Name:
        """The name under which the ledger knows an entry."""
        return next(name for name in reversed(self._names) if name.base < sequence)

    # -- writing ----------------------------------------------------------------------------------------------------

    def append(self, *entries: Entry) -> int:
        """Write entries with one system call, all or none; returns the last one's sequence. Each then carries its own.

        Raises ``OSError`` when they could not be written whole (``ENOSPC``); the journal is then as it was before, and
        no sequence is used up. Raises ``TypeError`` or ``OverflowError`` for what cannot be packed, ``ValueError`` for
        one that is too large.
        """
        first = self._sequence + 1
        frames = [frame(sequence, self._pack(entry)) for sequence, entry in enumerate(entries, first)]
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if self._torn:
            self._cut_torn_end()
        if self._offset >= self._segment_bytes_max:
            self._rotate()
        try:
            written = os.write(self._fd, data)
        except OSError:
            self._torn = True
            raise
        if written != len(data):
            self._torn = True
            self._cut_torn_end()
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes fitted", str(self._dir))
        self._offset += written
        for sequence, entry in enumerate(entries, first):
            entry.sequence = sequence
        self._sequence += len(frames)
        self._dirty = True
        self._tail.extend(frames)
        self._tail_bytes += written
        while self._tail_bytes > TAIL_BYTES_MAX:
            self._tail_bytes -= len(self._tail.popleft())
        return self._sequence

    def _cut_torn_end(self) -> None:
        os.ftruncate(self._fd, self._offset)
        os.lseek(self._fd, self._offset, os.SEEK_SET)
        self._torn = False

    def _rotate(self) -> None:
        full = self._fd
        self._create_segment()
        self._retired.append(full)

    def _create_segment(self) -> None:
        """Begin the segment of the next sequence. After an ``OSError`` the journal is as it was."""
        path = self._path(self._sequence + 1)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, "no room for a new segment", str(path))
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._fd, self._offset = fd, len(MAGIC)
        self._segments.append(self._sequence + 1)

    # -- reading ----------------------------------------------------------------------------------------------------

    def pending(self, after_sequence: int, limit: int) -> Batch:
        """Up to ``limit`` entries that follow ``after_sequence``, in order, all of one name; empty at the end.

        They begin later than the next one only where a damaged segment had to be given up (said in the log).
        Raises ``ValueError`` when the next one was trimmed, ``JournalDamaged``, ``OSError``.
        """
        if after_sequence >= self._sequence:
            return Batch(self._sequence + 1, [])
        if after_sequence + 1 < self.first_kept:
            raise ValueError(f"entry {after_sequence + 1} was trimmed, the oldest is {self.first_kept}")
        tail = self._tail
        before = self._sequence - len(tail)  # the tail's first entry comes after this one
        if before > after_sequence:
            return self._read(after_sequence, limit)
        for _ in range(after_sequence - before):
            self._tail_bytes -= len(tail.popleft())
        return Batch(after_sequence + 1, list(islice(tail, limit)))

    def _read(self, after_sequence: int, limit: int) -> Batch:
        """From disk."""
        first, frames, size, name = 0, list[bytes](), 0, None
        for at, framed in self._frames(after_sequence):
            if not frames:
                first, name = at.after, self.name_of(at.after)
            elif self.name_of(at.after) != name:
                break
            frames.append(framed)
            size += len(framed)
            self._position = at
            if len(frames) == limit or size >= BATCH_BYTES_MAX:
                break
        return Batch(first, frames)

    def _frames(self, after_sequence: int) -> Iterator[tuple[_Position, bytes]]:
        """What follows on disk, each frame with the position after it; from where the last reading ended, if it can."""
        at = self._position
        if at.after != after_sequence or at.segment not in self._segments:
            at = self._start_of(max(first for first in self._segments if first <= after_sequence + 1))
        while at.after < self._sequence:
            for sequence, end, framed in scan(self._path(at.segment), at.offset):
                at = _Position(sequence, at.segment, end)
                if sequence > after_sequence:
                    yield at, framed
                if sequence == self._sequence:
                    break
            else:
                at = self._next_segment(at)

    def _start_of(self, segment: int) -> _Position:
        return _Position(segment - 1, segment, len(MAGIC))

    def _next_segment(self, at: _Position) -> _Position:
        """Where reading goes on after the last readable entry of a segment."""
        following = next((first for first in self._segments if first > at.segment), None)
        if following is None:
            raise JournalDamaged(f"{self._path(at.segment)} cannot be read from byte {at.offset} on")
        if following != at.after + 1 and all(name.base != following - 1 for name in self._names):
            log.error(
                "%s is damaged at byte %d: the usage records %d to %d cannot be billed; the file is kept as *.damaged",
                self._path(at.segment),
                at.offset,
                at.after + 1,
                following - 1,
            )
            # A name of its own for what follows, because under the old one the ledger would refuse the gap.
            self._names = sorted([*self._names, new_name(following - 1)], key=lambda name: name.base)
            write_names(self._dir, self._names)
            kept = self._path(at.segment).with_suffix(".damaged")
            kept.unlink(missing_ok=True)
            kept.hardlink_to(self._path(at.segment))
        return self._start_of(following)

    # -- letting go -------------------------------------------------------------------------------------------------

    def trim(self, upto_sequence: int) -> None:
        """Delete segments whose every entry is at or below ``upto_sequence`` and not held; never the one being
        written.
        """
        self._done = max(self._done, upto_sequence)
        while self.can_trim(self._done):
            self._path(self._segments[0]).unlink(missing_ok=True)
            del self._segments[0]
        self._forget_names()

    def hold(self, after_sequence: int, bytes_max: int) -> None:
        """Keep what follows ``after_sequence``, for a reader that is there. What was held before may go.

        Where that comes to more than ``bytes_max`` (whole segments), the oldest go all the same once trimmed.
        """
        self._held_after, self._held_bytes_max = after_sequence, bytes_max
        self.trim(self._done)

    def _forget_names(self) -> None:
        """Drop names whose entries are all gone; on disk that shows with the next change."""
        self._names = [n for n, after in pairwise(self._names) if after.base >= self.first_kept] + self._names[-1:]

    def sync(self) -> None:
        """Wait until everything appended before the call is on the disk. May run in another thread than the rest.

        Raises ``OSError``: the disk, not the journal, has a problem.
        """
        with self._sync_lock:
            if self._fd < 0:
                return
            if self._dirty:
                self._dirty = False
                _sync_and_close(os.dup(self._fd))  # a duplicate, so that a rotation meanwhile cannot take it away
            rotated = False
            while self._retired:
                _sync_and_close(self._retired.popleft())
                rotated = True
            if rotated:
                sync_directory(self._dir)

    def rebase(self) -> None:
        """Rename what is still here of the oldest name, the only one of which anything can have been trimmed.

        For a ledger that no longer has what was trimmed, and so nothing of that name that is still here. Of later names
        it may have something: their first entries fit it, whatever it lost before. The new name is on disk before it is
        used, so whatever the ledger gets under it, it gets once.
        """
        self._names = [new_name(self.first_kept - 1), *self._names[1:]]
        write_names(self._dir, self._names)
        self._done = self.first_kept - 1

    def close(self) -> None:
        """Sync and let go of the lock. Closing twice is no error."""
        try:
            self.sync()
        finally:
            with self._sync_lock:
                for fd in (*self._retired, self._fd, self._lock_fd):
                    if fd >= 0:
                        os.close(fd)
                self._retired.clear()
                self._fd = self._lock_fd = -1

    # -- opening ----------------------------------------------------------------------------------------------------

    def _open_last_segment(self) -> None:
        """Find the end of the last segment, cut off what is torn, and go on from there."""
        first = self._segments[-1]
        path = self._path(first)
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(self._fd).st_size
        self._sequence, self._offset = first - 1, len(MAGIC)
        check_version(path)
        for sequence, end, _framed in scan(path, len(MAGIC)):
            if sequence != self._sequence + 1:
                break
            self._sequence, self._offset = sequence, end
        if size > self._offset:
            torn = path.with_suffix(f".{self._offset}.torn")
            log.warning("the journal ended in %d unreadable bytes, moved to %s", size - self._offset, torn)
            torn.write_bytes(os.pread(self._fd, size - self._offset, self._offset))
            os.ftruncate(self._fd, self._offset)
        os.pwrite(self._fd, MAGIC, 0)  # it is missing when the process died while creating the file
        os.lseek(self._fd, self._offset, os.SEEK_SET)

    def _take_name(self) -> None:
        """A new name for what will be appended; those stay that still have entries here."""
        self._names = [name for name in self._names if name.base < self._sequence]
        if not self._names and self.first_kept <= self._sequence:
            self._names = [new_name(self.first_kept - 1)]
        self._names.append(new_name(self._sequence))
        self._forget_names()
        write_names(self._dir, self._names)

    def _path(self, first_sequence: int) -> Path:
        return self._dir / f"{first_sequence:020d}.log"


def _sync_and_close(fd: int) -> None:
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
