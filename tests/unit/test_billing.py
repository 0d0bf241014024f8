"""Price books, what they make of sums, and what is wrong with those that do not hold."""

from __future__ import annotations

import doctest
import re
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from faas.billing import book, estimate, money, rating, shipped
from faas.billing.bill import ALLOWANCE, ROUNDED
from faas.billing.book import FREE, Books, Price, PriceBook, Tier
from faas.billing.estimate import Workload
from faas.billing.metrics import METRICS
from faas.billing.rating import make_bill, rate, record_cost
from faas.billing.reading import parse_books
from faas.metering.sums import amounts, group_of
from faas.model.errors import InvalidPrices
from faas.model.usage import MB_MS_PER_GB_SECOND, UsageRecord
from tests.billing_samples import Row, row
from tests.usage_samples import make_record

EURO = 'currency = "EUR"\n'


def total(prices: PriceBook, *used: Row) -> Decimal:
    return make_bill(prices, "2026-11", "default", used, 0).total


def calls(count: int, duration_ms: int, memory_mb: int) -> Row:
    return row(invocations=count, billed_ms=count * duration_ms, mb_ms=count * duration_ms * memory_mb)


@pytest.mark.parametrize("module", [book, estimate, money, rating])
def test_the_worked_examples_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0 or module is estimate
    assert result.failed == 0


# -- Lambda's page ----------------------------------------------------------------------------------------------------


def test_lambdas_example_to_the_cent() -> None:
    """https://aws.amazon.com/lambda/pricing/, the mobile backend: 3 million requests, 120 ms, 1,536 MB, x86."""
    aws = shipped.books_of("lambda").at("2026-11")
    bill = make_bill(aws, "2026-11", "default", [calls(3_000_000, 120, 1536)], 0)
    assert bill.total == Decimal("2.73")
    shown = {(line.metric, line.kind): line for line in bill.lines}
    assert shown["gb_seconds", ALLOWANCE].quantity == 400_000
    assert shown["gb_seconds", "usage"].quantity == 140_000
    assert money.rounded(shown["gb_seconds", "usage"].amount, 2) == Decimal("2.33")
    assert shown["requests", "usage"].quantity == 2_000_000
    assert money.rounded(shown["requests", "usage"].amount, 2) == Decimal("0.40")


def test_lambdas_older_examples_to_the_cent() -> None:
    """The page of the years in which a GB-second was 0.00001667: 18.74, 11.63 USD."""
    aws = parse_books(shipped.text_of("lambda").replace("0.0000166667", "0.00001667")).at("2020-01")
    assert total(aws, calls(3_000_000, 1000, 512)) == Decimal("18.74")
    assert total(aws, calls(30_000_000, 200, 128)) == Decimal("11.63")


def test_lambdas_tiers() -> None:
    aws = shipped.books_of("lambda").at("2026-11")
    used = row(mb_ms=(400_000 + 16_000_000_000) * MB_MS_PER_GB_SECOND)
    assert [(line.tier, int(line.quantity)) for line in rate(aws, "default", [used]) if line.kind != ROUNDED] == [
        (0, 400_000),
        (1, 6_000_000_000),
        (2, 9_000_000_000),
        (3, 1_000_000_000),
    ]
    assert total(aws, used) == Decimal("248333.60")  # 100,000.20 + 135,000 + 13,333.40


# -- what is billed ---------------------------------------------------------------------------------------------------

FLAGS = EURO + "per_million_requests = 1_000_000\nper_gb_second = 1\nper_gb_out = 1\nper_cpu_second = 1\n"
GB_SECOND = MB_MS_PER_GB_SECOND


@pytest.mark.parametrize(
    ("flag", "used", "on", "off"),
    [
        ("bill_init", row(invocations=1, mb_ms=5 * GB_SECOND, init_mb_ms=2 * GB_SECOND), 6, 4),
        ("bill_retries", row(invocations=1, mb_ms=5 * GB_SECOND, again=True), 6, 0),
        ("bill_throttles", row(status="rejected", invocations=3, bytes_out=10**9), 3, 0),
    ],
)
def test_flags_say_what_is_billed(flag: str, used: Row, on: int, off: int) -> None:
    assert total(parse_books(f"{FLAGS}{flag} = true").at("2026-11"), used) == on
    assert total(parse_books(f"{FLAGS}{flag} = false").at("2026-11"), used) == off


