"""Closed bills and credit notes as bytes, for a store. Decimals and integers come back as they were, to the digit."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any

from faas.billing.bill import Bill, Line
from faas.billing.statement import Closing, CreditNote, Usage

_MONEY = frozenset(each.name for each in fields(Line) if each.type == "Decimal")


def pack(closing: Closing) -> bytes:
    document = {
        "month": closing.month,
        "closed_at_ms": closing.closed_at_ms,
        "closed_by": closing.closed_by,
        "bills": [{**_plain(bill), "lines": [_plain(line) for line in bill.lines]} for bill in closing.bills],
        "books": closing.books,
        "usage": _rows(closing.usage),
        "late": {month: _rows(usage) for month, usage in closing.late.items()},
        "credits": list(closing.credits),
        "marks": dict(closing.marks),
    }
    return zlib.compress(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())


def unpack(packed: bytes) -> Closing:
    found: dict[str, Any] = json.loads(zlib.decompress(packed))
    return Closing(
        **{
            **found,
            "bills": tuple(_bill(each) for each in found["bills"]),
            "usage": _usage(found["usage"]),
            "late": {month: _usage(rows) for month, rows in found["late"].items()},
            "credits": tuple(found["credits"]),
        }
    )


def pack_note(note: CreditNote) -> bytes:
    return json.dumps({**asdict(note), "amount": str(note.amount)}, ensure_ascii=False).encode()


def unpack_note(packed: bytes) -> CreditNote:
    found = json.loads(packed)
    return CreditNote(**{**found, "amount": Decimal(found["amount"])})


def _plain(value: Bill | Line) -> dict[str, Any]:
    """Its fields; decimals as text."""
    found = {each.name: getattr(value, each.name) for each in fields(value)}
    return {name: str(each) if isinstance(each, Decimal) else each for name, each in found.items()}


def _bill(found: Mapping[str, Any]) -> Bill:
    lines = tuple(_line(line) for line in found["lines"])
    return Bill(**{**found, "lines": lines, "total": Decimal(found["total"]), "notes": tuple(found["notes"])})


def _line(found: Mapping[str, Any]) -> Line:
    values: dict[str, Any] = {name: Decimal(value) if name in _MONEY else value for name, value in found.items()}
    return Line(**values)


def _rows(usage: Usage) -> list[list[Any]]:
    return [[list(labels), dict(sums)] for labels, sums in usage.items()]


def _usage(rows: list[list[Any]]) -> dict[tuple[str, ...], dict[str, int]]:
    return {tuple(labels): sums for labels, sums in rows}
