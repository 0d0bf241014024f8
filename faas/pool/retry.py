"""When a call that is refused should come again: when those before it will have been served.

Where ``ahead`` calls wait, ``at_once`` run at a time and each takes ``run_ns``, one is done every ``run_ns / at_once``,
so the last of them begins after ``ahead * run_ns / at_once`` (Little's law, the other way round). ``Retry-After`` is in
whole seconds (RFC 9110), so it is rounded up; and bounded, since what holds now may not hold in a minute.

>>> after_s(ahead=100, at_once=10, run_ns=250_000_000)
3
>>> after_s(ahead=100, at_once=10, run_ns=2_000_000), after_s(ahead=100, at_once=1, run_ns=900_000_000_000)
(1, 60)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from faas.pool.entities import Function

if TYPE_CHECKING:
    from faas.pool.pool import Pool

AFTER_S_MAX: Final = 60
_NS_PER_S: Final = 1_000_000_000


def after_s(ahead: int, at_once: int, run_ns: int) -> int:
    """Seconds, from 1 to ``AFTER_S_MAX``."""
    return max(1, min(AFTER_S_MAX, -(-ahead * run_ns // (max(1, at_once) * _NS_PER_S))))


def until_s(then_ns: int, now_ns: int) -> int:
    """Seconds until a moment, from 1 to ``AFTER_S_MAX``."""
    return after_s(1, 1, max(0, then_ns - now_ns))


def run_ns(functions: Iterable[Function], now_ns: int) -> int:
    """How long calls of these functions take, going by those that run now: what they took lately, or what those have
    taken by now of which none has ended.
    """
    running = total = 0
    for function in functions:
        lasts = max(function.run_ns, function.stalled_ns)
        if function.running and function.run_ns == 0:
            lasts = max(lasts, now_ns - function.busy_since_ns)
        running += function.running
        total += function.running * lasts
    return total // running if running else 0


def function_s(function: Function, now_ns: int) -> int:
    """Until the calls that wait for this function have begun, with the instances it has."""
    at_once = function.serving * function.spec.concurrency
    return after_s(len(function.queue) + 1, at_once, run_ns((function,), now_ns))


def node_s(pool: Pool, function: Function, now_ns: int) -> int:
    """Until there is room on the node: when the function's own instances, or all, have served those who wait."""
    if function.serving:
        return function_s(function, now_ns)
    if not pool.boots.until_ns <= now_ns:
        return until_s(pool.boots.until_ns, now_ns)
    running = sum(each.running for each in pool.functions.values())
    return after_s(pool.queued + 1, running, run_ns(pool.functions.values(), now_ns))
