"""The Protocols between the core and the world. One contract suite per port runs on every adapter."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from faas.billing.book import Books
from faas.billing.budgets import Reading
from faas.billing.notices import Claimed, Notice
from faas.billing.statement import Closing, CreditNote
from faas.metering.reconcile import HourCheck
from faas.model.budget import Budgets
from faas.model.function import FunctionVersion
from faas.model.invocation import Reply
from faas.model.namespace import Namespace
from faas.model.usage import UsageRecord


class Clock(Protocol):
    """Time as an argument. Monotonic for decisions, Unix time only for what people read."""

    def monotonic_ns(self) -> int: ...

    def unix_ns(self) -> int: ...


# -- calls ----------------------------------------------------------------------------------------------------------


class Answering(Protocol):
    """Where a reply goes; ``asyncio.Future`` is one."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, reply: Reply, /) -> None: ...


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


FULL_CORE_MB = 1769


def cpu_share(memory_mb: int, instances: int = 1) -> float:
    """Processor cores that a sandbox is worth when all want to run at once: the ``share`` of ``Engine.resize``.

    A full core per 1,769 MB (AWS Lambda, "Configure Lambda function memory"), for each of its instances, and at least
    for one. It is a weight, not a limit: who runs alone gets all there is, or what its function's ``cpus`` allow.

    Example: 128 MB are 128 / 1769 = 0.0724 of a core, and ten such instances 0.724. One of them beside a sandbox of
    1,769 MB, both wanting one and the same core, gets 0.0724 / 1.0724 = 6.7 % of it; ten get 42 %.
    """
    return max(instances, 1) * memory_mb / FULL_CORE_MB


class Parking(Protocol):
    """Stopping a sandbox without ending it. Who freezes it must thaw it: nothing else does, and a frozen sandbox says
    nothing, not even that the node is gone (a starting node removes it with the other leftovers)."""

    freezer: str  # how: direct (a write to its control group) | api (the engine is asked) | signal (SIGSTOP to each)

    async def freeze(self, sandbox_id: str) -> None:
        """Stop all its processes; returns when they have stopped, or when a later ``thaw`` came between.

        Idempotent. When it fails or is cancelled the sandbox runs on.
        """

    def thaw(self, sandbox_id: str) -> Awaitable[None] | None:
        """Let them go on: done when this returns None; else, where the engine must be asked, when that was awaited.

        Idempotent. Raises for a sandbox that was never booted or was removed; may for one that has ended by itself.
        """

    async def memory_bytes(self, sandbox_id: str) -> int:
        """What the sandbox really holds now, frozen or not; 0 when it cannot be known.

        0.2 ms, but up to a second where the engine must be asked.
        """


class Engine(Parking, Protocol):
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

    async def exited(self, sandbox_id: str) -> None:
        """Return as soon as the sandbox has ended, by itself or by ``remove``; at once for one that is not there."""

    async def resize(
        self, sandbox_id: str, memory_bytes: int, cpus: float = 0.0, share: float = 0.0, pids: int = 0
    ) -> None:
        """Set its memory limit, its CPU limit in cores (0 = none) and its weight against the other sandboxes.

        ``share`` is in cores, see ``cpu_share``; 0 = what it gives for ``memory_bytes``. Until then a
        sandbox weighs one core. ``pids`` is how many processes and threads it may have; 0 = as many as now, at first
        512. Cheap where the node may write control groups, frozen or not.
        """

    def oom_kills(self, sandbox_id: str) -> int:
        """How often the kernel killed something in this sandbox for want of memory; 0 when it cannot be known."""

    async def remove(self, sandbox_id: str) -> None:
        """Kill and remove, whatever state it is in, frozen too; removing what is gone is no error."""

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
        """``(namespace, name)`` of each function that some node committed or deleted, from now on; with the name ""
        the limits of the namespace have changed.

        ``("*", "*")`` says that any may have changed; it comes once the subscription stands.
        """


class NamespaceStore(Protocol):
    """What is said of namespaces. A change is announced by ``Registry.changes`` as ``(namespace, "")``."""

    async def put(self, namespace: Namespace, *, new: bool) -> bool:
        """Store it; True if nothing was said of it before. With ``new`` that is an error: ``Conflict``."""

    async def get(self, name: str) -> Namespace | None: ...

    async def list(self) -> list[Namespace]:
        """By name."""

    async def delete(self, name: str) -> None:
        """Forget what is said of it. Raises ``NotFound``, and ``Conflict`` while it has functions."""


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
    ``sequence`` is given by the journal: 1, 2, 3... without a gap.
    """

    record: UsageRecord
    detail: dict[str, Any] = field(default_factory=dict)
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One line of a usage report: the group's labels and its exact integer sums."""

    labels: Mapping[str, str]
    sums: Mapping[str, int]  # invocations, errors, mb_ms, billed_ms, run_ns, init_ns, cpu_ns, bytes_in, bytes_out ...
    maxima: Mapping[str, int] = field(default_factory=dict)  # peak_memory_bytes, memory_mb; empty where unknown


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

    def usage_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        """The rows of ``usage``, some at a time: in the order of the finest time among ``by``, all at once without."""

    async def changes(self, start_ms: int, end_ms: int) -> int:
        """A number that grows whenever a sum of the range's days (UTC, whole) changes: who read it before the sums and
        finds it again has them still."""

    async def partial(self, start_ms: int, end_ms: int) -> list[int]:
        """Hours that the range cuts and whose records are not all kept: no report can be exact there."""

    async def records(self, start_ms: int, end_ms: int) -> list[UsageRecord]: ...

    def records_by_hour(self, start_ms: int, end_ms: int, where: Mapping[str, str]) -> AsyncIterator[list[UsageRecord]]:
        """Raw records that are still kept, some at a time: by hour, then by function, then as they came."""

    def reconcile(self, start_ms: int, end_ms: int, namespace: str = "") -> AsyncIterator[HourCheck]:
        """Add the raw records up again and hold the sums against them: each hour that overlaps the range, whole.

        ``namespace`` "" = all. What is written meanwhile makes no difference. Raises ``StoreUnavailable``.
        """


