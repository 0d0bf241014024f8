"""What a function would cost a month, before it is deployed.

An estimate is the bill of a month of 730 hours (what the calculators of the clouds take) in which the function is
called at a steady rate: the same rating, the same rounding, the same free allowance and tiers, of that function alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Final, NamedTuple

from faas.billing import money
from faas.billing.bill import Bill
from faas.billing.book import MONTH_SECONDS, PriceBook
from faas.billing.metrics import CPU_SECONDS, GB_OUT
from faas.billing.rating import make_bill

_MS_PER_SECOND: Final = 1000
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Workload:
    """A steady load. ``duration_ms`` is of one call as billed, before rounding up; ``cpu_ms`` None = all of it."""

    function: str
    memory_mb: int
    per_second: Decimal
    duration_ms: Decimal
    min_instances: int = 0
    cpu_ms: Decimal | None = None
    bytes_out: int = 0  # of each answer


class _Row(NamedTuple):
    labels: dict[str, str]
    sums: dict[str, int]


def requests(load: Workload) -> int:
    """Calls in a month, rounded half to even."""
    return int(money.times(load.per_second, MONTH_SECONDS).to_integral_value(ROUND_HALF_EVEN))


def estimate(book: PriceBook, month: str, namespace: str, load: Workload, made_at_ms: int) -> Bill:
    """The bill of a month of this load alone.

    Worked example: Lambda's page has a backend with three million requests a month, 120 ms and 1,536 MB each: 540,000
    GB-seconds, of which 400,000 are free, make 2.33; two of the three million requests 0.40; together 2.73 USD.
    """
    calls = requests(load)
    billed_ms = max(1, int(load.duration_ms.to_integral_value(ROUND_CEILING)))
    cpu_ms = load.duration_ms if load.cpu_ms is None else load.cpu_ms
    sums = {
        "invocations": calls,
        "mb_ms": calls * billed_ms * load.memory_mb,
        "cpu_ns": calls * int(money.times(cpu_ms, _NS_PER_MS)),
        "bytes_out": calls * load.bytes_out,
        "provisioned_mb_ms": load.min_instances * load.memory_mb * MONTH_SECONDS * _MS_PER_SECOND,
    }
    row = _Row({"namespace": namespace, "function": load.function}, sums)
    return make_bill(book, month, namespace, [row], made_at_ms, notes=_assumptions(book, load))


def _assumptions(book: PriceBook, load: Workload) -> list[str]:
    said = ["A month has 730 hours here, and nothing else uses the free allowance."]
    if book.bill_init:
        said.append("Starts are billed too and not in this: a function that is called steadily starts rarely.")
    if book.price(CPU_SECONDS).list_price and load.cpu_ms is None:
        said.append("Each call is taken to use a processor for as long as it lasts, which is the most it can.")
    if book.price(GB_OUT).list_price and not load.bytes_out:
        said.append("Data out is billed too and not in this: say how large an answer is.")
    return said
