"""A bill: what one namespace owes for one month, line by line."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

OPEN: Final = "open"  # the month goes on, or nobody has closed it: its bill may still change
CLOSED: Final = "closed"  # frozen

USAGE: Final = "usage"
ALLOWANCE: Final = "allowance"  # usage that the free allowance paid for: its amount is 0
ROUNDED: Final = "rounding"  # what the total differs by from the exact sum
CREDIT: Final = "credit"  # a correction by hand of a bill that is closed


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``amount`` is exactly ``quantity * unit_price``, never rounded; ``list_price`` is the unit's price in
    the book's first tier, without the allowance.

    ``metric`` is a name of ``faas.billing.metrics.METRICS``, or ``rounding`` (then ``function`` is "", the quantity 1
    and the unit price the difference). One function may have several lines of a metric: one per tier.
    """

    description: str
    namespace: str
    function: str
    metric: str
    quantity: Decimal
    unit: str
    unit_price: Decimal
    amount: Decimal
    list_price: Decimal
    kind: str = USAGE  # usage | allowance | rounding | credit
    tier: int = 0  # 1 = the first; 0 where there are none
    month: str = ""  # of a closed bill that this line adds to: use that was recorded late, or a credit; "" = its own
    reference: str = ""  # of a credit: the credit note's id


@dataclass(frozen=True, slots=True)
class Bill:
    """``total`` has ``decimals`` decimals and is the exact sum of the lines' amounts."""

    month: str  # 2026-11
    namespace: str
    currency: str  # ISO 4217
    decimals: int
    status: str  # open | closed
    book: str  # the price book's name
    made_at_ms: int  # Unix time
    lines: tuple[Line, ...]
    total: Decimal
    notes: tuple[str, ...] = ()  # sentences for whoever reads the bill
