"""Whatever is used when, closed when and priced how: over all bills every use is billed once, at its month's prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from faas.billing import frozen
from faas.billing.bill import ROUNDED, Bill
from faas.billing.draft import Draft, books_of, draft, rows
from faas.billing.present.json import document
from faas.billing.rating import rate
from faas.billing.statement import Closing, CreditNote, Labels, closed_before, is_settled
from tests.bill_samples import labels

MONTHS = ("2026-09", "2026-10", "2026-11", "2026-12", "2027-01")  # the last is never closed
amounts = st.one_of(st.integers(0, 5), st.integers(0, 10**9))
price = st.integers(0, 10**10).map(lambda number: f"{Decimal(number) / 10**8:f}")


@st.composite
def book_texts(draw: st.DrawFn) -> str:
    tier = f'{{ up_to = {draw(st.integers(1, 100))}, price = "{draw(price)}" }}'
    return f"""
name = "any"
decimals = {draw(st.integers(0, 4))}
currency = "{draw(st.sampled_from(["USD", "EUR"]))}"
bill_retries = {str(draw(st.booleans())).lower()}
bill_throttles = {str(draw(st.booleans())).lower()}
per_request = "{draw(price)}"
per_gb_second = [{tier}, {{ price = "{draw(price)}" }}]
free = {{ requests = {draw(st.integers(0, 10))}, gb_seconds = {draw(st.integers(0, 10))} }}
[namespaces.b]
per_cpu_second = "{draw(price)}"
"""


uses = st.tuples(
    st.just("use"),
    st.sampled_from(MONTHS),
    st.builds(labels, st.sampled_from("fgh"), st.sampled_from("ab"), st.sampled_from(["ok", "timeout", "rejected"])),
    st.fixed_dictionaries({"invocations": amounts, "mb_ms": amounts, "cpu_ns": amounts}),
)
closes = st.tuples(st.just("close"), st.sampled_from(MONTHS[:-1]))
credits_given = st.tuples(st.just("credit"), st.sampled_from(MONTHS[:-1]), st.sampled_from("ab"), st.integers(1, 9))
new_books = st.tuples(st.just("books"), book_texts())


class World:
    """A ledger that only grows, and the bills that are made of it."""

    def __init__(self) -> None:
        self.books = ""
        self.ledger: dict[str, dict[Labels, dict[str, int]]] = {month: {} for month in MONTHS}
        self.closed: dict[str, Closing] = {}
        self.notes: list[CreditNote] = []
        self.marks = Counter[str]()

    def use(self, month: str, group: Labels, sums: Mapping[str, int]) -> None:
        self.marks[month] += 1
        cell = self.ledger[month].setdefault(group, {})
        for metric, value in sums.items():
            cell[metric] = cell.get(metric, 0) + value

    def close(self, month: str) -> None:
        if month not in self.closed:
            made = self._draft(month).closing("key")
            self.closed[month] = frozen.unpack(frozen.pack(made))
            assert self.closed[month] == made

    def credit(self, month: str, namespace: str, amount: int) -> None:
        if month in self.closed:
            found = next((bill for bill in self.closed[month].bills if bill.namespace == namespace), None)
            if found is not None:
                note_id = f"n{len(self.notes)}"
                value = Decimal(amount)
                self.notes.append(CreditNote(note_id, month, namespace, value, found.currency, "why", 0, "key"))

    def set_books(self, text: str) -> None:
        self.books = text

    def bills(self) -> list[Bill]:
        """Of every month, as it stands now."""
        found: list[Bill] = []
        for month in MONTHS:
            if month in self.closed:
                found += self.closed[month].bills
            else:
                assert all(each in self.closed for each in closed_before(month, self.closed))
                found += self._draft(month).bills
        return found

    def owed(self) -> dict[tuple[str, str], Fraction]:
        """By namespace and currency, each month's whole use at that month's prices, less credits."""
        owed: dict[tuple[str, str], Fraction] = {}
        for month in MONTHS:
            books = books_of(self.closed[month].books if month in self.closed else self.books)
            for namespace in "ab":
                book = books.at(month, namespace)
                for line in rate(book, namespace, list(rows(self.ledger[month]))):
                    if line.kind != ROUNDED:
                        key = namespace, book.currency
                        owed[key] = owed.get(key, Fraction(0)) + Fraction(line.amount)
        for note in self.notes:
            key = note.namespace, note.currency
            owed[key] = owed.get(key, Fraction(0)) - Fraction(note.amount)
        return owed

    def _draft(self, month: str) -> Draft:
        """Without the use of months of which nothing new can have come; the same as with it."""
        usage = {each: {group: dict(sums) for group, sums in used.items()} for each, used in self.ledger.items()}
        marks = {each: str(self.marks[each]) for each in MONTHS}
        unsettled = [
            m for m in MONTHS if m == month or m not in self.closed or not is_settled(m, marks[m], self.closed)
        ]
        read = {each: usage[each] for each in unsettled}
        noted = {each: marks[each] for each in (*closed_before(month, self.closed), month) if each in read}
        made = draft(month, 0, self.books, read, self.closed, self.notes, noted)
        assert made.bills == draft(month, 0, self.books, usage, self.closed, self.notes).bills
        return made


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(uses, uses, uses, closes, credits_given, new_books), max_size=25))
def test_every_use_is_billed_once(events: list[tuple[object, ...]]) -> None:
    world = World()
    for what, *details in events:
        act = {"use": world.use, "close": world.close, "credit": world.credit, "books": world.set_books}[str(what)]
        act(*details)  # type: ignore[operator]
    billed: dict[tuple[str, str], Fraction] = {}
    for bill in world.bills():
        assert sum(Fraction(line.amount) for line in bill.lines) == Fraction(bill.total)
        assert all(line.amount == line.quantity * line.unit_price for line in bill.lines)
        key = bill.namespace, bill.currency
        exact = sum((Fraction(line.amount) for line in bill.lines if line.kind != ROUNDED), Fraction(0))
        billed[key] = billed.get(key, Fraction(0)) + exact
    nothing = Fraction(0)
    owed = world.owed()
    assert {key: billed.get(key, nothing) for key in {*billed, *owed}} == {
        key: owed.get(key, nothing) for key in {*billed, *owed}
    }


@settings(max_examples=20, deadline=None)
@given(book_texts(), st.lists(uses, max_size=8))
def test_the_document_adds_up(books: str, events: list[tuple[object, ...]]) -> None:
    world = World()
    world.set_books(books)
    for _, _, group, sums in events:
        world.use("2026-10", group, sums)  # type: ignore[arg-type]
    made = draft("2026-10", 0, books, {"2026-10": world.ledger["2026-10"]}, {}, [])
    found = document(made.statement)
    for currency, total in found["totals"].items():
        mine = [Fraction(line["amount"]) for line in found["lines"] if line["currency"] == currency]
        assert sum(mine) == Fraction(total)
