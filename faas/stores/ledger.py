"""The ledger and the invocation records in Redis: see ``lua/apply_usage.lua`` for every key.

Theory of operation
-------------------
One script call per batch. It knows the last sequence of each journal name, ignores what it has seen, refuses a gap,
and otherwise adds the batch to the hourly sums and keeps the entries, all in one atomic step. So a batch may be sent
any number of times, cut in any way, by a node that died in between: the sums come out the same. The bytes are those
that the journal wrote; on this side nobody takes them apart.

Entries are kept once, for audit and for people, by the hour in which the attempt began: a batch adds one *part* per
context to the list of the function in that hour, and that list is dropped as a whole when its time has come. What
leads to a part:

* an invocation's id, which begins with the time it was made: pointers of parts are kept by that time, whenever the
  attempt began or came (``RedisRecords.get``);
* a function, newest first: each part says what time all parts before it began before, so reading its lists from the
  end may stop as soon as nothing newer can follow (``RedisRecords.list``);
* an hour: its functions are listed in a hash (``RedisLedger.records``).

``durable`` answers for what *this* ledger was told is applied: it first checks on the same connection that the server
still has it (a server that was killed may have lost its last second), then waits for the server's disk: the embedded
server's is synced by the node, another is asked to say when it has done it. Only after that may the journal forget.
"""

from __future__ import annotations

import builtins
import struct
from binascii import unhexlify
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]
from redis.exceptions import ResponseError

from faas.metering.present import invocation_record
from faas.metering.reconcile import HourCheck
from faas.metering.sums import (
    HOUR_MS,
    METRICS,
    Group,
    Report,
    amounts,
    check_dimensions,
    group_of,
    in_order,
    is_in,
    is_of,
    largest,
    periods,
)
from faas.model.errors import Conflict, StoreUnavailable
from faas.model.usage import NS_PER_MS, UsageRecord
from faas.ports import Entry, UsageRow
from faas.stores.batch import Batch
from faas.stores.codec import ID_BYTES, ROW_ATTEMPT, ROW_ID, ROW_STARTED_NS, Encoder, Part, detail_of, unpack_part
from faas.stores.reconcile import Reconciler
from faas.stores.redis_client import Client, ask, changes, edge, script
from faas.stores.segments import base_of

DAY_MS: Final = 24 * HOUR_MS
WAIT_AOF_MS: Final = 3000  # an fsync each second, and a slow disk
HOURS_PER_READ: Final = 4  # at first
HOURS_PER_READ_MAX: Final = 256
CELLS_PER_READ: Final = 1000  # aimed at, in one reading of sums: a few ms of work for the server
PARTS_PER_READ: Final = 8  # at first
PARTS_PER_READ_MAX: Final = 1024
READ_BYTES: Final = 64 * 1024  # aimed at, of parts in one reading: some ms of work
LIST_MAX: Final = 1000
GROUPS_MAX: Final = 10_000  # remembered: reports of many days meet the same ones
SPAN_BITS: Final = 14  # the ids of 2^14 ms share a list of pointers; as in apply_usage.lua

KEYS: Final = ("faas:journals", "faas:usage:hours", "faas:parts:hours", "faas:usage:changes")  # of apply_usage.lua

_LIMB: Final = 1 << 40
_PEAK: Final = struct.Struct(">2d")


