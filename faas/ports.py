"""The Protocols between the core and the world. One contract suite per port runs on every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from faas.model.function import FunctionVersion
from faas.model.usage import UsageRecord


class Clock(Protocol):
    """Time as an argument. Monotonic for decisions, Unix time only for what people read."""

    def monotonic_ns(self) -> int: ...

    def unix_ns(self) -> int: ...


# -- engine ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What to boot. ``socket_dir`` holds ``node.sock`` (already listening) and is the sandbox's way to the node."""

    id: str
    runtime: str
    network: str  # none | egress
    socket_dir: Path
    memory_bytes: int  # limit of the whole sandbox until ``resize``
    cpus: float = 0.0  # 0 = no limit of its own


class Engine(Protocol):
    """Makes and removes sandboxes. The zygote inside dials ``node.sock`` by itself; nothing is polled.

    Raises ``EngineUnavailable`` with the engine's words and what to do.
    """

    name: str
    isolation: str  # one sentence for people
    store_mount: str  # where the content store is seen inside a sandbox

    async def start(self) -> None:
        """Check that the engine answers, make images ready, remove what an earlier run of this node left behind."""

    async def boot(self, spec: SandboxSpec) -> None:
        """Start a sandbox; returns once it runs (its zygote may not have dialled yet)."""

    async def resize(self, sandbox_id: str, memory_bytes: int, cpus: float = 0.0) -> None:
        """Set the sandbox's memory limit (and CPU limit, 0 = none); cheap where the node may write cgroup files."""

    def oom_kills(self, sandbox_id: str) -> int:
        """How often the kernel killed something in this sandbox for want of memory; 0 when it cannot be known."""

    async def remove(self, sandbox_id: str) -> None:
        """Kill and remove, whatever state it is in; removing what is gone is no error."""

    async def close(self) -> None:
        """Remove every sandbox this engine made and let go of connections."""


# -- registry -------------------------------------------------------------------------------------------------------


class Registry(Protocol):
    """Functions, versions, bundles and locks. Raises ``NotFound``, ``Conflict``, ``StoreUnavailable``."""

    async def commit(self, version: FunctionVersion) -> bool:
        """Make ``version`` the latest. It must be ``next_version``, else ``Conflict``. True: the function is new."""

    async def next_version(self, namespace: str, name: str) -> int:
        """One more than the highest number this function ever had (deleting it does not reset that), at first 1."""

    async def latest(self, namespace: str, name: str) -> FunctionVersion | None: ...

    async def version(self, namespace: str, name: str, version: int) -> FunctionVersion: ...

    async def functions(self, namespace: str | None) -> list[FunctionVersion]:
        """Latest version of every function of a namespace (None: of all), ordered by namespace and name."""

    async def delete(self, namespace: str, name: str) -> None:
        """Forget the function and its versions; version numbers are not used again."""

    async def put_blob(self, data: bytes) -> str:
        """Store bytes under their SHA-256 hex digest, which is returned."""

    async def blob(self, digest: str) -> bytes: ...

    def changes(self) -> AsyncIterator[tuple[str, str]]:
        """``(namespace, name)`` of each function that some node committed or deleted, from now on.

        ``("*", "*")`` says that any may have changed; it comes once the subscription stands.
        """


# -- keys -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str
    namespace: str  # "*" = every namespace
    scopes: tuple[str, ...]  # ("admin",) may do everything
    created_at_ms: int


class KeyStore(Protocol):
    """API keys, stored as SHA-256 only."""

    async def create(self, namespace: str, scopes: Sequence[str]) -> tuple[ApiKey, str]:
        """A new key and its secret text, which is shown once and not stored."""

    async def find(self, secret: str) -> ApiKey | None: ...

    async def list(self) -> list[ApiKey]: ...

    async def revoke(self, key_id: str) -> None: ...


# -- money ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Entry:
    """What the journal keeps per attempt: the usage record and what else the invocation record shows.

    ``detail`` keys used: ``error`` (dict: code, error_type, message, traceback), ``exit``, ``trace_parent``.
    ``sequence`` is given by the journal: 1, 2, 3... without a gap; so is ``packed``, its form on disk, which the
    ledger stores as it is (empty = not journalled, to be packed).
    """

    record: UsageRecord
    detail: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0
    packed: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One line of a usage report: the group's labels and its exact integer sums."""

    labels: Mapping[str, str]
    sums: Mapping[str, int]  # invocations, errors, mb_ms, billed_ms, run_ns, init_ns, cpu_ns, bytes_in, bytes_out ...


class Ledger(Protocol):
    """Exact sums and raw records. ``apply`` is idempotent: what it has seen changes nothing."""

    async def apply(self, journal_id: str, entries: Sequence[Entry]) -> int:
        """Add consecutive entries of one journal; those at or below the last sequence applied are ignored.

        Returns the journal's last applied sequence. Raises ``Conflict`` on a gap, ``StoreUnavailable``.
        """

    async def last_sequence(self, journal_id: str) -> int: ...

    async def durable(self) -> bool:
        """Wait until everything applied so far is on the server's disk; False when the server cannot say."""

    async def usage(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> list[UsageRow]: ...

    async def records(self, start_ms: int, end_ms: int) -> list[UsageRecord]: ...


class RecordStore(Protocol):
    """Invocation records for people: usage record plus detail, as a JSON-ready dict, kept for a time."""

    async def get(self, namespace: str, invocation_id: str) -> dict[str, Any] | None: ...

    async def list(self, namespace: str, function: str, limit: int) -> list[dict[str, Any]]: ...


# -- logs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogLine:
    time_ns: int  # Unix time
    namespace: str
    function: str
    version: int
    invocation_id: str  # "" outside an invocation
    stream: str  # stdout | stderr | a logging level name | platform
    text: str


class LogSink(Protocol):
    def write(self, line: LogLine) -> None:
        """Never waits and never raises; what does not fit is counted and said."""

    async def read(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = "", limit: int = 1000
    ) -> list[LogLine]: ...

    def follow(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = ""
    ) -> AsyncIterator[LogLine]: ...
