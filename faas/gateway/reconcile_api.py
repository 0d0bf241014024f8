"""``POST /v1/usage/reconcile``: the sums that are billed, held against the raw records they were made of."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from faas.gateway import params
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.metering.reconcile import COMPARED, Difference, HourCheck
from faas.metering.sums import HOUR_MS, TIMES
from faas.model.errors import InvalidRequest

DIFFERENCES_MAX: Final = 1000  # shown; all are counted
_NS_PER_MS: Final = 1_000_000


class ReconcileApi:
    def __init__(self, services: Services) -> None:
        self._services = services

    def operations(self) -> list[Operation]:
        return [Operation("POST", "/v1/usage/reconcile", "read", self.reconcile)]

    async def reconcile(self, context: Context) -> Response:
        """Whole hours: those that overlap ``from`` (by default the start of this month) to ``to`` (now)."""
        asked = await context.json(optional=True)
        unknown = sorted(set(asked) - {"from", "to"})
        if unknown:
            raise InvalidRequest(f"A reconciliation has 'from' and 'to', not '{unknown[0][:60]}'.")
        now_ms = self._services.clock.unix_ns() // _NS_PER_MS
        start_ms = _time_ms(asked, "from", params.month_start_ms(now_ms), now_ms)
        end_ms = _time_ms(asked, "to", now_ms + 1, now_ms)
        if end_ms <= start_ms:
            raise InvalidRequest("'to' must be later than 'from'.")
        every = context.namespace == "*" or (not context.named and not context.grant.namespace)
        found = _Found()
        async for hour in self._services.ledger.reconcile(start_ms, end_ms, "" if every else context.namespace):
            found.add(hour)
        return Json(
            {"from": _text(start_ms // HOUR_MS), "to": _text(-(-end_ms // HOUR_MS)), **found.document()},
        )


class _Found:
    """What the hours come to."""

    def __init__(self) -> None:
        self._records = self._count = 0
        self._hours: list[int] = []
        self._differences: list[dict[str, Any]] = []
        self._unchecked: list[list[Any]] = []  # runs of hours: first, last, how many, why

    def add(self, check: HourCheck) -> None:
        if check.state == COMPARED:
            self._hours.append(check.hour)
            self._records += check.records
            self._count += len(check.differences)
            room = DIFFERENCES_MAX - len(self._differences)
            self._differences += map(_difference, check.differences[:room])
            return
        run = self._unchecked[-1] if self._unchecked else None
        if run and run[3] == check.state and not (self._hours and self._hours[-1] > run[1]):
            run[1:3] = check.hour, run[2] + 1
        else:
            self._unchecked.append([check.hour, check.hour, 1, check.state])

    def document(self) -> dict[str, Any]:
        hours = self._hours
        return {
            "equal": not self._count,
            "difference_count": self._count,
            "differences": self._differences,
            "records": self._records,
            "hours": len(hours),
            "first_hour": _text(hours[0]) if hours else None,
            "last_hour": _text(hours[-1]) if hours else None,
            "unchecked": [
                {"first_hour": _text(first), "last_hour": _text(last), "hours": count, "why": why}
                for first, last, count, why in self._unchecked
            ],
        }


def _difference(found: Difference) -> dict[str, Any]:
    return {
        "hour": _text(found.hour),
        **found.group._asdict(),
        "metric": found.metric,
        "ledger": found.ledger,
        "records": found.records,
        "difference": found.ledger - found.records,
    }


def _text(hour: int) -> str:
    return TIMES["hour"](hour)


def _time_ms(asked: dict[str, Any], name: str, default: int, now_ms: int) -> int:
    value = asked.get(name)
    if value is None or value == "":
        return default
    if not isinstance(value, str):
        raise InvalidRequest(f"'{name}' must be a text.")
    return params.time_ms(value, name, now_ms)
