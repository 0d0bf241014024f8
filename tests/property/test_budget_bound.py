"""No order of calls, ends, flushes and readings takes a budget further than its bound, and none is counted wrongly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from faas.billing.budgets import BudgetBooks, Limit, Reading
from faas.metering.sums import METRICS, Group, add_to, amounts, group_of, hour_of
from faas.model.budget import Scope, Unit
from faas.model.usage import UsageRecord
from tests.usage_samples import HOUR_MS, NOON_MS, make_record

MEMORY_MB = 128
WORST_MS = 1_000  # a call's timeout and start
WORST = MEMORY_MB * WORST_MS
HOUR = hour_of(NOON_MS * 1_000_000)
FIRST, END = HOUR - 100, HOUR + 100


class Ledger:
    """What the store has: records, and how far it is with each node's journal."""

    def __init__(self) -> None:
        self.records: list[UsageRecord] = []
        self.applied: dict[int, int] = {}

    def reading(self, node: int, first: int, end: int) -> Reading:
        sums: dict[Group, list[int]] = {}
        for record in self.records:
            if first <= hour_of(record.started_at_ns) < end:
                add_to(sums.setdefault(group_of(record), [0] * len(METRICS)), amounts(record))
        return Reading(first, end, self.applied.get(node, 0), sums)


class Node:
    def __init__(self, number: int, ledger: Ledger, limit: Limit) -> None:
        self.number, self.ledger = number, ledger
        self.books = BudgetBooks([limit], FIRST, END)
        self.in_flight: list[str] = []
        self.journal: list[UsageRecord] = []
        self.flushed = 0
        self.recent = HOUR - 1
        self.read(full=True)

    def begin(self, attempt: str) -> bool:
        (account,) = self.books.accounts
        room = account.used + account.reserved < account.limit.most
        refused = self.books.admit(attempt, "hello", "k1")
        assert (refused is None) is room, "a call begins below the limit, as far as its node knows, and only there"
        if refused is not None:
            return False
        self.in_flight.append(attempt)
        return True

    def end(self, number: int, billed_ms: int, hours_ago: int) -> int:
        """One of the calls in flight ends; what it cost."""
        if not self.in_flight:
            return 0
        attempt = self.in_flight.pop(number % len(self.in_flight))
        started_at_ns = (NOON_MS - hours_ago * HOUR_MS) * 1_000_000
        record = make_record(number, id=attempt, memory_mb=MEMORY_MB, billed_ms=billed_ms, started_at_ns=started_at_ns)
        self.journal.append(record)
        self.books.release(attempt)
        self.books.book(len(self.journal), record)
        return record.mb_ms

    def flush(self, count: int) -> None:
        batch = self.journal[self.flushed : self.flushed + count]
        self.flushed += len(batch)
        self.ledger.records += batch
        self.ledger.applied[self.number] = self.flushed

    def read(self, *, full: bool) -> None:
        old = self.ledger.reading(self.number, FIRST, self.recent) if full else None
        self.books.read(self.ledger.reading(self.number, self.recent, END), old)

    def reopened(self, limit: Limit) -> None:
        """The same budget said again, as after a change of another."""
        books = BudgetBooks([limit], FIRST, END)
        books.take_over(self.books)
        self.books = books
        self.read(full=True)


Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "begin", "end", "end", "flush", "read", "full", "reopen"]),
        st.integers(0, 7),
        st.integers(1, WORST_MS),
        st.integers(0, 3),
    ),
    max_size=80,
)


def play(steps: list[Step], nodes: list[Node], limit: Limit, check: Callable[[int, Node, int], None]) -> int:
    """Take every step; ``check`` sees what was used in all, the node and the step's number. Returns what was used."""
    used = 0
    for number, (what, which, billed_ms, hours_ago) in enumerate(steps):
        node = nodes[which % len(nodes)]
        acts: dict[str, Callable[[], object]] = {
            "begin": partial(node.begin, f"{number:032x}-1"),
            "flush": partial(node.flush, billed_ms % 5 + 1),
            "read": partial(node.read, full=False),
            "full": partial(node.read, full=True),
            "reopen": partial(node.reopened, limit),
        }
        if what == "end":
            used += node.end(which, billed_ms, hours_ago)
        else:
            acts[what]()
        check(used, node, number)
    for node in nodes:
        while node.in_flight:
            used += node.end(0, WORST_MS, 0)
    return used


@given(steps, st.integers(0, 5 * WORST), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_what_is_used_stays_below_the_bound(steps: list[Step], most: int, count: int) -> None:
    """The formula at the top of ``faas.billing.budgets``, with the moment of each admission as t."""
    limit = Limit("default", Scope.NAMESPACE, "", Unit.GB_SECONDS, most)
    ledger = Ledger()
    nodes = [Node(number, ledger, limit) for number in range(count)]
    bound = 0
    running = 0

    def check(used: int, node: Node, _: int) -> None:
        nonlocal bound, running
        now_running = sum(len(each.in_flight) for each in nodes)
        if now_running > running:  # one was admitted: what the node did not know of, and what may come yet
            unseen = used - int(node.books.accounts[0].used)
            bound = max(bound, most + unseen + now_running * WORST)
        running = now_running
        assert used < bound or used == 0

    used = play(steps, nodes, limit, check)
    assert used < bound or used == 0
    for node in nodes:
        assert node.books.accounts[0].reserved == 0, "nothing stays reserved for calls that have ended"
        node.flush(10_000)
    for node in nodes:
        node.read(full=True)
        assert node.books.accounts[0].used == used, "in the end every node knows the exact sum"
        assert node.begin("x-1") is (used < most)


@given(steps, st.integers(1, 5 * WORST))
@settings(max_examples=60, deadline=None)
def test_one_node_knows_at_every_moment_exactly_what_was_used(steps: list[Step], most: int) -> None:
    limit = Limit("default", Scope.FUNCTION, "hello", Unit.GB_SECONDS, most)
    node = Node(0, Ledger(), limit)

    def check(used: int, node: Node, _: int) -> None:
        assert node.books.accounts[0].used == used, "never twice, never not at all"

    play(steps, [node], limit, check)


@given(st.lists(st.integers(1, 50), min_size=20, max_size=40), st.integers(2, 20))
def test_calls_that_cost_what_those_before_did_pass_the_limit_by_one_call(billed_ms: list[int], at_once: int) -> None:
    """That is what reserving is for: a flood at the limit lets in what fits, and not all of it."""
    cost_ms = billed_ms[0]
    limit = Limit("default", Scope.KEY, "k1", Unit.GB_SECONDS, MEMORY_MB * cost_ms * len(billed_ms))
    node = Node(0, Ledger(), limit)
    used = number = 0
    while node.begin(f"{number:032x}-1"):
        number += 1
        if number == 1 or len(node.in_flight) == at_once:
            used += node.end(0, cost_ms, 0)
    while node.in_flight:
        used += node.end(0, cost_ms, 0)
    assert limit.most <= used <= limit.most + MEMORY_MB * cost_ms
