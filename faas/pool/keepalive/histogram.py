"""The hybrid histogram policy of Shahrad, Fonseca et al., "Serverless in the Wild" (ATC'20), section 4.

Per function: a histogram of idle times in minutes up to four hours. If it is representative, the function is let go
at the end of a call, loaded again shortly before the 5th percentile of its idle times and kept until shortly after
the 99th, each with a margin of 10 %. It is not while fewer than three idle times are known, when most lie beyond four
hours, or when the coefficient of variation of the bins' counts is under 2 (a flat histogram); then a fixed time
holds. Of the paper it leaves out the ARIMA forecast for idle times beyond four hours, a rarity even there (0.64 % of
invocations), and takes the fixed time where the paper keeps for four hours, which costs far more memory.
"""

from __future__ import annotations

import math
from itertools import accumulate

from faas.pool.keepalive.policy import MINUTE_NS, Decision, Outlook, in_words

RANGE_MIN = 240
_HEAD, _TAIL, _MARGIN = 0.05, 0.99, 0.10
_SEEN_MIN = 3
_VARIATION_MIN = 2.0


class _Function:
    __slots__ = ("beyond", "counts", "idle_ns", "inside", "squares")

    def __init__(self) -> None:
        self.counts = [0] * RANGE_MIN
        self.inside = 0
        self.squares = 0  # sum of the squared counts
        self.beyond = 0
        self.idle_ns: int | None = None

    def note(self, idle_ns: int) -> None:
        """Those under half a minute are left out: the pool holds through them anyway (``KeepAlive``)."""
        minute = (idle_ns + MINUTE_NS // 2) // MINUTE_NS
        if minute == 0:
            return
        if minute >= RANGE_MIN:
            self.beyond += 1
            return
        self.squares += 2 * self.counts[minute] + 1
        self.counts[minute] += 1
        self.inside += 1

    def representative(self) -> bool:
        if self.inside + self.beyond < _SEEN_MIN or self.beyond >= self.inside:
            return False
        mean = self.inside / RANGE_MIN
        return math.sqrt(max(0.0, self.squares / RANGE_MIN - mean * mean)) >= _VARIATION_MIN * mean

    def percentile(self, share: float) -> int:
        enough = max(1.0, share * self.inside)
        return next(minute for minute, under in enumerate(accumulate(self.counts)) if under >= enough)


class Histogram:
    """Methods as ``KeepAlive``; one function takes about 2 kB."""

    def __init__(self, fixed_ns: int) -> None:
        self.fixed_ns = fixed_ns
        self._functions: dict[str, _Function] = {}

    def called(self, function: str, now_ns: int) -> None:
        known = self._functions.get(function)
        if known is not None and known.idle_ns is not None:
            known.note(now_ns - known.idle_ns)
            known.idle_ns = None

    def idle(self, function: str, hold_mb: float, warm_mb: float, now_ns: int, load_ns: int = 0) -> None:  # noqa: ARG002
        self._functions.setdefault(function, _Function()).idle_ns = now_ns

    def _window(self, known: _Function) -> tuple[int, int]:
        """From which idle time, to which, it is held."""
        if not known.representative():
            return 0, self.fixed_ns
        head = math.floor(known.percentile(_HEAD) * (1 - _MARGIN))
        tail = math.ceil((known.percentile(_TAIL) + 1) * (1 + _MARGIN))
        return (head if head > 1 else 0) * MINUTE_NS, tail * MINUTE_NS

    def decide(self, function: str, now_ns: int) -> Decision:
        known = self._functions.get(function)
        if known is None or known.idle_ns is None:
            return Decision(False, None)
        first, last = self._window(known)
        if now_ns < known.idle_ns + first:
            return Decision(False, known.idle_ns + first)
        if now_ns <= known.idle_ns + last:
            return Decision(True, known.idle_ns + last + 1)
        return Decision(False, None)

    def released(self, function: str, now_ns: int) -> None:
        """Nothing to note: this policy does not count what it costs."""

    def outlook(self, function: str, now_ns: int) -> Outlook:
        decision = self.decide(function, now_ns)
        known = self._functions.get(function)
        if known is None or known.idle_ns is None:
            return Outlook(None, None, None, "it is not idle")
        first, last = self._window(known)
        if not known.representative():
            why = f"too little is known of its idle times: kept for {in_words(self.fixed_ns)}"
        else:
            why = f"a call is likely between {in_words(first)} and {in_words(last)} of idle time"
        if decision.keep:
            return Outlook(decision.until_ns, None, None, why)
        if decision.until_ns is None:
            return Outlook(None, None, None, why)
        return Outlook(None, decision.until_ns, known.idle_ns + last, why)

    def forget(self, function: str, now_ns: int) -> None:  # noqa: ARG002
        self._functions.pop(function, None)
