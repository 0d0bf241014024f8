"""What the gateway needs of the rest of the node: a frozen bag of ports that ``faas.wiring`` fills."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from faas.model.connection import System, described
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply
from faas.model.manifest import Manifest, QueueSource
from faas.model.message import QueueName
from faas.packaging import bundle, layers
from faas.ports import (
    Answering,
    BillStore,
    BudgetStore,
    Clock,
    HeldStore,
    KeyStore,
    Ledger,
    LogSink,
    NamespaceStore,
    NoticeStore,
    PriceStore,
    RecordStore,
    Registry,
)
from faas.ports.events import CallStore, IdempotencyStore, MessageQueue, Triggers, WebhookSecrets

Progress = Callable[[str], None]
Prepare = Callable[[bytes, Mapping[str, Any], str], bundle.Prepared]  # archive, settings, name; blocks: run in a thread


Guard = Callable[[FunctionVersion, Call], None]  # raises what a call is refused with


Revise = Callable[[Manifest, Mapping[str, Any]], Manifest]  # settings as users write them, laid over a manifest


class Lock(Protocol):
    """Pins dependencies with hashes (``faas.packaging.layers.lock``)."""

    async def __call__(self, dependencies: Sequence[str], *, progress: Progress | None = None) -> bytes: ...


class InvokerPort(Protocol):
    """The part of ``faas.invoker`` that the gateway drives."""

    async def invoke(self, version: FunctionVersion, call: Call) -> Reply:
        """Outcomes of every kind come as a ``Reply``; cancelling the awaiting task cancels the call.

        Raises, as ``submit`` does, what the guard says of a call that may not begin.
        """

    def submit(self, version: FunctionVersion, call: Call, reply: Answering) -> object:
        """Begin a call whose reply goes to ``reply``, perhaps before this returns; a handle for ``abandon``."""

    def check(self, version: FunctionVersion, call: Call) -> None:
        """Raises what a call would be refused with now, by the guard or for its hops."""

    def abandon(self, handle: Any, *, stop: bool = False) -> None:
        """The caller has gone: as when ``invoke`` is cancelled. ``stop``: end it whatever its function says."""

    async def load(self, version: FunctionVersion) -> int:
        """Bind a sandbox and import the module; returns init_ns, raises ``FunctionFailed`` and platform errors."""

    async def forget(self, namespace: str, name: str, keep: int | None = None) -> None:
        """Drain the sandboxes of all versions but ``keep``."""

    def limit(self, namespace: str, calls_max: int | None, memory_mb_max: int | None) -> None:
        """Hold a namespace to these limits from now on; None = what the node's settings say."""

    def guard(self, guard: Guard | None) -> None:
        """Ask this before each call from now on; None = nobody."""

    def describe(self, namespace: str | None, name: str | None) -> list[dict[str, Any]]: ...

    def describe_generics(self, version: FunctionVersion) -> dict[str, Any]:
        """Sandboxes that stand ready for the version's next cold start: ready, starting, kept, why."""

    def stats(self) -> dict[str, Any]: ...


class ExportPort(Protocol):
    """What the gateway shows of the export of usage events; counts of records since the node started."""

    @property
    def pending(self) -> int:
        """Not at the destination yet."""

    @property
    def lost(self) -> int:
        """Never to reach it: the journal had to let them go."""

    @property
    def refused(self) -> int:
        """Set aside, because the destination did not want them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may cost. Reaching one gives an answer at once."""

    body_bytes_max: int = 6_000_000  # of an invocation
    bundle_bytes_max: int = 50_000_000
    json_bytes_max: int = 1_000_000  # of a control request that is not a deploy
    body_wait_s: float = 60.0  # a request's body must have arrived by then


def _no_connector(_queue: QueueName, source: QueueSource) -> Mapping[str, Any]:
    return {"source": described(source), "state": "stopped", "error": "", "moved": 0, "refused": 0}


async def _always_ready() -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Services:
    """Everything ``build_app`` needs. Callables that return plain numbers are read when metrics are scraped."""

    invoker: InvokerPort
    registry: Registry
    namespaces: NamespaceStore
    keys: KeyStore
    ledger: Ledger
    bills: BillStore
    budgets: BudgetStore
    notices: NoticeStore
    records: RecordStore
    prices: PriceStore
    queues: MessageQueue
    triggers: Triggers
    calls: CallStore
    webhook_secrets: WebhookSecrets
    logs: LogSink
    clock: Clock
    new_id: Callable[[], str]  # invocation ids: 32 lower-case hex characters, time-ordered
    node: str
    engine: str
    isolation: str = ""
    runtimes: tuple[Mapping[str, Any], ...] = ()
    limits: Limits = field(default_factory=Limits)
    connections: Mapping[str, System] = field(default_factory=dict)  # to systems that queues can be fed from, by name
    connector: Callable[[QueueName, QueueSource], Mapping[str, Any]] = _no_connector  # how one goes on this node
    ready: Callable[[], Awaitable[Sequence[str]]] = _always_ready  # reasons why not; empty = ready
    journal_pending: Callable[[], int] = int  # records not yet in the ledger
    export: ExportPort | None = None  # None: usage is not exported
    journal_id: Callable[[], str] = str  # the name under which the ledger knows what is journalled now
    prepare: Prepare = bundle.prepare
    revise: Revise = bundle.revise
    lock: Lock = layers.lock
    key_prefix: str = "faas_"  # what every API key begins with; "" = keys cannot be told from other bearer tokens
    held: HeldStore | None = None  # None: what is held without serving is not on record
    idempotency: IdempotencyStore | None = None  # None: Idempotency-Key is refused
    public_url: str = ""  # what callers reach the platform under; "" = take it from the request
