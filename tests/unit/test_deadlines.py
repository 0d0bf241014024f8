"""Deadlines: many items, few timers, none forgotten, none early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from faas.invoker.deadlines import NS_PER_MS, Deadlines


class FakeLoop:
    """Timers on a clock that the test turns."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.timers: list[tuple[int, Callable[[], None], FakeTimer]] = []

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer()
        self.timers.append((self.now_ns + round(seconds * 1e9), callback, timer))
        return timer

    def advance_to(self, now_ms: float) -> None:
        end_ns = round(now_ms * NS_PER_MS)
        while True:
            due = [each for each in self.timers if each[0] <= end_ns]
            if not due:
                break
            first = min(due, key=lambda each: each[0])
            self.timers.remove(first)
            self.now_ns = max(self.now_ns, first[0])
            if not first[2].cancelled:
                first[1]()
        self.now_ns = end_ns


class FakeTimer:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Bench:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.expired: list[tuple[str, int]] = []
        loop: Any = self.loop
        self.deadlines: Deadlines[str] = Deadlines(loop, lambda: self.loop.now_ns, self._expire)

    def _expire(self, item: str) -> None:
        self.expired.append((item, self.loop.now_ns // NS_PER_MS))

    def add(self, item: str, timeout_ms: int) -> None:
        self.deadlines.add(item, timeout_ms, self.loop.now_ns)


def test_an_item_expires_at_its_time_and_not_before() -> None:
    bench = Bench()
    bench.add("a", 100)
    bench.loop.advance_to(99)
    assert bench.expired == []
    bench.loop.advance_to(100)
    assert bench.expired == [("a", 100)]
    assert len(bench.deadlines) == 0
    assert bench.loop.timers == []


def test_what_was_removed_does_not_expire_and_holds_up_nobody() -> None:
    bench = Bench()
    bench.add("a", 100)
    bench.loop.advance_to(60)
    bench.add("b", 100)
    bench.deadlines.remove("a", 100)
    bench.deadlines.remove("a", 100)
    bench.loop.advance_to(159)
    assert bench.expired == []
    bench.loop.advance_to(200)
    assert bench.expired == [("b", 160)]


def test_a_short_timeout_does_not_wait_behind_a_long_one() -> None:
    bench = Bench()
    bench.add("long", 1000)
    bench.add("short", 10)
    bench.loop.advance_to(20)
    assert bench.expired == [("short", 10)]
    bench.loop.advance_to(2000)
    assert bench.expired == [("short", 10), ("long", 1000)]


def test_a_thousand_items_of_one_timeout_share_one_timer() -> None:
    bench = Bench()
    for number in range(1000):
        bench.loop.advance_to(number / 100)
        bench.add(str(number), 500)
    assert len(bench.loop.timers) == 1
    for number in range(999):
        bench.deadlines.remove(str(number), 500)
    bench.loop.advance_to(600)
    assert bench.expired == [("999", 509)]


def test_an_item_added_while_another_expires_has_its_own_time() -> None:
    bench = Bench()
    loop: Any = bench.loop
    again: list[str] = []

    def expire(item: str) -> None:
        again.append(item)
        if len(again) < 3:
            deadlines.add(item + "'", 50, bench.loop.now_ns)

    deadlines: Deadlines[str] = Deadlines(loop, lambda: bench.loop.now_ns, expire)
    deadlines.add("a", 50, 0)
    bench.loop.advance_to(149)
    assert again == ["a", "a'"]
    assert len(bench.loop.timers) == 1
    bench.loop.advance_to(150)
    assert again == ["a", "a'", "a''"]
    assert bench.loop.timers == []


def test_after_close_nothing_expires() -> None:
    bench = Bench()
    bench.add("a", 100)
    bench.deadlines.close()
    bench.loop.advance_to(1000)
    assert bench.expired == []
