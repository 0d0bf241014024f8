"""Whatever the book and whatever was used: lines sum to the total exactly, and neither order nor batching matters."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from faas.billing.bill import ROUNDED
from faas.billing.book import Price, PriceBook
from faas.billing.metrics import METRICS
from faas.billing.rating import Quantities, billable, by_function, cost, make_bill, portions, rate, shared, total_of
from tests.billing_samples import Row, books, prices, quantities, row, rows

many = st.lists(rows(), max_size=12)


def amount(price: Price, quantity: int) -> Fraction:
    """What a quantity costs, by the definition: each base unit what its place says."""
    charged, below, total = max(0, quantity - price.free), 0, Fraction(0)
    for tier in price.tiers:
        end = charged if tier.up_to is None else min(charged, tier.up_to)
        total += max(0, end - below) * Fraction(tier.price)
        below = max(below, end)
    return total


@settings(max_examples=40)
@given(books(), many)
def test_the_lines_sum_to_the_total_and_the_total_is_right(book: PriceBook, used: list[Row]) -> None:
    bill = make_bill(book, "2026-11", "default", used, 0)
    assert sum(map(Fraction, (line.amount for line in bill.lines))) == Fraction(bill.total)
    assert all(Fraction(line.amount) == Fraction(line.quantity) * Fraction(line.unit_price) for line in bill.lines)
    assert -bill.total.as_tuple().exponent == book.decimals  # type: ignore[operator]
    whole = Quantities()
    for each in used:
        whole.add(billable(book, each.labels, each.sums))
    exact = sum(
        (amount(book.price(name), getattr(whole, name)) / metric.per_unit for name, metric in METRICS.items()),
        Fraction(0),
    )
    assert abs(exact - Fraction(bill.total)) * 2 <= Fraction(1, 10**book.decimals)


@settings(max_examples=40)
@given(books(), many, st.randoms(use_true_random=False), st.integers(1, 4))
def test_no_order_and_no_batching_changes_a_bill(
    book: PriceBook, used: list[Row], rng: random.Random, size: int
) -> None:
    shuffled = list(used)
    rng.shuffle(shuffled)
    batches: list[Row] = []
    for start in range(0, len(shuffled), size):
        cells: dict[tuple[str, ...], Counter[str]] = {}
        for each in shuffled[start : start + size]:
            cells.setdefault(tuple(each.labels.values()), Counter()).update(each.sums)
        names = ("namespace", "function", "status", "attempt")
        batches += [Row(dict(zip(names, labels, strict=True)), dict(sums)) for labels, sums in cells.items()]
    assert rate(book, "default", batches) == rate(book, "default", used)


@settings(max_examples=40)
@given(books(), many)
def test_a_functions_lines_hold_what_it_used(book: PriceBook, used: list[Row]) -> None:
    lines = [line for line in rate(book, "default", used) if line.kind != ROUNDED]
    for function, found in by_function(book, "default", used).items():
        for name in {line.metric for line in lines}:
            mine = [line for line in lines if (line.metric, line.function) == (name, function)]
            assert sum(Fraction(line.quantity) for line in mine) * METRICS[name].per_unit == getattr(found, name)
            assert all(line.quantity > 0 for line in mine)
            assert len({line.tier for line in mine}) == len(mine)


@given(prices(), quantities, st.integers(0, 1000))
def test_tiers_are_continuous(price: Price, quantity: int, more: int) -> None:
    """One more unit costs what its tier says, wherever it is: no edge makes all the others cheaper or dearer."""

    def total(of: int) -> Fraction:
        return sum((each.quantity * Fraction(each.price) for each in portions(price, of)), Fraction(0))

    edges = [price.free, *(price.free + tier.up_to for tier in price.tiers if tier.up_to is not None)]
    dearest = max(Fraction(tier.price) for tier in price.tiers)
    for at in [quantity, *edges]:
        assert 0 <= total(at + more) - total(at) <= more * dearest
        assert total(at) == amount(price, at)


@given(st.dictionaries(st.text(max_size=3), quantities, min_size=1, max_size=6), st.fractions(0, 1))
def test_what_is_shared_is_shared_in_proportion(weights: dict[str, int], part: Fraction) -> None:
    whole = sum(weights.values())
    quantity = int(whole * part)
    parts = shared(quantity, weights)
    assert sum(parts.values()) == quantity
    for name, weight in weights.items():
        assert parts[name] <= weight
        assert abs(parts[name] * whole - quantity * weight) < whole or not whole


@given(books(), rows())
def test_a_row_costs_its_list_price_where_nothing_is_free_and_nothing_graduated(book: PriceBook, used: Row) -> None:
    plain = PriceBook(
        "plain",
        decimals=10,
        prices={name: Price((price.tiers[-1],)) for name, price in book.prices.items()},
        bill_init=book.bill_init,
        bill_retries=book.bill_retries,
        bill_throttles=book.bill_throttles,
    )
    lines = rate(plain, "default", [used])
    assert total_of(line for line in lines if line.kind != ROUNDED) == cost(plain, used.labels, used.sums)


@given(books())
def test_of_nothing_there_is_no_line(book: PriceBook) -> None:
    assert rate(book, "default", []) == ()
    assert rate(book, "default", [row(namespace="other", invocations=5)]) == ()
    assert make_bill(book, "2026-11", "default", [], 0).total == Decimal(0)
