"""What nodes held without serving, by hour: from the pool's books to Redis, and back as a report.

Theory of operation
-------------------
A call is a thing that happened, and happened once: it needs a journal and sequences. What is held is a level that only
grows, so each run of a node keeps its own totals and writes *them*, not what was added: writing twice, late, or again
after a server lost its last second gives the same (a grow-only counter; Shapiro et al., "Conflict-free Replicated Data
Types", 2011). Totals of this hour and the last are written each time, changed or not.

A node that is killed loses what it had not written: ``INTERVAL_S`` at most, more only while Redis was away. So what is
provisioned, which is billed, can come out too small by that and never too large. A total that is forgotten (its hour
is over) is never begun again: where the clock steps back, a run goes on under another name.

Keys:
  faas:held:hours    zset  hour number, scored by itself
  faas:held:changes  hash  day since 1970 -> how often something of it was written
  faas:held:{hour}   hash  run \\0 namespace \\0 function \\0 version \\0 kind -> MB times ms, one run of one node alone
What was held since the last look counts for the hour in which it is looked.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

import msgpack  # type: ignore[import-untyped]

from faas.metering.sums import HOUR_MS, HOUR_NS, TIMES, in_order, is_in, periods
from faas.model.errors import StoreUnavailable
from faas.pool.holding import Held
from faas.ports import Clock, UsageRow
from faas.stores.redis_client import Client, ask, changes, edge, script
from faas.waiting import either

log = logging.getLogger("faas.stores.held")

INTERVAL_S: Final = 10.0
CLOSE_WAIT_S: Final = 2.0
HOURS_PER_READ: Final = 24  # of one script call: a few ms
KINDS: Final = ("idle", "parked", "provisioned", "generic")
SUMS: Final = tuple(f"{kind}_mb_ms" for kind in KINDS)
LABELS: Final = ("namespace", "function", "version")
HOURS_KEY: Final = "faas:held:hours"
CHANGES_KEY: Final = "faas:held:changes"
_NS_PER_MS: Final = 1_000_000

_Cell = tuple[int, str, str, str, str, str]  # hour, run, namespace, function, version, kind


class HeldMeter:
    """Writes what ``take`` says was held since it was last asked."""

    def __init__(
        self, client: Client, clock: Clock, take: Callable[[], list[Held]], *, interval_s: float = INTERVAL_S
    ) -> None:
        self._client = client
        self._clock = clock
        self._take = take
        self._interval_s = interval_s
        self._run_id = uuid.uuid4().hex
        self._hour = 0  # of the last look
        self._totals: dict[_Cell, int] = {}  # MB times ns of this run
        self._stop = asyncio.Event()
        self._away = False

    async def run(self) -> None:
        """Until ``close``. While Redis is away totals gather here."""
        while not await either(self._stop, self._interval_s):
            await self.flush()

    async def close(self) -> None:
        self._stop.set()
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self.flush()
        except TimeoutError:
            log.warning("what this node held in its last seconds is not on record: Redis did not answer in time")

    async def flush(self) -> None:
        """Look at what was held, and write the totals."""
        now_hour = self._clock.unix_ns() // HOUR_NS
        if now_hour < self._hour:
            self._run_id = uuid.uuid4().hex
        self._hour = now_hour
        for held in self._take():
            names, _, version = held.label.rpartition("@")
            namespace, _, function = names.partition("/")
            for kind, mb_ns in zip(KINDS, held[1:], strict=True):
                if mb_ns:
                    cell = now_hour, self._run_id, namespace, function, version, kind
                    self._totals[cell] = self._totals.get(cell, 0) + mb_ns
        try:
            await self._write()
        except StoreUnavailable as error:
            if not self._away:
                log.warning("what is held is not written for now: %s", error.message)
            self._away = True
        else:
            self._away = False
            self._totals = {cell: total for cell, total in self._totals.items() if cell[0] >= now_hour - 1}

    async def _write(self) -> None:
        hours: dict[int, dict[str, int]] = {}
        for (hour, *names), mb_ns in self._totals.items():
            hours.setdefault(hour, {})["\0".join(names)] = mb_ns // _NS_PER_MS
        if not hours:
            return
        async with self._client.pipeline(transaction=True) as pipe:
            for hour, cells in hours.items():
                pipe.hset(f"faas:held:{hour}", mapping=cells)  # type: ignore[arg-type]
            pipe.zadd(HOURS_KEY, {str(hour): hour for hour in hours})
            for day in {hour // 24 for hour in hours}:
                pipe.hincrby(CHANGES_KEY, str(day), 1)
            with edge():
                await pipe.execute()


class HeldReader:
    """Sums over some hours; nodes' runs are added up on the server."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._read = script(client, "read_held")

    async def hours(self, first: int, end: int) -> list[int]:
        """Those with anything held, ``first`` <= hour < ``end``."""
        return [int(hour) for hour in await ask(self._client.zrange(HOURS_KEY, str(first), f"({end}", byscore=True))]

    async def sums(
        self, hours: Sequence[int], kind: str = "", namespaces: Sequence[str] = ()
    ) -> dict[tuple[str, ...], int]:
        """MB times ms by namespace, function, version and kind; no kind and no namespaces = all."""
        found: dict[tuple[str, ...], int] = {}
        for start in range(0, len(hours), HOURS_PER_READ):
            keys = [f"faas:held:{hour}" for hour in hours[start : start + HOURS_PER_READ]]
            with edge():
                packed = await self._read(keys=keys, args=[kind, *namespaces])
            flat = iter(msgpack.unpackb(packed, raw=True))
            for field, sum_ in zip(flat, flat, strict=True):
                cell = tuple(field.decode().split("\0"))
                found[cell] = found.get(cell, 0) + int(sum_)
        return found

    async def provisioned(self, first: int, end: int, namespaces: Sequence[str] = ()) -> dict[tuple[str, str], int]:
        """By namespace and function, in the hours ``first`` <= hour < ``end``."""
        found: dict[tuple[str, str], int] = {}
        cells = await self.sums(await self.hours(first, end), "provisioned", namespaces)
        for (namespace, function, *_), mb_ms in cells.items():
            found[namespace, function] = found.get((namespace, function), 0) + mb_ms
        return found