def test_what_the_platform_did_wrong_is_never_billed() -> None:
    prices = parse_books(FLAGS + "bill_throttles = true").at("2026-11")
    assert total(prices, row(status="platform_error", invocations=3, cpu_ns=10**10, bytes_out=10**10)) == 0


def test_every_kind_of_use_can_have_a_price() -> None:
    prices = parse_books(
        EURO + "per_request = 0.5\nper_gb_second = 2\nper_cpu_second = 3\nper_gb_out = 4\nper_provisioned_gb_second = 5"
    ).at("2026-11")
    used = row(
        invocations=2,
        mb_ms=GB_SECOND,
        cpu_ns=10**9,
        bytes_out=5 * 10**8,
        provisioned_mb_ms=2 * GB_SECOND,
    )
    assert {line.metric: line.amount for line in rate(prices, "default", [used])} == {
        "requests": 1,
        "gb_seconds": 2,
        "cpu_seconds": 3,
        "gb_out": 2,
        "provisioned_gb_seconds": 10,
    }


def test_the_allowance_is_shared_by_use() -> None:
    prices = parse_books(EURO + "per_million_requests = 0.20\nfree = { requests = 1_000_000 }").at("2026-11")
    found = rate(prices, "default", [row("thumb", invocations=2_000_000), row("hello", invocations=2_000_000)])
    assert [(line.function, line.kind, int(line.quantity), money.text(line.amount)) for line in found] == [
        ("hello", "allowance", 500_000, "0"),
        ("hello", "usage", 1_500_000, "0.3"),
        ("thumb", "allowance", 500_000, "0"),
        ("thumb", "usage", 1_500_000, "0.3"),
    ]


def test_what_rounding_changes_is_a_line() -> None:
    prices = parse_books(EURO + "per_request = 0.003").at("2026-11")
    bill = make_bill(prices, "2026-11", "default", [row(invocations=1)], 7)
    assert bill.total == 0
    assert [(line.kind, line.amount) for line in bill.lines] == [
        ("usage", Decimal("0.003")),
        ("rounding", Decimal("-0.003")),
    ]
    assert (
        "0 decimals"
        in make_bill(
            parse_books('currency = "JPY"\ndecimals = 0\nper_request = 0.7').at("2026-11"),
            "2026-11",
            "x",
            [row(namespace="x", invocations=1)],
            7,
        )
        .lines[-1]
        .description
    )


# -- of one record ----------------------------------------------------------------------------------------------------


def test_a_record_costs_what_its_sums_do() -> None:
    aws = shipped.books_of("lambda").at("2026-11")
    assert record_cost(aws, make_record(billed_ms=2, memory_mb=128, bytes_out=0)) == Decimal("0.0000002041666750")
    free_start = parse_books(FLAGS + "bill_init = false").at("2026-11")
    for changes in ({"start": "cold"}, {"status": "rejected", "billed_ms": 0}, {"attempt": 2}, {"status": "timeout"}):
        record = make_record(**{"init_ns": 4_200_000, "billed_ms": 6, **changes})  # type: ignore[arg-type]
        assert record_cost(free_start, record) == _of_sums(free_start, record)
    assert record_cost(FREE, make_record()) == 0


def _of_sums(prices: PriceBook, record: UsageRecord) -> Decimal:
    names = ("invocations", "billed_ms", "mb_ms", "queue_ns", "init_ns", "run_ns", "cpu_ns", "bytes_in", "bytes_out")
    sums = dict(zip((*names, "init_mb_ms"), amounts(record), strict=True))
    lines = rate(prices, "default", [Row(group_of(record)._asdict(), sums)])
    return sum((line.amount for line in lines if line.kind != ROUNDED), Decimal(0))


# -- which book -------------------------------------------------------------------------------------------------------

