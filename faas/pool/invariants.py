"""What must hold between any two steps of the pool; cheap enough to run after each step of a simulation."""

from __future__ import annotations

from faas.pool.entities import Function, Instance
from faas.pool.growth import slots
from faas.pool.pool import Pool
from faas.pool.prefetch import AHEAD_MAX
from faas.pool.states import InstanceState, SandboxState

_UNBOUND = frozenset({SandboxState.BOOTING, SandboxState.GENERIC})
_HOLLOW = frozenset({*_UNBOUND, SandboxState.PARKED, SandboxState.REMOVED})  # may have no instances
_OWNED = frozenset({SandboxState.BINDING, SandboxState.BOUND, SandboxState.PARKED})
_STARTING, _STOPPING = InstanceState.STARTING, InstanceState.STOPPING


def check(pool: Pool) -> None:
    """Raise ``AssertionError`` naming the first invariant that does not hold."""
    _check_memory(pool)
    _check_tenants(pool)
    _check_sandboxes(pool)
    ahead = _check_instances(pool)
    queued = dispatched = 0
    for function in pool.functions.values():
        queued += len(function.queue)
        dispatched += function.running
        _check_function(pool, function)
    assert pool.queued == queued, "queued calls miscounted"
    assert pool.ahead == ahead, f"calls sent ahead miscounted: {pool.ahead}, held {ahead}"
    held = queued + dispatched + ahead
    assert len(pool.calls) == held, f"{len(pool.calls)} calls; {queued} wait, {dispatched} run, {ahead} are sent ahead"


def _check_memory(pool: Pool) -> None:
    held = pool.config.sandbox_overhead_mb * len(pool.sandboxes)
    for instance in pool.instances.values():
        held += instance.function.spec.memory_mb
    for sandbox in pool.sandboxes.values():
        held += sandbox.leaving_mb
    assert pool.memory_mb == held, f"memory counted {pool.memory_mb}, held {held}"
    assert pool.memory_mb <= pool.config.memory_budget_mb, f"{pool.memory_mb} MB is over the budget"


def _check_sandboxes(pool: Pool) -> None:
    instances = 0
    for sandbox in pool.sandboxes.values():
        state, function = sandbox.state, sandbox.function
        instances += len(sandbox.instances)
        if state in _HOLLOW:
            assert not sandbox.instances, f"{sandbox.id} is {state} and has instances"
        if state in _OWNED:
            assert function is not None, f"{sandbox.id} is {state} and nobody's"
            assert function.sandboxes.get(sandbox.id) is sandbox, f"{sandbox.id} is not with its function"
            assert len(sandbox.instances) <= slots(pool, function), f"{sandbox.id}: too many instances"
    assert instances == len(pool.instances), f"{len(pool.instances)} instances, {instances} in sandboxes"


def _check_instances(pool: Pool) -> int:
    """Each is in its sandbox, which is its function's, and available exactly when it has room for a call; the number
    of calls that were sent ahead to them.
    """
    ahead = 0
    for instance in pool.instances.values():
        function, state = instance.function, instance.state
        assert function is instance.sandbox.function, f"{instance.id} serves another function than its sandbox"
        assert instance.sandbox.instances.get(instance.id) is instance, f"{instance.id} is not in its sandbox"
        calls = len(instance.calls)
        if state is _STARTING or state is _STOPPING:
            assert not (calls and state is _STARTING), f"{instance.id} is starting with calls"
            spare = False
        else:
            assert (state is InstanceState.BUSY) == (calls > 0), f"{instance.id} is {state} with {calls} calls"
            spare = calls < function.spec.concurrency
        assert calls <= function.spec.concurrency, f"{instance.id} has {calls} calls"
        assert (instance in function.available) == spare, f"{instance.id}: availability wrong"
        for call in instance.calls.values():
            assert call.instance is instance, f"call {call.id} is lost"
            assert pool.calls.get(call.id) is call, f"call {call.id} is not in the books"
        if instance.ahead:
            ahead += len(instance.ahead)
            _check_ahead(pool, instance)
    return ahead


def _check_ahead(pool: Pool, instance: Instance) -> None:
    assert instance.function.spec.concurrency == 1, f"{instance.id} is sent calls ahead that it would run at once"
    assert len(instance.ahead) <= AHEAD_MAX, f"{instance.id} has {len(instance.ahead)} calls ahead"
    assert instance.calls or instance.state is _STOPPING, f"{instance.id} does not begin its calls"
    for call in instance.ahead:
        assert call.ahead_on is instance, f"call {call.id} is sent ahead elsewhere"
        assert call.instance is None, f"call {call.id} runs and is sent ahead"
        assert pool.calls.get(call.id) is call, f"call {call.id} is not in the books"


def _check_tenants(pool: Pool) -> None:
    held_mb = dict.fromkeys(pool.tenants, 0)
    sandboxes = dict.fromkeys(pool.tenants, 0)
    assert held_mb.keys() == {f.tenant.name for f in pool.functions.values()}, "namespaces without functions"
    for sandbox in pool.sandboxes.values():
        tenant = sandbox.function.tenant if sandbox.function is not None else None
        if tenant is not None and pool.tenants.get(tenant.name) is tenant:
            sandboxes[tenant.name] += sandbox.bound_ns > 0
            held_mb[tenant.name] += sandbox.leaving_mb
    for instance in pool.instances.values():
        held_mb[instance.function.tenant.name] += instance.function.spec.memory_mb
    for tenant in pool.tenants.values():
        held, bound = held_mb[tenant.name], sandboxes[tenant.name]
        assert tenant.instances_mb == held, f"{tenant.name}: memory counted {tenant.instances_mb}, held {held}"
        assert tenant.sandboxes == bound, f"{tenant.name}: {tenant.sandboxes} sandboxes counted, {bound} there"


def _check_function(pool: Pool, function: Function) -> None:
    key = function.spec.key
    starting = serving = running = 0
    for sandbox in function.sandboxes.values():
        for instance in sandbox.instances.values():
            running += len(instance.calls)
            if instance.state is _STARTING:
                starting += 1
            elif instance.state is not _STOPPING:
                serving += 1
    assert function.starting == starting, f"{key}: starting miscounted"
    assert function.serving == serving, f"{key}: serving miscounted"
    assert function.running == running, f"{key}: running {function.running}, held {running}"
    assert function.live <= function.spec.max_instances, f"{key}: {function.live} instances"
    assert not (function.queue and function.available), f"{key}: calls wait while an instance is available"
    if function.queue:
        for call in (function.queue[0], function.queue[-1]):
            assert call.instance is None, f"call {call.id} waits and runs"
            assert call.ahead_on is None, f"call {call.id} waits and is sent ahead"
            assert pool.calls.get(call.id) is call, f"call {call.id} is not in the books"
