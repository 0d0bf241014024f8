"""A batch on its way from the journal to the ledger: bytes that nobody takes apart on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from faas.ports import Entry
from faas.stores.codec import Encoder, unpack
from faas.stores.segments import frame, packed_of


class Batch(Sequence[Entry]):
    """Consecutive entries of one journal, framed as they are on disk. An entry is unpacked when it is looked at.

    Raises ``ValueError`` then when it cannot be.
    """

    __slots__ = ("first", "frames")

    def __init__(self, first: int, frames: Sequence[bytes]) -> None:
        self.first = first
        self.frames = frames

    @classmethod
    def of(cls, entries: Sequence[Entry], encoder: Encoder) -> Batch:
        """Of entries from anywhere. Raises ``ValueError`` when their sequences are not consecutive."""
        first = entries[0].sequence
        if [entry.sequence for entry in entries] != list(range(first, first + len(entries))):
            raise ValueError("the entries of a batch have consecutive sequences")
        return cls(first, [frame(entry.sequence, encoder.pack(entry)) for entry in entries])

    @property
    def last(self) -> int:
        """Sequence of the last entry."""
        return self.first + len(self.frames) - 1

    def __len__(self) -> int:
        return len(self.frames)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        record, detail = unpack(packed_of(self.frames[index]))
        return Entry(record, detail, self.first + index % len(self))
