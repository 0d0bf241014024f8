"""Limits of a sandbox that the container engine has to be asked for: 10 to 50 ms of work for it, each time.

The engine does one thing after the other with a container, and each takes a process or two. So a start from parked,
whose limits are set as it thaws, used to wait for limits, or thawed slowly beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple


class Wanted(NamedTuple):
    memory_bytes: int
    cpus: float
    weight: float
    pids: int  # 0 = as many as now


class AskedLimits:
    """One call at a time, with what was wanted last; none for what is set already, and none while ``settled`` waits."""

    def __init__(
        self,
        update: Callable[[int, float, float, int], Coroutine[Any, Any, None]],
        settled: Callable[[], Awaitable[None]],
    ) -> None:
        """``update`` raises ``EngineUnavailable``."""
        self._update = update
        self._settled = settled
        self._wanted: Wanted | None = None
        self._set: Wanted | None = None
        self._settling: asyncio.Task[None] | None = None

    async def set(self, wanted: Wanted) -> None:
        """Returns when they are set, or newer ones are. Raises what ``update`` raises."""
        pids = wanted.pids or (self._wanted.pids if self._wanted is not None else 0)
        self._wanted = wanted._replace(pids=pids)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())
        await asyncio.shield(self._settling)

    def forget(self) -> None:
        """Somebody else has set them."""
        self._set = None

    async def _settle(self) -> None:
        while self._set != self._wanted:
            await self._settled()
            wanted = self._wanted
            assert wanted is not None
            self._set = None  # whatever becomes of the call
            await self._update(*wanted)
            self._set = wanted
