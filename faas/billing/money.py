"""Exact decimals and the one rounding there is.

Products and sums of prices and quantities are exact: the context below has room for all of them and raises rather
than round. Money is rounded in one place, ``rounded``: half to even, so that many roundings do not add up to a drift.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Clamped, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow
from typing import Final

_EXACT: Final = Context(prec=400, traps=[Inexact, Clamped, DivisionByZero, InvalidOperation, Overflow])
_ROUNDING: Final = Context(prec=400, rounding=ROUND_HALF_EVEN, traps=[DivisionByZero, InvalidOperation, Overflow])
ZERO: Final = Decimal(0)


def times(left: Decimal | int, right: Decimal | int) -> Decimal:
    """The exact product."""
    return _EXACT.multiply(left, right)


def plus(left: Decimal | int, right: Decimal | int) -> Decimal:
    """The exact sum."""
    return _EXACT.add(left, right)


def minus(left: Decimal | int, right: Decimal | int) -> Decimal:
    """The exact difference."""
    return _EXACT.subtract(left, right)


def over(amount: int, unit: int) -> Decimal:
    """``amount / unit``, for units that divide a power of ten: every unit in which something is priced.

    >>> over(128, 1_024_000)  # mb_ms, as GB-seconds
    Decimal('0.000125')
    """
    return _EXACT.divide(amount, unit)


def quotient(amount: Decimal, by: Decimal, decimals: int) -> Decimal:
    """``amount / by``, rounded: for prices that are worked out from others, never for what is billed."""
    return rounded(_ROUNDING.divide(amount, by), decimals)


def rounded(amount: Decimal, decimals: int) -> Decimal:
    """To so many decimals, half to even.

    >>> rounded(Decimal("18.335"), 2), rounded(Decimal("18.345"), 2), rounded(Decimal("2.5"), 0)
    (Decimal('18.34'), Decimal('18.34'), Decimal('2'))
    """
    return amount.quantize(Decimal(1).scaleb(-decimals), context=_ROUNDING)


def decimals(amount: Decimal) -> int:
    """How many there are after the point, zeros at the end left out.

    >>> decimals(Decimal("0.0250")), decimals(Decimal("1E+3"))
    (3, 0)
    """
    exponent = amount.normalize(_ROUNDING).as_tuple().exponent
    assert isinstance(exponent, int), amount
    return max(0, -exponent)


def text(amount: Decimal) -> str:
    """Plain digits without zeros at the end; never an exponent.

    >>> text(Decimal("0.0000166667")), text(Decimal("1E+3")), text(Decimal("2.50")), text(Decimal("-0.0"))
    ('0.0000166667', '1000', '2.5', '0')
    """
    if not amount:
        return "0"
    plain = f"{amount:f}"
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
