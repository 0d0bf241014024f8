"""How many generic sandboxes to have booted, from how often one was lately taken.

Booting takes time, so at least those must be there that will be taken meanwhile. Takings are taken for a Poisson
process, at the higher of two rates as in Knative's autoscaler: one over ten minutes (stable), one over the last half
minute (panic). What is expected in one boot time plus two standard deviations is enough 97 times in 100. Each call
that lately found none says that this was too few: one more for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

_STABLE_NS = 600_000_000_000
_PANIC_NS = 30_000_000_000


@dataclass(frozen=True, slots=True)
class Demand:
    """Sandboxes of one flavour taken and missed: exponentially fading counts as of ``at_ns``."""

    at_ns: int = 0
    stable: float = 0.0
    panic: float = 0.0
    missed: float = 0.0

    def at(self, now_ns: int) -> Demand:
        """The same, seen from ``now_ns``; never from before ``at_ns``."""
        age_ns = max(0, now_ns - self.at_ns)
        slow, fast = math.exp(-age_ns / _STABLE_NS), math.exp(-age_ns / _PANIC_NS)
        return Demand(self.at_ns + age_ns, self.stable * slow, self.panic * fast, self.missed * fast)

    def taken(self, now_ns: int) -> Demand:
        """A generic sandbox was bound."""
        then = self.at(now_ns)
        return replace(then, stable=then.stable + 1, panic=then.panic + 1)

    def lacked(self, now_ns: int) -> Demand:
        """One was wanted and there was none."""
        then = self.at(now_ns)
        return replace(then, stable=then.stable + 1, panic=then.panic + 1, missed=then.missed + 1)


def generics_wanted(demand: Demand, now_ns: int, boot_ns: int, least: int, most: int) -> int:
    """Generic sandboxes to have or to be booting, between ``least`` and ``most``.

    >>> generics_wanted(Demand(), now_ns=0, boot_ns=500_000_000, least=1, most=8)
    1
    >>> busy = Demand()
    >>> for second in range(60):
    ...     busy = busy.taken(second * 1_000_000_000).taken(second * 1_000_000_000)
    >>> now = 60 * 1_000_000_000
    >>> generics_wanted(busy, now, boot_ns=500_000_000, least=1, most=8)
    3
    >>> generics_wanted(busy.lacked(now), now, boot_ns=500_000_000, least=1, most=8)
    4
    """
    lately = demand.at(now_ns)
    per_ns = max(lately.stable / _STABLE_NS, lately.panic / _PANIC_NS)
    expected = per_ns * boot_ns
    wanted = round(expected + 2 * math.sqrt(expected)) + round(lately.missed)
    return max(least, min(most, wanted))


class Kept(NamedTuple):
    """A number of generic sandboxes, and the reason for people."""

    number: int
    why: str


def generics_kept(demand: Demand, now_ns: int, boot_ns: int, least: int, most: int) -> Kept:
    """``generics_wanted`` with its reason. ``least`` 0 means none, and is never lowered by ``most``.

    >>> generics_kept(Demand(), now_ns=0, boot_ns=500_000_000, least=1, most=8).why
    '1 kept: the number set'
    >>> generics_kept(Demand().lacked(0).lacked(0), now_ns=0, boot_ns=500_000_000, least=1, most=8).why
    '2 kept: 2 calls lately found none ready'
    """
    if least == 0:
        return Kept(0, "none kept: the number set is 0")
    count = generics_wanted(demand, now_ns, boot_ns, least, max(least, most))
    if count == least:
        return Kept(count, f"{count} kept: the number set")
    missed = round(demand.at(now_ns).missed)
    if missed:
        return Kept(count, f"{count} kept: {missed} call{'s' if missed > 1 else ''} lately found none ready")
    return Kept(count, f"{count} kept: many were taken lately, and booting one takes {boot_ns // 1_000_000} ms")
