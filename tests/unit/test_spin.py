"""Waiting awake: only for a lone call, never for longer than it may."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from faas.invoker.spin import SPIN_NS, Spin


class Loop:
    """Each turn takes a microsecond."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.soon: list[Callable[[], None]] = []
        self.call_soon = self.soon.append

    def turns(self) -> int:
        """Run until nothing is to be done at once; how many turns that took."""
        count = 0
        while self.soon:
            self.now_ns += 1000
            count += 1
            for callback in [self.soon.pop(0) for _ in range(len(self.soon))]:
                callback()
        return count


def spin_over(calls: set[str], processors: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Spin, Any]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    loop: Any = Loop()
    return Spin(loop, lambda: loop.now_ns, calls), loop


def test_it_ends_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"a"}
    spin, loop = spin_over(calls, 2, monkeypatch)
    spin.begin(loop.now_ns)
    loop.soon.append(calls.clear)
    assert loop.turns() == 2


def test_it_ends_when_the_call_takes_long_and_begins_again_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    spin, loop = spin_over({"a"}, 2, monkeypatch)
    for _ in range(2):
        spin.begin(loop.now_ns)
        spin.begin(loop.now_ns)
        assert loop.turns() == SPIN_NS // 1000, "one at a time, and no longer than allowed"


def test_it_never_begins_on_one_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    spin, loop = spin_over({"a"}, 1, monkeypatch)
    spin.begin(loop.now_ns)
    assert loop.turns() == 0