class RedisHeld:
    """``HeldStore``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._reader = HeldReader(client)

    async def held(self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]) -> list[UsageRow]:
        pieces = self.held_by_time(start_ms, end_ms, by, where)
        return sorted([row async for piece in pieces for row in piece], key=lambda row: in_order(row.labels))

    async def held_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        wanted = {name: value for name, value in where.items() if name in LABELS}
        hours = await self._reader.hours(-(-start_ms // HOUR_MS), -(-end_ms // HOUR_MS))
        for some in periods([hour for hour in hours if is_in(hour, where)], by):
            times = {name: label(some[0]) for name, label in TIMES.items() if name in by}
            found: dict[tuple[str, ...], list[int]] = {}
            for (*names, kind), mb_ms in (await self._reader.sums(some)).items():
                labels = {**dict(zip(LABELS, names, strict=True)), **times}
                if all(labels[name] == value for name, value in wanted.items()):
                    sums = found.setdefault(tuple(labels[name] for name in by), [0] * len(KINDS))
                    sums[KINDS.index(kind)] += mb_ms
            rows = [UsageRow(dict(zip(by, k, strict=True)), dict(zip(SUMS, v, strict=True))) for k, v in found.items()]
            if rows:
                yield sorted(rows, key=lambda row: in_order(row.labels))

    async def changes(self, start_ms: int, end_ms: int) -> int:
        return await changes(self._client, CHANGES_KEY, start_ms, end_ms)

    async def provisioned(self, start_ms: int, end_ms: int) -> dict[tuple[str, str], int]:
        return await self._reader.provisioned(-(-start_ms // HOUR_MS), -(-end_ms // HOUR_MS))
