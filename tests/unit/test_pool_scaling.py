"""How long a call is believed to keep its instance busy."""

from __future__ import annotations

from faas.pool.entities import QUIET_TICKS, Backoff, Function, Tenant
from faas.testing.world import MS, spec


def function() -> Function:
    """One whose call of 2 ms ended at 0, with another running since."""
    made = Function(spec(), Backoff(1, 1), Backoff(1, 1), Tenant("default"), running=1)
    made.note_finish(0, 2 * MS)
    return made


def test_it_is_what_instances_say_smoothed() -> None:
    f = function()
    assert f.run_estimate_ns == 2 * MS
    f.note_finish(MS, 10 * MS)
    assert f.run_estimate_ns == 3 * MS
    f.note_finish(2 * MS, 0)
    assert f.run_estimate_ns == 3 * MS, "a call that nobody timed says nothing"


def test_nothing_is_known_before_the_first() -> None:
    f = Function(spec(), Backoff(1, 1), Backoff(1, 1), Tenant("default"), running=1)
    for tick in range(1, 10):
        f.note_time(tick * 10 * MS)
    assert f.run_estimate_ns == 0


def test_a_function_that_finishes_nothing_looks_slower_with_every_tick() -> None:
    f = function()
    seen = []
    for tick in range(1, QUIET_TICKS + 3):
        f.note_time(tick * 10 * MS)
        seen.append(f.run_estimate_ns // MS)
    assert seen == [2] * QUIET_TICKS + [(QUIET_TICKS + 1) * 10, (QUIET_TICKS + 2) * 10]
    f.note_finish(100 * MS, 2 * MS)
    assert f.run_estimate_ns == 2 * MS


def test_ticks_while_nothing_runs_count_for_nothing() -> None:
    f = function()
    f.running = 0
    for tick in range(1, 10):
        f.note_time(tick * 10 * MS)
    f.running, f.busy_since_ns = 1, 100 * MS
    for tick in range(11, 11 + QUIET_TICKS):
        f.note_time(tick * 10 * MS)
        assert f.run_estimate_ns == 2 * MS
