"""The pool's own books: sandboxes, instances, functions, tenants and calls. Mutable, and only ``Pool`` writes them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from faas.model.errors import FaasError
from faas.model.invocation import StartKind
from faas.pool.holding import Holding
from faas.pool.messages import Flavour, FunctionSpec
from faas.pool.scaling import smoothed
from faas.pool.states import INSTANCE_MOVES, SANDBOX_MOVES, IllegalTransition, InstanceState, SandboxState

# Reading a member off its class costs more than a global where every call passes.
_STARTING, _IDLE, _BUSY = InstanceState.STARTING, InstanceState.IDLE, InstanceState.BUSY
QUIET_TICKS = 3  # before a function that finishes nothing counts as slow
THREADS_BESIDE_CALLS = 2  # of an instance that serves in threads: one reads frames, one has an event loop


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Limits and time limits; every one has an answer that comes at once when it is reached."""

    memory_budget_mb: int
    sandbox_overhead_mb: int = 24  # what an empty sandbox holds: zygote and the engine's shim
    sandbox_slots_max: int = 100
    sandbox_threads_max: int = 3_500  # of all instances together, at full concurrency
    queue_depth_max: int = 100  # calls of one function waiting beyond those an instance is starting for
    queue_wait_ns: int = 10_000_000_000
    waiting_max: int = 10_000  # calls waiting on the node: see faas.pool.tenants
    namespace_calls_max: int | None = None  # of a namespace of which nothing is said: see Limit
    namespace_memory_mb_max: int | None = None
    boot_limit_ns: int = 60_000_000_000
    init_limit_ns: int = 30_000_000_000
    fork_limit_ns: int = 5_000_000_000
    stop_limit_ns: int = 2_000_000_000
    remove_limit_ns: int = 10_000_000_000
    keep_alive: str = "adaptive"  # the policy, see faas.pool.keepalive
    fixed_keep_alive_ns: int = 600_000_000_000  # what the policy falls back to, and may not cost more than
    rest_ns: int = 5_000_000_000  # after its last call, before the policy hears that a function is idle
    park_delay_ns: int = 100_000_000  # from a sandbox's last event to its freezing: not between two calls
    wait_goal_ns: int = 20_000_000
    generic_sandboxes: int = 1  # at least, per flavour in use; 0 = none, whatever the demand
    generic_sandboxes_max: int = 16  # at most, where demand asks for more than that; see generics
    surplus_ns: int = 60_000_000_000  # how long a generic sandbox beyond that number is kept
    replenish_delay_ns: int = 30_000_000  # let the call that took a generic sandbox finish starting first
    backoff_ns: int = 100_000_000
    backoff_max_ns: int = 30_000_000_000
    gap_ns: int = 5_000_000_000  # between two ticks: longer means that the node or its machine stood still


@dataclass(slots=True)
class Backoff:
    """Exponential pause after failures in a row; a success forgets them."""

    base_ns: int
    max_ns: int
    failures: int = 0
    until_ns: int = 0
    reason: str = ""
    error: FaasError | None = None

    def failed(self, now_ns: int, reason: str, error: FaasError | None = None) -> None:
        self.until_ns = now_ns + min(self.base_ns << min(self.failures, 20), self.max_ns)
        self.failures += 1
        self.reason = reason
        self.error = error

    def succeeded(self) -> None:
        self.failures = 0
        self.until_ns = 0
        self.reason = ""
        self.error = None


@dataclass(slots=True, eq=False)
class Call:
    id: str
    function: Function
    submitted_ns: int
    instance: Instance | None = None
    ahead_on: Instance | None = None  # the instance that it was sent ahead to


@dataclass(slots=True, eq=False)
class Instance:
    id: str
    sandbox: Sandbox
    function: Function
    since_ns: int  # when it entered its state
    kind: StartKind  # what its first call will be told
    asked_ns: int  # when the bind or fork that makes it was commanded
    up_ns: int = 0
    state: InstanceState = InstanceState.STARTING
    used: bool = False
    doomed: bool = False  # one of its calls was stopped: to be killed when the others have ended
    calls: dict[str, Call] = field(default_factory=dict)
    began_ns: int = 0  # when its last call was dispatched
    ahead: deque[Call] = field(default_factory=deque)  # sent ahead, see prefetch
    recalled: bool = False  # they have been asked back
    late_ns: int = 0  # when the call was dispatched behind which they waited then
    listed: bool = False  # in its function's ``roomy``

    def move(self, state: InstanceState, now_ns: int) -> None:
        before = self.state
        if state not in INSTANCE_MOVES[before]:
            raise IllegalTransition(f"instance {self.id}: {before} -> {state}")
        function = self.function
        if before is _IDLE:
            function.holding.idle_ns += now_ns - self.since_ns
        if state is _IDLE:
            if before is _STARTING:
                function.holding.serve(1, function.floor, now_ns)
        elif state is not _BUSY and (before is _IDLE or before is _BUSY):
            function.holding.serve(-1, function.floor, now_ns)
        self.state = state
        self.since_ns = now_ns


