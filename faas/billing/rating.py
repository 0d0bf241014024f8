"""Rating: what was used, and a price book, become lines.

Theory of operation
-------------------
Sums come in as they are in the ledger, by any labels that hold at least ``RATED_BY``; what of them is billed follows
from the outcome and the book's flags, in whole base units (``Quantities``). Up to here everything is addition of
integers, so no order and no batching of the rows changes a line.

Free allowance and tiers are of the namespace and the month, as a cloud's are of the account. Which function they went
to is a matter of bookkeeping: each part of the namespace's quantity (what is free, what falls into the first tier...)
is shared out by what each function used, in whole base units by largest remainder, in the order of the parts. So a
function's lines add up to its own quantity, and all lines of a part to the part.

A line's amount is quantity times unit price, exactly. The total is their sum, rounded once; what that changes is a line
of its own, so that the lines sum to the total exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Final, Protocol

from faas.billing import money
from faas.billing.bill import ALLOWANCE, OPEN, ROUNDED, USAGE, Bill, Line
from faas.billing.book import Price, PriceBook
from faas.billing.metrics import GB_SECONDS, METRICS, REQUESTS, ROUNDING, Metric
from faas.metering.meter import UNBILLED, init_part_ms
from faas.metering.sums import FIRST, RETRY
from faas.model.invocation import Status
from faas.model.usage import FIELDS, UsageRecord

RATED_BY: Final = ("namespace", "function", "status", "attempt")
"""The labels that rating needs of a usage report."""

PROVISIONED_MB_MS: Final = "provisioned_mb_ms"
"""What ``min_instances`` kept: a sum beside the ledger's, of a row with any status."""

ALWAYS: Final = (REQUESTS, GB_SECONDS)
"""What has lines even where the book has no price for it."""


class Used(Protocol):
    """A row of a usage report (``faas.ports.UsageRow``)."""

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def sums(self) -> Mapping[str, int]: ...


@dataclass(slots=True)
class Quantities:
    """What is billed, in base units. Fields are named as the metrics."""

    requests: int = 0
    gb_seconds: int = 0  # mb_ms
    cpu_seconds: int = 0  # ns
    gb_out: int = 0  # bytes
    provisioned_gb_seconds: int = 0  # mb_ms

    def add(self, other: Quantities) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def billable(book: PriceBook, labels: Mapping[str, str], sums: Mapping[str, int]) -> Quantities:
    """What of one row is billed. Missing labels are those of a plain success, missing sums are 0.

    The platform's own failures never are; nor is anything but the request of a call that was refused, and that only if
    the book bills throttles.

    >>> sums = {"invocations": 2, "mb_ms": 768, "init_mb_ms": 512, "bytes_out": 10}
    >>> billable(PriceBook("b", bill_init=False), {"status": "ok"}, sums).gb_seconds
    256
    >>> billable(PriceBook("b", bill_throttles=True), {"status": "rejected"}, sums)
    Quantities(requests=2, gb_seconds=0, cpu_seconds=0, gb_out=0, provisioned_gb_seconds=0)
    """
    found = Quantities(provisioned_gb_seconds=sums.get(PROVISIONED_MB_MS, 0))
    status = labels.get("status", Status.OK)
    if labels.get("attempt", FIRST) != FIRST and not book.bill_retries:
        return found
    if status == Status.REJECTED and book.bill_throttles:
        found.requests = sums.get("invocations", 0)
    if status in UNBILLED:
        return found
    found.requests = sums.get("invocations", 0)
    found.gb_seconds = sums.get("mb_ms", 0) - (0 if book.bill_init else sums.get("init_mb_ms", 0))
    found.cpu_seconds = sums.get("cpu_ns", 0)
    found.gb_out = sums.get("bytes_out", 0)
    return found


def by_function(book: PriceBook, namespace: str, rows: Iterable[Used]) -> dict[str, Quantities]:
    """What is billed of each function of one namespace, by name. Rows of other namespaces are left out."""
    found: dict[str, Quantities] = {}
    for row in rows:
        if row.labels["namespace"] == namespace:
            found.setdefault(row.labels["function"], Quantities()).add(billable(book, row.labels, row.sums))
    return dict(sorted(found.items()))


def rate(book: PriceBook, namespace: str, rows: Iterable[Used]) -> tuple[Line, ...]:
    """The lines of one namespace for one month, by metric, function and tier; the last one, where there is one, is what
    the total was rounded by. Lines of nothing are left out; lines that cost nothing are not, where
    the book has a price or it is requests or compute.

    Worked example: the book asks 0.20 for a million requests, of which the first million is free. ``hello`` was called
    two million times and ``thumb`` once as much. Of the free million ``hello`` gets half; its lines are 500,000 for
    nothing and 1,500,000 for 0.30.
    """
    lines = _lines(book, namespace, rows)
    exact = total_of(lines)
    difference = money.minus(money.rounded(exact, book.decimals), exact)
    if difference:
        lines.append(rounding_line(namespace, difference, book.decimals))
    return tuple(lines)


def exact_cost(book: PriceBook, namespace: str, rows: Iterable[Used]) -> Decimal:
    """What ``rate`` gives a bill's total for, before it is rounded."""
    return total_of(_lines(book, namespace, rows))


def _lines(book: PriceBook, namespace: str, rows: Iterable[Used]) -> list[Line]:
    quantities = by_function(book, namespace, rows)
    lines: list[Line] = []
    for metric in METRICS.values():
        if metric.name not in book.prices and metric.name not in ALWAYS:
            continue
        used = {function: getattr(each, metric.name) for function, each in quantities.items()}
        lines += _metric_lines(namespace, metric, book.price(metric.name), used)
    return lines