DATED = """
[[book]]
name = "dear"
from = 2026-12-01
currency = "EUR"
per_request = 3

[[book]]
name = "cheap"
from = "2026-02"
currency = "USD"
per_request = 1
per_gb_out = [{ up_to = 10, price = 2 }, { price = 1 }]
free = { requests = 5, gb_out = 1 }
bill_throttles = true

[book.namespaces.team-a]
per_million_requests = 2
free = { requests = 0 }
bill_throttles = false
"""


def test_a_book_holds_from_its_month_until_the_next() -> None:
    books = parse_books(DATED)
    assert [books.at(month).name for month in ("2026-01", "2026-02", "2026-11-23", "2026-12", "2027-06")] == [
        "free",
        "cheap",
        "cheap",
        "dear",
        "dear",
    ]
    assert books.at_ns(1_500_000_000_000_000_000).name == "free"
    assert Books().at("2026-01", "x") is FREE
    assert "asks for nothing" in make_bill(FREE, "2026-01", "x", [], 0).notes[0]


def test_a_namespace_can_have_prices_of_its_own() -> None:
    books = parse_books(DATED)
    common, own = books.at("2026-03", "default"), books.at("2026-03", "team-a")
    assert common.price("requests") == Price((Tier(None, Decimal(1)),), 5)
    assert common.bill_throttles
    assert (own.price("requests").list_price, own.price("requests").free) == (Decimal("0.000002"), 0)
    assert not own.bill_throttles
    assert own.price("gb_out") == common.price("gb_out")
    assert (own.currency, own.name) == ("USD", "cheap")
    assert books.at("2026-12", "team-a").price("requests").list_price == 3


def test_a_machines_cost_becomes_a_price() -> None:
    prices = parse_books(EURO + "machine = { cost_per_month = 20, memory_gb = 8, used = 0.25 }").at("2026-11")
    assert prices.price("gb_seconds") == prices.price("provisioned_gb_seconds")
    month_of_memory = row(mb_ms=2 * MB_MS_PER_GB_SECOND * 730 * 3600)  # a quarter of 8 GB, all month
    assert total(prices, month_of_memory) == 20


@pytest.mark.parametrize("name", shipped.NAMES)
def test_what_is_shipped_is_valid(name: str) -> None:
    assert shipped.books_of(name).at("2026-11").name == name


def test_the_readmes_book_is_valid() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (shown,) = re.findall(r"^```toml\n(\[\[book\]\].*?)^```$", readme, re.MULTILINE | re.DOTALL)
    books = parse_books(shown)
    assert set(books.at("2026-01").prices) == set(METRICS)
    assert not books.at("2026-01", "team-a").price("gb_seconds").list_price


# -- what is wrong ----------------------------------------------------------------------------------------------------

WRONG = """\
[[book]]
name = "X y"
curency = "EUR"
per_gb_second = [{ up_to = 10, price = -1 }, { up_to = 5, price = 1e400 }, { up_to = 3, price = 0 }]
per_request = 1
per_million_requests = "x"
free = { gb_second = 2, requests = 0.5 }
from = 2026-01-02
[[book]]
from = "2026-01"
currency = "eur"
bill_init = 1
decimals = 99
machine = { memory_gb = 0, used = 2 }
per_gb_second = 1

[book.namespaces.Team]
per_gb_out = nan
name = "no"
"""


