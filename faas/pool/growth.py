"""Growing: what is started for calls that wait, as far as the limits allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from faas.model.invocation import StartKind
from faas.pool import contention, eviction
from faas.pool.entities import THREADS_BESIDE_CALLS, Function, Instance, Sandbox
from faas.pool.generics import Demand
from faas.pool.messages import Bind, Boot, Flavour, Fork, Resize
from faas.pool.scaling import BUSY_MIN, instances_wanted
from faas.pool.states import SandboxState

if TYPE_CHECKING:
    from faas.pool.pool import Pool

INSTANCES_MAX: Final = 1_000_000  # of no function so many
_TAKES_FORKS: Final = frozenset({SandboxState.BOUND, SandboxState.BINDING, SandboxState.PARKED})


def steady(function: Function) -> bool:
    """Whether enough is known and running that another waiting call changes nothing before the next ``Tick``."""
    return function.serving >= BUSY_MIN and function.run_ns > 0


def grow(pool: Pool, function: Function, now: int, most: int = INSTANCES_MAX) -> None:
    """Start what the waiting calls need, as far as limits and ``most`` allow; ``short_of`` remembers what stood in
    the way.
    """
    spec = function.spec
    need = min(most, instances_short(pool, function))
    load_only = need <= 0 and function.wanted and not function.sandboxes
    function.short_of = ""
    if need <= 0 and not load_only:
        if function.queue and function.live >= spec.max_instances:
            function.short_of = "max_instances"
        return
    if (function.init.error is not None and now < function.init.until_ns) or now < function.forks.until_ns:
        return
    need = fork_into_own(pool, function, need, now)
    while need > 0 or (load_only and not function.sandboxes):
        sandbox = generic(pool, spec.flavour)
        if sandbox is None:
            reserve_boots(pool, function, need, now)
            return
        fits = affordable(pool, function, min(need, slots(pool, function)), 0, now)
        if fits == 0 and not load_only:
            return
        if not bindable(sandbox):
            continue
        waited = bool(function.queue) and function.queue[0].submitted_ns < sandbox.since_ns  # for it to boot
        bind(pool, sandbox, function, fits, StartKind.COLD if waited else StartKind.PREWARMED, now)
        pool.demand[spec.flavour] = pool.demand.get(spec.flavour, Demand()).taken(now)
        if fits == 0:
            return
        need -= fits


def instances_short(pool: Pool, function: Function) -> int:
    spec = function.spec
    wanted = instances_wanted(
        function.serving,
        len(function.queue),
        spec.concurrency,
        function.run_estimate_ns,
        pool.config.wait_goal_ns,
    )
    if function.wanted and not function.draining:
        wanted = max(wanted, spec.min_instances)
    return min(wanted, spec.max_instances) - function.live


def slots(pool: Pool, function: Function) -> int:
    """How many instances a sandbox of this function may have, for their number and for their threads; at least 1."""
    config, spec = pool.config, function.spec
    threads = config.sandbox_threads_max // (spec.concurrency + THREADS_BESIDE_CALLS)
    return max(1, min(config.sandbox_slots_max, spec.max_instances, threads))


def fork_into_own(pool: Pool, function: Function, need: int, now: int) -> int:
    """Fork in sandboxes that are the function's own, parked ones last; how many are still missing."""
    for sandbox in sorted(function.sandboxes.values(), key=_parked):
        if need <= 0 or function.short_of:
            break
        if sandbox.state not in _TAKES_FORKS:
            continue
        free = slots(pool, function) - len(sandbox.instances)
        count = affordable(pool, function, min(need, free), 0, now) if free > 0 else 0
        if count > 0:
            kind, asked = StartKind.WARM, now
            if sandbox.state is SandboxState.BINDING:
                kind, asked = sandbox.kind, sandbox.bound_ns
            elif sandbox.state is SandboxState.PARKED:
                kind = StartKind.PARKED
                pool.resume(sandbox, now)
            ids = make_instances(pool, sandbox, function, count, kind, asked, now)
            pool.emit(Fork(sandbox.id, ids))
            need -= count
    return 0 if function.short_of else need


def _parked(sandbox: Sandbox) -> bool:
    return sandbox.state is SandboxState.PARKED


def generic(pool: Pool, flavour: Flavour) -> Sandbox | None:
    for sandbox in pool.sandboxes.values():
        if sandbox.state is SandboxState.GENERIC and sandbox.flavour == flavour:
            return sandbox
    return None


def bindable(sandbox: Sandbox) -> bool:
    """Whether it is generic still: looking for memory may have cost it itself."""
    return sandbox.state is SandboxState.GENERIC


