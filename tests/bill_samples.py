"""Statements, closings and usage for tests of bills."""

from __future__ import annotations

from decimal import Decimal
from html.parser import HTMLParser

from faas.billing.bill import ALLOWANCE, Bill, Line
from faas.billing.draft import Draft, draft
from faas.billing.metrics import METRICS
from faas.billing.statement import Closing, CreditNote, Labels, Statement, credit_line, with_lines
from faas.metering.sums import FIRST

HOSTILE = "<script>alert(1)</script>\"'&=cmd|/C calc!A0"
MADE_AT_MS = 1_796_083_200_000  # 2026-12-01

BOOK = """
name = "team"
currency = "EUR"
per_million_requests = 0.20
per_gb_second = [{ up_to = 10, price = 0.5 }, { price = 0.25 }]
free = { requests = 2 }
"""


def line(function: str, metric: str, quantity: str, price: str, **more: str | int) -> Line:
    fixed: dict[str, str] = {"description": "Use", "namespace": "default", "function": function, "metric": metric}
    amounts = {
        "quantity": Decimal(quantity),
        "unit_price": Decimal(price),
        "amount": Decimal(quantity) * Decimal(price),
        "list_price": Decimal(more.pop("list_price", price)),
    }
    return Line(**{**fixed, "unit": METRICS[metric].unit, **amounts, "tier": 1, **more})  # type: ignore[arg-type]


def sample_statement(status: str = "closed", text: str = "a note") -> Statement:
    """One line of every kind; ``text`` wherever people choose what it says."""
    lines = (
        line("hello", "requests", "5", "0.0000002"),
        line("hello", "gb_seconds", "1234.000125", "0.0000166667"),
        line("thumb", "gb_seconds", "400000", "0", list_price="0.0000166667", kind=ALLOWANCE, tier=0),
        line(text, "gb_out", "3", "0.09", tier=2, description=text),
        line("thumb", "cpu_seconds", "3.5", "0.01"),
        line("thumb", "provisioned_gb_seconds", "3.5", "0.01"),
        line("hello", "requests", "7", "0.0000002", month="2026-10"),
        line("hello", "requests", "-7", "0.0000001", month="2026-10", tier=2),
    )
    bill = Bill("2026-11", "default", "USD", 2, status, text, MADE_AT_MS, lines, Decimal("0.31"), (text,))
    note = CreditNote("credit-1", "2026-10", "default", Decimal("1.50"), "USD", text, MADE_AT_MS, "key")
    return Statement("2026-11", status, MADE_AT_MS, (with_lines(bill, [credit_line(note)]),))


def labels(function: str = "hello", namespace: str = "default", status: str = "ok") -> Labels:
    return namespace, function, status, FIRST


def used(function: str = "hello", namespace: str = "default", **sums: int) -> dict[Labels, dict[str, int]]:
    return {labels(function, namespace): sums}


def sample_closing(month: str = "2026-10", books: str = BOOK, **sums: int) -> Closing:
    made: Draft = draft(month, MADE_AT_MS, books, {month: {labels(): sums or {"invocations": 3}}}, {}, [])
    return made.closing("key-1")


class Page(HTMLParser):
    """What a browser would make of it: elements, their attributes, the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.style = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            self.style += data
        elif "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data
        self.words.append(data)
