"""Namespaces that want the same memory: who wants how much, who may take, who has to give back.

The rules are ``fairness``'s; this applies them to the pool's books. Nothing here runs while memory is not short or the
node knows one namespace alone: ``Pool.contended`` says that calls wait for memory and more than one is known.

What is promised, of namespaces without ``min_instances`` (those are never given to others):

1. A namespace that holds nothing is given its first instance at once, if the reserve (an eighth of the memory) holds
   it and others below their share have not just taken it.
2. A namespace whose calls wait, and that would be within its share with one instance more, is given that instance as
   soon as enough of the calls have ended that run on instances of those above theirs. These have no say in it and get
   nothing of it meanwhile. So it waits for the longest timeout among those calls at most, plus the pool's own limits
   for stopping (``stop_limit_ns``) and starting.
3. Of two that want more than their share, both get what comes free by turns.
4. What is given up for others is that of namespaces above their share first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from faas.pool.entities import Function, Instance, Tenant
from faas.pool.fairness import RESERVE_PART, allowance, share
from faas.pool.states import InstanceState, SandboxState

if TYPE_CHECKING:
    from faas.pool.pool import Pool

_CLAIMS: Final = frozenset({"memory", "boot"})


def held_mb(pool: Pool, tenant: Tenant) -> int:
    return tenant.held_mb(pool.config.sandbox_overhead_mb)


def share_mb(pool: Pool) -> int:
    """What each namespace that wants memory is to have. Where others are known, the reserve is not shared out."""
    budget = pool.config.memory_budget_mb
    wanting = sum(tenant.wants for tenant in pool.tenants.values())
    return share(budget - budget // RESERVE_PART if wanting < len(pool.tenants) else budget, wanting)


def may_take_mb(pool: Pool, tenant: Tenant, wanted_mb: int) -> int:
    """How much of the memory that is free the namespace may have now; ``wanted_mb`` is what it asks for."""
    budget = pool.config.memory_budget_mb
    free = budget - pool.memory_mb
    reserve = budget // RESERVE_PART
    if len(pool.tenants) < 2 or (free - wanted_mb >= reserve and not pool.contended):
        return free
    part = share_mb(pool)
    return allowance(free, held_mb(pool, tenant), part, max(reserve, claimed_mb(pool, tenant, part)))


def must_wait(pool: Pool, tenant: Tenant) -> bool:
    """Whether the namespace is above its share while another waits for its own."""
    if not pool.contended:
        return False
    part = share_mb(pool)
    return held_mb(pool, tenant) > part and claimed_mb(pool, tenant, part) > 0


def even_part_mb(pool: Pool) -> int:
    """What each namespace would hold if all held alike that hold or want any."""
    those = sum(tenant.wants or tenant.sandboxes > 0 for tenant in pool.tenants.values())
    return share(pool.config.memory_budget_mb, those)


def spare_mb(pool: Pool, tenant: Tenant, part_mb: int) -> int:
    """How much a namespace may have evicted of what those hold that hold no more than ``part_mb``: all of it, unless it
    holds more than that itself; then what they have beyond the reserve.
    """
    if held_mb(pool, tenant) <= part_mb:
        return pool.config.memory_budget_mb
    others = sum(
        held for each in pool.tenants.values() if each is not tenant and (held := held_mb(pool, each)) <= part_mb
    )
    return others - pool.config.memory_budget_mb // RESERVE_PART


def waits_for_memory(function: Function) -> bool:
    return function.short_of == "memory" and bool(function.queue)


def claims(function: Function) -> bool:
    """Whether it is to have memory: it waits for some, or for a sandbox to boot and will then want some."""
    return function.short_of in _CLAIMS and bool(function.queue)


def cost_mb(pool: Pool, function: Function) -> int:
    """What another instance takes, in the dearest case: with a sandbox of its own."""
    return function.spec.memory_mb + pool.config.sandbox_overhead_mb


def claimed_mb(pool: Pool, but: Tenant, part_mb: int) -> int:
    """What other namespaces wait for that would still be within their share with it."""
    claimed = 0
    for tenant in pool.tenants.values():
        if tenant is not but:
            held = held_mb(pool, tenant)
            for function in tenant.functions.values():
                if claims(function):
                    each, overhead = function.spec.memory_mb, pool.config.sandbox_overhead_mb
                    count = min(function.short_by, (part_mb - held - overhead) // each)
                    if count > 0:
                        held += count * each + overhead
                        claimed += count * each + overhead
    return claimed


def coming_mb(pool: Pool, now: int, *, late: bool = False) -> int:
    """Memory that is on its way back and may be counted on: not what the engine has not let go of in time, which may
    never come; what calls hold that still run, maybe for long, only if ``late``.
    """
    overhead, since_ns = pool.config.sandbox_overhead_mb, now - pool.config.remove_limit_ns
    stopping = (i for i in pool.instances.values() if i.state is InstanceState.STOPPING and (late or not i.calls))
    removed = (s for s in pool.sandboxes.values() if s.state is SandboxState.REMOVED and s.since_ns >= since_ns)
    return sum(i.function.spec.memory_mb for i in stopping) + sum(overhead + s.leaving_mb for s in removed)


def kept(function: Function) -> bool:
    """Whether ``min_instances`` holds on to all that it has."""
    return function.wanted and not function.draining and function.live <= function.spec.min_instances


def call_ended(pool: Pool, instance: Instance, now: int) -> None:
    """A call has ended while namespaces compete: the instance goes if its namespace is to give something back."""
    tenant = instance.function.tenant
    part = share_mb(pool)
    if held_mb(pool, tenant) <= part or kept(instance.function):
        return
    claimed = claimed_mb(pool, tenant, part)
    if claimed > 0 and claimed > pool.config.memory_budget_mb - pool.memory_mb + coming_mb(pool, now, late=True):
        pool.give_up(instance, now)


def heads(pool: Pool, without: set[str]) -> dict[str, Function]:
    """Of each namespace that waits for memory, the function whose call has waited longest."""
    found: dict[str, Function] = {}
    for tenant in pool.tenants.values():
        waiting = [f for f in tenant.functions.values() if waits_for_memory(f) and f.spec.key not in without]
        if waiting:
            found[tenant.name] = min(waiting, key=lambda f: f.queue[0].submitted_ns)
    return found
