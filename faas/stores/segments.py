"""The journal's files: segments of entries, and the list of its names.

segment  = MAGIC frame*                         NNNNNNNNNNNNNNNNNNNN.log, N = sequence of its first entry
frame    = u32 length of packed entry | u32 CRC-32 of it, begun with the sequence | u64 sequence | packed entry
packed   = see ``faas.stores.codec``
names    = a line ``UUID@BASE`` per name, oldest first: entries after BASE, up to the next name's BASE
"""

from __future__ import annotations

import fcntl
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from faas.model.errors import Conflict

MAGIC: Final = b"FAASJRN2"
ENTRY_BYTES_MAX: Final = 4 * 2**20
READ_BYTES: Final = 256 * 1024

_HEAD: Final = struct.Struct(">IIQ")
_HEAD_BYTES: Final = _HEAD.size
_U32: Final = 2**32 - 1


class JournalDamaged(Exception):
    """A segment cannot be read where it must be. The message names the file and the offset."""


class Name(NamedTuple):
    """What the ledger knows a stretch of the journal by; its first entry has the sequence ``base + 1``."""

    uuid: str
    base: int

    def __str__(self) -> str:
        return f"{self.uuid}@{self.base}"


def new_name(base: int) -> Name:
    return Name(uuid.uuid4().hex, base)


def base_of(journal_id: str) -> int:
    """The sequence before the first of a journal name; 0 when the name has no base.

    >>> base_of("6f1c@120"), base_of("6f1c")
    (120, 0)
    """
    _, _, base = journal_id.partition("@")
    return int(base) if base else 0


def frame(sequence: int, packed: bytes) -> bytes:
    """One entry as it is on disk. Raises ``ValueError`` when it is larger than ``ENTRY_BYTES_MAX``."""
    length = len(packed)
    if length > ENTRY_BYTES_MAX:
        raise ValueError(f"a journal entry may hold {ENTRY_BYTES_MAX} bytes, this one has {length}")
    return _HEAD.pack(length, zlib.crc32(packed, sequence & _U32), sequence) + packed


def packed_of(framed: bytes) -> bytes:
    """The packed entry of a whole frame."""
    return framed[_HEAD_BYTES:]


def scan(path: Path, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """``(sequence, offset of its end, frame)`` of each whole frame from ``offset`` on; ends at the first bad one.

    A file that does not begin as a segment does has none. Raises ``OSError``.
    """
    with path.open("rb", buffering=READ_BYTES) as file:
        if file.read(len(MAGIC)) != MAGIC:
            return
        file.seek(offset)
        while len(head := file.read(_HEAD_BYTES)) == _HEAD_BYTES:
            length, crc, sequence = _HEAD.unpack(head)
            if not 0 < length <= ENTRY_BYTES_MAX:
                return
            packed = file.read(length)
            if len(packed) != length or zlib.crc32(packed, sequence & _U32) != crc:
                return
            offset += _HEAD_BYTES + length
            yield sequence, offset, head + packed


def check_version(path: Path) -> None:
    """Raises ``JournalDamaged`` when the segment has the format of another version."""
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    if magic[:-1] == MAGIC[:-1] and magic != MAGIC:
        raise JournalDamaged(
            f"{path} was written by another version. Run and stop that one, which sends what is in there, and then"
            f" move {path.parent} away."
        )


def lock(directory: Path) -> int:
    """Descriptor that holds the directory's exclusive lock until it is closed or the process ends."""
    fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(
            f"Another node has the journal in {directory} open. Stop it, or give this node a FAAS_HOME of its own."
        ) from None
    return fd


def read_names(directory: Path) -> list[Name]:
    """Names as last written; empty when there are none."""
    try:
        lines = (directory / "names").read_text().split()
    except FileNotFoundError:
        return []
    return [Name(line.partition("@")[0], base_of(line)) for line in lines]


def write_names(directory: Path, names: Sequence[Name]) -> None:
    """Replace the list; it is on disk when this returns."""
    temporary = directory / "names.new"
    with temporary.open("w") as file:
        file.writelines(f"{name}\n" for name in names)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / "names")
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
