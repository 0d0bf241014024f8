"""What the pool does because time passes or room is short: time limits, cooling down, eviction, replenishment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faas.model.errors import DeadlineExceeded
from faas.pool import growth
from faas.pool.entities import Function, Instance, Sandbox
from faas.pool.states import InstanceState, SandboxState

if TYPE_CHECKING:
    from faas.pool.pool import Pool


def enforce_limits(pool: Pool, now: int) -> None:
    """Nothing outside may keep the pool waiting for ever."""
    config = pool.config
    for sandbox in list(pool.sandboxes.values()):
        age = now - sandbox.since_ns
        if sandbox.state is SandboxState.BOOTING and age > config.boot_limit_ns:
            pool.boots.failed(now, "a sandbox did not start in time")
            pool.remove(sandbox, now)
        elif sandbox.state is SandboxState.BINDING and age > config.init_limit_ns:
            seconds = config.init_limit_ns // 1_000_000_000
            pool.fail_init(sandbox, DeadlineExceeded(f"the function's module took over {seconds} s to load"), now)
        elif sandbox.state is SandboxState.REMOVED and age > config.remove_limit_ns:
            sandbox.since_ns = now
            pool.command_remove(sandbox)
        elif any(_overdue(pool, instance, now) for instance in sandbox.instances.values()):
            pool.remove(sandbox, now)


def _overdue(pool: Pool, instance: Instance, now: int) -> bool:
    """A fork or a stop that its zygote does not carry out means that the sandbox can't be trusted any more."""
    age = now - instance.since_ns
    if instance.state is InstanceState.STOPPING:
        return age > pool.config.stop_limit_ns
    loading = instance.sandbox.state is SandboxState.BINDING
    return instance.state is InstanceState.STARTING and not loading and age > pool.config.fork_limit_ns


def expire_queues(pool: Pool, now: int) -> None:
    """Refuse calls that waited longer than ``queue_wait_ns``, unless an instance is on its way for them."""
    limit = pool.config.queue_wait_ns
    for function in pool.functions.values():
        spare = function.starting * function.spec.concurrency
        while len(function.queue) > spare and now - function.queue[0].submitted_ns > limit:
            call = function.queue.popleft()
            waited = f"the call waited {(now - call.submitted_ns) // 1_000_000_000} s for an instance"
            pool.reject(call, pool.overload(function, waited))


def cool(pool: Pool, function: Function, now: int) -> None:
    """Idle instances end after the keep-alive, then the sandbox that has none left: down to zero."""
    keep_ns = 0 if function.draining else function.spec.keep_alive_ns
    floor = 0 if function.draining or not function.wanted else function.spec.min_instances
    for instance in list(function.available):
        if function.live <= floor:
            break
        if instance.state is InstanceState.IDLE and now - instance.since_ns >= keep_ns:
            pool.stop(instance, now)
    for sandbox in list(function.sandboxes.values()):
        if (
            sandbox.state is SandboxState.BOUND
            and not sandbox.instances
            and now - sandbox.used_ns >= keep_ns
            and floor == 0
        ):
            pool.remove(sandbox, now)


def make_room(pool: Pool, function: Function, wanted_mb: int, now: int) -> None:
    """Evict what has been idle longest, elsewhere, until ``wanted_mb`` is on its way back."""
    coming = sum(i.function.spec.memory_mb for i in pool.instances.values() if i.state is InstanceState.STOPPING)
    coming += pool.config.sandbox_overhead_mb * sum(
        1 for s in pool.sandboxes.values() if s.state is SandboxState.REMOVED
    )
    idle: list[tuple[int, str, Instance | Sandbox]] = [
        (i.since_ns, i.id, i)
        for i in pool.instances.values()
        if i.state is InstanceState.IDLE and i.function is not function
    ]
    idle += [
        (s.used_ns, s.id, s)
        for s in pool.sandboxes.values()
        if s.state is SandboxState.BOUND and not s.instances and s.function is not function
    ]
    for _, _, victim in sorted(idle, key=lambda item: item[:2]):
        if coming >= wanted_mb:
            return
        if isinstance(victim, Instance):
            coming += victim.function.spec.memory_mb
            pool.stop(victim, now)
        else:
            coming += pool.config.sandbox_overhead_mb
            pool.remove(victim, now)


def replenish(pool: Pool, now: int) -> None:
    """Keep the set number of generic sandboxes per flavour in use, one boot at a time each."""
    if pool.closing or now < pool.boots.until_ns:
        return
    for flavour, not_before in pool.flavours.items():
        spare = [
            s
            for s in pool.sandboxes.values()
            if s.flavour == flavour
            and (s.state is SandboxState.GENERIC or (s.state is SandboxState.BOOTING and s.function is None))
        ]
        room = pool.config.memory_budget_mb - pool.memory_mb >= pool.config.sandbox_overhead_mb
        if now >= not_before and len(spare) < pool.config.generic_sandboxes and room:
            growth.boot(pool, flavour, None, now)
