"""Bills from the ledger, the price books and what is closed: reads and stores for ``faas.billing.draft``."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from faas.billing.draft import Draft, draft
from faas.billing.rating import PROVISIONED_MB_MS, RATED_BY
from faas.billing.statement import Closing, CreditNote, Statement, Usage, closed_before, is_settled, next_month
from faas.gateway.params import rfc3339_ms
from faas.metering.sums import FIRST
from faas.model.errors import Conflict, InvalidRequest, NotFound
from faas.model.invocation import Status
from faas.ports import BillStore, Clock, HeldStore, Ledger, PriceStore

# After a month's end: an asynchronous call may run for an hour and belongs to the month it began in; then its record is
# on the way for some seconds, longer where a store was away.
SETTLING_MS: Final = 2 * 3_600_000
TRIES: Final = 5  # to close while others close other months
_NS_PER_MS: Final = 1_000_000


class Billing:
    def __init__(
        self, ledger: Ledger, prices: PriceStore, bills: BillStore, clock: Clock, held: HeldStore | None = None
    ) -> None:
        self._ledger = ledger
        self._held = held
        self._prices = prices
        self._bills = bills
        self._clock = clock

    async def statement(self, month: str) -> Statement:
        """The bills of all namespaces: as they were frozen, else as of now."""
        closed = await self._bills.closed()
        if month in closed:
            return closed[month].statement
        return (await self._draft(month, closed)).statement

    async def close(self, month: str, closed_by: str, *, force: bool) -> Statement:
        """Freeze a month, exactly once whoever asks; what is closed already is returned as it is.

        Raises ``Conflict`` for a month that has not begun, and without ``force`` for one that has not settled.
        """
        for _ in range(TRIES):
            closed = await self._bills.closed()
            if month in closed:
                return closed[month].statement
            self._check_over(month, force)
            closing = (await self._draft(month, closed)).closing(closed_by)
            try:
                await self._bills.close(closing, len(closed))
            except Conflict:
                continue
            return (await self._bills.closed())[month].statement
        raise Conflict("Other months are being closed at the same time; try again.")

    async def credits(self, month: str) -> list[CreditNote]:
        return [note for note in await self._bills.credits() if note.month == month]

    async def credit(
        self, note_id: str, month: str, namespace: str, amount: Decimal, currency: str | None, reason: str, made_by: str
    ) -> CreditNote:
        """Take ``amount`` off what a namespace owes, for a closed bill of it. An id that is there already must mean the
        same. Raises ``Conflict`` while the month is open, ``NotFound`` when nothing was billed to the namespace.
        """
        closed = await self._bills.closed()
        bills = [bill for bill in closed[month].bills if bill.namespace == namespace] if month in closed else []
        if month in closed and not bills:
            raise NotFound(f"Nothing was billed to namespace '{namespace}' in {month}.")
        known = {bill.currency: bill.decimals for bill in bills}
        if bills and currency is None and len(known) == 1:
            currency = bills[0].currency
        if bills and currency not in known:
            raise InvalidRequest(f"'currency' must be one that was billed in {month}: {', '.join(known)}.")
        exponent = amount.as_tuple().exponent
        if bills and isinstance(exponent, int) and -exponent > known[currency or ""]:
            raise InvalidRequest(f"'amount' has more decimals than the bill, which has {known[currency or '']}.")
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        asked = CreditNote(note_id, month, namespace, amount, currency or "", reason, now_ms, made_by)
        stored = await self._bills.credit(asked)
        if (stored.month, stored.namespace, stored.amount, stored.currency, stored.reason) != (
            month, namespace, amount, asked.currency, reason,
        ):  # fmt: skip
            raise Conflict("There is another credit note with this Idempotency-Key.")
        return stored

    def _check_over(self, month: str, force: bool) -> None:
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        if begin_ms(month) > now_ms:
            raise Conflict(f"{month} has not begun.")
        settled_ms = begin_ms(next_month(month)) + SETTLING_MS
        if now_ms < settled_ms and not force:
            raise Conflict(
                f"{month} can be closed from {rfc3339_ms(settled_ms)} on, when its last records have arrived; "
                "force it to close it now, and what comes later is billed in the next month."
            )

    async def _draft(self, month: str, closed: Mapping[str, Closing]) -> Draft:
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        books = (await self._prices.current()).text
        usage: dict[str, Usage] = {}
        marks: dict[str, str] = {}
        for each in (*closed_before(month, closed), month):
            mark = await self._mark(each)
            if each == month or not is_settled(each, mark, closed):
                usage[each], marks[each] = await self._usage(each), mark
        notes = await self._bills.credits()
        return await asyncio.to_thread(draft, month, now_ms, books, usage, closed, notes, marks)

    async def _mark(self, month: str) -> str:
        """Changes whenever what ``_usage`` gives does."""
        begin, end = begin_ms(month), begin_ms(next_month(month))
        held = await self._held.changes(begin, end) if self._held is not None else 0
        return f"{await self._ledger.changes(begin, end)}.{held}"

    async def _usage(self, month: str) -> Usage:
        """What calls used by the ledger, and beside it what ``min_instances`` kept."""
        begin, end = begin_ms(month), begin_ms(next_month(month))
        found = await self._ledger.usage(begin, end, RATED_BY, {})
        usage = {tuple(row.labels[name] for name in RATED_BY): row.sums for row in found}
        kept = await self._held.provisioned(begin, end) if self._held is not None else {}
        for whose, mb_ms in kept.items():
            labels = (*whose, Status.OK.value, FIRST)
            usage[labels] = {**usage.get(labels, {}), PROVISIONED_MB_MS: mb_ms}
        return usage


def begin_ms(month: str) -> int:
    """Unix time of a month's first moment, UTC."""
    return int(dt.datetime(int(month[:4]), int(month[5:]), 1, tzinfo=dt.UTC).timestamp()) * 1000
