"""In-memory twins of the Redis stores, for the simulation and for tests of what stands on the ports.

The contract suite (``tests/contract/test_stores_*.py``, ``test_ledger.py``) runs on these and on a real Valkey.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from faas.billing.reading import parse_books
from faas.metering.present import invocation_record
from faas.metering.reconcile import COMPARED, HourCheck, differences, hours_of
from faas.metering.sums import (
    HOUR_MS,
    Cells,
    Report,
    add,
    amounts,
    check_dimensions,
    group_of,
    hour_of,
    in_order,
    is_in,
    is_of,
    largest,
    periods,
    total,
)
from faas.model.errors import Conflict, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.namespace import Namespace
from faas.model.usage import NS_PER_MS, UsageRecord
from faas.ports import ApiKey, Clock, Entry, LogLine, Prices, UsageRow
from faas.stores.keys import ADMIN, EVERY_NAMESPACE, digest_of, new_key, new_secret, no_key
from faas.stores.namespaces import has_functions, known_already, no_namespace
from faas.stores.registry import ANY, BLOB_BYTES_MAX, check_blob_size, no_blob, no_function, no_version, not_next
from faas.stores.segments import base_of


class MemoryRegistry:
    """``Registry``."""

    def __init__(self, *, blob_bytes_max: int = BLOB_BYTES_MAX) -> None:
        self._blob_bytes_max = blob_bytes_max
        self._functions: dict[tuple[str, str], dict[int, FunctionVersion]] = {}
        self._counters: dict[tuple[str, str], int] = {}
        self._blobs: dict[str, bytes] = {}
        self._listeners: set[asyncio.Queue[tuple[str, str]]] = set()

    async def commit(self, version: FunctionVersion) -> bool:
        key = version.namespace, version.name
        versions = self._functions.get(key, {})
        if versions.get(version.version) == version and version.version == self._counters[key]:
            return len(versions) == 1
        following = self._counters.get(key, 0) + 1
        if version.version != following:
            raise not_next(version, following)
        self._functions.setdefault(key, {})[version.version] = version
        self._counters[key] = following
        self.tell(key)
        return not versions

    async def next_version(self, namespace: str, name: str) -> int:
        return self._counters.get((namespace, name), 0) + 1

    async def latest(self, namespace: str, name: str) -> FunctionVersion | None:
        versions = self._functions.get((namespace, name))
        return versions[max(versions)] if versions else None

    async def version(self, namespace: str, name: str, version: int) -> FunctionVersion:
        try:
            return self._functions[namespace, name][version]
        except KeyError:
            raise no_version(namespace, name, version) from None

    async def functions(self, namespace: str | None) -> list[FunctionVersion]:
        return [v[max(v)] for key, v in sorted(self._functions.items()) if namespace in (None, key[0])]

    async def delete(self, namespace: str, name: str) -> None:
        if self._functions.pop((namespace, name), None) is None:
            raise no_function(namespace, name)
        self.tell((namespace, name))

    async def put_blob(self, data: bytes) -> str:
        check_blob_size(data, self._blob_bytes_max)
        digest = hashlib.sha256(data).hexdigest()
        self._blobs[digest] = data
        return digest

    async def blob(self, digest: str) -> bytes:
        if digest not in self._blobs:
            raise no_blob(digest)
        return self._blobs[digest]

    async def changes(self) -> AsyncIterator[tuple[str, str]]:
        queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield ANY
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    def tell(self, key: tuple[str, str]) -> None:
        """Announce a change."""
        for queue in self._listeners:
            queue.put_nowait(key)


class MemoryNamespaces:
    """``NamespaceStore``, beside the registry that has the functions."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self._registry = registry
        self._namespaces: dict[str, Namespace] = {}

    async def put(self, namespace: Namespace, *, new: bool) -> bool:
        known = namespace.name in self._namespaces
        if known and new:
            raise known_already(namespace.name)
        self._namespaces[namespace.name] = namespace
        self._registry.tell((namespace.name, ""))
        return not known

    async def get(self, name: str) -> Namespace | None:
        return self._namespaces.get(name)

    async def list(self) -> builtins.list[Namespace]:
        return [self._namespaces[name] for name in sorted(self._namespaces)]

    async def delete(self, name: str) -> None:
        if await self._registry.functions(name):
            raise has_functions(name)
        if self._namespaces.pop(name, None) is None:
            raise no_namespace(name)
        self._registry.tell((name, ""))


