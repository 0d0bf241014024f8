"""When will the next call come? A forecast from a function's idle times, sharp after two of them, never certain.

Theory of operation. Five views of the next idle time are held side by side, each a proper distribution:

1. exactly an idle time seen before (a timer);
2. about an idle time seen before, give or take a bin (a timer that jitters);
3. of the order of one seen before: the histogram in quarters of an octave;
4. at a steady rate: Poisson calls, the rate's posterior from a Gamma prior, so the wait is Lomax-distributed;
5. heavy-tailed, whatever was seen: Lomax with shape 1, P(wait > t) = c / (c + t) - many functions are called in
   bursts, and half of Azure's have a coefficient of variation above 1.

Views 1 to 3 leave a little room (half an observation: Krichevsky and Trofimov, 1981) for view 4. How much each view
is believed is Bayes: every idle time multiplies a view's weight by the probability it gave to what happened. A
twentieth of the weight is shared out anew each time, so that a function that changes its ways is followed (fixed
share: Herbster and Warmuth, "Tracking the best expert", 1998). Counts are halved when 255 are full.

None of the constants is fitted to a trace: they are priors of weight one, and 10 minutes, the time everyone keeps.
One forecast takes under 1 kB: 367 counters of a byte, five weights and a few numbers.
"""

from __future__ import annotations

from faas.pool.keepalive.bins import BEYOND, LAST, MINUTES, RUNS, START, WIDTH, middle_min
from faas.pool.keepalive.policy import MINUTE_NS, in_words

_VIEWS = 5
_PRIOR_MIN = 10.0
_ROOM = 0.5
_SHARE = 0.05
_SEEN_MAX = 255
_CHANCE_MAX = 0.999


class Forecast:
    """Of one function. ``seen`` idle times are remembered, of half a minute and more."""

    __slots__ = ("counts", "seen", "total_min", "weights")

    def __init__(self) -> None:
        self.counts = bytearray(LAST + 1)
        self.seen = 0
        self.total_min = 0.0
        self.weights = [1 / _VIEWS] * _VIEWS

    def chance(self, index: int) -> float:
        """The probability that the next call comes in this bin, given that it did not come before.

        >>> forecast = Forecast()
        >>> round(forecast.chance(1), 3), round(forecast.chance(10), 3)
        (0.091, 0.05)
        >>> for _ in range(3):
        ...     forecast.note(60)
        >>> forecast.chance(30) < 0.003 and forecast.chance(60) > 0.85
        True
        """
        here, left = self._views(index)
        mass = sum(w * p for w, p in zip(self.weights, here, strict=True))
        rest = sum(w * p for w, p in zip(self.weights, left, strict=True))
        return min(_CHANCE_MAX, mass / rest)

    def note(self, index: int) -> None:
        """An idle time that ended in this bin. Those under half a minute tell nothing of keep-alive."""
        if index == 0:
            return
        here, _ = self._views(index)
        gained = [w * p for w, p in zip(self.weights, here, strict=True)]
        scale = (1 - _SHARE) / sum(gained)
        self.weights = [g * scale + _SHARE / _VIEWS for g in gained]
        if self.seen >= _SEEN_MAX:
            beyond = self.seen - sum(self.counts)
            self.counts = bytearray(count >> 1 for count in self.counts)
            self.total_min /= 2
            self.seen = sum(self.counts) + (beyond >> 1)
        if index <= LAST:
            self.counts[index] += 1
        self.seen += 1
        self.total_min += middle_min(index)

    def _views(self, index: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Each view's probability of ending in this bin, and of ending in it or later."""
        counts, seen, start = self.counts, self.seen, START[index]
        prior_min = _PRIOR_MIN + self.total_min
        rate_left = (prior_min / (prior_min + start)) ** (1 + seen)
        tail_left = _PRIOR_MIN / (_PRIOR_MIN + start)
        room = _ROOM * rate_left
        scale = 1 / (seen + _ROOM)
        at_risk = seen - sum(counts[:index])
        if index == BEYOND:
            same = (at_risk + room) * scale
            left = (same, same, same, rate_left, tail_left)
            return left, left
        end = start + WIDTH[index]
        rate = rate_left - (prior_min / (prior_min + end)) ** (1 + seen)
        tail = tail_left - _PRIOR_MIN / (_PRIOR_MIN + end)
        exact = counts[index]
        before = counts[index - 1] if index > 1 else exact
        about = 0.5 * exact + 0.25 * (before + (counts[index + 1] if index < LAST else 0))
        first, stop, share, earlier = RUNS[index]
        run = sum(counts[first:stop])
        unlikely = _ROOM * rate
        here = ((exact + unlikely) * scale, (about + unlikely) * scale, (run * share + unlikely) * scale, rate, tail)
        about_left = at_risk + 0.25 * (before - exact)
        run_left = at_risk + sum(counts[first:index]) - run * earlier
        left = ((at_risk + room) * scale, (about_left + room) * scale, (run_left + room) * scale, rate_left, tail_left)
        return here, left

    def in_words(self) -> str:
        """What is known of it, as a clause.

        >>> forecast = Forecast()
        >>> for _ in range(9):
        ...     forecast.note(5)
        >>> forecast.note(31)
        >>> forecast.in_words()
        '9 of the last 10 idle times were about 5 min'
        """
        if self.seen == 0:
            return "its rhythm is not known yet"
        counts = self.counts
        if self.seen < 3:
            last = max((i for i in range(1, LAST + 1) if counts[i]), default=BEYOND)
            return f"it was idle for {_minutes(last)} before" if self.seen == 1 else "it came back only twice so far"
        mode = max(range(1, LAST), key=lambda i: sum(counts[i - 1 : i + 2]) + counts[i] / 256)
        alike = sum(counts[mode - 1 : mode + 2])
        if 2 * alike >= self.seen:
            return f"{alike} of the last {self.seen} idle times were about {_minutes(mode)}"
        half, most = _minutes(self._quantile(0.5)), _minutes(self._quantile(0.9))
        return f"of the last {self.seen} idle times half were up to {half}, nine in ten up to {most}"

    def _quantile(self, share: float) -> int:
        under = 0
        for index, count in enumerate(self.counts):
            under += count
            if under >= share * self.seen:
                return index
        return BEYOND


def _minutes(index: int) -> str:
    if index == BEYOND:
        return "over 25 h"
    exact = index <= MINUTES
    return in_words(round(middle_min(index)) * MINUTE_NS) if exact else in_words(int(middle_min(index)) * MINUTE_NS)
