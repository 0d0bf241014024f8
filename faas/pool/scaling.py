"""How many instances a function should have for the calls that are waiting.

Three facts decide: what is waiting, how many instances there are, and how long a call keeps one busy. Others start
one container per waiting call; with calls shorter than a fork (about a millisecond) that would start sixty processes
to share two cores, all of them slower for it. How long a call keeps its instance busy is not how long its answer took:
one that lies unread for ten milliseconds, because it is the node that is busy, is no reason for another instance. So
that is what instances say, who know it.
"""

from __future__ import annotations

from typing import Final

BUSY_MIN: Final = 8  # while calls wait: between two calls an instance waits for the node, so one alone is often idle


def instances_wanted(live: int, queued: int, concurrency: int, run_ns: int, wait_goal_ns: int) -> int:
    """Instances to have in all, starting ones included, never more than live + ceil(queued / concurrency).

    So many that those who wait now have begun within ``wait_goal_ns``. ``run_ns`` is the time that a call keeps an
    instance busy; 0 = nothing known yet.

    >>> instances_wanted(live=0, queued=100, concurrency=1, run_ns=0, wait_goal_ns=20_000_000)
    100
    >>> instances_wanted(live=8, queued=60, concurrency=1, run_ns=100_000, wait_goal_ns=20_000_000)
    8
    >>> instances_wanted(live=4, queued=60, concurrency=1, run_ns=5_000_000, wait_goal_ns=20_000_000)
    15
    >>> instances_wanted(live=4, queued=60, concurrency=1, run_ns=100_000_000, wait_goal_ns=20_000_000)
    64
    """
    if queued <= 0:
        return live
    most = live + -(-queued // concurrency)
    if live == 0 or run_ns == 0:
        return most
    needed = -(-queued * run_ns // (wait_goal_ns * concurrency))
    return min(most, max(live, needed, BUSY_MIN))


def smoothed(old_ns: int, sample_ns: int) -> int:
    """Exponentially weighted mean with weight 1/8, as TCP's round-trip estimator (RFC 6298).

    The first sample counts whole.

    >>> smoothed(0, 800), smoothed(800, 1600)
    (800, 900)
    """
    return sample_ns if old_ns == 0 else old_ns + (sample_ns - old_ns) // 8
