"""Budgets as one node keeps them: what has been used, what calls in flight may use yet, and who is refused.

Theory of operation
-------------------
``BudgetBooks`` are one namespace's month. Each limit has an ``Account`` with three sums:

* *booked*: what the ledger had when it was last read, this node's own records as far as they were in it;
* *pending*: this node's records that were not in it, at list prices. A record leaves pending in the step in which a
  reading that has it comes in: readings carry the position of this node's journal, so none counts twice and none is
  left out;
* *reserved*: for each call in flight what such calls have cost lately (their function's moving average).

A call is admitted while ``booked + pending + reserved`` is below the limit. Reserving the worst case (``memory`` times
``timeout``) instead would be tighter and useless: a hundred calls of a millisecond with the default timeout would hold
back 384 GB-seconds. So a limit is passed by calls that turn out dearer than those before them, and by what a node
cannot know of the others. Let m be the node that admits a call last, at the time t. Then

    used in the end  <  limit + unseen(m, t) + cost of the calls in flight at t, on all nodes
    cost of one      <= memory x (timeout + start), as it is billed

where ``unseen`` is what the other nodes' calls cost that ended since what m read last had left their journals: within
one refresh and one flush. With one node it is 0. Where calls cost what they did before, no more than one call's cost is
left of the middle term on each node.

In money, what is booked is rated as its month's bill would be, allowance and tiers included; the budget of a function
or a key as if it were a namespace of its own. There what ``min_instances`` keeps counts too, except with a key, as far
as nodes have written it (``faas.stores.held``). It is no call's: nothing is reserved for it, and refusing calls does
not end it, so that past the bound above it goes on until somebody lets the instances go. GB-seconds are those of calls.

No clock, no I/O: who owns the books says what month it is and hands readings in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple

from faas.billing.book import FREE, PriceBook
from faas.billing.rating import PROVISIONED_MB_MS, exact_cost, record_cost
from faas.metering.sums import METRICS, Group, hour_of
from faas.model.budget import Budget, Budgets, Scope, Unit
from faas.model.usage import MB_MS_PER_GB_SECOND, UsageRecord

Amount = int | Decimal  # mb_ms, or money

THRESHOLDS: Final = (75, 90, 100)  # per cent, of which a warning is sent
_MB_MS: Final = METRICS.index("mb_ms")
_WEIGHT: Final = 8  # a moving average takes an eighth of what is new
_NOTHING: Final[Mapping[Group, Sequence[int]]] = {}
_CACHED_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Limit:
    """One number that may not be reached: ``most`` is in mb_ms or in money."""

    namespace: str
    scope: Scope
    name: str
    unit: Unit
    most: Amount

    def covers(self, function: str, key: str) -> bool:
        return self.scope is Scope.NAMESPACE or self.name == (function if self.scope is Scope.FUNCTION else key)


def limits_of(budgets: Budgets) -> list[Limit]:
    return [limit for budget in budgets.budgets for limit in _limits(budgets.namespace, budget)]


def _limits(namespace: str, budget: Budget) -> Iterable[Limit]:
    if budget.mb_ms is not None:
        yield Limit(namespace, budget.scope, budget.name, Unit.GB_SECONDS, budget.mb_ms)
    if budget.amount is not None:
        yield Limit(namespace, budget.scope, budget.name, Unit.AMOUNT, budget.amount)


class Reading(NamedTuple):
    """What the ledger had of a namespace in the hours ``first`` <= hour < ``end``, and up to where in this node's
    journal: both as of one moment (or ``position`` of an earlier one)."""

    first: int
    end: int
    position: int
    sums: Mapping[Group, Sequence[int]]  # in the order of ``METRICS``
    provisioned: Mapping[str, int] = MappingProxyType({})  # by function, mb_ms


class _Pending(NamedTuple):
    sequence: int
    hour: int
    record: UsageRecord


class _Row(NamedTuple):
    """As rating takes them."""

    labels: Mapping[str, str]
    sums: Mapping[str, int]


class _Held(NamedTuple):
    """What is reserved for a call in flight."""

    function: str
    key: str
    amounts: tuple[tuple[Account, Amount], ...]


class Account:
    """One limit's sums."""

    __slots__ = ("booked", "limit", "pending", "reserved")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.booked: Amount = 0
        self.pending: Amount = 0
        self.reserved: Amount = 0

    @property
    def used(self) -> Amount:
        return self.booked + self.pending

    @property
    def open(self) -> bool:
        """Whether one more call may begin."""
        return self.booked + self.pending + self.reserved < self.limit.most

    def reached(self) -> int:
        """The highest threshold that has been reached, 0 when none has."""
        used = self.used * 100
        return max((each for each in THRESHOLDS if used >= self.limit.most * each), default=0)