@dataclass(slots=True, eq=False)
class Sandbox:
    id: str
    flavour: Flavour
    since_ns: int
    generic: Holding  # the pool's, of those that belong to nobody
    state: SandboxState = SandboxState.BOOTING
    function: Function | None = None  # once bound; while BOOTING: whom it is reserved for
    kind: StartKind = StartKind.PREWARMED
    asked_ns: int = 0  # when its removal was last asked for
    bound_ns: int = 0
    used_ns: int = 0
    empty_ns: int = 0  # when its last instance ended
    clock: float = 0.0  # the pool's eviction clock when it was last used
    leaving_mb: int = 0  # of instances it had when it was removed: held until the engine has let go
    instances: dict[str, Instance] = field(default_factory=dict)

    def move(self, state: SandboxState, now_ns: int) -> None:
        if state not in SANDBOX_MOVES[self.state]:
            raise IllegalTransition(f"sandbox {self.id}: {self.state} -> {state}")
        if self.state is SandboxState.GENERIC:
            self.generic.waiting_ns += now_ns - self.since_ns
        elif self.state is SandboxState.PARKED and self.function is not None:
            self.function.holding.waiting_ns += now_ns - self.since_ns
        self.state = state
        self.since_ns = now_ns


@dataclass(slots=True, eq=False)
class Tenant:
    """One namespace's share of the pool."""

    name: str
    functions: dict[str, Function] = field(default_factory=dict)
    instances_mb: int = 0  # memory of its instances
    sandboxes: int = 0  # bound to its functions
    calls_max: int | None = None  # running and waiting; None = no limit
    memory_mb_max: int | None = None  # of instances_mb; None = no limit
    credit: int = 0  # calls that may come before it must be counted again how many there are

    def held_mb(self, overhead_mb: int) -> int:
        """All the memory that is counted for it."""
        return self.instances_mb + self.sandboxes * overhead_mb

    @property
    def wants(self) -> bool:
        """Whether calls of it run or wait."""
        return any(function.running or function.queue for function in self.functions.values())


@dataclass(slots=True, eq=False)
class Function:
    """One function version's share of the pool. ``available`` is a stack: the warmest instance is used first."""

    spec: FunctionSpec
    init: Backoff
    forks: Backoff  # after instances that ended before they served, while none serves
    tenant: Tenant
    holding: Holding = field(default_factory=Holding)
    sandboxes: dict[str, Sandbox] = field(default_factory=dict)
    available: list[Instance] = field(default_factory=list)
    queue: deque[Call] = field(default_factory=deque)
    recalls: bool = False  # its sandboxes can take calls back
    ahead: bool = False  # its calls may be sent ahead, see prefetch
    apart_until_ns: int = 0  # not before this
    roomy: deque[Instance] = field(default_factory=deque)  # where they may be sent, and some where not any more
    starting: int = 0
    serving: int = 0  # idle or busy
    running: int = 0  # calls dispatched and not finished
    run_ns: int = 0  # how long a call keeps its instance busy, smoothed; 0 = not known yet
    looked_ns: int = 0  # the last tick
    quiet_ticks: int = 0  # ticks in a row without one call finished though calls run
    stalled_ns: int = 0  # for how long it has finished nothing though calls run, as of the last tick
    last_finish_ns: int = 0
    busy_since_ns: int = 0
    uses: int = 0  # calls finished since it was last at zero
    load_ns: int = 0  # how long its module took to load, last time; 0 = never loaded
    draining: bool = False
    wanted: bool = False  # to be loaded though nobody calls: until it has loaded, or always with min_instances
    resting: bool = False  # the policy has been told that it is idle
    hold: bool = True  # the policy's word on whether to hold it
    review_ns: int = 0  # when to ask the policy again
    short_by: int = 0  # instances it is short of for want of memory, when it last asked
    short_of: str = ""  # why it may not grow: "" | max_instances | boot | memory | namespace (its memory limit)

    @property
    def live(self) -> int:
        return self.starting + self.serving

    @property
    def floor(self) -> int:
        """How many instances are to be kept."""
        return 0 if self.draining else self.spec.min_instances

    def drain(self, draining: bool, now_ns: int) -> None:
        """Whether it is to end once nothing of it runs: from then on nothing of it is provisioned."""
        self.holding.serve(0, self.floor, now_ns)
        self.draining = draining

    def note_finish(self, now_ns: int, busy_ns: int) -> None:
        """A call ended that kept its instance busy for so long (0 = not known)."""
        if busy_ns > 0:
            self.run_ns = smoothed(self.run_ns, busy_ns)
        self.last_finish_ns = now_ns
        self.stalled_ns = 0

    def note_time(self, now_ns: int) -> None:
        """A tick. A function looks slower and slower that finishes nothing from one tick to the next and the next.

        One or two say nothing: on a busy machine the node itself may have been late to look for answers.
        """
        since_ns = max(self.last_finish_ns, self.busy_since_ns)
        self.quiet_ticks = self.quiet_ticks + 1 if self.running and since_ns < self.looked_ns else 0
        self.stalled_ns = now_ns - since_ns if self.quiet_ticks >= QUIET_TICKS else 0
        self.looked_ns = now_ns

    @property
    def run_estimate_ns(self) -> int:
        """How long a call keeps its instance busy, as far as that has shown; 0 = not known."""
        return max(self.run_ns, self.stalled_ns) if self.run_ns else 0
