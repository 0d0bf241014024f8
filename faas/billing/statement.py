"""A month's bills together, and what closing a month freezes.

Theory of operation
-------------------
The bill of an open month is worked out whenever somebody asks. Closing works it out once more, for every namespace, and
stores it whole with what it was made from: the ledger's sums and the price books (``Closing``). From then on that is
the month's bill, whatever the ledger or the books say later.

The ledger goes on taking records of a closed month: a node that was cut off sends them when it is back. They are billed
in the next open month, as lines that say so. What is late is never kept as such, it follows:

    late(M) = ledger(M) - frozen(M) - what closed bills have already taken in as late of M

so nothing can be lost or billed twice on the way. Whoever reads a month's ledger notes its *mark* before, which changes
with it: while a month has a mark that a closing noted, nothing of it is late and it need not be read.

Late use costs what it would have cost in time: the lines of M rated with it, less the lines of M rated without it, both
with M's frozen prices (``difference``). Tiers and allowances come out as if it had never been late.

A credit note says which closed month it corrects. It is on the bill of the next open month until that one is closed;
then the closing names it among those it has taken in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from faas.billing import money
from faas.billing.bill import CLOSED, CREDIT, ROUNDED, Bill, Line
from faas.billing.rating import rounding_line, total_of

MONTH: Final = re.compile(r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])")

Sums = Mapping[str, int]  # metric of the ledger -> exact sum
Labels = tuple[str, ...]  # what usage is grouped by for rating, in the order of the caller
Usage = Mapping[Labels, Sums]


@dataclass(frozen=True, slots=True)
class Statement:
    """The bills of one month: of all namespaces that owe something, or of one. Ordered by namespace."""

    month: str  # 2026-11
    status: str  # open | closed
    made_at_ms: int  # Unix time; of a closed month, when it was closed
    bills: tuple[Bill, ...]

    @property
    def totals(self) -> dict[str, Decimal]:
        """By currency."""
        found: dict[str, Decimal] = {}
        for bill in self.bills:
            found[bill.currency] = money.plus(found.get(bill.currency, money.ZERO), bill.total)
        return found

    def only(self, namespace: str) -> Statement:
        return replace(self, bills=tuple(bill for bill in self.bills if bill.namespace == namespace))


@dataclass(frozen=True, slots=True)
class CreditNote:
    """A correction by hand. ``amount`` is taken off what ``namespace`` owes and above 0."""

    id: str
    month: str  # whose closed bill it corrects
    namespace: str
    amount: Decimal
    currency: str
    reason: str
    made_at_ms: int
    made_by: str  # id of the key


@dataclass(frozen=True, slots=True)
class Closing:
    """All that is kept of a closed month. ``late`` and ``credits`` are what its bills took in of months before it."""

    month: str
    closed_at_ms: int
    closed_by: str  # id of the key
    bills: tuple[Bill, ...]
    books: str  # the price books, as they were set
    usage: Usage
    late: Mapping[str, Usage] = field(default_factory=dict)  # by month
    credits: tuple[str, ...] = ()  # ids
    marks: Mapping[str, str] = field(default_factory=dict)  # by month: as of when all of its use is on closed bills

    @property
    def statement(self) -> Statement:
        return Statement(self.month, CLOSED, self.closed_at_ms, self.bills)


def next_month(month: str, step: int = 1) -> str:
    """
    >>> next_month("2026-12"), next_month("2026-01", -1)
    ('2027-01', '2025-12')
    """
    years, index = divmod(int(month[:4]) * 12 + int(month[5:]) - 1 + step, 12)
    return f"{years:04d}-{index + 1:02d}"


def closed_before(month: str, closed: Mapping[str, Closing]) -> list[str]:
    """The closed months whose late use and credits belong to this open one: those next before it, oldest first.

    With 2026-08, 2026-10 and 2026-11 closed, 2026-12 takes in what comes of 10 and 11; what comes of 08 is for 09.
    """
    found = []
    before = next_month(month, -1)
    while before in closed:
        found.append(before)
        before = next_month(before, -1)
    return found[::-1]


def is_settled(month: str, mark: str, closed: Mapping[str, Closing]) -> bool:
    """Whether all use of a closed month is on closed bills, as far as its mark tells."""
    return any(closing.marks.get(month) == mark for closing in closed.values())


def accounted(month: str, closed: Mapping[str, Closing]) -> dict[Labels, dict[str, int]]:
    """The use of a closed month that is on closed bills: its own and what later ones took in as late."""
    taken: dict[Labels, dict[str, int]] = {}
    for usage in (closed[month].usage, *(closing.late.get(month, {}) for closing in closed.values())):
        for labels, sums in usage.items():
            mine = taken.setdefault(labels, {})
            for metric, value in sums.items():
                mine[metric] = mine.get(metric, 0) + value
    return taken


def late(now: Usage, before: Usage) -> dict[Labels, dict[str, int]]:
    """What ``now`` has and ``before`` had not; empty when they are equal.

    >>> late({("a",): {"invocations": 3, "mb_ms": 5}, ("b",): {"mb_ms": 1}}, {("a",): {"invocations": 2, "mb_ms": 5}})
    {('a',): {'invocations': 1}, ('b',): {'mb_ms': 1}}
    """
    found = {}
    for labels in (*now, *(labels for labels in before if labels not in now)):
        mine, had = now.get(labels, {}), before.get(labels, {})
        more = {
            metric: mine.get(metric, 0) - had.get(metric, 0) for metric in (*mine, *(m for m in had if m not in mine))
        }
        more = {metric: value for metric, value in more.items() if value}
        if more:
            found[labels] = more
    return found


def difference(now: Iterable[Line], before: Iterable[Line], month: str) -> list[Line]:
    """Lines that take a bill made of ``before`` to one made of ``now``, each saying that it is late and of ``month``.

    Amounts stay exact: a line's quantity is the difference, its unit price the same. Where late use moves a tier's
    border between functions, some quantities are below 0; the sum is right.
    """
    changed: dict[tuple[object, ...], tuple[Line, Decimal]] = {}
    for sign, lines in ((1, now), (-1, before)):
        for line in lines:
            if line.kind == ROUNDED:
                continue
            key = (line.namespace, line.function, line.metric, line.kind, line.tier, line.unit_price, line.unit)
            first, quantity = changed.get(key, (line, money.ZERO))
            changed[key] = first, money.plus(quantity, money.times(line.quantity, sign))
    return [
        replace(
            line,
            description=f"{line.description}, late: used in {month}",
            quantity=quantity,
            amount=money.times(quantity, line.unit_price),
            month=month,
        )
        for line, quantity in changed.values()
        if quantity
    ]


def credit_line(note: CreditNote) -> Line:
    return Line(
        description=f"Credit on the bill of {note.month}: {note.reason}",
        namespace=note.namespace,
        function="",
        metric=CREDIT,
        quantity=Decimal(1),
        unit="credit",
        unit_price=money.minus(0, note.amount),
        amount=money.minus(0, note.amount),
        list_price=money.minus(0, note.amount),
        kind=CREDIT,
        month=note.month,
        reference=note.id,
    )


def with_lines(bill: Bill, more: Sequence[Line]) -> Bill:
    """The bill with further lines, rounded anew: one line for it, at the end, and the items sum to the total."""
    if not more:
        return bill
    lines = [*(line for line in bill.lines if line.kind != ROUNDED), *more]
    exact = total_of(lines)
    total = money.rounded(exact, bill.decimals)
    if total != exact:
        lines.append(rounding_line(bill.namespace, money.minus(total, exact), bill.decimals))
    return replace(bill, lines=tuple(lines), total=total)


def invoice_id(bill: Bill) -> str:
    """What a closed bill is called: ``2026-11/default/USD``; "" while it is open."""
    return f"{bill.month}/{bill.namespace}/{bill.currency}" if bill.status == CLOSED else ""
