"""A second reader of the journal, beside the flusher: it keeps a place of its own and reads from the files alone.

``read`` may run in a thread while the journal is appended to: it stops at a sequence that was whole when it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from faas.stores.segments import MAGIC, JournalDamaged, scan

BYTES_MAX = 256 * 1024  # of one reading, unless a single entry is larger


class Place(NamedTuple):
    """After which entry; where that is: in which segment, at which byte."""

    after: int
    segment: int
    offset: int


class Reading(NamedTuple):
    """``frames`` are those of the last ``len(frames)`` sequences up to ``place.after``.

    ``missed`` sequences before them are not there any more: trimmed, or in a segment that is damaged.
    """

    place: Place
    frames: list[bytes]
    missed: int


def find(segments: Sequence[int], after: int) -> Place:
    """The place after an entry: in the segment that has what follows it, else in the first."""
    return _start(max((first for first in segments if first <= after + 1), default=segments[0]), after)


def _start(segment: int, after: int) -> Place:
    return Place(after, segment, len(MAGIC))


def read(directory: Path, segments: Sequence[int], place: Place, upto: int, limit: int) -> Reading:
    """Up to ``limit`` entries that follow ``place``, none after ``upto``, without a gap among them.

    Raises ``JournalDamaged`` where the last segment cannot be read as far as that, ``OSError``.
    """
    if place.segment not in segments:
        place = find(segments, place.after)
    after, frames, size = place.after, list[bytes](), 0
    while place.after < upto:
        for sequence, offset, framed in scan(directory / f"{place.segment:020d}.log", place.offset):
            if sequence > upto:
                break
            if sequence <= after:
                place = place._replace(offset=offset)
                continue
            if frames and sequence != place.after + 1:
                return Reading(place, frames, place.after - after - len(frames))
            place = Place(sequence, place.segment, offset)
            frames.append(framed)
            size += len(framed)
            if len(frames) == limit or size >= BYTES_MAX:
                return Reading(place, frames, place.after - after - len(frames))
        if place.after >= upto:
            break
        following = next((first for first in segments if first > place.segment), None)
        if following is None:
            raise JournalDamaged(f"{directory}/{place.segment:020d}.log cannot be read from byte {place.offset} on")
        if frames and following != place.after + 1:
            break
        place = _start(following, place.after)
    return Reading(place, frames, place.after - after - len(frames))