class MemoryKeyStore:
    """``KeyStore``."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._keys: dict[str, ApiKey] = {}

    async def first(self, secret: str = "") -> tuple[ApiKey, str] | None:
        if any(ADMIN in key.scopes for key in self._keys.values()):
            return None
        return await self.create(EVERY_NAMESPACE, (ADMIN,), secret)

    async def create(self, namespace: str, scopes: Sequence[str], secret: str = "") -> tuple[ApiKey, str]:
        key, secret = new_key(namespace, scopes, self._clock), secret or new_secret()
        self._keys[digest_of(secret)] = key
        return key, secret

    async def find(self, secret: str) -> ApiKey | None:
        return self._keys.get(digest_of(secret))

    async def list(self) -> builtins.list[ApiKey]:
        return sorted(self._keys.values(), key=lambda key: (key.created_at_ms, key.id))

    async def revoke(self, key_id: str) -> None:
        for digest, key in self._keys.items():
            if key.id == key_id:
                del self._keys[digest]
                return
        raise no_key(key_id)


class MemoryLedger:
    """``Ledger`` and ``RecordStore`` in one. While ``available`` is False every call raises ``StoreUnavailable``."""

    def __init__(self) -> None:
        self.available = True
        self._last: dict[str, int] = {}
        self._usage: list[UsageRecord] = []
        self.cells: Cells = {}  # the sums
        self._shown: dict[tuple[str, str], Entry] = {}

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        last = await self.last_sequence(journal_id)
        if entries and entries[0].sequence > last + 1:
            raise Conflict(f"The ledger has journal {journal_id} up to {last}, so it cannot take more.")
        for entry in entries:
            if entry.sequence > last:
                self._usage.append(entry.record)
                add(self.cells, entry.record)
                self._show(entry)
                last = self._last[journal_id] = entry.sequence
        return last

    def _show(self, entry: Entry) -> None:
        record = entry.record
        key = record.namespace, record.invocation_id
        shown = self._shown.get(key)
        if shown is None or record.attempt > shown.record.attempt:
            self._shown[key] = entry

    def _newest(self, namespace: str, function: str) -> builtins.list[Entry]:
        found = [e for e in self._shown.values() if (e.record.namespace, e.record.function) == (namespace, function)]
        return sorted(found, key=lambda e: (e.record.started_at_ns, e.record.id), reverse=True)

    async def last_sequence(self, journal_id: str) -> int:
        self._check()
        return self._last.get(journal_id, base_of(journal_id))

    async def durable(self) -> bool:
        self._check()
        return True

    async def usage(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> builtins.list[UsageRow]:
        pieces = self.usage_by_time(start_ms, end_ms, by, where)
        return sorted([row async for piece in pieces for row in piece], key=lambda row: in_order(row.labels))

    async def usage_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[builtins.list[UsageRow]]:
        report = Report(by, where)
        found = await self.records(start_ms, end_ms)
        for hours in periods(sorted({hour_of(record.started_at_ns) for record in found}), by):
            for record in found:
                hour, group = hour_of(record.started_at_ns), group_of(record)
                if hour in hours:
                    report.add(hour, group, amounts(record))
                    report.saw(hour, group, largest(record))
            rows = [UsageRow(row.labels, row.sums, row.maxima) for row in report.take()]
            if rows:
                yield rows

    async def changes(self, start_ms: int, end_ms: int) -> int:
        return len(await self.records(start_ms, end_ms))

    async def partial(self, start_ms: int, end_ms: int) -> builtins.list[int]:  # noqa: ARG002 - the port's
        return []  # here they are kept for good

    async def records(self, start_ms: int, end_ms: int) -> builtins.list[UsageRecord]:
        self._check()
        found = [r for r in self._usage if start_ms * NS_PER_MS <= r.started_at_ns < end_ms * NS_PER_MS]
        return sorted(found, key=lambda record: (record.started_at_ns, record.id))

    async def records_by_hour(
        self, start_ms: int, end_ms: int, where: Mapping[str, str]
    ) -> AsyncIterator[builtins.list[UsageRecord]]:
        check_dimensions(where)
        for record in await self.records(start_ms, end_ms):
            if is_in(hour_of(record.started_at_ns), where) and is_of(group_of(record), where):
                yield [record]

    async def reconcile(self, start_ms: int, end_ms: int, namespace: str = "") -> AsyncIterator[HourCheck]:
        self._check()
        added = total(self._usage)
        for hour in sorted({hour for hour, _ in (*self.cells, *added)}):
            if start_ms < (hour + 1) * HOUR_MS and hour * HOUR_MS < end_ms:
                ours, theirs = (hours_of(cells, hour, namespace) for cells in (self.cells, added))
                count = sum(sums[0] for sums in theirs.values())
                yield HourCheck(hour, COMPARED, count, differences(hour, ours, theirs))

    async def get(self, namespace: str, invocation_id: str) -> dict[str, Any] | None:
        self._check()
        entry = self._shown.get((namespace, invocation_id))
        return invocation_record(entry.record, entry.detail) if entry is not None else None

    async def attempts(self, namespace: str, invocation_id: str) -> builtins.list[dict[str, Any]]:
        """Of an invocation the last one is kept here."""
        found = await self.get(namespace, invocation_id)
        return [found] if found is not None else []

    async def list(self, namespace: str, function: str, limit: int) -> builtins.list[dict[str, Any]]:
        self._check()
        return [invocation_record(e.record, e.detail) for e in self._newest(namespace, function)[: max(limit, 0)]]

    def _check(self) -> None:
        if not self.available:
            raise StoreUnavailable("The ledger does not answer.")


class MemoryPrices:
    """``PriceStore``."""

    def __init__(self) -> None:
        self._prices = Prices()

    async def set(self, text: str, at_ms: int, by: str) -> Prices:
        self._prices = Prices(text, parse_books(text), at_ms, by)
        return self._prices

    async def current(self) -> Prices:
        return self._prices


class MemoryLogSink:
    """``LogSink``."""

    def __init__(self, *, stream_lines_max: int = 10_000) -> None:
        self._stream_lines_max = stream_lines_max
        self._lines: dict[tuple[str, str], deque[LogLine]] = {}
        self._followers: dict[asyncio.Queue[LogLine], tuple[str, str]] = {}

    def write(self, line: LogLine) -> None:
        key = line.namespace, line.function
        self._lines.setdefault(key, deque(maxlen=self._stream_lines_max)).append(line)
        for queue, wanted in self._followers.items():
            if wanted == key:
                queue.put_nowait(line)

    async def run(self) -> None:
        """Nothing to do: ``write`` has done it."""

    async def close(self, wait_s: float = 2.0) -> None:
        """Nothing to send."""

    async def read(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = "", limit: int = 1000
    ) -> list[LogLine]:
        found = [
            line
            for line in self._lines.get((namespace, function), ())
            if line.time_ns >= since_ms * NS_PER_MS and invocation_id in ("", line.invocation_id)
        ]
        return found[-limit:] if limit > 0 else []

    async def follow(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = ""
    ) -> AsyncIterator[LogLine]:
        queue: asyncio.Queue[LogLine] = asyncio.Queue()
        for line in self._lines.get((namespace, function), ()):
            queue.put_nowait(line)
        self._followers[queue] = namespace, function
        try:
            while True:
                line = await queue.get()
                if line.time_ns >= since_ms * NS_PER_MS and invocation_id in ("", line.invocation_id):
                    yield line
        finally:
            del self._followers[queue]
