"""What the pool does because time passes: time limits, cooling down, replenishment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from faas.model.errors import DeadlineExceeded
from faas.pool import admission, growth
from faas.pool.entities import Function, Instance, Sandbox
from faas.pool.eviction import BOOT_NS, EMPTY
from faas.pool.generics import Demand, Kept, generics_kept
from faas.pool.messages import Flavour
from faas.pool.states import InstanceState, SandboxState

if TYPE_CHECKING:
    from faas.pool.pool import Pool

NEVER_NS: Final = 2**63
_SERVING: Final = frozenset({InstanceState.IDLE, InstanceState.BUSY})
BOOTS_AT_ONCE: Final = 2  # of generic sandboxes: those who are called now need the processors too
GENERIC_SHARE: Final = 8  # generic sandboxes that demand asks for get an eighth of the memory budget at most


def notice_gap(pool: Pool, now: int) -> None:
    """A tick that comes much too late: the node stood still, or its machine was suspended, and time has jumped ahead.

    Nobody had that time to do what was asked, so all limits begin anew; and nothing is learned from what spans it.
    """
    if pool.ticked_ns >= 0 and now - pool.ticked_ns > pool.config.gap_ns:
        pool.woke_ns = now
    pool.ticked_ns = now


def awake_since(pool: Pool, since_ns: int, now: int) -> bool:
    """Whether time went by as it should from then to now."""
    return pool.woke_ns <= since_ns and now - max(pool.ticked_ns, since_ns) <= pool.config.gap_ns


def enforce_limits(pool: Pool, now: int) -> None:
    """Nothing outside may keep the pool waiting for ever."""
    config, woke_ns = pool.config, pool.woke_ns
    for sandbox in list(pool.sandboxes.values()):
        age = now - max(sandbox.since_ns, woke_ns)
        if sandbox.state is SandboxState.BOOTING and age > config.boot_limit_ns:
            pool.boots.failed(now, "a sandbox did not start in time")
            pool.remove(sandbox, now)
        elif sandbox.state is SandboxState.BINDING and age > config.init_limit_ns:
            seconds = config.init_limit_ns // 1_000_000_000
            pool.fail_init(sandbox, DeadlineExceeded(f"the function's module took over {seconds} s to load"), now)
        elif sandbox.state is SandboxState.REMOVED:
            if now - max(sandbox.asked_ns, woke_ns) > config.remove_limit_ns:
                sandbox.asked_ns = now
                pool.command_remove(sandbox)
        elif any(_overdue(pool, instance, now) for instance in sandbox.instances.values()):
            pool.remove(sandbox, now)


def _overdue(pool: Pool, instance: Instance, now: int) -> bool:
    """A fork or a stop that its zygote does not carry out means that the sandbox can't be trusted any more."""
    if instance.state in _SERVING:
        return False
    age = now - max(instance.since_ns, pool.woke_ns)
    if instance.state is InstanceState.STOPPING:
        return age > pool.config.stop_limit_ns and not instance.calls
    loading = instance.sandbox.state is SandboxState.BINDING
    return instance.state is InstanceState.STARTING and not loading and age > pool.config.fork_limit_ns


def expire_queues(pool: Pool, now: int) -> None:
    """Refuse calls that waited longer than ``queue_wait_ns``; while an instance is on its way for them, than that and
    ``init_limit_ns``: one that ends as it starts is followed by another, and that may go on for ever.
    """
    limit, longer = pool.config.queue_wait_ns, pool.config.init_limit_ns
    for function in pool.functions.values():
        spare = function.starting * function.spec.concurrency
        while function.queue:
            waited_ns = now - max(function.queue[0].submitted_ns, pool.woke_ns)
            if waited_ns <= limit or (len(function.queue) <= spare and waited_ns <= limit + longer):
                break
            call = function.queue.popleft()
            waited = f"the call waited {(now - call.submitted_ns) // 1_000_000_000} s for an instance"
            pool.reject(call, admission.overload(pool, function, waited, now))


