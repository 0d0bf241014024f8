"""The ledger's sums held against its raw records, hour by hour, while nodes go on writing.

Sums and records of an hour come from one moment: a script reads the sums and the length of each list of parts, and as
parts are only appended, that many of each list are what those sums are of. They are read some at a time and forgotten
as soon as they are added up, so memory does not grow with their number, and Redis is never held up.

Only a list that did not just grow breaks this: its hour expired meanwhile, or the server died and lost the end of it.
So an hour that seems to differ is read again before it is said to.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgpack  # type: ignore[import-untyped]

from faas.metering.reconcile import COMPARED, EXPIRED, INCOMPLETE, HourCheck, differences
from faas.metering.sums import HOUR_MS, Group, add_to
from faas.stores.codec import group_of_part, part_amounts, unpack_part
from faas.stores.redis_client import Client, ask, edge, script

log = logging.getLogger("faas.stores.reconcile")

TRIES: Final = 3
PARTS_PER_READ: Final = 8  # at first
PARTS_PER_READ_MAX: Final = 1024
READ_BYTES: Final = 64 * 1024  # aimed at, of parts in one reading: some ms of work between two awaits

Sums = dict[Group, list[int]]
UnpackCell = Callable[[bytes, bytes], tuple[Group, list[int]]]  # a field of an hour's sums and what is stored there


class Reconciler:
    """Of one ledger. ``unpack_cell`` reads what the ledger's script stored."""

    def __init__(self, client: Client, unpack_cell: UnpackCell) -> None:
        self._client = client
        self._snapshot = script(client, "snapshot_hour")
        self._unpack_cell = unpack_cell

    async def checks(self, start_ms: int, end_ms: int, namespace: str) -> AsyncIterator[HourCheck]:
        """Each hour that overlaps the range and has sums or records, whole, oldest first."""
        for hour in await self._hours(start_ms, end_ms):
            found = await self._check(hour, namespace)
            for _ in range(TRIES - 1):
                if not found.differences:
                    break
                found = await self._check(hour, namespace)
            yield found

    async def _hours(self, start_ms: int, end_ms: int) -> list[int]:
        if end_ms <= start_ms:
            return []
        first, last = str(start_ms // HOUR_MS), str((end_ms - 1) // HOUR_MS)
        found = set[int]()
        for key in ("faas:usage:hours", "faas:parts:hours"):
            found.update(map(int, await ask(self._client.zrange(key, first, last, byscore=True))))
        return sorted(found)

    async def _check(self, hour: int, namespace: str) -> HourCheck:
        keys = [f"faas:usage:{hour}", f"faas:parts:{hour}", f"faas:partial:{hour}"]
        with edge():
            there, partial, cells, *lists = await self._snapshot(keys=keys, args=[namespace])
        if partial:
            return HourCheck(hour, INCOMPLETE)
        if not there:
            return HourCheck(hour, EXPIRED)
        stored = iter(msgpack.unpackb(cells, raw=True))
        ledger = dict(self._unpack_cell(field, limbs) for field, limbs in zip(stored, stored, strict=True))
        added: Sums = {}
        for name, length in zip(lists[::2], lists[1::2], strict=True):
            await self._add_up(f"faas:parts:{hour}:{name.decode()}", hour, length, added)
        count = sum(sums[0] for sums in added.values())
        return HourCheck(hour, COMPARED, count, differences(hour, ledger, added))

    async def _add_up(self, key: str, hour: int, length: int, added: Sums) -> None:
        """The first ``length`` parts of a list."""
        start, count = 0, PARTS_PER_READ
        while start < length:
            found: list[bytes] = await ask(self._client.lrange(key, start, min(start + count, length) - 1))
            if not found:
                return  # it expired meanwhile, or the server went back
            for packed in found:
                _add(packed, key, hour, added)
            start += len(found)
            size = sum(map(len, found))
            if size < READ_BYTES // 2:
                count = min(2 * count, PARTS_PER_READ_MAX)
            elif size > READ_BYTES:
                count = max(1, count // 2)


def _add(packed: bytes, key: str, hour: int, added: Sums) -> None:
    """What cannot be read, or lies in the wrong hour, is missing from the records, which shows as a difference."""
    try:
        part = unpack_part(packed)
        group = group_of_part(part)
        amounts = part_amounts(part, hour, group.start)
    except ValueError as error:
        log.error("a part of %s cannot be added up: %s", key, error)
        return
    sums = added.get(group)
    if sums is None:
        added[group] = list(amounts)
    else:
        add_to(sums, amounts)
