"""Whose turn it is, and how much is whose: the two rules by which namespaces share what a node has too little of.

**How much.** The node's memory belongs in equal parts to the namespaces that want some of it: ``share``. A namespace
may hold more than that as long as nobody is kept waiting by it (``allowance``). One above its share leaves the last
eighth of the memory alone while others are known to the node, so that these find room at once; and as soon as one
waits that is below its share, it gets nothing more and gives back each instance whose call has ended.

**Whose turn.** Among those who may take, deficit round robin (Shreedhar and Varghese, "Efficient Fair Queueing using
Deficit Round Robin", SIGCOMM '95): each in turn is credited a quantum, and served while its credit pays for what it
asks for, so that who asks for large things is served less often, not last. Of two that always want something, none is
ever given more than the other by more than a quantum and twice the largest request.

Here ``b`` wants three times as much at once as ``a``, and comes a third as often:

>>> turns = Turns(quantum=128)
>>> [turns.next({"a": 128, "b": 384}) for _ in range(8)]
['a', 'a', 'a', 'b', 'a', 'a', 'a', 'b']
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Final

RESERVE_PART: Final = 8  # of the memory: what one above its share leaves to others


class Turns:
    """Deficit round robin. ``quantum`` and costs are in one unit, here MB; costs are above 0."""

    def __init__(self, quantum: int) -> None:
        assert quantum > 0
        self._quantum = quantum
        self._credit: dict[str, int] = {}
        self._round: deque[str] = deque()
        self._visited = ""  # who has had its quantum in this round and may still have credit left

    def next(self, costs: Mapping[str, int], able: Collection[str] | None = None) -> str | None:
        """Who is served next, of all who want something (at that cost); its credit is charged.

        ``able`` are those who can be served now; the others keep their place and credit. None if nobody is. Who does
        not want anything any more loses its credit, so that nobody saves up while it is idle.
        """
        self._settle(costs)
        if not any(able is None or name in able for name in costs):
            return None
        while True:
            name = self._round[0]
            if able is None or name in able:
                if self._visited != name:
                    self._visited = name
                    self._credit[name] += self._quantum
                if self._credit[name] >= costs[name]:
                    self._credit[name] -= costs[name]
                    return name
            self._round.rotate(-1)
            self._visited = ""

    def _settle(self, costs: Mapping[str, int]) -> None:
        for name in [name for name in self._credit if name not in costs]:
            del self._credit[name]
            self._round.remove(name)
            if self._visited == name:
                self._visited = ""
        for name in costs:
            if name not in self._credit:
                self._credit[name] = 0
                self._round.append(name)


def share(total_mb: int, contenders: int) -> int:
    """What is each namespace's when so many want memory.

    >>> share(4096, 0), share(4096, 1), share(4096, 3)
    (4096, 4096, 1365)
    """
    return total_mb // max(1, contenders)


def allowance(free_mb: int, held_mb: int, share_mb: int, reserve_mb: int) -> int:
    """How much of the free memory a namespace may take: up to its share all there is, beyond it without the reserve.

    Below its share: 2,000 MB of 4,096 are its, it holds 1,900, so 100 even of the last 300; above it: 0 of these.

    >>> allowance(free_mb=300, held_mb=1900, share_mb=2000, reserve_mb=512)
    100
    >>> allowance(free_mb=300, held_mb=2100, share_mb=2000, reserve_mb=512)
    0
    >>> allowance(free_mb=1000, held_mb=3000, share_mb=2000, reserve_mb=512)
    488
    """
    return max(0, min(free_mb, max(share_mb - held_mb, free_mb - reserve_mb)))
