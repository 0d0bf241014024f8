"""What is given up when memory is short: greedy-dual, as in FaasCache (Fuerst and Sharma, ASPLOS '21).

Keeping a function loaded is caching: what is evicted should be what costs least to bring back, per megabyte held and
per use. Each candidate has a priority::

    priority = clock + uses * cost / size

``clock`` is the node's when the candidate was last used, and jumps to the priority of what is evicted: so what is not
used any more ages, however often it was used once. ``uses`` are the calls since the function was last at zero, ``cost``
the time a call would wait without it (ns), ``size`` what evicting it gives back (MB).

Idle instances, sandboxes without instances and generic ones compete in one list: an instance costs a fork, which is a
millisecond, and holds its function's memory; a parked sandbox costs an import, and holds little. So instances go first,
as they should, unless the other function is hardly ever called. Where the node knows several namespaces, what belongs
to those that hold more than an even part of its memory goes before all else.

>>> priority(0.0, uses=10, cost_ns=1_000_000, size_mb=128)  # an instance of a busy function
78125.0
>>> priority(0.0, uses=1, cost_ns=200_000_000, size_mb=24)  # a parked one, used once, slow to import
8333333.333333333
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from faas.pool import contention
from faas.pool.entities import Function, Instance, Sandbox
from faas.pool.messages import Flavour
from faas.pool.states import InstanceState, SandboxState

if TYPE_CHECKING:
    from faas.pool.pool import Pool

BOOT_NS: Final = 250_000_000  # of a container
FORK_NS: Final = 1_300_000  # a fork, its dial and its first answer
LOAD_NS: Final = 20_000_000  # of a function whose load was never measured
EMPTY: Final = frozenset({SandboxState.BOUND, SandboxState.PARKED})


def priority(clock: float, uses: int, cost_ns: int, size_mb: int) -> float:
    """See the module's docstring."""
    return clock + uses * cost_ns / max(1, size_mb)


def make_room(pool: Pool, function: Function, wanted_mb: int, now: int) -> None:
    """Evict, from other functions, what has the least priority until ``wanted_mb`` is on its way back."""
    overhead = pool.config.sandbox_overhead_mb
    coming = contention.coming_mb(pool, now)
    if coming >= wanted_mb:
        return
    part = contention.even_part_mb(pool)
    spare_mb = contention.spare_mb(pool, function.tenant, part)
    ranked = [(_within(pool, each[2], part), *each) for each in _candidates(pool, function)]
    for within, worth, _, victim in sorted(ranked, key=lambda each: each[:3]):
        size = victim.function.spec.memory_mb if isinstance(victim, Instance) else overhead
        if within and victim.function is not None and victim.function.tenant is not function.tenant:
            if size > spare_mb:
                continue
            spare_mb -= size
        pool.eviction_clock = max(pool.eviction_clock, worth)
        coming += size
        if isinstance(victim, Instance):
            pool.stop(victim, now)
        else:
            pool.remove(victim, now)
        if coming >= wanted_mb:
            return


def make_own_room(pool: Pool, function: Function, wanted_mb: int, now: int) -> None:
    """The namespace has reached its own limit: idle instances of its other functions go until ``wanted_mb`` is on its
    way back.
    """
    own = [
        i
        for other in function.tenant.functions.values()
        for s in other.sandboxes.values()
        for i in s.instances.values()
    ]
    coming = sum(i.function.spec.memory_mb for i in own if i.state is InstanceState.STOPPING)
    for _, _, victim in sorted(_idle(own, function), key=lambda each: each[:2]):
        if coming >= wanted_mb:
            return
        coming += victim.function.spec.memory_mb
        pool.stop(victim, now)


def _within(pool: Pool, victim: Instance | Sandbox, part_mb: int) -> bool:
    """Whether what may be evicted belongs to nobody, or to a namespace that holds no more than others would."""
    owner = victim.function
    return owner is None or contention.held_mb(pool, owner.tenant) <= part_mb


def _idle(instances: Iterable[Instance], but: Function) -> Iterator[tuple[float, str, Instance]]:
    for instance in instances:
        other = instance.function
        if instance.state is InstanceState.IDLE and other is not but and not contention.kept(other):
            worth = priority(instance.sandbox.clock, other.uses, FORK_NS, other.spec.memory_mb)
            yield worth, instance.id, instance


def _candidates(pool: Pool, function: Function) -> list[tuple[float, str, Instance | Sandbox]]:
    found: list[tuple[float, str, Instance | Sandbox]] = [*_idle(pool.instances.values(), function)]
    overhead = pool.config.sandbox_overhead_mb
    seen: set[Flavour] = set()
    for sandbox in pool.sandboxes.values():
        owner = sandbox.function
        if sandbox.state is SandboxState.GENERIC:
            # The first of a flavour saves the next new function a boot; the function that asks may need it itself.
            first, own = sandbox.flavour not in seen, sandbox.flavour == function.spec.flavour
            seen.add(sandbox.flavour)
            if not (first and own and not function.sandboxes):
                found.append((priority(0.0, int(first), BOOT_NS, overhead), sandbox.id, sandbox))
        if sandbox.state in EMPTY and not sandbox.instances and owner is not None and owner is not function:
            cost = owner.load_ns or LOAD_NS
            found.append((priority(sandbox.clock, owner.uses, cost, overhead), sandbox.id, sandbox))
    return found
