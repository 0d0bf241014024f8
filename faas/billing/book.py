"""Price books: what a unit of use costs, from which month on, and for whom otherwise.

A book holds from the first of a month until the next book begins: within one month there is one price, so that a free
allowance and the tiers of a month mean what they say. Before the first book, and where no book was ever set, all is
free (``FREE``), and bills say so. ``parse_books`` in ``faas.billing.reading`` makes them of TOML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from faas.billing import money

MONTH_SECONDS: Final = 730 * 3600  # of an average month: 365 days of 24 hours over 12
MONTH: Final = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])")

BILL_INIT: Final = "bill_init"
BILL_RETRIES: Final = "bill_retries"
BILL_THROTTLES: Final = "bill_throttles"
FLAGS: Final = (BILL_INIT, BILL_RETRIES, BILL_THROTTLES)


@dataclass(frozen=True, slots=True)
class Tier:
    """A price per unit up to a quantity of a month, counted from 0 in base units; None = all that is above."""

    up_to: int | None
    price: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """Graduated: each part of a month's quantity costs what its tier says, the rest does not become cheaper or dearer.

    ``free`` base units a month cost nothing; the tiers count what is above them. The last tier is open.
    """

    tiers: tuple[Tier, ...]
    free: int = 0

    @property
    def list_price(self) -> Decimal:
        """Of a unit in the first tier."""
        return self.tiers[0].price


NOTHING: Final = Price((Tier(None, money.ZERO),))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """The prices of one namespace from ``month`` on. ``prices`` by metric (``faas.billing.metrics``); one that is
    missing costs nothing. ``decimals`` are those of a total.
    """

    name: str
    month: str = ""  # 2026-11; "" = since ever
    currency: str = "USD"  # ISO 4217
    decimals: int = 2
    prices: Mapping[str, Price] = field(default_factory=lambda: MappingProxyType({}))
    bill_init: bool = True
    bill_retries: bool = True
    bill_throttles: bool = False
    machine: bool = False  # a GB-second is priced at what it costs on the operator's machine

    def price(self, metric: str) -> Price:
        return self.prices.get(metric, NOTHING)

    @property
    def charges(self) -> bool:
        """Whether anything costs something."""
        return any(tier.price for price in self.prices.values() for tier in price.tiers)


FREE: Final = PriceBook("free")


@dataclass(frozen=True, slots=True)
class Override:
    """What a namespace has otherwise than the others: prices and flags by name, allowances by metric."""

    tiers: Mapping[str, tuple[Tier, ...]] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)

    def over(self, book: PriceBook) -> PriceBook:
        prices = dict(book.prices)
        for metric in {*self.tiers, *self.free}:
            known = book.price(metric)
            prices[metric] = Price(self.tiers.get(metric, known.tiers), self.free.get(metric, known.free))
        return replace(
            book,
            prices=MappingProxyType(prices),
            bill_init=self.flags.get(BILL_INIT, book.bill_init),
            bill_retries=self.flags.get(BILL_RETRIES, book.bill_retries),
            bill_throttles=self.flags.get(BILL_THROTTLES, book.bill_throttles),
        )


@dataclass(frozen=True, slots=True)
class Dated:
    """A book and its exceptions by namespace."""

    book: PriceBook
    overrides: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Books:
    """All books there are, ordered by the month they begin in; no two begin in the same."""

    dated: Sequence[Dated] = ()

    def at(self, month: str, namespace: str = "") -> PriceBook:
        """The book in force for a namespace in a month (``2026-11``; what follows the month is ignored).

        >>> Books().at("2026-11").name
        'free'
        """
        month = month[:7]
        assert MONTH.fullmatch(month), month
        found = next((each for each in reversed(self.dated) if each.book.month <= month), None)
        if found is None:
            return FREE
        override = found.overrides.get(namespace)
        return override.over(found.book) if override is not None else found.book

    def at_ns(self, unix_ns: int, namespace: str = "") -> PriceBook:
        """The book in force at a moment; months are of UTC."""
        return self.at(month_of(unix_ns), namespace)


def month_of(unix_ns: int) -> str:
    """
    >>> month_of(1_500_000_000_000_000_001)
    '2017-07'
    """
    return f"{datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC):%Y-%m}"
