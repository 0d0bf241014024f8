"""Usage: exact sums by label, and the raw records, as JSON, CSV or lines of JSON.

CSV and NDJSON are written while the ledger is read, a piece at a time: their size does not matter to the node. Their
rows come in the order of time, those of one JSON report in the order of its labels.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeVar

from starlette.responses import Response, StreamingResponse

from faas.gateway import params
from faas.gateway.held import SUMS as HELD_SUMS
from faas.gateway.held import HeldView
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.metering.present import usage_record
from faas.metering.sums import DIMENSIONS, HOUR_MS, MAXIMA, METRICS, TIMES
from faas.model.errors import InvalidRequest
from faas.model.usage import FIELDS, MB_MS_PER_GB_SECOND
from faas.ports import UsageRow

FORMATS: Final = ("json", "csv", "ndjson")
FILTERS: Final = tuple(name for name in DIMENSIONS if name != "namespace")
SUMS: Final = ("invocations", "errors", *METRICS[1:], "gb_seconds", *MAXIMA)
RECORD: Final = (*("started_at" if name == "started_at_ns" else name for name in FIELDS), "mb_ms")
_TYPES: Final = {"csv": "text/csv; charset=utf-8; header=present", "ndjson": "application/x-ndjson"}
ROWS: Final = 100  # written between two awaits: a millisecond or two of work
_NS_PER_MS: Final = 1_000_000
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Asked:
    start_ms: int
    end_ms: int
    where: Mapping[str, str]
    form: str


class UsageApi:
    def __init__(self, services: Services) -> None:
        self._ledger = services.ledger
        self._held = HeldView(services.held, services.prices)
        self._clock = services.clock

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/usage", "read", self.usage),
            Operation("GET", "/v1/usage/records", "read", self.records),
        ]

    async def usage(self, context: Context) -> Response:
        """Exact sums by label. ``from`` defaults to the start of this month, ``to`` to now."""
        asked = self._asked(context, "json")
        by = _labels(context.query("by"))
        if asked.form != "json":
            pieces = _documents(self._ledger.usage_by_time(asked.start_ms, asked.end_ms, by, asked.where))
            columns = (*by, *SUMS)
            if self._held.tells(by, asked.where):
                pieces = self._held.beside(pieces, asked.start_ms, asked.end_ms, by, asked.where)
                columns = (*columns, *HELD_SUMS)
            return await _streamed(asked.form, columns, pieces, dict)
        rows = await self._ledger.usage(asked.start_ms, asked.end_ms, by, asked.where)
        totals = Counter(dict.fromkeys(("invocations", "errors", *METRICS[1:]), 0))
        for row in rows:
            totals.update(dict(row.sums))
        partial = await self._partial(asked)
        priced = not context.grant.namespace  # what a machine costs is its operator's affair
        held = await self._held.document(asked.start_ms, asked.end_ms, by, asked.where, priced=priced)
        return Json(
            {
                "from": params.rfc3339_ms(asked.start_ms),
                "to": params.rfc3339_ms(asked.end_ms),
                "by": by,
                "rows": [document(row) for row in rows],
                "totals": with_gb_seconds(totals),
                **({"held": held} if held is not None else {}),
                **({"partial": partial} if partial else {}),
            }
        )

    async def _partial(self, asked: _Asked) -> list[str]:
        """Hours that are cut where they cannot be. One that still goes on is not cut by its end."""
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        end_ms = asked.end_ms if asked.end_ms <= now_ms else -(-asked.end_ms // HOUR_MS) * HOUR_MS
        return [TIMES["hour"](hour) for hour in await self._ledger.partial(asked.start_ms, end_ms)]

    async def records(self, context: Context) -> Response:
        """Every record that is still kept: by hour, then by function, then as they came."""
        asked = self._asked(context, "ndjson")
        if asked.form == "json":
            raise InvalidRequest("Records come as format=ndjson or format=csv: there may be millions.")
        pieces = self._ledger.records_by_hour(asked.start_ms, asked.end_ms, asked.where)
        return await _streamed(asked.form, RECORD, pieces, usage_record)

    def _asked(self, context: Context, default_form: str) -> _Asked:
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        start, end = context.query("from"), context.query("to")
        start_ms = params.time_ms(start, "from", now_ms) if start else params.month_start_ms(now_ms)
        end_ms = params.time_ms(end, "to", now_ms) if end else now_ms + 1
        if end_ms <= start_ms:
            raise InvalidRequest("'to' must be later than 'from'.")
        where = {name: value for name in FILTERS if (value := context.query(name)) is not None}
        every = context.namespace == "*" or (not context.named and not context.grant.namespace)
        if not every:
            where["namespace"] = context.namespace
        form = context.query("format") or default_form
        if form not in FORMATS:
            raise InvalidRequest(f"format={form[:60]!r} is none of {', '.join(FORMATS)}.")
        return _Asked(start_ms, end_ms, where, form)


async def _documents(pieces: AsyncIterator[list[UsageRow]]) -> AsyncIterator[list[dict[str, Any]]]:
    async for piece in pieces:
        yield [document(row) for row in piece]


def document(row: UsageRow) -> dict[str, Any]:
    return {**row.labels, **with_gb_seconds(row.sums), **row.maxima}


def with_gb_seconds(sums: Mapping[str, int]) -> dict[str, int | str]:
    """The integer sums and, as an exact decimal in a string, the GB-seconds that ``mb_ms`` is.

    >>> with_gb_seconds({"mb_ms": 128})
    {'mb_ms': 128, 'gb_seconds': '0.000125'}
    """
    gb_seconds = Decimal(sums.get("mb_ms", 0)) / MB_MS_PER_GB_SECOND
    text = f"{gb_seconds:f}"
    return {**sums, "gb_seconds": text.rstrip("0").rstrip(".") if "." in text else text}


async def _streamed(
    form: str, columns: Sequence[str], pieces: AsyncIterator[list[_T]], shown: Callable[[_T], dict[str, Any]]
) -> Response:
    """An answer that is written as ``pieces`` come. What fails before the first is an error's answer."""
    write = _csv if form == "csv" else _ndjson
    head = [dict(zip(columns, columns, strict=True))] if form == "csv" else []
    first: list[_T] = await anext(pieces, [])

    async def body() -> AsyncGenerator[bytes, None]:
        yield write(columns, head)
        piece: list[_T] | None = first
        while piece is not None:
            for begin in range(0, len(piece), ROWS):
                yield write(columns, map(shown, piece[begin : begin + ROWS]))
                await asyncio.sleep(0)  # others get their turn: sending alone does not wait
            piece = await anext(pieces, None)

    return StreamingResponse(body(), media_type=_TYPES[form], headers={"cache-control": "no-store"})


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Lines of RFC 4180; what a row lacks is empty.

    >>> _csv(("function", "invocations"), [{"function": "a,b", "invocations": 2, "other": 1}])
    b'"a,b",2\\r\\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([row.get(name, "") for name in columns] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _ndjson(_: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    return text.encode("utf-8", "replace")


def _labels(by: str | None) -> list[str]:
    labels = list(dict.fromkeys(label.strip() for label in (by or "function").split(",") if label.strip()))
    for label in labels:
        if label not in DIMENSIONS:
            raise InvalidRequest(f"by={label[:60]!r}: usage is grouped by any of {', '.join(DIMENSIONS)}.")
    return labels
