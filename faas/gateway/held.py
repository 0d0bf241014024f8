"""What was held without serving, beside what was used: in reports of usage and, for the operator, in money."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from faas.billing import money, shipped
from faas.billing.book import month_of
from faas.billing.warm_cost import Rate, cost, rate_of
from faas.metering.sums import TIMES
from faas.model.usage import NS_PER_MS
from faas.ports import HeldStore, PriceStore, UsageRow

LABELS: Final = frozenset({"namespace", "function", "version", *TIMES})
OF_A_FUNCTION: Final = ("idle_mb_ms", "parked_mb_ms", "provisioned_mb_ms")
SUMS: Final = (*OF_A_FUNCTION, "generic_mb_ms")

Shown = dict[str, Any]


class HeldView:
    def __init__(self, held: HeldStore | None, prices: PriceStore) -> None:
        self._held = held
        self._prices = prices

    def tells(self, by: Sequence[str], where: Mapping[str, str]) -> bool:
        """Whether anything can be told of these labels: only calls have a key or a status."""
        return self._held is not None and {*by, *where} <= LABELS

    async def document(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str], *, priced: bool
    ) -> Shown | None:
        """Rows and totals, or None; nobody's sandboxes are in the totals alone.

        ``priced``: with what it cost to hold, by the rate in force when the range ends (``faas.billing.warm_cost``).
        """
        if self._held is None or not self.tells(by, where):
            return None
        rate = await self._rate(end_ms) if priced else None
        rows = await self._held.held(start_ms, end_ms, by, where)
        totals: Counter[str] = Counter()
        for row in rows:
            totals.update(dict(row.sums))
        shown = [row for row in rows if any(row.sums[name] for name in OF_A_FUNCTION)]
        return {
            "rows": [{**row.labels, **_of_a_function(row.sums, rate)} for row in shown],
            "totals": {**totals, **_cost(totals, rate)},
            **({"rate": _rate_document(rate)} if rate is not None else {}),
        }

    async def beside(
        self,
        used: AsyncIterator[list[Shown]],
        start_ms: int,
        end_ms: int,
        by: Sequence[str],
        where: Mapping[str, str],
    ) -> AsyncIterator[list[Shown]]:
        """Rows of usage, which come in the order of time, each with what was held; rows of their own where nobody
        called. Holds as much of either as comes at once."""
        assert self._held is not None
        pieces = self._held.held_by_time(start_ms, end_ms, by, where)
        held = await anext(pieces, None)
        async for rows in used:
            while held is not None and _time(held[0].labels, by) < _time(rows[0], by):
                yield _joined([], held, by)
                held = await anext(pieces, None)
            if held is not None and _time(held[0].labels, by) == _time(rows[0], by):
                yield _joined(rows, held, by)
                held = await anext(pieces, None)
            else:
                yield _joined(rows, [], by)
        while held is not None:
            yield _joined([], held, by)
            held = await anext(pieces, None)

    async def _rate(self, end_ms: int) -> Rate:
        month = month_of((end_ms - 1) * NS_PER_MS)
        books = (await self._prices.current()).books
        return rate_of(books.at(month), shipped.books_of("at-cost").at(month))


def _of_a_function(sums: Mapping[str, int], rate: Rate | None) -> Shown:
    own = {name: sums[name] for name in OF_A_FUNCTION}
    return {**own, **_cost(own, rate)}


def _cost(sums: Mapping[str, int], rate: Rate | None) -> Shown:
    return {"cost": money.text(cost(rate, sums))} if rate is not None else {}


def _rate_document(rate: Rate) -> Shown:
    return {"per_gb_second": money.text(rate.per_gb_second), "currency": rate.currency, "book": rate.book}


def _time(labels: Mapping[str, Any], by: Sequence[str]) -> tuple[str, ...]:
    return tuple([labels[name] for name in by if name in TIMES])


def _joined(used: Sequence[Shown], held: Sequence[UsageRow], by: Sequence[str]) -> list[Shown]:
    """Those of one time, by labels."""
    nothing = dict.fromkeys(SUMS, 0)
    found = {tuple([row[name] for name in by]): {**row, **nothing} for row in used}
    for row in held:
        key = tuple([row.labels[name] for name in by])
        found[key] = {**found.get(key, row.labels), **{name: row.sums[name] for name in SUMS}}
    return list(found.values())
