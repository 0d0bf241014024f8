"""The packed form of journal entries: what is written to disk is what the ledger stores.

``packed = msgpack(row) + msgpack(detail)``, two objects in a row, so that either can be taken off without touching
the other. ``row`` is ``faas.model.usage.to_row``.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from faas.model.usage import FIELDS, UsageRecord, from_row
from faas.ports import Entry

_fields: Final = attrgetter(*FIELDS)
_NO_DETAIL: Final = b"\x80"


class Encoder:
    """Packs entries; one per owner, because a packer keeps a buffer. Odd text (lone surrogates) becomes ``?``."""

    __slots__ = ("_pack",)

    def __init__(self) -> None:
        self._pack = msgpack.Packer(use_bin_type=True, unicode_errors="replace").pack

    def pack(self, entry: Entry) -> bytes:
        """Raises ``TypeError`` or ``OverflowError`` on a detail or value that msgpack cannot hold."""
        row: bytes = self._pack(_fields(entry.record))
        if not entry.detail:
            return row + _NO_DETAIL
        detail: bytes = self._pack(entry.detail)
        return row + detail


def unpack(packed: bytes | memoryview) -> tuple[UsageRecord, dict[str, Any]]:
    """Inverse of ``Encoder.pack``; raises ``ValueError`` on anything else."""
    objects = msgpack.Unpacker(None, raw=False, strict_map_key=False)
    objects.feed(packed)
    try:
        row, detail = objects.unpack(), objects.unpack()
    except msgpack.OutOfData:
        raise ValueError("an entry ends early") from None
    if not isinstance(row, list) or not isinstance(detail, dict):
        raise ValueError("an entry is a row and a detail")  # noqa: TRY004 - bad data, not a bad call
    return from_row(row), detail


def unpack_rows(data: bytes) -> list[UsageRecord]:
    """Records from concatenated rows, as raw usage is stored."""
    objects = msgpack.Unpacker(None, raw=False, max_buffer_size=len(data) or 1)
    objects.feed(data)
    return [from_row(row) for row in objects]
