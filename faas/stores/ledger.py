"""The ledger and the invocation records in Redis: see ``lua/apply_usage.lua`` for every key.

Theory of operation
-------------------
One script call per batch. It knows the last sequence of each journal name, ignores what it has seen, refuses a gap,
and otherwise adds the batch to the hourly sums, keeps the raw rows for audit and the invocation records for people,
all in one atomic step. So a batch may be sent any number of times, cut in any way, by a node that died in between:
the sums come out the same. Rows are stored as the journal packed them; Python packs nothing twice.

``durable`` answers for what *this* ledger was told is applied: it first checks on the same connection that the server
still has it (a server that was killed may have lost its last second), then has the server wait for its disk. Only
after that may the journal forget.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
from redis.exceptions import ResponseError

from faas.metering.present import invocation_record
from faas.metering.sums import HOUR_MS, METRICS, Group, Report, amounts, check_dimensions, group_of, hour_of
from faas.model.errors import Conflict, StoreUnavailable
from faas.model.usage import NS_PER_MS, UsageRecord
from faas.ports import Entry, UsageRow
from faas.stores.codec import Encoder, unpack, unpack_rows
from faas.stores.redis_client import Client, ask, edge, script
from faas.stores.segments import base_of

DAY_MS: Final = 24 * HOUR_MS
WAIT_AOF_MS: Final = 3000  # an fsync each second, and a slow disk
HOURS_PER_READ: Final = 4  # a few ms of work between two awaits
BATCHES_PER_READ: Final = 4
LIST_MAX: Final = 1000

_LIMB: Final = 1 << 40


class RedisLedger:
    """``Ledger``. ``raw_ms``, ``record_ms`` (kept for) and ``records_max`` (kept per function) bound its memory."""

    def __init__(
        self,
        client: Client,
        *,
        raw_ms: int = 7 * DAY_MS,
        record_ms: int = 7 * DAY_MS,
        records_max: int = 10_000,
    ) -> None:
        self._client = client
        self._apply = script(client, "apply_usage")
        self._read = script(client, "read_usage")
        self._limits = (raw_ms, record_ms, records_max)
        self._told: dict[str, int] = {}  # journal name -> last sequence the server said it has
        self._encoder = Encoder()
        self._wait_aof = True

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        if not entries:
            return await self.last_sequence(journal_id)
        first = entries[0].sequence
        if entries[-1].sequence - first != len(entries) - 1:
            raise ValueError("the entries of a batch have consecutive sequences")
        args: list[str | int | bytes] = [journal_id, base_of(journal_id), first, *self._limits, self._pack(entries)]
        with edge():
            applied, last = await self._apply(keys=["faas:journals", "faas:usage:hours"], args=args)
        if not applied:
            self._told.pop(journal_id, None)
            raise Conflict(f"The ledger has journal {journal_id} up to {last}, so it cannot take {first}.")
        self._told[journal_id] = int(last)
        return int(last)

    def _pack(self, entries: Sequence[Entry]) -> bytes:
        """Runs of entries of one hour: the script cannot tell the hour exactly from a double."""
        runs: list[list[int | bytes]] = []
        hour = -1
        for entry in entries:
            if (entry_hour := hour_of(entry.record.started_at_ns)) != hour:
                hour = entry_hour
                run: list[int | bytes] = [hour]
                runs.append(run)
            run.append(entry.packed or self._encoder.pack(entry))
        packed: bytes = msgpack.packb(runs, use_bin_type=False)  # the script's reader knows no bin type
        return packed

    async def last_sequence(self, journal_id: str) -> int:
        found = await ask(self._client.hget("faas:journals", journal_id))
        if found is None:
            return base_of(journal_id)
        self._told[journal_id] = int(found)
        return int(found)

    async def durable(self) -> bool:
        """Also raises ``Conflict`` when the server no longer has what it said it had: send it again."""
        told = dict(self._told)
        names = list(told)
        async with self._client.pipeline(transaction=False) as pipe:
            if names:
                pipe.hmget("faas:journals", names)
            pipe.set("faas:fence", 1)  # a write on this connection: WAITAOF waits for that and all before it
            if self._wait_aof:
                pipe.execute_command("WAITAOF", 1, 0, WAIT_AOF_MS)
            with edge():
                replies = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception) and not (self._wait_aof and reply is replies[-1]):
                raise StoreUnavailable(f"Redis could not do it: {reply}") from reply
        for name, last in zip(names, replies[0] if names else (), strict=True):
            if last is None or int(last) < told[name]:
                if self._told.get(name) == told[name]:
                    del self._told[name]
                raise Conflict(f"The ledger had journal {name} up to {told[name]} and now has {last and int(last)}.")
        return self._wait_aof and self._on_disk(replies[-1])

    def _on_disk(self, reply: Any) -> bool:
        """From the answer to WAITAOF: ``[fsynced locally, on replicas]``, or an error where it cannot be said."""
        if isinstance(reply, ResponseError):  # no append-only file, or a server older than the command
            self._wait_aof = False
            return False
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"Redis could not do it: {reply}") from reply
        if not reply[0]:
            raise StoreUnavailable(f"The disk of Redis did not take what it was given within {WAIT_AOF_MS} ms.")
        return True

    # -- reports ----------------------------------------------------------------------------------------------------

    async def usage(self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]) -> list[UsageRow]:
        """Sums over ``start_ms <= started_at < end_ms``, ordered by labels. Raises ``InvalidRequest``.

        Whole hours come from the hourly sums. Where the range begins or ends within an hour, that hour's raw rows are
        added up; once they have expired, an hour counts when its beginning is in the range.
        """
        check_dimensions([*by, *where])
        report = Report(by, where)
        hours = await self._hours(start_ms, end_ms)
        whole: list[int] = []
        for hour in hours:
            begins, ends = hour * HOUR_MS, (hour + 1) * HOUR_MS
            if start_ms <= begins and ends <= end_ms:
                whole.append(hour)
            elif await ask(self._client.exists(f"faas:raw:{hour}")):
                async for batch in self._raw(hour):
                    for record in _within(batch, start_ms, end_ms):
                        report.add(hour, group_of(record), amounts(record))
            elif start_ms <= begins:
                whole.append(hour)
        await self._add_cells(whole, report)
        return [UsageRow(labels, sums) for labels, sums in report.rows()]

    async def records(self, start_ms: int, end_ms: int) -> list[UsageRecord]:
        """Raw records of ``start_ms <= started_at < end_ms`` that are still kept, ordered by start and id."""
        found: list[UsageRecord] = []
        for hour in await self._hours(start_ms, end_ms):
            async for batch in self._raw(hour):
                found += _within(batch, start_ms, end_ms)
        return sorted(found, key=lambda record: (record.started_at_ns, record.id))

    async def _hours(self, start_ms: int, end_ms: int) -> list[int]:
        if end_ms <= start_ms:
            return []
        first, last = start_ms // HOUR_MS, (end_ms - 1) // HOUR_MS
        found = await ask(self._client.zrange("faas:usage:hours", str(first), str(last), byscore=True))
        return [int(hour) for hour in found]

    async def _add_cells(self, hours: Sequence[int], report: Report) -> None:
        """Add the stored sums to a report, a few hours per round trip."""
        groups: dict[bytes, Group] = {}
        for start in range(0, len(hours), HOURS_PER_READ):
            some = hours[start : start + HOURS_PER_READ]
            with edge():
                packed = await self._read(keys=[f"faas:usage:{hour}" for hour in some])
            for hour, cells in zip(some, packed, strict=True):
                parts = iter(msgpack.unpackb(cells, raw=True))
                for field, limbs in zip(parts, parts, strict=True):
                    group = groups.get(field) or groups.setdefault(field, _group(field))
                    report.add(hour, group, _sums(limbs))

    async def _raw(self, hour: int) -> AsyncIterator[list[UsageRecord]]:
        """Raw records a few batches at a time, so that a large hour neither fills memory nor holds up the loop."""
        start = 0
        while batches := await ask(self._client.lrange(f"faas:raw:{hour}", start, start + BATCHES_PER_READ - 1)):
            start += len(batches)
            yield unpack_rows(b"".join(batches))


class RedisRecords:
    """``RecordStore`` on what the ledger's script keeps."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, namespace: str, invocation_id: str) -> dict[str, Any] | None:
        packed = await ask(self._client.get(f"faas:inv:{namespace}:{invocation_id}"))
        return _shown(packed) if packed is not None else None

    async def list(self, namespace: str, function: str, limit: int) -> list[dict[str, Any]]:
        """The newest ``limit`` (at most 1000), newest first."""
        limit = min(limit, LIST_MAX)
        if limit <= 0:
            return []
        ids = await ask(self._client.zrevrange(f"faas:invs:{namespace}:{function}", 0, limit - 1))
        if not ids:
            return []
        found = await ask(self._client.mget([f"faas:inv:{namespace}:{i.decode()}" for i in ids]))
        return [_shown(packed) for packed in found if packed is not None]


def _shown(packed: bytes) -> dict[str, Any]:
    return invocation_record(*unpack(packed))


def _within(records: Sequence[UsageRecord], start_ms: int, end_ms: int) -> list[UsageRecord]:
    return [r for r in records if start_ms * NS_PER_MS <= r.started_at_ns < end_ms * NS_PER_MS]


def _group(field: bytes) -> Group:
    """Raises ``TypeError`` on a field of another form than the script writes."""
    return Group(*field.decode().split("\0"))


def _sums(limbs: bytes) -> list[int]:
    """Low and high limb per metric, to one integer each; what a newer writer appended is left out."""
    numbers: list[int] = msgpack.unpackb(limbs)
    lows, highs = numbers[0 : 2 * len(METRICS) : 2], numbers[1 : 2 * len(METRICS) : 2]
    return [low + high * _LIMB for low, high in zip(lows, highs, strict=True)] if any(highs) else lows
