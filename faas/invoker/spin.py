"""Waiting awake for an answer that comes sooner than it takes to fall asleep and be woken (adaptive spinning).

A process that sleeps is woken by an interrupt from another processor. That takes 5 us on bare metal and up to 100 us in
a virtual machine: as long as a short call. So while one call alone is under way, on an instance whose last one was that
short, the loop looks for events without sleeping. It serves whatever comes, and after ``SPIN_NS`` it sleeps. With more
calls under way there is always something to do, and on a single processor it would only stand in the way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sized
from typing import Final

SPIN_NS: Final = 150_000
BRIEF_NS: Final = 100_000  # a call that keeps its instance busy for less is answered, as a rule, within SPIN_NS


class Spin:
    """Keeps the loop awake for a call that was just sent; ``calls`` are those under way."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ns: Callable[[], int], calls: Sized) -> None:
        self._loop = loop
        self._now_ns = now_ns
        self._calls = calls
        self._until_ns = 0
        self._spinning = len(os.sched_getaffinity(0)) < 2  # for ever, so it never begins

    def begin(self, now: int) -> None:
        self._until_ns = now + SPIN_NS
        if not self._spinning:
            self._spinning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._calls and self._now_ns() < self._until_ns:
            self._loop.call_soon(self._turn)
        else:
            self._spinning = False
