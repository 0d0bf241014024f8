"""What is given up when memory is short: greedy-dual, as in FaasCache (Fuerst and Sharma, ASPLOS '21).

Keeping a function loaded is caching: what is evicted should be what costs least to bring back, per megabyte held and
per use. Each candidate has a priority::

    priority = clock + uses * cost / size

``clock`` is the node's when the candidate was last used, and jumps to the priority of what is evicted: so what is not
used any more ages, however often it was used once. ``uses`` are the calls since the function was last at zero, ``cost``
the time a call would wait without it (ns), ``size`` what evicting it gives back (MB).

Idle instances, sandboxes without instances and generic ones compete in one list: an instance costs a fork, which is a
millisecond, and holds its function's memory; a parked sandbox costs an import, and holds little. So instances go first,
as they should, unless the other function is hardly ever called.

>>> priority(0.0, uses=10, cost_ns=1_000_000, size_mb=128)  # an instance of a busy function
78125.0
>>> priority(0.0, uses=1, cost_ns=200_000_000, size_mb=24)  # a parked one, used once, slow to import
8333333.333333333
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
    coming = sum(i.function.spec.memory_mb for i in pool.instances.values() if i.state is InstanceState.STOPPING)
    coming += overhead * sum(1 for s in pool.sandboxes.values() if s.state is SandboxState.REMOVED)
    if coming >= wanted_mb:
        return
    for worth, _, victim in sorted(_candidates(pool, function), key=lambda each: each[:2]):
        pool.eviction_clock = max(pool.eviction_clock, worth)
        if isinstance(victim, Instance):
            coming += victim.function.spec.memory_mb
            pool.stop(victim, now)
        else:
            coming += overhead
            pool.remove(victim, now)
        if coming >= wanted_mb:
            return


def _candidates(pool: Pool, function: Function) -> list[tuple[float, str, Instance | Sandbox]]:
    found: list[tuple[float, str, Instance | Sandbox]] = []
    for instance in pool.instances.values():
        other = instance.function
        if instance.state is InstanceState.IDLE and other is not function and not _kept(other):
            size = other.spec.memory_mb
            found.append((priority(instance.sandbox.clock, other.uses, FORK_NS, size), instance.id, instance))
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


def _kept(function: Function) -> bool:
    """Whether ``min_instances`` holds on to all that it has."""
    return function.wanted and not function.draining and function.live <= function.spec.min_instances