class BudgetBooks:
    """One namespace's accounts in one month: the hours ``first`` <= hour < ``end``."""

    def __init__(self, limits: Sequence[Limit], first: int, end: int, book: PriceBook = FREE) -> None:
        self.accounts = tuple(Account(limit) for limit in limits)
        self.first, self.end = first, end
        self._book = book
        self._in_flight: dict[str, _Held] = {}
        self._pending: list[_Pending] = []
        self._typical: dict[tuple[Unit, str], Amount] = {}  # what a function's calls cost lately
        self._old = Reading(first, first, 0, _NOTHING)
        self._recent = Reading(first, end, 0, _NOTHING)
        self._covering: dict[tuple[str, str], tuple[Account, ...]] = {}

    # -- calls ------------------------------------------------------------------------------------------------------

    def admit(self, attempt: str, function: str, key: str) -> Account | None:
        """Let a call begin and reserve for it; the account that refuses it when it may not."""
        accounts = self._cover(function, key)
        for account in accounts:
            if not account.open:
                return account
        if accounts:
            self._hold(attempt, function, key, accounts)
        return None

    def _hold(self, attempt: str, function: str, key: str, accounts: tuple[Account, ...]) -> None:
        typical = self._typical
        amounts = tuple([(account, typical.get((account.limit.unit, function), 0)) for account in accounts])
        self._in_flight[attempt] = _Held(function, key, amounts)
        for account, amount in amounts:
            account.reserved += amount

    def release(self, attempt: str) -> None:
        """The call has ended, or never began. Idempotent."""
        held = self._in_flight.pop(attempt, None)
        if held is not None:
            for account, amount in held.amounts:
                account.reserved -= amount

    def book(self, sequence: int, record: UsageRecord) -> None:
        """A record of this node has been journalled under this sequence."""
        hour = hour_of(record.started_at_ns)
        if self.first <= hour < self.end and self._cover(record.function, record.key_id):
            self._pending.append(_Pending(sequence, hour, record))
            self._add(record, learn=True)

    def _add(self, record: UsageRecord, *, learn: bool) -> None:
        costs: dict[Unit, Amount] = {}
        for account in self._cover(record.function, record.key_id):
            unit = account.limit.unit
            if unit not in costs:
                costs[unit] = self._cost(unit, record)
            account.pending += costs[unit]
        if learn:
            for unit, cost in costs.items():
                self._learn(unit, record.function, cost)

    def _cost(self, unit: Unit, record: UsageRecord) -> Amount:
        if unit is Unit.GB_SECONDS:
            return record.mb_ms
        return record_cost(self._book, record)

    def _learn(self, unit: Unit, function: str, cost: Amount) -> None:
        known = self._typical.get((unit, function), cost)
        step = cost - known
        self._typical[unit, function] = known + (step // _WEIGHT if isinstance(step, int) else step / _WEIGHT)

    def _cover(self, function: str, key: str) -> tuple[Account, ...]:
        """The accounts that a call counts in."""
        found = self._covering.get((function, key))
        if found is None:
            if len(self._covering) >= _CACHED_MAX:
                self._covering.clear()
            found = tuple(account for account in self.accounts if account.limit.covers(function, key))
            self._covering[function, key] = found
        return found

    # -- the ledger -------------------------------------------------------------------------------------------------

    def read(self, recent: Reading, old: Reading | None = None) -> None:
        """What the ledger says of the month's last hours and, where it was read as well, of those before them."""
        old = old or self._old
        assert self.first <= old.first <= old.end == recent.first <= recent.end == self.end, (old, recent)
        changed = recent[3:] != self._recent[3:] or old is not self._old
        self._old, self._recent = old, recent
        self._pending = [
            each
            for each in self._pending
            if each.sequence > (recent.position if each.hour >= recent.first else old.position)
        ]
        for account in self.accounts:
            account.pending = 0
            if changed:
                account.booked = self._booked(account.limit)
        for each in self._pending:
            self._add(each.record, learn=False)

    def _booked(self, limit: Limit) -> Amount:
        covered = [
            (group, sums)
            for reading in (self._old, self._recent)
            for group, sums in reading.sums.items()
            if limit.covers(group.function, group.key)
        ]
        if limit.unit is Unit.GB_SECONDS:
            return sum(sums[_MB_MS] for _, sums in covered)
        rows = [_Row(group._asdict(), dict(zip(METRICS, sums, strict=False))) for group, sums in covered]
        for reading in (self._old, self._recent):
            for function, mb_ms in reading.provisioned.items():
                if limit.covers(function, key=""):
                    labels = {"namespace": limit.namespace, "function": function}
                    rows.append(_Row(labels, {PROVISIONED_MB_MS: mb_ms}))
        return exact_cost(self._book, limit.namespace, rows)

    def take_over(self, other: BudgetBooks) -> None:
        """Go on from books of the same namespace under other limits or prices, or of the month before."""
        self._typical = dict(other._typical)
        for attempt, held in other._in_flight.items():
            self._hold(attempt, held.function, held.key, self._cover(held.function, held.key))
        for each in other._pending:
            if self.first <= each.hour < self.end:
                self._pending.append(each)
                self._add(each.record, learn=False)


def gb_seconds(mb_ms: Amount) -> Decimal:
    """
    >>> gb_seconds(128)
    Decimal('0.000125')
    """
    return Decimal(mb_ms) / MB_MS_PER_GB_SECOND
