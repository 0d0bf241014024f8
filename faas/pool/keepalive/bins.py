"""Idle times in bins: minutes up to 4 hours (as Shahrad et al., ATC'20), ten minutes each up to 25 hours, and beyond.

Bin ``b`` up to ``MINUTES`` is around ``b`` minutes, from half a minute before to half a minute after, so that a timer
that is a second early or late stays in one bin. Bin 0, under half a minute, is no matter for keep-alive. The second
range is there for what runs daily or every few hours. 367 counters in all.
"""

from __future__ import annotations

import math
from itertools import accumulate

from faas.pool.keepalive.policy import MINUTE_NS

MINUTES = 240
LAST = MINUTES + 126
BEYOND = LAST + 1
_HALF_NS = MINUTE_NS // 2
_WIDE = 10
_WIDE_FROM_NS = MINUTES * MINUTE_NS + _HALF_NS

# In minutes: how wide each bin is, and its start as counted from the start of bin 1.
WIDTH = (0.5, *(1.0,) * MINUTES, *(float(_WIDE),) * (LAST - MINUTES))
START = (0.0, 0.0, *accumulate(WIDTH[1:]))


def bin_of(idle_ns: int) -> int:
    """The bin an idle time falls in; ``BEYOND`` from 25 hours on.

    >>> bin_of(29_999_999_999), bin_of(30_000_000_000), bin_of(60 * MINUTE_NS), bin_of(1440 * MINUTE_NS)
    (0, 1, 60, 360)
    """
    if idle_ns < _WIDE_FROM_NS:
        return (idle_ns + _HALF_NS) // MINUTE_NS
    return min(BEYOND, MINUTES + 1 + (idle_ns - _WIDE_FROM_NS) // (_WIDE * MINUTE_NS))


def start_ns(index: int) -> int:
    """The idle time at which a bin begins.

    >>> start_ns(1), start_ns(60) / MINUTE_NS, start_ns(BEYOND) / MINUTE_NS
    (30000000000, 59.5, 1500.5)
    """
    return 0 if index == 0 else int(START[index] * MINUTE_NS) + _HALF_NS


def middle_min(index: int) -> float:
    """The middle of a bin, in minutes of idle time; of ``BEYOND`` its start."""
    return START[index] + 0.5 + (WIDTH[index] / 2 if index <= LAST else 0)


def _octave_quarter(index: int) -> int:
    return int(4 * math.log2(max(1.0, middle_min(index))) + 1e-9)


def _runs() -> tuple[tuple[int, int, float, float], ...]:
    """For each bin the run of bins in its quarter of an octave: first, end, its share of the run, and those before."""
    rows = [(0, 1, 1.0, 0.0)]
    quarters = [_octave_quarter(index) for index in range(1, LAST + 1)]
    for index in range(1, LAST + 1):
        first = 1 + quarters.index(quarters[index - 1])
        end = first + quarters.count(quarters[index - 1])
        width = sum(WIDTH[first:end])
        rows.append((first, end, WIDTH[index] / width, sum(WIDTH[first:index]) / width))
    return tuple(rows)


RUNS = _runs()
