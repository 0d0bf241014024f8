"""What is held while it serves nothing, in memory times time, exactly.

Spans are added up where a state is left, not sampled: a call adds one subtraction and one addition. What has not ended
yet is counted as far as it has come whenever somebody asks (``take``). Each answer is what was added since the last:
however often that is, the answers add up to the same.

* idle: instances that wait for a call, each with its function's memory. Those that ``min_instances`` keeps included.
* parked: loaded sandboxes without an instance, each with what an empty sandbox counts in the node's books.
* provisioned: serving instances, idle or busy, but no more of them than ``min_instances``: what is kept is paid, and
  what could not be kept is not.
* generic: sandboxes that belong to nobody yet, under the label "".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from faas.pool.states import InstanceState, SandboxState

if TYPE_CHECKING:
    from faas.pool.entities import Function, Sandbox
    from faas.pool.pool import Pool

NOBODY: Final = ""


class Held(NamedTuple):
    """What a function version has held since it was last asked, in MB times ns."""

    label: str  # namespace/name@version
    idle_mb_ns: int = 0
    parked_mb_ns: int = 0
    provisioned_mb_ns: int = 0
    generic_mb_ns: int = 0


class Holding:
    """The spans of one function; and of generic sandboxes, which have ``waiting_ns`` alone.

    Worked example: with a floor of 1, two instances serve from 0 to 100 ns, then one until 300: 300 are provisioned.

    >>> holding = Holding()
    >>> holding.serve(1, 1, 0); holding.serve(1, 1, 0); holding.serve(-1, 1, 100)
    >>> holding.provisioned(1, 300)
    300
    """

    __slots__ = ("_at_ns", "_provisioned_ns", "_serving", "idle_ns", "told", "waiting_ns")

    def __init__(self) -> None:
        self.idle_ns = 0  # of instances that are idle no more
        self.waiting_ns = 0  # of sandboxes that are parked, or generic, no more
        self.told = (0, 0, 0)
        self._serving = 0
        self._provisioned_ns = 0
        self._at_ns = 0  # up to when that counts

    def serve(self, change: int, floor: int, now_ns: int) -> None:
        """From now on so many instances more serve; up to now the floor was ``floor``."""
        self._provisioned_ns = self.provisioned(floor, now_ns)
        self._at_ns = now_ns
        self._serving += change

    def provisioned(self, floor: int, now_ns: int) -> int:
        """Instance times ns, so far."""
        return self._provisioned_ns + min(self._serving, floor) * (now_ns - self._at_ns)


def take(pool: Pool, now: int) -> list[Held]:
    """What each function that holds anything has held since the last time, those that the pool forgot meanwhile too."""
    found, pool.held_before = pool.held_before, []
    overhead_mb = pool.config.sandbox_overhead_mb
    found += [of(function, overhead_mb, now) for function in pool.functions.values()]
    generic_ns = pool.generic.waiting_ns + _waiting(pool.sandboxes.values(), SandboxState.GENERIC, now)
    found.append(Held(NOBODY, generic_mb_ns=(generic_ns - pool.generic.told[1]) * overhead_mb))
    pool.generic.told = 0, generic_ns, 0
    return [held for held in found if any(held[1:])]


def of(function: Function, overhead_mb: int, now: int) -> Held:
    """What one function has held since the last time."""
    holding, memory_mb = function.holding, function.spec.memory_mb
    idle = [instance for instance in function.available if instance.state is InstanceState.IDLE]
    so_far = (
        holding.idle_ns + sum(now - instance.since_ns for instance in idle),
        holding.waiting_ns + _waiting(function.sandboxes.values(), SandboxState.PARKED, now),
        holding.provisioned(function.floor, now),
    )
    idle_ns, parked_ns, provisioned_ns = (more - before for more, before in zip(so_far, holding.told, strict=True))
    holding.told = so_far
    return Held(function.spec.label, idle_ns * memory_mb, parked_ns * overhead_mb, provisioned_ns * memory_mb)


def _waiting(sandboxes: Iterable[Sandbox], state: SandboxState, now: int) -> int:
    return sum(now - sandbox.since_ns for sandbox in sandboxes if sandbox.state is state)