def bind(pool: Pool, sandbox: Sandbox, function: Function, count: int, kind: StartKind, now: int) -> None:
    sandbox.move(SandboxState.BINDING, now)
    sandbox.function = function
    sandbox.kind = kind
    sandbox.bound_ns = sandbox.used_ns = sandbox.empty_ns = now
    function.sandboxes[sandbox.id] = sandbox
    function.tenant.sandboxes += 1
    ids = make_instances(pool, sandbox, function, count, kind, now, now)
    pool.emit(Bind(sandbox.id, function.spec.key, ids))
    pool.flavours[sandbox.flavour] = now + pool.config.replenish_delay_ns


def make_instances(
    pool: Pool, sandbox: Sandbox, function: Function, count: int, kind: StartKind, asked: int, now: int
) -> tuple[str, ...]:
    ids = []
    for _ in range(count):
        pool.serial += 1
        instance = Instance(f"{sandbox.id}-{pool.serial}", sandbox, function, now, kind, asked)
        sandbox.instances[instance.id] = pool.instances[instance.id] = instance
        ids.append(instance.id)
    function.starting += count
    pool.memory_mb += count * function.spec.memory_mb
    function.tenant.instances_mb += count * function.spec.memory_mb
    if count:
        pool.emit(Resize(sandbox.id, len(sandbox.instances) * function.spec.memory_mb))
    return tuple(ids)


def reserve_boots(pool: Pool, function: Function, need: int, now: int) -> None:
    """Have as many sandboxes booting for this function as its missing instances need; what these will take is its."""
    each = slots(pool, function)
    wanted = max(1, -(-need // each))
    function.short_of, function.short_by = "boot", need
    pool.contended = len(pool.tenants) > 1
    booting = [s for s in pool.sandboxes.values() if s.state is SandboxState.BOOTING]
    wanted -= sum(1 for s in booting if s.function is function)
    for sandbox in booting:
        if wanted <= 0:
            return
        if sandbox.function is None and sandbox.flavour == function.spec.flavour:
            sandbox.function = function
            wanted -= 1
            _lacked(pool, sandbox.flavour, now)
    while wanted > 0 and now >= pool.boots.until_ns and affordable(pool, function, 1, 1, now) > 0:
        boot(pool, function.spec.flavour, function, now)
        wanted -= 1
        _lacked(pool, function.spec.flavour, now)


def _lacked(pool: Pool, flavour: Flavour, now: int) -> None:
    """A generic sandbox was wanted and none was ready: one is on its way for that alone."""
    pool.demand[flavour] = pool.demand.get(flavour, Demand()).lacked(now)


def boot(pool: Pool, flavour: Flavour, function: Function | None, now: int) -> None:
    """Command a new sandbox, reserved for ``function`` unless None."""
    sandbox = Sandbox(pool.new_id(), flavour, now, pool.generic, function=function)
    pool.sandboxes[sandbox.id] = sandbox
    pool.memory_mb += pool.config.sandbox_overhead_mb
    pool.emit(Boot(sandbox.id, flavour))


def affordable(pool: Pool, function: Function, instances: int, sandboxes: int, now: int) -> int:
    """How many of ``instances`` there is memory for, in the node's budget and in its namespace's limit; asks idle ones
    elsewhere to make room for the rest.
    """
    tenant, each = function.tenant, function.spec.memory_mb
    if tenant.memory_mb_max is not None and tenant.instances_mb + instances * each > tenant.memory_mb_max:
        function.short_of = "namespace"
        eviction.make_own_room(pool, function, tenant.instances_mb + instances * each - tenant.memory_mb_max, now)
        instances = max(0, (tenant.memory_mb_max - tenant.instances_mb) // each)
        if instances == 0:
            return 0
    fixed = sandboxes * pool.config.sandbox_overhead_mb
    free = contention.may_take_mb(pool, tenant, instances * each + fixed) - fixed
    fits = max(0, min(instances, free // each))
    if fits < instances:
        function.short_of = "memory"
        function.short_by = instances - fits
        pool.contended = len(pool.tenants) > 1
        if not contention.must_wait(pool, tenant):
            eviction.make_room(pool, function, instances * each - free, now)
    return fits


def share_out(pool: Pool, now: int) -> None:
    """Memory may have come free while namespaces compete: an instance at a time, by turns, to those who wait."""
    helped_not: set[str] = set()
    while waiting := contention.heads(pool, helped_not):
        costs = {name: contention.cost_mb(pool, function) for name, function in waiting.items()}
        able = [name for name in costs if costs[name] <= contention.may_take_mb(pool, pool.tenants[name], costs[name])]
        name = pool.turns.next(costs, able)
        if name is None:
            break
        function, before = waiting[name], pool.memory_mb
        grow(pool, function, now, most=1)
        if pool.memory_mb == before:
            helped_not.add(function.spec.key)
        elif function.queue and not function.short_of and instances_short(pool, function) > 0:
            function.short_of = "memory"
    pool.contended = len(pool.tenants) > 1 and any(contention.claims(function) for function in pool.functions.values())