class BillStore(Protocol):
    """Closed months and credit notes; what is stored is never changed. See ``faas.billing.statement``."""

    async def closed(self) -> dict[str, Closing]:
        """All closed months, in order."""

    async def close(self, closing: Closing, after: int) -> bool:
        """Freeze a month, whole or not at all; False when it is closed already, and then nothing changes.

        ``after`` is how many months were closed when it was worked out; ``Conflict`` when there are more by now.
        """

    async def credits(self) -> list[CreditNote]:
        """All there are, oldest first."""

    async def credit(self, note: CreditNote) -> CreditNote:
        """Store it, once: of an id that is there already, what is stored is returned.

        Raises ``Conflict`` while the month that it corrects is open.
        """


class HeldStore(Protocol):
    """What nodes held without serving: instances that were idle, sandboxes that were parked."""

    async def held(self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]) -> list[UsageRow]:
        """``idle_mb_ms``, ``parked_mb_ms``, ``provisioned_mb_ms``, ``generic_mb_ms`` of the hours that begin in the
        range. Labels are namespace, function, version, hour, day and month; what belongs to nobody has "" for names.
        """

    def held_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        """The same in the order of time: some rows at a time, those of the finest time among ``by`` together."""

    async def changes(self, start_ms: int, end_ms: int) -> int:
        """A number that grows whenever any of this changes in the range's days, as ``Ledger.changes``."""

    async def provisioned(self, start_ms: int, end_ms: int) -> Mapping[tuple[str, str], int]:
        """``provisioned_mb_ms`` of the same hours by namespace and function: what is billed of it all."""


class BudgetStore(Protocol):
    """What is said of budgets, and what has been used of them. Raises ``StoreUnavailable``.

    A change is announced by ``Registry.changes`` as ``(namespace, "")``.
    """

    async def put(self, budgets: Budgets) -> None:
        """Replace what is said of its namespace; without any budget, forget it."""

    async def list(self) -> list[Budgets]:
        """Of the namespaces that have any, by name."""

    async def spent(self, namespaces: Sequence[str], first: int, end: int, journal_id: str) -> dict[str, Reading]:
        """The ledger's sums in the hours ``first`` <= hour < ``end``, all of one moment, with the last sequence of
        the journal that they contain; and what was provisioned in them, by function."""


class NoticeStore(Protocol):
    """Warnings on their way: kept until delivered or given up, whatever node or store is killed meanwhile."""

    async def post(self, notice: Notice, now_ms: int) -> bool:
        """Have it sent; False when one with its id is known already."""

    async def claim(self, now_ms: int, until_ms: int) -> Claimed | None:
        """One that is due. Nobody else gets it before ``until_ms``; then, if it was not settled, somebody does."""

    async def settle(self, notice_id: str, state: str, again_at_ms: int | None = None) -> None:
        """It is ``sent`` or ``failed``; or still ``due``, again at that time."""

    async def states(self, notice_ids: Sequence[str]) -> dict[str, str]:
        """due | sent | failed, of those that were posted."""


class RecordStore(Protocol):
    """Invocation records for people: usage record plus detail, as a JSON-ready dict, kept for a time."""

    async def get(self, namespace: str, invocation_id: str) -> dict[str, Any] | None: ...

    async def attempts(self, namespace: str, invocation_id: str) -> builtins.list[dict[str, Any]]:
        """Every attempt at it, the last one last. One that was turned away may have the number of the next."""

    async def list(self, namespace: str, function: str, limit: int) -> builtins.list[dict[str, Any]]: ...


class Prices(NamedTuple):
    """The price books that were set. Where none ever was, ``text`` is "" and everything is free."""

    text: str = ""  # TOML, as it was set
    books: Books = Books()
    set_at_ms: int = 0
    set_by: str = ""  # id of the key


class PriceStore(Protocol):
    async def set(self, text: str, at_ms: int, by: str) -> Prices:
        """Put these books in the place of those there are. Raises ``InvalidPrices``; then nothing is changed."""

    async def current(self) -> Prices: ...


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
