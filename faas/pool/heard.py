"""What the pool hears of sandboxes and instances, and does about it. The verbs are ``Pool``'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faas.model.invocation import StartKind
from faas.pool import growth, upkeep
from faas.pool.admission import init_crash
from faas.pool.entities import Function
from faas.pool.messages import (
    InitFailed,
    InstanceDown,
    InstanceUp,
    Resize,
    SandboxDown,
    SandboxLost,
    SandboxReady,
    SandboxUp,
)
from faas.pool.scaling import smoothed
from faas.pool.states import InstanceState, SandboxState

if TYPE_CHECKING:
    from faas.pool.pool import Pool


def sandbox_up(pool: Pool, event: SandboxUp, now: int) -> None:
    sandbox = pool.sandboxes.get(event.sandbox)
    if sandbox is None or sandbox.state is not SandboxState.BOOTING:
        return
    pool.boots.succeeded()
    if upkeep.awake_since(pool, sandbox.since_ns, now):
        pool.boot_ns = smoothed(pool.boot_ns, now - sandbox.since_ns)
    function, sandbox.function = sandbox.function, None
    sandbox.move(SandboxState.GENERIC, now)
    if function is None:
        return
    need = growth.instances_short(pool, function)
    if need <= 0 and not (function.wanted and not function.sandboxes):
        return
    fits = growth.affordable(pool, function, min(max(need, 0), growth.slots(pool, function)), 0, now)
    if (fits > 0 or need <= 0) and growth.bindable(sandbox):
        growth.bind(pool, sandbox, function, fits, StartKind.COLD, now)


def sandbox_ready(pool: Pool, event: SandboxReady, now: int) -> None:
    sandbox = pool.sandboxes.get(event.sandbox)
    if sandbox is None or sandbox.state is not SandboxState.BINDING or sandbox.function is None:
        return
    sandbox.move(SandboxState.BOUND, now)
    sandbox.clock = pool.eviction_clock
    if upkeep.awake_since(pool, sandbox.bound_ns, now):
        sandbox.function.load_ns = now - sandbox.bound_ns
    sandbox.function.recalls = event.recalls
    sandbox.function.init.succeeded()
    sandbox.function.wanted = sandbox.function.spec.min_instances > 0
    growth.grow(pool, sandbox.function, now)


def init_failed(pool: Pool, event: InitFailed, now: int) -> None:
    sandbox = pool.sandboxes.get(event.sandbox)
    if sandbox is not None and sandbox.state is SandboxState.BINDING:
        pool.fail_init(sandbox, event.error, now)


def instance_up(pool: Pool, event: InstanceUp, now: int) -> None:
    instance = pool.instances.get(event.instance)
    if instance is None or instance.state is not InstanceState.STARTING:
        return
    function = instance.function
    instance.move(InstanceState.IDLE, now)
    instance.up_ns = now
    function.forks.succeeded()
    function.starting -= 1
    function.serving += 1
    function.available.append(instance)
    pool.serve(function, now)


def instance_down(pool: Pool, event: InstanceDown, now: int) -> None:
    instance = pool.instances.get(event.instance)
    if instance is None:
        return
    function = instance.function
    if instance.state is InstanceState.STARTING and function.serving == 0:
        function.forks.failed(now, f"its instances end before they serve ({event.exit or event.cause.value})")
    pool.drop_instance(instance, event.cause, event.exit, now, event.unbegun)
    if instance.sandbox.state in (SandboxState.BOUND, SandboxState.BINDING):
        pool.emit(Resize(instance.sandbox.id, len(instance.sandbox.instances) * function.spec.memory_mb))
    after_release(pool, function, now)


def sandbox_lost(pool: Pool, event: SandboxLost | SandboxDown, now: int) -> None:
    sandbox = pool.sandboxes.get(event.sandbox)
    if sandbox is None or sandbox.state is SandboxState.REMOVED:
        return
    function = sandbox.function
    if sandbox.state is SandboxState.BINDING:
        assert function is not None
        pool.fail_init(sandbox, init_crash(function.spec, event.cause, event.reason), now)
        return
    if sandbox.state is SandboxState.BOOTING:
        pool.boots.failed(now, event.reason)
    pool.remove(sandbox, now, event.cause, event.reason)
    if function is not None and function.queue:
        growth.grow(pool, function, now)


def sandbox_down(pool: Pool, event: SandboxDown, now: int) -> None:
    sandbox = pool.sandboxes.get(event.sandbox)
    if sandbox is None:
        return
    sandbox_lost(pool, event, now)
    del pool.sandboxes[sandbox.id]
    pool.memory_mb -= pool.config.sandbox_overhead_mb + sandbox.leaving_mb
    if sandbox.function is not None:
        sandbox.function.tenant.sandboxes -= sandbox.bound_ns > 0
        sandbox.function.tenant.instances_mb -= sandbox.leaving_mb
    after_release(pool, sandbox.function, now)


def after_release(pool: Pool, function: Function | None, now: int) -> None:
    """Memory came free: by turns where namespaces compete; else first the function it belonged to."""
    if pool.contended:
        growth.share_out(pool, now)
    if function is not None and function.queue:
        growth.grow(pool, function, now)
    if pool.queued:
        for other in pool.functions.values():
            if other.short_of and other is not function and other.queue:
                growth.grow(pool, other, now)
