"""Deadlines of running calls: one timer per timeout in use, not one per call.

Theory of operation. Calls with the same timeout fall due in the order in which they began, so per timeout the calls
under way stand in a dict, oldest first: adding and removing one costs a dict operation, and only the first can be due.
The timer of a timeout is armed for the first, and finding that it has ended meanwhile, for who is first then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")

NS_PER_MS = 1_000_000


class Deadlines(Generic[T]):
    """``expire`` is called with each item that is still here when its time has passed; it has been removed by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now_ns: Callable[[], int], expire: Callable[[T], None]) -> None:
        self._loop = loop
        self._now_ns = now_ns
        self._expire = expire
        self._due: dict[int, dict[T, int]] = {}  # timeout in ms -> item -> when, on the monotonic clock
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return sum(map(len, self._due.values()))

    def add(self, item: T, timeout_ms: int, now_ns: int) -> None:
        """``item`` falls due ``timeout_ms`` after ``now_ns``, which never goes back from one call to the next."""
        due = self._due.get(timeout_ms)
        if due is None:
            due = self._due[timeout_ms] = {}
        due[item] = now_ns + timeout_ms * NS_PER_MS
        if timeout_ms not in self._timers:
            self._arm(timeout_ms, timeout_ms * NS_PER_MS)

    def remove(self, item: T, timeout_ms: int) -> None:
        """Idempotent."""
        due = self._due.get(timeout_ms)
        if due is not None:
            due.pop(item, None)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _arm(self, timeout_ms: int, left_ns: int) -> None:
        self._timers[timeout_ms] = self._loop.call_later(left_ns / 1e9, partial(self._fire, timeout_ms))

    def _fire(self, timeout_ms: int) -> None:
        due = self._due[timeout_ms]
        while due:
            item, when_ns = next(iter(due.items()))
            left_ns = when_ns - self._now_ns()
            if left_ns > 0:
                self._arm(timeout_ms, left_ns)
                return
            del due[item]
            self._expire(item)  # which may add others
        del self._due[timeout_ms], self._timers[timeout_ms]  # functions come and go, and with them their timeouts
