"""Runs a keep-alive policy, the very object a node uses, over a trace and counts what its decisions came to.

Accounting, after Shahrad et al. (ATC'20, section 5): one sandbox per function; calls take no time, so a sandbox is
idle whenever it is held (the worst case for memory). A trace says how often a function was called in each minute. So a
minute with calls is one start: cold unless the sandbox is held when the minute begins. A minute without calls in
which it is held is an idle minute and costs what the sandbox holds. The time after the last call, up to the end of the
trace, counts too.

What our sandboxes do instead of staying warm is park: for ``warm_s`` after a call the instance stays, then only the
parked sandbox is held. Which of a minute's calls find it warm depends on when in the minute they come: they are taken
to be evenly spread.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from faas.pool.keepalive import MINUTE_NS, KeepAlive
from faas.testing.replay.trace import Trace, TraceFunction


@dataclass(frozen=True, slots=True)
class Holding:
    """What an idle sandbox holds: the allocation for ``warm_s``, then ``parked_mb``; else the allocation."""

    parked_mb: float | None = None
    warm_s: float = 0.0

    def hold_mb(self, function: TraceFunction) -> float:
        return function.memory_mb if self.parked_mb is None else self.parked_mb

    def idle_mb_min(self, function: TraceFunction, held_min: int, warm_min: float) -> float:
        hold_mb = self.hold_mb(function)
        return held_min * hold_mb + warm_min * max(0.0, function.memory_mb - hold_mb)


@dataclass(slots=True)
class Tally:
    """``cold`` counts minutes (see above); ``parked`` and ``warm`` count the other calls."""

    cold: int = 0
    parked: int = 0
    warm: int = 0
    prewarms: int = 0
    idle_mb_min: float = 0.0


@dataclass(slots=True)
class _Sandbox:
    """The state of one function's sandbox in the replay."""

    function: TraceFunction
    turn: int = 0  # which of its active minutes comes next
    minute: int = -1  # of the last call
    keep: bool = False
    since_ns: int = 0  # since when it is held
    held_min: int = 0  # in this idle time
    first_run_min: int = 0  # of which without a break from its beginning
    review_ns: int | None = None


class Replay:
    """One run. ``tick`` is called with the share done, for those who wait."""

    def __init__(self, trace: Trace, policy: KeepAlive, holding: Holding, tick: Callable[[float], None]) -> None:
        self._trace = trace
        self._policy = policy
        self._holding = holding
        self._tick = tick
        self._sandboxes = [_Sandbox(function) for function in trace.functions]
        self._names = [str(place) for place in range(len(trace.functions))]
        self._reviews: list[tuple[int, int]] = []
        self.tally = Tally()

    def run(self) -> Tally:
        calls: list[list[int]] = [[] for _ in range(self._trace.minutes)]
        for place, function in enumerate(self._trace.functions):
            for minute in function.active:
                calls[minute].append(place)
        for minute, places in enumerate(calls):
            self._review(minute * MINUTE_NS)
            for place in places:
                self._call(place, minute)
            self._tick((minute + 1) / len(calls))
        end_ns = self._trace.minutes * MINUTE_NS
        self._review(end_ns - 1)
        for sandbox in self._sandboxes:
            self._close(sandbox, end_ns)
        return self.tally

    def _review(self, now_ns: int) -> None:
        while self._reviews and self._reviews[0][0] <= now_ns:
            at_ns, place = heapq.heappop(self._reviews)
            if self._sandboxes[place].review_ns == at_ns:
                self._decide(place, at_ns)

    def _decide(self, place: int, now_ns: int) -> None:
        sandbox = self._sandboxes[place]
        decision = self._policy.decide(self._names[place], now_ns)
        if decision.keep and not sandbox.keep:
            sandbox.since_ns = now_ns
            self.tally.prewarms += now_ns > sandbox.minute * MINUTE_NS
        elif sandbox.keep and not decision.keep:
            self._count(sandbox, now_ns)
        sandbox.keep = decision.keep
        sandbox.review_ns = decision.until_ns
        if decision.until_ns is not None:
            heapq.heappush(self._reviews, (decision.until_ns, place))

    def _call(self, place: int, minute: int) -> None:
        sandbox, now_ns = self._sandboxes[place], minute * MINUTE_NS
        self._count_starts(sandbox, minute, sandbox.keep)
        self._close(sandbox, now_ns)
        self._policy.called(self._names[place], now_ns)
        function = sandbox.function
        self._policy.idle(self._names[place], self._holding.hold_mb(function), function.memory_mb, now_ns)
        sandbox.minute, sandbox.keep = minute, False
        sandbox.turn += 1
        self._decide(place, now_ns)

    def _count(self, sandbox: _Sandbox, until_ns: int) -> None:
        """The minutes that began while it was held, from the first idle one on."""
        first = max(-(-sandbox.since_ns // MINUTE_NS), sandbox.minute + 1)
        held_min = max(0, -(-until_ns // MINUTE_NS) - first)
        if sandbox.since_ns <= sandbox.minute * MINUTE_NS:
            sandbox.first_run_min = held_min
        sandbox.held_min += held_min

    def _close(self, sandbox: _Sandbox, now_ns: int) -> None:
        """The idle time is over."""
        if sandbox.keep:
            self._count(sandbox, now_ns)
        warm_min = min(sandbox.first_run_min, self._holding.warm_s / 60)
        self.tally.idle_mb_min += self._holding.idle_mb_min(sandbox.function, sandbox.held_min, warm_min)
        sandbox.held_min = sandbox.first_run_min = 0

    def _count_starts(self, sandbox: _Sandbox, minute: int, found: bool) -> None:
        """``minute`` is the active one at ``sandbox.turn``; its first call found the sandbox held or not."""
        counts, tally, warm_s = sandbox.function.counts, self.tally, self._holding.warm_s
        count = counts[sandbox.turn]
        if self._holding.parked_mb is None:
            warm_s = float("inf")
        if not found:
            tally.cold += 1
        else:
            idle_min = minute - sandbox.minute - 1 + 0.5 / counts[sandbox.turn - 1] + 0.5 / count
            if idle_min * 60 <= warm_s:
                tally.warm += 1
            else:
                tally.parked += 1
        if 60 / count <= warm_s:
            tally.warm += count - 1
        else:
            tally.parked += count - 1


def simulate(
    trace: Trace, policy: KeepAlive, holding: Holding | None = None, tick: Callable[[float], None] = lambda _: None
) -> Tally:
    """Replay ``trace`` under ``policy``, which must be new; without ``holding``, by the paper's accounting."""
    return Replay(trace, policy, holding or Holding(), tick).run()