class RedisLedger:
    """``Ledger``. Entries are kept for ``keep_ms`` after their hour.

    ``synced`` returns when all that was answered for is on disk (``AofSync.sync``); without it the server is asked.
    """

    def __init__(
        self, client: Client, *, keep_ms: int = 7 * DAY_MS, synced: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self._client = client
        self._synced = synced
        self._apply = script(client, "apply_usage")
        self._read = script(client, "read_usage")
        self._reconciler = Reconciler(client, lambda field, limbs: (group_from(field), sums_from(limbs)))
        self._keep_ms = keep_ms
        self._told: dict[str, int] = {}  # journal name -> last sequence the server said it has
        self._encoder = Encoder()
        self._wait_aof = synced is None

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        if not entries:
            return await self.last_sequence(journal_id)
        batch = entries if isinstance(entries, Batch) else Batch.of(entries, self._encoder)
        args: list[str | int | bytes] = [journal_id, base_of(journal_id), self._keep_ms, b"".join(batch.frames)]
        with edge():
            applied, last = await self._apply(keys=KEYS, args=args)
        if not applied:
            self._told.pop(journal_id, None)
            raise Conflict(f"The ledger has journal {journal_id} up to {last}, so it cannot take {batch.first}.")
        self._told[journal_id] = int(last)
        return int(last)

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
        if self._synced is not None:
            await self._synced()
            return True
        return self._wait_aof and await self._on_disk(replies[-1])

    async def _on_disk(self, reply: Any) -> bool:
        """From the answer to WAITAOF: ``[fsynced locally, on replicas]``, or an error where it cannot be said."""
        if isinstance(reply, ResponseError):  # no append-only file, or a server older than the command
            self._wait_aof = False
            return False
        if isinstance(reply, Exception):
            raise StoreUnavailable(f"Redis could not do it: {reply}") from reply
        if not reply[0]:
            if await self._never_syncs():
                self._wait_aof = False
                return False
            raise StoreUnavailable(f"The disk of Redis did not take what it was given within {WAIT_AOF_MS} ms.")
        return True

    async def _never_syncs(self) -> bool:
        """Whether the server leaves its file to the kernel, so that waiting for it is in vain."""
        try:
            found = await self._client.config_get("appendfsync")
        except ResponseError:
            return False
        return found.get("appendfsync") in ("no", b"no")

    # -- reports ----------------------------------------------------------------------------------------------------

    async def usage(self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]) -> list[UsageRow]:
        """Sums over ``start_ms <= started_at < end_ms``, ordered by labels. Raises ``InvalidRequest``.

        Whole hours come from the hourly sums. Where the range begins or ends within an hour, that hour's entries are
        added up; once they have expired, an hour counts when its beginning is in the range.
        """
        pieces = self.usage_by_time(start_ms, end_ms, by, where)
        return sorted([row async for piece in pieces for row in piece], key=lambda row: in_order(row.labels))

    async def usage_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        """As ``usage``, holding no more than the cells of one hour, day or month, whichever ``by`` asks for."""
        report = Report(by, where)
        hours_there = await self._hours("faas:usage:hours", start_ms, end_ms)
        for hours in periods([hour for hour in hours_there if is_in(hour, where)], by):
            await self._add_hours(hours, start_ms, end_ms, report)
            rows = [UsageRow(row.labels, row.sums, row.maxima) for row in report.take()]
            if rows:
                yield rows

    async def changes(self, start_ms: int, end_ms: int) -> int:
        return await changes(self._client, "faas:usage:changes", start_ms, end_ms)

    async def partial(self, start_ms: int, end_ms: int) -> list[int]:
        cut = sorted({at_ms // HOUR_MS for at_ms in (start_ms, end_ms) if at_ms % HOUR_MS})
        found = []
        for hour in cut:
            async with self._client.pipeline(transaction=False) as pipe:
                pipe.zscore("faas:usage:hours", str(hour))
                pipe.exists(f"faas:parts:{hour}")
                pipe.exists(f"faas:partial:{hour}")
                with edge():
                    has_sums, has_parts, some_missing = await pipe.execute()
            if has_sums is not None and (some_missing or not has_parts):
                found.append(hour)
        return found

    async def _add_hours(self, hours: Sequence[int], start_ms: int, end_ms: int, report: Report) -> None:
        whole: list[int] = []
        for hour in hours:
            begins, ends = hour * HOUR_MS, (hour + 1) * HOUR_MS
            if start_ms <= begins and ends <= end_ms:
                whole.append(hour)
            elif await ask(self._client.exists(f"faas:parts:{hour}")):
                async for records in self._within(hour, start_ms, end_ms, {}):
                    for record in records:
                        group = group_of(record)
                        report.add(hour, group, amounts(record))
                        report.saw(hour, group, largest(record))
            elif start_ms <= begins:
                whole.append(hour)
        await self._add_cells(whole, report)

    async def records(self, start_ms: int, end_ms: int) -> list[UsageRecord]:
        """Raw records of ``start_ms <= started_at < end_ms`` that are still kept, ordered by start and id."""
        pieces = self.records_by_hour(start_ms, end_ms, {})
        found = [record async for piece in pieces for record in piece]
        return sorted(found, key=lambda record: (record.started_at_ns, record.id))

    async def records_by_hour(
        self, start_ms: int, end_ms: int, where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRecord]]:
        """Some at a time: a large hour neither fills memory nor holds up the loop. Raises ``InvalidRequest``."""
        check_dimensions(where)
        for hour in await self._hours("faas:parts:hours", start_ms, end_ms):
            if is_in(hour, where):
                async for records in self._within(hour, start_ms, end_ms, where):
                    yield records

    def reconcile(self, start_ms: int, end_ms: int, namespace: str = "") -> AsyncIterator[HourCheck]:
        return self._reconciler.checks(start_ms, end_ms, namespace)

    async def _hours(self, key: str, start_ms: int, end_ms: int) -> list[int]:
        if end_ms <= start_ms:
            return []
        first, last = start_ms // HOUR_MS, (end_ms - 1) // HOUR_MS
        found = await ask(self._client.zrange(key, str(first), str(last), byscore=True))
        return [int(hour) for hour in found]

    async def _add_cells(self, hours: Sequence[int], report: Report) -> None:
        """Add the stored sums of hours that a report does not tell apart.

        The server adds some hours up at a time: about ``CELLS_PER_READ``, so that nobody else waits long for it.
        """
        start, count = 0, HOURS_PER_READ
        while some := hours[start : start + count]:
            keys = [f"faas:{what}:{hour}" for hour in some for what in ("usage", "peaks")]
            with edge():
                read, *packed = await self._read(keys=keys)
            sums, maxima = (msgpack.unpackb(cells, raw=True) for cells in packed)
            for field, stored in _pairs(sums):
                report.add(some[0], group_from(field), sums_from(stored))
            for field, stored in _pairs(maxima):
                report.saw(some[0], group_from(field), [int(value) for value in _PEAK.unpack(stored)])
            start += len(some)
            if read > CELLS_PER_READ:
                count = max(1, count // 2)
            elif read < CELLS_PER_READ // 2:
                count = min(2 * count, HOURS_PER_READ_MAX)

    async def _within(
        self, hour: int, start_ms: int, end_ms: int, where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRecord]]:
        """An hour's records in a range, some at a time."""
        start_ns, end_ns = start_ms * NS_PER_MS, end_ms * NS_PER_MS
        for name in await ask(self._client.hkeys(f"faas:parts:{hour}")):
            namespace, _, function = name.decode().partition(":")
            if where.get("namespace", namespace) != namespace or where.get("function", function) != function:
                continue
            async for parts in self._parts(f"faas:parts:{hour}:{name.decode()}"):
                wanted = [part for part in parts if is_of(Group(*part.context[1].split("\0")), where)]
                found = [(part, row) for part in wanted for row in part.rows]
                yield [part.record(row) for part, row in found if start_ns <= row[ROW_STARTED_NS] < end_ns]

    async def _parts(self, key: str) -> AsyncIterator[list[Part]]:
        start, count = 0, PARTS_PER_READ
        while found := await ask(self._client.lrange(key, start, start + count - 1)):
            yield [unpack_part(part) for part in found]
            if len(found) < count:
                return
            start += count
            count = _next_count(count, found)


class RedisRecords:
    """``RecordStore`` on what the ledger's script keeps."""

    def __init__(self, client: Client) -> None:
        self._find = script(client, "find_parts")
        self._newest = script(client, "newest_parts")

    async def get(self, namespace: str, invocation_id: str) -> dict[str, Any] | None:
        """The last attempt there is a record of."""
        found = await self.attempts(namespace, invocation_id)
        return found[-1] if found else None

    async def attempts(self, namespace: str, invocation_id: str) -> builtins.list[dict[str, Any]]:
        try:
            packed_id = unhexlify(invocation_id)
        except ValueError:
            return []
        if packed_id.hex() != invocation_id or len(packed_id) != ID_BYTES:
            return []
        span, in_span_ms = divmod(int.from_bytes(packed_id[:6], "big"), 1 << SPAN_BITS)
        with edge():
            found = await self._find(keys=[f"faas:ids:{span}"], args=[f"{namespace}:", in_span_ms, packed_id])
        parts = [unpack_part(part) for part in found]
        attempts = [(part, row) for part in parts for row in part.rows if row[ROW_ID] == packed_id]
        attempts.sort(key=lambda attempt: (attempt[1][ROW_ATTEMPT], attempt[1][ROW_STARTED_NS]))
        return [_shown(*attempt) for attempt in attempts]

    async def list(self, namespace: str, function: str, limit: int) -> list[dict[str, Any]]:
        """The newest ``limit`` (at most 1000), newest first; of each invocation the last attempt."""
        limit = min(limit, LIST_MAX)
        newest: builtins.list[_Attempt] = []
        hour, index, count = "+inf", -1, PARTS_PER_READ
        while limit > 0:
            with edge():
                found = await self._newest(
                    keys=["faas:parts:hours"], args=[f"{namespace}:{function}", hour, index, count]
                )
            if not found:
                break
            hour, index, *packed = found
            parts = [unpack_part(part) for part in packed]
            newest = _newest([*newest, *((part, row) for part in parts for row in part.rows)], limit)
            before_ms = parts[0].before_ms if index else hour * HOUR_MS
            if len(newest) == limit and newest[-1][1][ROW_STARTED_NS] >= before_ms * NS_PER_MS:
                break  # whatever comes now is older
            count = _next_count(count, packed)
        return [_shown(part, row) for part, row in newest]


_Attempt = tuple[Part, list[Any]]  # where a row is, and the row


def _newest(attempts: Sequence[_Attempt], limit: int) -> list[_Attempt]:
    """The last attempt of each invocation, newest first."""
    last: dict[bytes, _Attempt] = {}
    for attempt in attempts:
        row = attempt[1]
        known = last.get(row[ROW_ID])
        if known is None or known[1][ROW_ATTEMPT] < row[ROW_ATTEMPT]:
            last[row[ROW_ID]] = attempt
    return sorted(last.values(), key=lambda each: (each[1][ROW_STARTED_NS], each[1][ROW_ID]), reverse=True)[:limit]


def _shown(part: Part, row: list[Any]) -> dict[str, Any]:
    return invocation_record(part.record(row), detail_of(row))


def _next_count(count: int, found: Sequence[bytes]) -> int:
    """How many parts to read next: they are anything from one entry to hundreds."""
    size = sum(map(len, found))
    if size < READ_BYTES // 2:
        return min(2 * count, PARTS_PER_READ_MAX)
    return max(1, count // 2) if size > READ_BYTES else count


@lru_cache(GROUPS_MAX)
def group_from(field: bytes) -> Group:
    """Raises ``TypeError`` on a field of another form than the script writes."""
    return Group(*field.decode().split("\0"))


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    each = iter(flat)
    return zip(each, each, strict=True)


def sums_from(stored: bytes) -> list[int]:
    """One integer per metric from its limbs; what a newer writer appended is left out."""
    count, doubles = stored[0], (len(stored) - 1) // 8
    limbs = list(map(int, _doubles(doubles).unpack_from(stored, 1)))
    if doubles > count:
        limbs = [low + high * _LIMB for low, high in zip(limbs[:count], limbs[count:], strict=True)]
    return limbs if count == len(METRICS) else limbs[: len(METRICS)]


@cache
def _doubles(count: int) -> struct.Struct:
    return struct.Struct(f">{count}d")
