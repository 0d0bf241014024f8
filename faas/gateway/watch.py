"""Callers that leave, and callers that are slow: one timer for all calls instead of a task for each.

Theory of operation. Every call in flight stands in ``_young``, oldest first. While there are any, one timer ticks
every ``TICK_S``; a call that is still there by then is old, and only then gets what fast calls never need:

- a call whose body has not arrived gets a deadline for it, and is cancelled with ``late`` set when it passes;
- a call that waits for its function gets a task that listens for ``http.disconnect`` and cancels the call, with
  ``gone`` set, when the caller has left.

Contract. ``enter`` and ``leave`` bracket every call; after ``leave`` nothing cancels its task any more. ``body_done``
says that the body is complete. The task that is cancelled is the request's own, and it must ``uncancel`` and answer or
end quietly when ``gone`` or ``late`` is set. Nobody else may read ``receive`` after ``body_done``.
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Receive

TICK_S: Final = 0.05


class Flight:
    """One call in flight, from its headers to the end of its answer."""

    __slots__ = ("_deadline", "_listener", "gone", "late", "reading", "receive", "since_s", "task")

    def __init__(self, receive: Receive) -> None:
        self.task: asyncio.Task[None] | None = None
        self.receive = receive
        self.since_s = 0.0
        self.reading = True
        self.gone = False
        self.late = False
        self._deadline: asyncio.TimerHandle | None = None
        self._listener: asyncio.Task[None] | None = None

    def body_done(self) -> None:
        self.reading = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._listen(asyncio.get_running_loop())

    def grew_old(self, loop: asyncio.AbstractEventLoop, body_wait_s: float) -> None:
        if self.reading:
            self._deadline = loop.call_at(self.since_s + body_wait_s, self._expire)
        else:
            self._listen(loop)

    def end(self) -> None:
        self.task = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._listener is not None:
            self._listener.cancel()

    def _expire(self) -> None:
        if self.task is not None and self.reading:
            self.late = True
            self.task.cancel()

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = loop.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        if self.task is not None:
            self.gone = True
            self.task.cancel()


class Watch:
    """All calls in flight of one gateway."""

    def __init__(self, body_wait_s: float) -> None:
        self._body_wait_s = body_wait_s
        self._young: dict[Flight, None] = {}
        self._old: set[Flight] = set()
        self._ticking = False

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def enter(self, flight: Flight) -> None:
        loop = asyncio.get_running_loop()
        flight.task = asyncio.current_task(loop)
        flight.since_s = loop.time()
        self._young[flight] = None
        if not self._ticking:
            self._ticking = True
            loop.call_later(TICK_S, self._tick, loop)

    def leave(self, flight: Flight) -> None:
        """Idempotent."""
        if flight in self._young:
            del self._young[flight]
            flight.task = None
        else:
            self._old.discard(flight)
            flight.end()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        before_s = loop.time() - TICK_S
        grown = []
        for flight in self._young:
            if flight.since_s > before_s:
                break
            grown.append(flight)
        for flight in grown:
            del self._young[flight]
            self._old.add(flight)
            flight.grew_old(loop, self._body_wait_s)
        self._ticking = bool(self._young)
        if self._ticking:
            loop.call_later(TICK_S, self._tick, loop)
