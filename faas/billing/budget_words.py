"""Budgets in words: the month they hold for, what an account says of itself, what a refused caller is told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple

from faas.billing.budgets import Account, Amount, Limit, gb_seconds
from faas.billing.money import text
from faas.model.budget import Scope, Unit
from faas.model.errors import BudgetExhausted

WARNED_FROM = 75


class Month(NamedTuple):
    """``first`` <= hour < ``end``, in hours since 1970; ``name`` as 2025-01, ``renews_at`` RFC 3339."""

    name: str
    first: int
    end: int
    renews_at: str


def month_of(unix_s: int) -> Month:
    """The month, in UTC, that a time lies in.

    >>> month_of(1735689600)
    Month(name='2025-01', first=482136, end=482880, renews_at='2025-02-01T00:00:00Z')
    """
    begins = datetime.fromtimestamp(unix_s, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ends = begins.replace(year=begins.year + begins.month // 12, month=begins.month % 12 + 1)
    return Month(
        f"{begins:%Y-%m}", int(begins.timestamp()) // 3600, int(ends.timestamp()) // 3600, f"{ends:%Y-%m-%dT%H:%M:%SZ}"
    )


def shown(unit: Unit, amount: Amount) -> str:
    """GB-seconds, or money, in plain digits.

    >>> shown(Unit.GB_SECONDS, 1_536_000)
    '1.5'
    """
    return text(gb_seconds(amount)) if unit is Unit.GB_SECONDS else text(amount + gb_seconds(0))


def state(account: Account) -> str:
    reached = account.reached()
    return "exhausted" if reached >= 100 else "warning" if reached >= WARNED_FROM else "ok"


def exhausted(account: Account, month: Month, currency: str) -> BudgetExhausted:
    """Which budget, how much of it was used, when it starts anew and what to do until then."""
    limit, used = account.limit, account.used
    unit = "GB-seconds" if limit.unit is Unit.GB_SECONDS else currency
    what = f"{shown(limit.unit, used)} of {shown(limit.unit, limit.most)} {unit}"
    if used < limit.most:
        said = f"is about to be used up: {what}, and the rest is held for calls that are running. Try again after them"
    else:
        said = f"is used up: {what} in {month.name}. It starts anew at {month.renews_at}"
    return BudgetExhausted(
        f"The budget of {_whose(limit)} {said}; or raise it: `{_command(limit)}`.",
        budget={
            "namespace": limit.namespace,
            "scope": limit.scope.value,
            "name": limit.name,
            "unit": limit.unit.value,
            "limit": shown(limit.unit, limit.most),
            "used": shown(limit.unit, used),
            "renews_at": month.renews_at,
        },
    )


def _whose(limit: Limit) -> str:
    if limit.scope is Scope.NAMESPACE:
        return f"the namespace '{limit.namespace}'"
    kind = "function" if limit.scope is Scope.FUNCTION else "key"
    return f"the {kind} '{limit.name}' in the namespace '{limit.namespace}'"


def _command(limit: Limit) -> str:
    whose = {Scope.FUNCTION: f" --function {limit.name}", Scope.KEY: f" --of-key {limit.name}"}.get(limit.scope, "")
    more = shown(limit.unit, limit.most * 2 or 1_024_000)
    return f"faas budget set -N {limit.namespace}{whose} --{limit.unit.value.replace('_', '-')} {more}"


def describe(account: Account) -> dict[str, Any]:
    """``used`` is what this node knows of."""
    return {"used": shown(account.limit.unit, account.used), "state": state(account)}
