"""How many instances a function should have for the calls that are waiting.

Two facts decide: what is waiting, and how fast the function has lately been finishing calls. Knative's activator
and OpenWhisk start one container per waiting call; with calls shorter than a fork (about 1 ms) that would start
sixty processes to share two cores. So a function that drains its queue within ``wait_goal_ns`` is left alone, and
a slower one grows in proportion to how far it is off.
"""

from __future__ import annotations


def instances_wanted(live: int, queued: int, concurrency: int, drain_ns: int, wait_goal_ns: int) -> int:
    """Instances to have in all, starting ones included, never more than live + ceil(queued / concurrency).

    ``drain_ns`` is the time per finished call at the current size; 0 = nothing known yet.

    >>> instances_wanted(live=0, queued=100, concurrency=1, drain_ns=0, wait_goal_ns=10_000_000)
    100
    >>> instances_wanted(live=2, queued=62, concurrency=1, drain_ns=100_000, wait_goal_ns=10_000_000)
    2
    >>> instances_wanted(live=4, queued=60, concurrency=1, drain_ns=2_500_000, wait_goal_ns=10_000_000)
    60
    """
    if queued <= 0:
        return live
    most = live + -(-queued // concurrency)
    if live == 0 or drain_ns == 0:
        return most
    wait_ns = queued * drain_ns
    if wait_ns <= wait_goal_ns:
        return live
    return min(most, -(-live * wait_ns // wait_goal_ns))


def smoothed(old_ns: int, sample_ns: int) -> int:
    """Exponentially weighted mean with weight 1/8, as TCP's round-trip estimator (RFC 6298).

    The first sample counts whole.

    >>> smoothed(0, 800), smoothed(800, 1600)
    (800, 900)
    """
    return sample_ns if old_ns == 0 else old_ns + (sample_ns - old_ns) // 8
