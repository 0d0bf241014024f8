"""Namespaces in the pool's books: which functions are whose, and their limits.

Two limits are a namespace's own (``Limit``). ``calls_max`` bounds its calls at once, those that wait included: one more
is refused, nobody is queued for it. ``memory_mb_max`` bounds the memory of its instances: calls wait as they do for any
instance, within the bounds of their function's queue. Both are refused with 429: it is the tenant who can do something.

A third is everybody's: calls that wait hold memory of the node. A namespace may have as many waiting as places are
still free (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", IEEE/ACM ToN
1998): alone it gets half of them, two get a third each, and there is always a place for who has none. That is refused
with 503.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from faas.model.errors import FaasError, NoCapacity, Throttled
from faas.pool import retry
from faas.pool.entities import Function, Tenant
from faas.pool.messages import Limit

if TYPE_CHECKING:
    from faas.pool.pool import Pool


def join(pool: Pool, function: Function) -> None:
    """A function is new to the pool."""
    function.tenant.functions[function.spec.key] = function
    pool.tenants[function.tenant.name] = function.tenant


def leave(pool: Pool, function: Function) -> None:
    """The pool forgets a function; with the last one goes the namespace."""
    tenant = function.tenant
    del tenant.functions[function.spec.key]
    if not tenant.functions:
        del pool.tenants[tenant.name]


def tenant(pool: Pool, name: str) -> Tenant:
    """The namespace of this name, new if it has no function yet."""
    known = pool.tenants.get(name)
    if known is None:
        known = Tenant(name)
        _set(pool, known)
    return known


def limit(pool: Pool, event: Limit) -> None:
    """What holds for a namespace from now on; what it has beyond that is not taken from it."""
    if event.calls_max is None and event.memory_mb_max is None:
        pool.limits.pop(event.namespace, None)
    else:
        pool.limits[event.namespace] = event
    known = pool.tenants.get(event.namespace)
    if known is not None:
        _set(pool, known)


def _set(pool: Pool, known: Tenant) -> None:
    said = pool.limits.get(known.name, Limit(known.name, None, None))
    config = pool.config
    known.calls_max = config.namespace_calls_max if said.calls_max is None else said.calls_max
    known.memory_mb_max = config.namespace_memory_mb_max if said.memory_mb_max is None else said.memory_mb_max
    known.credit = 0


def over_calls(pool: Pool, function: Function, now: int) -> Throttled | None:
    """Why the namespace may not have one call more, if so. Only called where it has a limit.

    Counting its calls takes as long as it has functions, so it is done once for as many calls as may come before the
    limit can be reached at all: ``credit``. Calls that end meanwhile only make it too small.
    """
    known, calls_max = function.tenant, function.tenant.calls_max
    assert calls_max is not None
    if known.credit <= 0:
        known.credit = calls_max - calls(pool, known)
    if known.credit > 0:
        known.credit -= 1
        return None
    waiting = sum(len(each.queue) for each in known.functions.values())
    after_s = retry.after_s(waiting + 1, calls_max, retry.run_ns(known.functions.values(), now))
    return Throttled(
        f"the namespace '{known.name}' has {calls_max} calls at once, which is its limit; call again in {after_s} s, "
        f"or have it raised: faas namespace set {known.name} --max-concurrency {max(1, 2 * calls_max)}",
        after_s,
        namespace=known.name,
        limit="max_concurrency",
    )


def calls(pool: Pool, known: Tenant) -> int:
    """How many calls of the namespace run or wait, in a queue or with an instance."""
    count = sum(each.running + len(each.queue) for each in known.functions.values())
    if pool.ahead:
        count += sum(
            len(i.ahead) for f in known.functions.values() for s in f.sandboxes.values() for i in s.instances.values()
        )
    return count


def over_memory(function: Function, what: str, now: int) -> Throttled:
    """What a call is told that waited for memory which its namespace may not have."""
    known = function.tenant
    needed = max(function.spec.memory_mb, 2 * (known.memory_mb_max or 0))
    return Throttled(
        f"{what} and the namespace '{known.name}' has its limit of {known.memory_mb_max} MB of memory in use "
        f"({function.spec.label} takes {function.spec.memory_mb} MB an instance); call again later, "
        f"or have it raised: faas namespace set {known.name} --memory {needed}MB",
        retry.function_s(function, now)
        if function.serving
        else retry.after_s(1, 1, retry.run_ns(known.functions.values(), now)),
        namespace=known.name,
        limit="memory",
    )


def too_big(function: Function) -> bool:
    """Whether not even one instance fits the namespace's limit: then there is nothing to wait for."""
    memory_mb_max = function.tenant.memory_mb_max
    return memory_mb_max is not None and function.spec.memory_mb > memory_mb_max


def no_place(pool: Pool, function: Function, now: int) -> FaasError | None:
    """Why a call may not wait, if the places on the node are the reason."""
    free = pool.config.waiting_max - pool.queued
    if pool.queued < free:  # so is any one namespace
        return None
    if sum(len(each.queue) for each in function.tenant.functions.values()) < free:
        return None
    return NoCapacity(
        f"{pool.queued} calls are waiting on this node, too many of them of the namespace '{function.tenant.name}'",
        retry.node_s(pool, function, now),
    )
