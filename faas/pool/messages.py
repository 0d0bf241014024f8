"""What the pool is told (events) and what it wants done (commands).

The contract between the pool and its shell, in clauses:

1. The shell performs every command of a step, in order, before it hands in the next event.
2. ``Boot`` is answered by ``SandboxUp`` or ``SandboxLost``; ``Bind`` by ``SandboxReady``, ``InitFailed`` or
   ``SandboxLost``; every instance id in ``Bind`` or ``Fork`` by ``InstanceUp`` or ``InstanceDown``; ``Kill`` and
   ``Stop`` by ``InstanceDown``; ``Recall`` by ``Recalled`` or ``InstanceDown``; ``Remove`` by ``SandboxDown``.
   ``Park`` and ``Resume`` have no answer: one that fails ends in ``SandboxLost``. Answers may come late, twice or not
   at all: the pool has a time limit for each and ignores what it no longer knows.
3. Every ``Submit`` ends in exactly one of: ``Finished`` from the shell, or ``Reject`` or ``Fail`` from the pool, or
   ``Cancel`` from the shell while the call was still queued.
4. ``SandboxLost`` and ``SandboxDown`` imply ``InstanceDown`` for all its instances. ``SandboxLost`` is answered by
   ``Remove``. ``SandboxDown`` is said only when the engine has let go: nothing of the sandbox is left and nothing can
   come, as of a boot that is still under way. Until then its memory and its instances' count; ``Remove`` is said again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from faas.model.errors import FaasError
from faas.model.invocation import StartKind


@dataclass(frozen=True, slots=True)
class Flavour:
    """What a sandbox is before it belongs to anyone; only sandboxes of a function's flavour can be bound to it."""

    runtime: str
    network: str


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """What the pool must know of a function version. ``key`` is unique, ``label`` is for people."""

    key: str
    label: str
    namespace: str
    flavour: Flavour
    memory_mb: int
    max_instances: int
    min_instances: int
    concurrency: int
    keep_alive_ns: int | None  # how long it is held after its last call, in all; None = the policy decides
    warm_ns: int  # of that, how long with an instance; then parked
    stops: bool = False  # its running calls may be stopped (``Cancel``), which ends their instance


class Cause(StrEnum):
    """Why an instance or sandbox ended."""

    EXIT = "exit"
    OOM = "oom"
    LOST = "lost"  # the connection broke and nobody said why
    ENGINE = "engine"  # the engine could not start it or removed it
    KILLED = "killed"  # the pool wanted it


# -- events ---------------------------------------------------------------------------------------------------------


class Submit(NamedTuple):
    call: str
    spec: FunctionSpec


class Cancel(NamedTuple):
    """The caller has gone. Queued calls are dropped; a running one is finished, or with ``stop`` ends in ``Fail``."""

    call: str
    stop: bool = False


class Finished(NamedTuple):
    """The instance answered. ``reusable`` is false when it said that it will exit (out of memory, sys.exit).

    ``busy_ns`` is how long the call kept the instance busy; 0 = not known. The instance says so, and only its own
    function is decided by it.
    """

    instance: str
    call: str
    reusable: bool = True
    busy_ns: int = 0


class Expired(NamedTuple):
    """The call's deadline has passed."""

    call: str


class Prepare(NamedTuple):
    """Have the function loaded, whether or not anyone calls it (a deploy, a node's start)."""

    spec: FunctionSpec


class Forget(NamedTuple):
    """No new calls will come for this function version: finish, then remove its sandboxes."""

    key: str


class Limit(NamedTuple):
    """What a namespace may have on this node: calls at once, running or waiting, and memory of its instances.

    None = as the node's configuration says.
    """

    namespace: str
    calls_max: int | None
    memory_mb_max: int | None


class SandboxUp(NamedTuple):
    sandbox: str


class SandboxReady(NamedTuple):
    """``recalls``: its instances serve in turn, and what they have not begun can be taken back."""

    sandbox: str
    recalls: bool = False


class InitFailed(NamedTuple):
    """The user's module could not be loaded."""

    sandbox: str
    error: FaasError


class SandboxLost(NamedTuple):
    """Nothing in it serves any more, or can be trusted to: it did not start or thaw, its zygote ended or lied."""

    sandbox: str
    cause: Cause
    reason: str = ""


class SandboxDown(NamedTuple):
    """The engine has let go of it."""

    sandbox: str
    cause: Cause
    reason: str = ""


class InstanceUp(NamedTuple):
    instance: str


class InstanceDown(NamedTuple):
    """``exit`` is what the caller is told: ``oom``, ``signal:SIGSEGV``, ``code:3``.

    ``unbegun`` are calls sent ahead that it had certainly not begun.
    """

    instance: str
    cause: Cause
    exit: str = ""
    unbegun: tuple[str, ...] = ()


class Recalled(NamedTuple):
    """The answer to ``Recall``: these calls were not begun and will not be."""

    instance: str
    calls: tuple[str, ...]


class Tick(NamedTuple):
    """Time has passed: cool down, expire, replenish."""


Event = (
    Submit
    | Cancel
    | Finished
    | Expired
    | Prepare
    | Forget
    | Limit
    | SandboxUp
    | SandboxReady
    | SandboxLost
    | InitFailed
    | SandboxDown
    | InstanceUp
    | InstanceDown
    | Recalled
    | Tick
)


# -- commands -------------------------------------------------------------------------------------------------------


class Boot(NamedTuple):
    sandbox: str
    flavour: Flavour


class Bind(NamedTuple):
    """Make the sandbox ``key``'s for ever and fork these instances as soon as it has loaded."""

    sandbox: str
    key: str
    instances: tuple[str, ...]


class Fork(NamedTuple):
    sandbox: str
    instances: tuple[str, ...]


class Dispatch(NamedTuple):
    """``init_ns`` is the part of the wait this call spent on binding, loading and forking."""

    call: str
    instance: str
    start: StartKind
    init_ns: int


class Prefetch(NamedTuple):
    """Send the call ahead to a busy instance. It is the instance's when ``Dispatch`` says so, and not sent again."""

    call: str
    instance: str


class Recall(NamedTuple):
    """Ask for what was sent ahead to this instance."""

    instance: str


class Return(NamedTuple):
    """The call was sent, or dispatched, and is not begun: it waits again, as if it had never been."""

    call: str


class Kill(NamedTuple):
    instance: str


class Stop(NamedTuple):
    """Let an idle instance end by itself."""

    instance: str


class Resize(NamedTuple):
    """The sandbox now holds ``memory_mb`` of instances."""

    sandbox: str
    memory_mb: int


class Abort(NamedTuple):
    """The call has ended for its caller: ask the instance, which serves others too, to give it up."""

    call: str
    instance: str


class Park(NamedTuple):
    """Freeze the sandbox. It has no instances and gets nothing to do before ``Resume``."""

    sandbox: str


class Resume(NamedTuple):
    """Thaw the sandbox. What follows for it may be sent at once."""

    sandbox: str


class Remove(NamedTuple):
    sandbox: str


class Reject(NamedTuple):
    """The call never reached an instance."""

    call: str
    error: FaasError


class Fail(NamedTuple):
    """The call reached an instance and will get no answer from it."""

    call: str
    error: FaasError


Command = (
    Boot
    | Bind
    | Fork
    | Dispatch
    | Prefetch
    | Recall
    | Return
    | Kill
    | Stop
    | Resize
    | Remove
    | Reject
    | Fail
    | Abort
    | Park
    | Resume
)
