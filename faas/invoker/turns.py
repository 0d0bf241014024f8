"""How long the event loop takes to come round, while somebody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from faas.pool.scaling import smoothed


class Turns:
    """``ns`` is the smoothed length of a turn, 0 while nothing is known. Measuring costs one callback a turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ns: Callable[[], int]) -> None:
        self.ns = 0
        self._loop = loop
        self._now_ns = now_ns
        self._began_ns = 0

    def measure(self, now_ns: int) -> None:
        """From now until the loop has come round; does nothing while it is at it."""
        if not self._began_ns:
            self._began_ns = now_ns
            self._loop.call_soon(self._over)

    def forget(self) -> None:
        """What was measured is too old to go by."""
        self.ns = 0

    def _over(self) -> None:
        self.ns = smoothed(self.ns, max(1, self._now_ns() - self._began_ns))
        self._began_ns = 0