def test_everything_that_is_wrong_is_said_at_once_with_its_line() -> None:
    with pytest.raises(InvalidPrices) as caught:
        parse_books(WRONG)
    said = {(problem.line, problem.key) for problem in caught.value.problems}
    assert said == {
        (1, "book[0].currency"),
        (2, "book[0].name"),
        (3, "book[0].curency"),
        (4, "book[0].per_gb_second[0].price"),
        (4, "book[0].per_gb_second[1].price"),
        (4, "book[0].per_gb_second[1].up_to"),
        (4, "book[0].per_gb_second[2].up_to"),
        (6, "book[0].per_million_requests"),
        (7, "book[0].free.gb_second"),
        (7, "book[0].free.requests"),
        (8, "book[0].from"),
        (10, "book[1].from"),
        (11, "book[1].currency"),
        (12, "book[1].bill_init"),
        (13, "book[1].decimals"),
        (14, "book[1].machine"),
        (14, "book[1].machine.memory_gb"),
        (14, "book[1].machine.used"),
        (15, "book[1].per_gb_second"),
        (17, "book[1].namespaces.Team"),
        (18, "book[1].namespaces.Team.per_gb_out"),
        (19, "book[1].namespaces.Team.name"),
    }
    assert "did you mean `currency`" in caught.value.message


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("a = ", "", "not valid TOML"),
        ("", "currency", "is missing"),
        ("book = 3", "book", "must be a list of tables"),
        ("book = [1]", "book[0]", "must be a table"),
        (EURO + "per_gb_second = []", "per_gb_second", "empty list"),
        (EURO + "per_gb_second = [1]", "per_gb_second[0]", "must be a table"),
        (EURO + "per_gb_second = [{ up_to = 1 }]", "per_gb_second[0]", "has no `price`"),
        (EURO + "per_gb_second = [{ price = 1 }, { price = 2 }]", "per_gb_second[0]", "has no `up_to`"),
        (EURO + "per_gb_second = 0.000000000000000000001", "per_gb_second", "decimals"),
        (EURO + "per_gb_second = 1e-999999", "per_gb_second", "decimals"),
        (EURO + "per_gb_second = true", "per_gb_second", "must be a number"),
        (EURO + "free = 3", "free", "must be a table"),
        (EURO + "free = { gb_seconds = 0.0000001 }", "free.gb_seconds", "finer than what is measured"),
        (EURO + "from = 2026", "from", "must be a month"),
        (EURO + "namespaces = 3", "namespaces", "must be a table of namespaces"),
        (EURO + "namespaces = { a = 3 }", "namespaces.a", "must be a table"),
        (EURO + "machine = 3", "machine", "must be a table"),
        ('[[book]]\ncurrency = "EUR"\n' * 2, "book[1].from", "two books have no `from`"),
        ("[[book]]\n" + EURO + '[prices]\nx = "1"', "prices", "unknown key"),
    ],
)
def test_a_book_that_does_not_hold_is_refused(text: str, key: str, said: str) -> None:
    with pytest.raises(InvalidPrices) as caught:
        parse_books(text)
    assert any(problem.key == key and said in problem.message for problem in caught.value.problems), caught.value


def test_numbers_are_exact_as_numbers_and_as_text() -> None:
    for written in ("0.1234567890123456789", '"0.1234567890123456789"', "1234567890.123456789e-10"):
        prices = parse_books(EURO + f"per_gb_second = {written}").at("2026-11")
        assert str(prices.price("gb_seconds").list_price).startswith("0.1234567890123456789")


# -- estimates --------------------------------------------------------------------------------------------------------


def test_an_estimate_is_the_bill_of_a_steady_month() -> None:
    aws = shipped.books_of("lambda").at("2026-11")
    load = Workload("hello", 256, Decimal(5), Decimal("119.2"), min_instances=1, bytes_out=1000)
    bill = estimate.estimate(aws, "2026-11", "default", load, 0)
    count = 5 * 730 * 3600
    used = row(
        invocations=count, mb_ms=count * 120 * 256, bytes_out=count * 1000, provisioned_mb_ms=256 * 730 * 3600 * 1000
    )
    assert bill.lines == rate(aws, "default", [used])
    assert bill.total == Decimal("5.17")  # 2.428 for requests, 2.7375 for memory held ready; the rest is free
    assert any("730 hours" in note for note in bill.notes)


def test_an_estimate_says_what_it_leaves_out() -> None:
    prices = parse_books(EURO + "per_cpu_second = 1\nper_gb_out = 1").at("2026-11")
    load = Workload("hello", 128, Decimal("0.001"), Decimal(10))
    notes = " ".join(estimate.estimate(prices, "2026-11", "default", load, 0).notes)
    assert "processor" in notes
    assert "Data out" in notes
    whole = Workload("hello", 128, Decimal("0.001"), Decimal(10), cpu_ms=Decimal(4), bytes_out=5)
    bill = estimate.estimate(prices, "2026-11", "default", whole, 0)
    assert "processor" not in " ".join(bill.notes)
    assert {line.metric: line.amount for line in bill.lines if line.kind != ROUNDED}["cpu_seconds"] == Decimal("10.512")
