"""The bills of an open month, worked out: its own use, late use of closed months before it, credit notes.

Pure: the same usage, books, closings and notes give the same bills. See ``faas.billing.statement`` for the theory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from faas.billing import money
from faas.billing.bill import CLOSED, OPEN, Bill, Line
from faas.billing.book import Books
from faas.billing.rating import RATED_BY, make_bill, rate
from faas.billing.reading import parse_books
from faas.billing.statement import (
    Closing,
    CreditNote,
    Statement,
    Usage,
    accounted,
    closed_before,
    credit_line,
    difference,
    late,
    with_lines,
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of usage, as rating wants it."""

    labels: Mapping[str, str]
    sums: Mapping[str, int]


def rows(usage: Usage) -> Iterator[Row]:
    """``usage`` is labelled by ``RATED_BY``."""
    return (Row(dict(zip(RATED_BY, labels, strict=True)), sums) for labels, sums in usage.items())


def books_of(text: str) -> Books:
    """The books as they were set; none where none were. Raises ``InvalidPrices``."""
    return parse_books(text) if text else Books()


@dataclass(slots=True)
class _Account:
    """What a namespace owes in one currency, under way."""

    bill: Bill
    more: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Draft:
    """A month's bills, open, and what they take in of closed months."""

    month: str
    made_at_ms: int
    bills: tuple[Bill, ...]
    books: str
    usage: Usage
    late: Mapping[str, Usage]
    credits: tuple[str, ...]
    marks: Mapping[str, str]

    @property
    def statement(self) -> Statement:
        return Statement(self.month, OPEN, self.made_at_ms, self.bills)

    def closing(self, closed_by: str) -> Closing:
        bills = tuple(replace(bill, status=CLOSED) for bill in self.bills)
        return Closing(
            self.month, self.made_at_ms, closed_by, bills, self.books, self.usage, self.late, self.credits, self.marks
        )


def draft(
    month: str,
    made_at_ms: int,
    books: str,
    usage: Mapping[str, Usage],
    closed: Mapping[str, Closing],
    credits: Iterable[CreditNote],  # noqa: A002 - what they are called
    marks: Mapping[str, str] | None = None,
) -> Draft:
    """``usage`` by month, labelled by ``RATED_BY``: of this one and of those of ``closed_before(month, closed)`` that
    are not settled; ``marks`` are theirs."""
    made = _Drafting(month, made_at_ms, books_of(books))
    made.own(usage[month])
    taken_late: dict[str, Usage] = {}
    before = closed_before(month, closed)
    for earlier in [each for each in before if each in usage]:
        taken = accounted(earlier, closed)
        more = late(usage[earlier], taken)
        if more:
            taken_late[earlier] = more
            made.late(closed[earlier], usage[earlier], taken, {labels[0] for labels in more})
    done = {note for closing in closed.values() for note in closing.credits}
    due = sorted(
        (note for note in credits if note.month in before and note.id not in done),
        key=lambda note: (note.made_at_ms, note.id),
    )
    for note in due:
        made.credit(note, closed[note.month])
    taken_credits = tuple(note.id for note in due)
    return Draft(month, made_at_ms, made.bills(), books, usage[month], taken_late, taken_credits, marks or {})


class _Drafting:
    def __init__(self, month: str, made_at_ms: int, books: Books) -> None:
        self._month = month
        self._made_at_ms = made_at_ms
        self._books = books
        self._accounts: dict[tuple[str, str], _Account] = {}  # (namespace, currency)

    def own(self, usage: Usage) -> None:
        found = list(rows(usage))
        for namespace in sorted({row.labels["namespace"] for row in found}):
            book = self._books.at(self._month, namespace)
            bill = make_bill(book, self._month, namespace, found, self._made_at_ms)
            if bill.lines:
                self._accounts[namespace, bill.currency] = _Account(bill)

    def late(self, closing: Closing, now: Usage, before: Usage, namespaces: Iterable[str]) -> None:
        books = books_of(closing.books)
        with_late, without = list(rows(now)), list(rows(before))
        for namespace in sorted(namespaces):
            book = books.at(closing.month, namespace)
            lines = difference(rate(book, namespace, with_late), rate(book, namespace, without), closing.month)
            if lines:
                account = self._account(namespace, book.currency, book.decimals)
                account.more += lines
                self._say(account, f"Use of {closing.month} that was recorded after that month was closed is in here.")

    def credit(self, note: CreditNote, closing: Closing) -> None:
        decimals = next(
            (b.decimals for b in closing.bills if (b.namespace, b.currency) == (note.namespace, note.currency)), 2
        )
        self._account(note.namespace, note.currency, decimals).more.append(credit_line(note))

    def bills(self) -> tuple[Bill, ...]:
        accounts = (self._accounts[key] for key in sorted(self._accounts))
        return tuple(with_lines(account.bill, account.more) for account in accounts)

    def _account(self, namespace: str, currency: str, decimals: int) -> _Account:
        """The one there is, else an empty one: who used nothing this month may still owe for the last."""
        found = self._accounts.get((namespace, currency))
        if found is None:
            book = self._books.at(self._month, namespace).name
            nothing = money.rounded(Decimal(0), decimals)
            bill = Bill(self._month, namespace, currency, decimals, OPEN, book, self._made_at_ms, (), nothing)
            found = self._accounts[namespace, currency] = _Account(bill)
        return found

    @staticmethod
    def _say(account: _Account, note: str) -> None:
        account.bill = replace(account.bill, notes=(*account.bill.notes, note))