def rest(pool: Pool, function: Function, now: int) -> None:
    """Tell the policy of a function that has come to rest, and do what it says: hold it, let it go, load it again."""
    spec = function.spec
    if spec.keep_alive_ns is not None or spec.min_instances or function.draining:
        return
    if not function.resting:
        idle = not function.running and not function.queue and function.sandboxes
        since_ns = _last_use(function)
        if not idle or now - since_ns < pool.config.rest_ns:
            return
        pool.policy.idle(spec.key, pool.config.sandbox_overhead_mb, spec.memory_mb, since_ns, function.load_ns)
        function.resting, function.review_ns = True, now
    if now >= function.review_ns:
        function.hold, until_ns = pool.policy.decide(spec.key, now)
        function.review_ns = NEVER_NS if until_ns is None else until_ns
        if function.hold and not function.sandboxes and not function.init.failures and not pool.closing:
            function.wanted = True  # pre-warmed: loaded, then parked


def wake(pool: Pool, function: Function, now: int) -> None:
    """A call has come for a function at rest."""
    function.resting, function.hold = False, True
    pool.policy.called(function.spec.key, now)


def _last_use(function: Function) -> int:
    return max([function.last_finish_ns, *(sandbox.used_ns for sandbox in function.sandboxes.values())])


def cool(pool: Pool, function: Function, now: int) -> None:
    """Step by step to zero: idle instances end, the sandbox that has none left is parked, then removed."""
    spec = function.spec
    warm_ns = 0 if function.draining else spec.warm_ns
    if spec.keep_alive_ns is not None:
        warm_ns = min(warm_ns, spec.keep_alive_ns)
    floor = 0 if function.draining or not function.wanted else spec.min_instances
    for instance in list(function.available):
        if function.live <= floor:
            break
        if instance.state is InstanceState.IDLE and (now - instance.since_ns >= warm_ns or not function.hold):
            pool.stop(instance, now)
    for sandbox in list(function.sandboxes.values()):
        if sandbox.instances or sandbox.state not in EMPTY:
            continue
        if floor == 0 and not _held(function, sandbox.used_ns, now):
            pool.remove(sandbox, now)
        elif sandbox.state is SandboxState.BOUND and now - sandbox.empty_ns >= pool.config.park_delay_ns:
            pool.park(sandbox, now)


def _held(function: Function, used_ns: int, now: int) -> bool:
    """Whether a sandbox without instances stays."""
    keep_ns = function.spec.keep_alive_ns
    if function.draining:
        return False
    return function.hold if keep_ns is None else now - used_ns < keep_ns


def generics(pool: Pool, flavour: Flavour, now: int) -> Kept:
    """How many generic sandboxes of a flavour to keep ready now, and why."""
    config = pool.config
    share_mb = config.memory_budget_mb // GENERIC_SHARE
    most = min(config.generic_sandboxes_max, share_mb // max(1, config.sandbox_overhead_mb))
    demand = pool.demand.get(flavour, Demand())
    return generics_kept(demand, now, pool.boot_ns or BOOT_NS, config.generic_sandboxes, most)


def replenish(pool: Pool, now: int) -> None:
    """Keep as many generic sandboxes per flavour in use as demand asks for, and not more for long.

    Not while calls wait for memory: what comes free is theirs.
    """
    if pool.closing or now < pool.boots.until_ns:
        return
    config = pool.config
    starved = pool.queued > 0 and any(f.short_of == "memory" and f.queue for f in pool.functions.values())
    for flavour, not_before in pool.flavours.items():
        ready, coming = generics_there(pool, flavour)
        kept = generics(pool, flavour, now).number
        free = config.memory_budget_mb - pool.memory_mb >= config.sandbox_overhead_mb
        room = free and not starved and not pool.contended
        if now >= not_before and len(ready) + coming < kept and coming < BOOTS_AT_ONCE and room:
            growth.boot(pool, flavour, None, now)
        elif len(ready) > kept and now - ready[0].since_ns >= config.surplus_ns:
            pool.remove(ready[0], now)


def generics_there(pool: Pool, flavour: Flavour) -> tuple[list[Sandbox], int]:
    """The generic sandboxes of a flavour, and how many more are booting that nobody waits for."""
    ready: list[Sandbox] = []
    coming = 0
    for sandbox in pool.sandboxes.values():
        if sandbox.state is SandboxState.GENERIC and sandbox.flavour == flavour:
            ready.append(sandbox)
        elif sandbox.state is SandboxState.BOOTING and sandbox.function is None and sandbox.flavour == flavour:
            coming += 1
    return ready, coming
