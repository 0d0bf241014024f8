"""What must hold between any two steps of the pool; cheap enough to run after each step of a simulation."""

from __future__ import annotations

from faas.pool.entities import Function
from faas.pool.growth import slots
from faas.pool.pool import Pool
from faas.pool.prefetch import AHEAD_MAX
from faas.pool.states import InstanceState, SandboxState


def check(pool: Pool) -> None:
    """Raise ``AssertionError`` naming the first invariant that does not hold."""
    overhead = pool.config.sandbox_overhead_mb * len(pool.sandboxes)
    held = sum(i.function.spec.memory_mb for i in pool.instances.values())
    assert pool.memory_mb == overhead + held, f"memory counted {pool.memory_mb}, held {overhead + held}"
    assert pool.memory_mb <= pool.config.memory_budget_mb, f"{pool.memory_mb} MB is over the budget"
    assert pool.queued == sum(len(f.queue) for f in pool.functions.values()), "queued calls miscounted"
    assert pool.ahead == sum(len(i.ahead) for i in pool.instances.values()), "calls sent ahead miscounted"
    _check_tenants(pool)
    for sandbox in pool.sandboxes.values():
        unbound = (SandboxState.BOOTING, SandboxState.GENERIC)
        if sandbox.state in unbound:
            assert not sandbox.instances, f"{sandbox.id} is {sandbox.state} and has instances"
        for instance in sandbox.instances.values():
            assert instance.function is sandbox.function, f"{instance.id} serves another function than its sandbox"
            assert pool.instances.get(instance.id) is instance, f"{instance.id} is not in the pool's books"
    for call in pool.calls.values():
        places = (
            call.instance is not None and call.instance.calls.get(call.id) is call,
            call.ahead_on is not None and call in call.ahead_on.ahead,
            call in call.function.queue,
        )
        assert sum(places) == 1, f"call {call.id} is in {sum(places)} places"
    for function in pool.functions.values():
        _check_function(pool, function)


def _check_tenants(pool: Pool) -> None:
    assert {t.name for t in pool.tenants.values()} == {f.tenant.name for f in pool.functions.values()}
    for tenant in pool.tenants.values():
        own = [i for i in pool.instances.values() if i.function.tenant is tenant]
        assert tenant.instances_mb == sum(i.function.spec.memory_mb for i in own), f"{tenant.name}: memory miscounted"
        bound = [s for s in pool.sandboxes.values() if s.function is not None and s.function.tenant is tenant]
        counted = sum(s.bound_ns > 0 for s in bound)
        assert tenant.sandboxes == counted, f"{tenant.name}: {tenant.sandboxes} sandboxes counted, {counted} there"


def _check_function(pool: Pool, function: Function) -> None:
    key = function.spec.key
    own = [i for i in pool.instances.values() if i.function is function]
    assert function.starting == sum(i.state is InstanceState.STARTING for i in own), f"{key}: starting miscounted"
    serving = sum(i.state in (InstanceState.IDLE, InstanceState.BUSY) for i in own)
    assert function.serving == serving, f"{key}: serving miscounted"
    assert function.live <= function.spec.max_instances, f"{key}: {function.live} instances"
    assert not (function.queue and function.available), f"{key}: calls wait while an instance is available"
    running = sum(len(i.calls) for i in own)
    assert function.running == running, f"{key}: running {function.running}, held {running}"
    for instance in own:
        spare = instance.state in (InstanceState.IDLE, InstanceState.BUSY) and (
            len(instance.calls) < function.spec.concurrency
        )
        assert (instance in function.available) == spare, f"{instance.id}: availability wrong"
        if instance.ahead:
            assert function.spec.concurrency == 1, f"{instance.id} is sent calls ahead that it would run at once"
            assert len(instance.ahead) <= AHEAD_MAX, f"{instance.id} has {len(instance.ahead)} calls ahead"
            assert instance.calls or instance.state is InstanceState.STOPPING, f"{instance.id} does not begin its calls"
        assert (instance.state is InstanceState.BUSY) >= bool(instance.calls) or (
            instance.state is InstanceState.STOPPING
        ), f"{instance.id} is {instance.state} with calls"
    for sandbox in function.sandboxes.values():
        if sandbox.state is SandboxState.PARKED:
            assert not sandbox.instances, f"{sandbox.id} is parked with instances"
        assert len(sandbox.instances) <= slots(pool, function), f"{sandbox.id}: too many instances"
