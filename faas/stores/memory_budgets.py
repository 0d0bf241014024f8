"""The in-memory twin of the stores of budgets and their warnings."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import replace

from faas.billing.budgets import Reading
from faas.billing.notices import Claimed, Notice
from faas.metering.sums import METRICS, Group, add_to, amounts, group_of, hour_of
from faas.model.budget import Budgets
from faas.stores.memory import MemoryLedger, MemoryRegistry

_FAR_MS = 2**53


class MemoryBudgets:
    """``BudgetStore`` and ``NoticeStore``."""

    def __init__(self, registry: MemoryRegistry, ledger: MemoryLedger) -> None:
        self._registry = registry
        self._ledger = ledger
        self._stored: dict[str, Budgets] = {}
        self._notices: dict[str, Claimed] = {}
        self._states: dict[str, str] = {}
        self._due: dict[str, int] = {}

    async def put(self, budgets: Budgets) -> None:
        if budgets.budgets:
            self._stored[budgets.namespace] = budgets
        else:
            self._stored.pop(budgets.namespace, None)
        self._registry.tell((budgets.namespace, ""))

    async def list(self) -> builtins.list[Budgets]:
        return [self._stored[name] for name in sorted(self._stored)]

    async def spent(self, namespaces: Sequence[str], first: int, end: int, journal_id: str) -> dict[str, Reading]:
        position = await self._ledger.last_sequence(journal_id)
        sums: dict[str, dict[Group, builtins.list[int]]] = {namespace: {} for namespace in namespaces}
        for record in await self._ledger.records(0, _FAR_MS):
            if first <= hour_of(record.started_at_ns) < end and record.namespace in sums:
                cell = sums[record.namespace].setdefault(group_of(record), [0] * len(METRICS))
                add_to(cell, amounts(record))
        return {name: Reading(first, end, position, found) for name, found in sums.items()}

    async def post(self, notice: Notice, now_ms: int) -> bool:
        if notice.id in self._notices:
            return False
        self._notices[notice.id] = Claimed(notice, 0)
        self._states[notice.id] = "due"
        self._due[notice.id] = now_ms
        return True

    async def claim(self, now_ms: int, until_ms: int) -> Claimed | None:
        due = sorted((at_ms, key) for key, at_ms in self._due.items() if at_ms <= now_ms)
        if not due:
            return None
        key = due[0][1]
        self._due[key] = until_ms
        self._notices[key] = replace(self._notices[key], tries=self._notices[key].tries + 1)
        return self._notices[key]

    async def settle(self, notice_id: str, state: str, again_at_ms: int | None = None) -> None:
        if notice_id not in self._notices:
            return
        self._states[notice_id] = state
        if again_at_ms is None:
            self._due.pop(notice_id, None)
        else:
            self._due[notice_id] = again_at_ms

    async def states(self, notice_ids: Sequence[str]) -> dict[str, str]:
        return {key: self._states[key] for key in notice_ids if key in self._states}