def rounding_line(namespace: str, difference: Decimal, decimals: int) -> Line:
    what = f"Rounding to {decimals} decimals"
    one = Decimal(1)
    return Line(what, namespace, "", ROUNDING, one, "total", difference, difference, difference, ROUNDED)


def total_of(lines: Iterable[Line]) -> Decimal:
    """The exact sum of the lines' amounts."""
    total = money.ZERO
    for line in lines:
        total = money.plus(total, line.amount)
    return total


def make_bill(
    book: PriceBook,
    month: str,
    namespace: str,
    rows: Iterable[Used],
    made_at_ms: int,
    *,
    status: str = OPEN,
    notes: Sequence[str] = (),
) -> Bill:
    """The bill of ``rows``, which are those of that month and grouped at least by ``RATED_BY``."""
    lines = rate(book, namespace, rows)
    total = money.rounded(total_of(lines), book.decimals)
    said = list(notes)
    if not book.charges:
        said.append(f"The price book in force, '{book.name}', asks for nothing: all of this is free.")
    return Bill(
        month, namespace, book.currency, book.decimals, status, book.name, made_at_ms, lines, total, tuple(said)
    )


def record_cost(book: PriceBook, record: UsageRecord) -> Decimal:
    """What one attempt costs at the book's list prices: those of the first tier, the free allowance left aside.

    Exact. A month's bill is the sum of these where nothing is free and no second tier was reached.
    """
    return shown_cost(book, {name: getattr(record, name) for name in FIELDS})


def shown_cost(book: PriceBook, record: Mapping[str, Any]) -> Decimal:
    """The same of a record as it is shown (``faas.metering.present``)."""
    init_ms = init_part_ms(record["start"], record["init_ns"], record["run_ns"], record["billed_ms"])
    sums = {
        "invocations": 1,
        "mb_ms": record["memory_mb"] * record["billed_ms"],
        "init_mb_ms": record["memory_mb"] * init_ms,
        "cpu_ns": record["cpu_ns"],
        "bytes_out": record["bytes_out"],
    }
    return cost(book, {"status": record["status"], "attempt": RETRY if record["attempt"] > 1 else FIRST}, sums)


def cost(book: PriceBook, labels: Mapping[str, str], sums: Mapping[str, int]) -> Decimal:
    """What one row costs at list prices, exactly."""
    found = billable(book, labels, sums)
    total = money.ZERO
    for metric in METRICS.values():
        quantity = money.over(getattr(found, metric.name), metric.per_unit)
        total = money.plus(total, money.times(quantity, book.price(metric.name).list_price))
    return total


# -- tiers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Portion:
    """A part of a month's quantity that has one price. ``tier`` is 0 for what is free."""

    quantity: int  # base units
    price: Decimal
    tier: int


def portions(price: Price, quantity: int) -> list[Portion]:
    """A month's quantity cut at the allowance and at the tiers; nothing empty.

    >>> from faas.billing.book import Tier
    >>> price = Price((Tier(100, Decimal(2)), Tier(None, Decimal(1))), free=50)
    >>> [(p.quantity, str(p.price), p.tier) for p in portions(price, 200)]
    [(50, '0', 0), (100, '2', 1), (50, '1', 2)]
    """
    assert quantity >= 0, quantity
    free = min(quantity, price.free)
    found = [Portion(free, money.ZERO, 0)]
    charged, below = quantity - free, 0
    for number, tier in enumerate(price.tiers, 1):
        end = charged if tier.up_to is None else min(charged, tier.up_to)
        found.append(Portion(end - below, tier.price, number))
        below = end
    assert sum(each.quantity for each in found) == quantity, found
    return [each for each in found if each.quantity]


def shared(quantity: int, weights: Mapping[str, int]) -> dict[str, int]:
    """``quantity`` in whole parts proportional to weights (their sum is at least as much): largest remainder first, the
    earlier name where two are equal. Nobody gets more than their weight. (Hamilton's method.)

    >>> shared(10, {"a": 10, "b": 10, "c": 1})
    {'a': 5, 'b': 5, 'c': 0}
    """
    whole = sum(weights.values())
    assert 0 <= quantity <= whole, (quantity, whole)
    parts = {name: quantity * weight // whole if whole else 0 for name, weight in weights.items()}
    left = quantity - sum(parts.values())
    for name in sorted(weights, key=lambda name: (-(quantity * weights[name] % whole), name))[:left] if left else ():
        parts[name] += 1
    return parts


def _metric_lines(namespace: str, metric: Metric, price: Price, used: Mapping[str, int]) -> list[Line]:
    rest = dict(used)
    found: list[tuple[str, Line]] = []
    several = len(price.tiers) > 1
    for portion in portions(price, sum(used.values())):
        parts = shared(portion.quantity, rest)
        for function, part in parts.items():
            rest[function] -= part
            if part:
                found.append((function, _line(namespace, function, metric, price, portion, part, several)))
    assert not any(rest.values()), rest
    return [line for _, line in sorted(found, key=lambda each: (each[0], each[1].tier))]


def _line(
    namespace: str, function: str, metric: Metric, price: Price, portion: Portion, part: int, several: bool
) -> Line:
    quantity = money.over(part, metric.per_unit)
    what = f"{metric.title} of {function}" if function else metric.title
    if not portion.tier:
        what += ", free allowance"
    elif several:
        what += f", tier {portion.tier}"
    return Line(
        what,
        namespace,
        function,
        metric.name,
        quantity,
        metric.unit,
        portion.price,
        money.times(quantity, portion.price),
        price.list_price,
        USAGE if portion.tier else ALLOWANCE,
        portion.tier,
    )
