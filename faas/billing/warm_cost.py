"""What it costs the operator to keep functions warm: memory that was held and served nobody, in money.

No bill has it in its total. What a caller pays follows from use; what is held for them besides (idle instances, parked
and generic sandboxes) is the operator's choice, and this is its price: GB-seconds times what one costs on the machine.
Of idle time what ``min_instances`` keeps is part, though a book may bill that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from faas.billing import money
from faas.billing.book import PriceBook
from faas.billing.metrics import GB_SECONDS
from faas.model.usage import MB_MS_PER_GB_SECOND

HELD: Final = ("idle_mb_ms", "parked_mb_ms", "generic_mb_ms")


@dataclass(frozen=True, slots=True)
class Rate:
    """What a GB-second costs who runs the machine."""

    per_gb_second: Decimal
    currency: str
    book: str  # whose ``machine`` it follows from


def rate_of(book: PriceBook, example: PriceBook) -> Rate:
    """By the book in force where that goes by what a machine costs, else by the example of such a book.

    >>> from faas.billing.shipped import books_of
    >>> rate = rate_of(PriceBook("ours"), books_of("at-cost").at("2026-11"))
    >>> rate.book, rate.currency, rate.per_gb_second
    ('at-cost', 'EUR', Decimal('0.0000038051750381'))
    """
    book = book if book.machine else example
    return Rate(book.price(GB_SECONDS).list_price, book.currency, book.name)


def cost(rate: Rate, held: Mapping[str, int]) -> Decimal:
    """Exact, of sums in MB times ms.

    >>> cost(Rate(Decimal("0.5"), "EUR", "ours"), {"idle_mb_ms": 1_024_000, "parked_mb_ms": 512_000})
    Decimal('0.75')
    """
    mb_ms = sum(held.get(name, 0) for name in HELD)
    return money.times(money.over(mb_ms, MB_MS_PER_GB_SECOND), rate.per_gb_second)
