"""Budgets and the warnings of them, in Redis. The Lua files name every key."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from faas.billing.budgets import Reading
from faas.billing.notices import Claimed, Notice
from faas.metering.sums import METRICS, Group, add_to
from faas.model.budget import Budgets
from faas.stores.held import HeldReader
from faas.stores.ledger import group_from, sums_from
from faas.stores.redis_client import Client, ask, edge, script
from faas.stores.registry import CHANGES
from faas.stores.segments import base_of

HOURS_PER_READ: Final = 24  # of one script call
KEEP_MS: Final = 62 * 24 * 3_600_000  # a warning is remembered for longer than its month lasts
_DUE: Final = "faas:notices:due"


class RedisBudgets:
    """``BudgetStore`` and ``NoticeStore``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._put = script(client, "put_budgets")
        self._spent = script(client, "read_spent")
        self._held = HeldReader(client)
        self._post = script(client, "post_notice")
        self._claim = script(client, "claim_notice")
        self._settle = script(client, "settle_notice")

    async def put(self, budgets: Budgets) -> None:
        stored = budgets.model_dump_json() if budgets.budgets else ""
        with edge():
            await self._put(keys=["faas:budgets"], args=[budgets.namespace, stored, CHANGES])

    async def list(self) -> builtins.list[Budgets]:
        found = await ask(self._client.hvals("faas:budgets"))
        return sorted(map(Budgets.model_validate_json, found), key=lambda budgets: budgets.namespace)

    async def spent(self, namespaces: Sequence[str], first: int, end: int, journal_id: str) -> dict[str, Reading]:
        """One moment for up to ``HOURS_PER_READ`` hours; of more, the position is that of the earliest."""
        sums: dict[str, dict[Group, builtins.list[int]]] = {namespace: {} for namespace in namespaces}
        position: int | None = None
        for start in range(first, max(end, first + 1), HOURS_PER_READ):
            until = min(start + HOURS_PER_READ, end)
            with edge():
                at, *hours = await self._spent(
                    keys=["faas:journals", "faas:usage:hours"], args=[journal_id, start, until, *namespaces]
                )
            here = int(at) if at else base_of(journal_id)
            position = here if position is None else min(position, here)
            for packed in hours:
                _merge(packed, sums)
        assert position is not None
        kept: dict[str, dict[str, int]] = {namespace: {} for namespace in namespaces}
        for (namespace, function), mb_ms in (await self._held.provisioned(first, end, namespaces)).items():
            kept[namespace][function] = mb_ms
        return {name: Reading(first, end, position, found, kept[name]) for name, found in sums.items()}

    # -- warnings ---------------------------------------------------------------------------------------------------

    async def post(self, notice: Notice, now_ms: int) -> bool:
        with edge():
            new = await self._post(
                keys=[_DUE, f"faas:notices:{notice.id}"],
                args=[notice.id, notice.namespace, notice.body, now_ms, KEEP_MS],
            )
        return bool(new)

    async def claim(self, now_ms: int, until_ms: int) -> Claimed | None:
        with edge():
            found = await self._claim(keys=[_DUE], args=[now_ms, until_ms])
        if not found:
            return None
        notice_id, namespace, body, tries = found
        return Claimed(Notice(notice_id.decode(), namespace.decode(), body.decode()), int(tries))

    async def settle(self, notice_id: str, state: str, again_at_ms: int | None = None) -> None:
        again: Any = "" if again_at_ms is None else again_at_ms
        with edge():
            await self._settle(keys=[_DUE, f"faas:notices:{notice_id}"], args=[notice_id, state, again])

    async def states(self, notice_ids: Sequence[str]) -> dict[str, str]:
        async with self._client.pipeline(transaction=False) as pipe:
            for notice_id in notice_ids:
                pipe.hget(f"faas:notices:{notice_id}", "state")
            with edge():
                found = await pipe.execute()
        return {key: state.decode() for key, state in zip(notice_ids, found, strict=True) if state is not None}


def _merge(packed: bytes, sums: dict[str, dict[Group, builtins.list[int]]]) -> None:
    """Add one hour's cells."""
    parts = iter(msgpack.unpackb(packed, raw=True))
    for field, limbs in zip(parts, parts, strict=True):
        group = group_from(field)
        add_to(sums[group.namespace].setdefault(group, [0] * len(METRICS)), sums_from(limbs))
