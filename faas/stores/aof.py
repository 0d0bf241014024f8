"""Mending an append-only file that Valkey left with a hole.

When its disk is full in the middle of a write, the server cuts off what was written and writes the whole again once
there is room. But into a file that it began at a rewrite it writes on from where it was (that one is not opened with
``O_APPEND``; Valkey 9.1), so zeros are left in between. With those it does not start again: "Bad file format". Nothing
is missing: the file without the zeros is what it should have been. ``valkey-check-aof --fix`` would cut off all that
follows, which nobody may have any more.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

from faas.stores.segments import sync_directory

BAD_FORMAT: Final = "Bad file format reading the append only file"  # what the server says then

_COPY_BYTES: Final = 2**20
_LINE_BYTES_MAX: Final = 64


def close_holes(directory: Path) -> list[Path]:
    """Take the holes out of the files of a server that is not running; those that were mended.

    What they were is kept beside them as ``*.damaged``. A file with anything else wrong is left alone.
    """
    mended = []
    for path in sorted(directory.glob("*.incr.aof")):
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            holes = _holes(data)
            if not holes:
                continue
            whole = path.with_suffix(".whole")
            with whole.open("wb") as out:
                begin = 0
                for start, end in [*holes, (len(data), len(data))]:
                    for at in range(begin, start, _COPY_BYTES):
                        out.write(data[at : min(at + _COPY_BYTES, start)])
                    begin = end
                out.flush()
                os.fsync(out.fileno())
        damaged = path.with_suffix(".damaged")
        damaged.unlink(missing_ok=True)
        damaged.hardlink_to(path)
        whole.replace(path)
        mended.append(path)
    sync_directory(directory)
    return mended


def _holes(data: mmap.mmap) -> list[tuple[int, int]]:
    """Zeros between two commands, begin and end of each run. None when something else is wrong before or after."""
    holes = list[tuple[int, int]]()
    at, size = 0, len(data)
    while at < size:
        if data[at] == 0:
            end = _after_zeros(data, at)
            holes.append((at, end))
            at = end
            continue
        try:
            after = _after_command(data, at)
        except ValueError:
            return []
        if after > size:
            break  # the end was torn, which the server mends by itself
        at = after
    return holes


def _after_zeros(data: mmap.mmap, at: int) -> int:
    while at < len(data):
        block = data[at : at + _COPY_BYTES]
        rest = block.lstrip(b"\0")
        if rest:
            return at + len(block) - len(rest)
        at += len(block)
    return at


def _after_command(data: mmap.mmap, at: int) -> int:
    """Where the command that begins there ends; beyond the file when it is torn. Raises ``ValueError``."""
    if data[at] == ord("#"):  # an annotation, a line
        return (data.find(b"\n", at) + 1) or len(data) + 1
    count, at = _number(data, at, b"*")
    for _ in range(count):
        if at >= len(data):
            return len(data) + 1
        length, at = _number(data, at, b"$")
        at += length + 2
    return at


def _number(data: mmap.mmap, at: int, mark: bytes) -> tuple[int, int]:
    """Of a line ``*3`` or ``$12``, and where the next begins; beyond the file when the line is torn."""
    if data[at : at + 1] != mark:
        raise ValueError(f"no {mark!r} at byte {at}")
    end = data.find(b"\r\n", at, at + _LINE_BYTES_MAX)
    if end < 0:
        if at + _LINE_BYTES_MAX <= len(data):
            raise ValueError(f"no line at byte {at}")
        return 0, len(data) + 1
    return int(data[at + 1 : end]), end + 2
