"""Small stand-ins for what the gateway drives, and a caller that speaks ASGI to it without a socket."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from faas.gateway.app import Gateway, build_app
from faas.gateway.services import Services
from faas.metering.reconcile import HourCheck
from faas.metering.sums import HOUR_MS
from faas.model.errors import Conflict, FaasError, NotFound, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply
from faas.model.manifest import Http, Manifest
from faas.model.usage import UsageRecord
from faas.ports import Answering, ApiKey, Entry, LogLine, UsageRow
from faas.stores.bills import MemoryBills
from faas.stores.memory import MemoryLedger, MemoryNamespaces, MemoryPrices, MemoryRegistry
from faas.stores.memory_budgets import MemoryBudgets
from faas.stores.memory_calls import MemoryCalls
from tests.unit.queue_fakes import FakeQueues, FakeTriggers

ADMIN = "faas_admin"
JSON = ((b"content-type", b"application/json"),)


def make_version(name: str = "hello", version: int = 1, namespace: str = "default", **manifest: Any) -> FunctionVersion:
    settings = Manifest(name=name, entry=name, **manifest)
    return FunctionVersion(namespace=namespace, name=name, version=version, manifest=settings, bundle="0" * 64)


def make_record(version: FunctionVersion, call: Call, **changes: Any) -> UsageRecord:
    values: dict[str, Any] = {
        "id": f"{call.id}-1", "namespace": version.namespace, "function": version.name, "version": version.version,
        "key_id": call.key_id, "trigger": call.trigger.value, "status": "ok", "start": "warm",
        "started_at_ns": 1_700_000_000_123_456_789, "queue_ns": 120_000, "init_ns": 0, "run_ns": 1_234_567,
        "billed_ms": 2, "memory_mb": 128, "peak_memory_bytes": 1_000_000, "cpu_ns": 1_000_000,
        "bytes_in": len(call.payload), "bytes_out": 0, "node": "n1", "attempt": 1,
    }  # fmt: skip
    return UsageRecord(**{**values, **changes})


Answer = Callable[[FunctionVersion, Call], Awaitable[Reply]]


async def echo(version: FunctionVersion, call: Call) -> Reply:
    return Reply(make_record(version, call), None, 200, JSON, call.payload or b"{}")


@dataclass
class FakeInvoker:
    answer: Answer = echo
    calls: list[tuple[FunctionVersion, Call]] = field(default_factory=list)
    submitted: list[str] = field(default_factory=list)  # ids of the calls that came through ``submit``
    cancelled: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    forgotten: list[tuple[str, str, int | None]] = field(default_factory=list)
    limits: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    guarded: Callable[[FunctionVersion, Call], None] | None = None
    load_error: FaasError | None = None

    async def invoke(self, version: FunctionVersion, call: Call) -> Reply:
        if self.guarded is not None:
            self.guarded(version, call)
        self.calls.append((version, call))
        try:
            return await self.answer(version, call)
        except asyncio.CancelledError:
            self.cancelled.append(call.id)
            raise

    def submit(self, version: FunctionVersion, call: Call, reply: Answering) -> asyncio.Task[Reply]:
        self.submitted.append(call.id)
        task = asyncio.get_running_loop().create_task(self.invoke(version, call))

        def ended(done: asyncio.Task[Reply]) -> None:
            if not done.cancelled() and not reply.done():
                reply.set_result(done.result())

        task.add_done_callback(ended)
        return task

    def check(self, version: FunctionVersion, call: Call) -> None:
        if self.guarded is not None:
            self.guarded(version, call)

    def abandon(self, handle: asyncio.Task[Reply], *, stop: bool = False) -> None:
        handle.cancel()

    async def load(self, version: FunctionVersion) -> int:
        await asyncio.sleep(0)
        if self.load_error is not None:
            raise self.load_error
        self.loaded.append(version.label)
        return 5_000_000

    async def forget(self, namespace: str, name: str, keep: int | None = None) -> None:
        self.forgotten.append((namespace, name, keep))

    def limit(self, namespace: str, calls_max: int | None, memory_mb_max: int | None) -> None:
        self.limits[namespace] = calls_max, memory_mb_max

    def guard(self, guard: Callable[[FunctionVersion, Call], None] | None) -> None:
        self.guarded = guard

    def describe(self, namespace: str | None, name: str | None) -> list[dict[str, Any]]:
        return [{"sandbox": "s1", "state": "bound", "namespace": namespace, "function": name, "instances": []}]

    def describe_generics(self, version: FunctionVersion) -> dict[str, Any]:
        return {"ready": 1, "starting": 0, "kept": 1, "why": f"for {version.name}"}

    def stats(self) -> dict[str, Any]:
        return {"instances": {"idle": 1}, "sandboxes": {"bound": 1}, "queued": 0, "memory_bytes": 128_000_000}


class FakeRegistry:
    def __init__(self, *versions: FunctionVersion) -> None:
        self.versions = {(v.namespace, v.name, v.version): v for v in versions}
        self.current = {(v.namespace, v.name): v.version for v in versions}
        self.highest = dict(self.current)
        self.blobs: dict[str, bytes] = {}
        self.reads = 0
        self.down = False
        self.conflicts = 0
        self.followers: list[asyncio.Queue[tuple[str, str]]] = []

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("redis://10.0.0.7:6379 refused the connection")

    def _announce(self, namespace: str, name: str) -> None:
        for follower in self.followers:
            follower.put_nowait((namespace, name))

    async def commit(self, version: FunctionVersion) -> bool:
        self._check()
        key = (version.namespace, version.name)
        if self.conflicts:
            self.conflicts -= 1
            self.highest[key] = self.highest.get(key, 0) + 1
        if version.version != self.highest.get(key, 0) + 1:
            raise Conflict(f"{version.key} is not the next version")
        new = key not in self.current
        self.current[key] = self.highest[key] = version.version
        self.versions[*key, version.version] = version
        self._announce(*key)
        return new

    async def next_version(self, namespace: str, name: str) -> int:
        self._check()
        return self.highest.get((namespace, name), 0) + 1

    async def latest(self, namespace: str, name: str) -> FunctionVersion | None:
        self._check()
        self.reads += 1
        number = self.current.get((namespace, name))
        return None if number is None else self.versions[namespace, name, number]

    async def version(self, namespace: str, name: str, version: int) -> FunctionVersion:
        self._check()
        self.reads += 1
        try:
            return self.versions[namespace, name, version]
        except KeyError:
            raise NotFound(f"There is no version {version} of '{name}'.") from None

    async def functions(self, namespace: str | None) -> list[FunctionVersion]:
        self._check()
        return [self.versions[*k, n] for k, n in sorted(self.current.items()) if namespace in (None, k[0])]

    async def delete(self, namespace: str, name: str) -> None:
        self._check()
        if (namespace, name) not in self.current:
            raise NotFound(f"There is no function '{name}'.")
        del self.current[namespace, name]
        self.versions = {k: v for k, v in self.versions.items() if k[:2] != (namespace, name)}
        self._announce(namespace, name)

    async def put_blob(self, data: bytes) -> str:
        self._check()
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    async def blob(self, digest: str) -> bytes:
        return self.blobs[digest]

    async def changes(self) -> AsyncIterator[tuple[str, str]]:
        queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.followers.append(queue)
        try:
            yield "*", "*"
            while True:
                yield await queue.get()
        finally:
            self.followers.remove(queue)


class FakeKeys:
    def __init__(self) -> None:
        self.known: dict[str, ApiKey] = {}
        self.finds = 0
        self.down = False
        self.put(ADMIN, "*", "admin")

    def put(self, secret: str, namespace: str, *scopes: str) -> ApiKey:
        self.known[secret] = ApiKey(f"k{len(self.known) + 1}", namespace, scopes, 1_700_000_000_000)
        return self.known[secret]

    async def create(self, namespace: str, scopes: Sequence[str]) -> tuple[ApiKey, str]:
        secret = f"faas_{len(self.known)}"
        return self.put(secret, namespace, *scopes), secret

    async def find(self, secret: str) -> ApiKey | None:
        self.finds += 1
        if self.down:
            raise StoreUnavailable("redis://10.0.0.7:6379 refused the connection")
        return self.known.get(secret)

    async def list(self) -> list[ApiKey]:
        return list(self.known.values())

    async def revoke(self, key_id: str) -> None:
        self.known = {s: k for s, k in self.known.items() if k.id != key_id}


class FakeLedger:
    def __init__(self) -> None:
        self.rows: list[UsageRow] = []
        self.cut: tuple[int, int] | None = None  # what ``partial`` was asked for
        self.raw: list[UsageRecord] = []
        self.breaks = False  # a report by time ends in an error
        self.checks: list[HourCheck] = []
        self.reconciled: tuple[int, int, str] | None = None
        self.asked: tuple[int, int, list[str], dict[str, str]] | None = None

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        return 0

    async def last_sequence(self, journal_id: str) -> int:
        return 0

    async def durable(self) -> bool:
        return True

    async def usage(self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]) -> list[UsageRow]:
        self.asked = (start_ms, end_ms, list(by), dict(where))
        return self.rows

    async def usage_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        for row in await self.usage(start_ms, end_ms, by, where):
            yield [row]
        if self.breaks:
            raise StoreUnavailable("Redis went away.")

    async def changes(self, start_ms: int, end_ms: int) -> int:
        return 0

    async def partial(self, start_ms: int, end_ms: int) -> list[int]:
        self.cut = start_ms, end_ms
        return [at_ms // HOUR_MS for at_ms in self.cut if at_ms % HOUR_MS]

    async def records(self, start_ms: int, end_ms: int) -> list[UsageRecord]:
        return self.raw

    async def records_by_hour(
        self, start_ms: int, end_ms: int, where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRecord]]:
        self.asked = (start_ms, end_ms, [], dict(where))
        for record in self.raw:
            yield [record]

    async def reconcile(self, start_ms: int, end_ms: int, namespace: str = "") -> AsyncIterator[HourCheck]:
        self.reconciled = start_ms, end_ms, namespace
        for check in self.checks:
            yield check


class FakeSecrets:
    async def secret(self, namespace: str) -> str:
        return f"whsec_{namespace}"


class FakeRecords:
    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], dict[str, Any]] = {}

    async def get(self, namespace: str, invocation_id: str) -> dict[str, Any] | None:
        return self.kept.get((namespace, invocation_id))

    async def attempts(self, namespace: str, invocation_id: str) -> builtins.list[dict[str, Any]]:
        found = self.kept.get((namespace, invocation_id))
        return [found] if found is not None else []

    async def list(self, namespace: str, function: str, limit: int) -> list[dict[str, Any]]:
        found = [r for (ns, _), r in self.kept.items() if ns == namespace and r["function"] == function]
        return found[:limit]


class FakeLogs:
    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.asked: tuple[str, str, int, str] | None = None
        self.followers = 0

    def write(self, line: LogLine) -> None:
        self.lines.append(line)

    async def read(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = "", limit: int = 1000
    ) -> list[LogLine]:
        self.asked = (namespace, function, since_ms, invocation_id)
        return self.lines[-limit:]

    async def follow(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = ""
    ) -> AsyncIterator[LogLine]:
        self.asked = (namespace, function, since_ms, invocation_id)
        self.followers += 1
        try:
            seen = 0
            while True:
                while seen < len(self.lines):
                    seen += 1
                    yield self.lines[seen - 1]
                await asyncio.sleep(0.005)
        finally:
            self.followers -= 1


class FakeClock:
    def __init__(self) -> None:
        self.now_ns = 1_000_000_000_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        return 1_700_000_000_000_000_000 + self.now_ns

    def forward(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


class RealClock:
    monotonic_ns = staticmethod(time.monotonic_ns)
    unix_ns = staticmethod(time.time_ns)


@dataclass
class Bench:
    """A gateway with all its fakes in reach."""

    gateway: Gateway
    invoker: FakeInvoker
    registry: FakeRegistry
    namespaces: MemoryNamespaces
    keys: FakeKeys
    ledger: FakeLedger
    budgets: MemoryBudgets
    records: FakeRecords
    logs: FakeLogs
    clock: FakeClock
    queues: FakeQueues = field(default_factory=FakeQueues)
    triggers: FakeTriggers = field(default_factory=FakeTriggers)
    calls: MemoryCalls = field(default_factory=lambda: MemoryCalls(lambda: time.time_ns() // 1_000_000))

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        key: str | None = ADMIN,
        headers: Sequence[tuple[str, str]] = (),
        http_version: str = "1.1",
    ) -> Answered:
        """One request, its body in one piece and Content-Length set, as a server would hand it on."""
        sent = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
        if key is not None:
            sent.append((b"authorization", f"Bearer {key}".encode()))
        if body and not any(n in (b"content-length", b"transfer-encoding") for n, _ in sent):
            sent.append((b"content-length", b"%d" % len(body)))
        return await ask(self.gateway, make_scope(method, path, sent, http_version), [body])


def make_bench(*versions: FunctionVersion, invoker: FakeInvoker | None = None, **changes: Any) -> Bench:
    hello = make_version(http=Http(public=True))
    made = Bench(
        gateway=None,  # type: ignore[arg-type]
        invoker=invoker or FakeInvoker(),
        registry=FakeRegistry(*(versions or (hello,))),
        namespaces=MemoryNamespaces(MemoryRegistry()),
        keys=FakeKeys(),
        ledger=FakeLedger(),
        budgets=MemoryBudgets(MemoryRegistry(), MemoryLedger()),
        records=FakeRecords(),
        logs=FakeLogs(),
        clock=FakeClock(),
    )
    ids = itertools.count(1)
    services = Services(
        invoker=made.invoker,
        registry=made.registry,
        namespaces=made.namespaces,
        keys=made.keys,
        ledger=made.ledger,
        bills=MemoryBills(),
        budgets=made.budgets,
        notices=made.budgets,
        records=made.records,
        prices=MemoryPrices(),
        queues=made.queues,
        triggers=made.triggers,
        calls=made.calls,
        webhook_secrets=FakeSecrets(),
        logs=made.logs,
        clock=made.clock,
        new_id=lambda: f"{next(ids):032x}",
        node="n1",
        engine="process",
        isolation="none to speak of",
        runtimes=({"name": "python", "version": "3.11"},),
    )
    made.gateway = build_app(replace(services, **changes))
    return made


# -- ASGI without a socket ------------------------------------------------------------------------------------------


@dataclass
class Answered:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    complete: bool

    def header(self, name: str) -> str | None:
        found = [v for n, v in self.headers if n == name.encode()]
        assert len(found) <= 1, f"{name} was sent {len(found)} times"
        return found[0].decode("latin-1") if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self) -> dict[str, Any]:
        assert self.header("content-type") == "application/problem+json"
        document: dict[str, Any] = self.json()
        assert document["status"] == self.status
        assert document["type"] == f"urn:faas:problem:{document['code']}"
        return document


def make_scope(
    method: str, path: str, headers: Sequence[tuple[bytes, bytes]] = (), http_version: str = "1.1"
) -> dict[str, Any]:
    from urllib.parse import unquote

    raw, _, query = path.partition("?")
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": http_version,
        "method": method, "scheme": "http", "path": unquote(raw), "raw_path": raw.encode("latin-1"),
        "query_string": query.encode("latin-1"), "root_path": "", "headers": [(b"host", b"node:8080"), *headers],
        "server": ("127.0.0.1", 8080), "client": ("192.0.2.1", 5000), "state": {},
    }  # fmt: skip


async def ask(app: Any, scope: dict[str, Any], pieces: Sequence[bytes] = (b"",), *, leave: bool = False) -> Answered:
    """Run one request to its end. After the body ``receive`` waits; with ``leave`` it says that the caller hung up."""
    incoming = list(pieces)
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if incoming:
            piece = incoming.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(incoming)}
        if leave:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    await app(scope, receive, send)
    starts = [m for m in messages if m["type"] == "http.response.start"]
    bodies = [m for m in messages if m["type"] == "http.response.body"]
    assert len(starts) == (1 if messages else 0)
    if not starts:
        return Answered(0, [], b"", complete=False)
    content = b"".join(m.get("body", b"") for m in bodies)
    headers = list(starts[0]["headers"])
    declared = [v for n, v in headers if n == b"content-length"]
    complete = bool(bodies) and not bodies[-1].get("more_body", False)
    if declared and complete and scope["method"] != "HEAD":
        assert int(declared[0]) == len(content)
    return Answered(starts[0]["status"], headers, content, complete)
