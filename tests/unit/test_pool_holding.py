"""What is held without serving is counted to the nanosecond, however often somebody looks."""

from __future__ import annotations

import doctest
import random

import pytest

from faas.pool import holding
from faas.pool.holding import Held, take
from faas.pool.messages import (
    Bind,
    Cause,
    Finished,
    Forget,
    InstanceDown,
    InstanceUp,
    Park,
    Prepare,
    Remove,
    SandboxDown,
    SandboxReady,
    Stop,
    Submit,
    Tick,
)
from faas.testing.world import MS, SECOND, spec
from tests.unit.test_pool import START, Driver, only

HELLO = "default/hello@1"


def summed(found: list[Held]) -> dict[str, tuple[int, ...]]:
    """By label: idle, parked, provisioned, generic."""
    sums: dict[str, list[int]] = {}
    for label, *amounts in found:
        before = sums.get(label, [0] * len(amounts))
        sums[label] = [some + more for some, more in zip(before, amounts, strict=True)]
    return {label: tuple(each) for label, each in sums.items()}


def test_the_worked_examples_hold() -> None:
    result = doctest.testmod(holding)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("looks_per_s", [0, 1, 40])
def test_idle_then_parked_then_serving_again(looks_per_s: int) -> None:
    d = Driver(generic_sandboxes=1)
    function = spec(warm_ns=SECOND, keep_alive_ns=60 * SECOND, memory_mb=256)
    instance = d.warm(function)  # idle from START
    take(d.pool, d.now)
    rng, found = random.Random(looks_per_s), list[Held]()

    def look_until(at_ms: int) -> None:
        for at in sorted(rng.sample(range(int((d.now - START) / MS), at_ms), looks_per_s)):
            found.extend(take(d.pool, START + at * MS))

    look_until(300)
    d(Submit("a", function), at_ms=300)
    look_until(500)
    d(Finished(instance, "a"), at_ms=500)  # 300 ms idle, 200 ms busy
    look_until(1600)
    assert Stop(instance) in d(Tick(), at_ms=1600)  # 1100 ms idle
    d(InstanceDown(instance, Cause.EXIT, "code:0"), at_ms=1610)
    sandbox = instance.split("-")[0]
    assert Park(sandbox) in d(Tick(), at_ms=2000)
    look_until(5000)
    found += take(d.pool, START + 5000 * MS)
    idle, parked, provisioned, _ = summed(found)[HELLO]
    overhead_mb = d.pool.config.sandbox_overhead_mb
    assert (idle, parked, provisioned) == (256 * 1400 * MS, overhead_mb * 3000 * MS, 0)
    assert take(d.pool, START + 5000 * MS) == [], "nothing is told twice"


def test_a_generic_sandbox_is_nobodys_until_it_is_bound() -> None:
    d = Driver()
    d.now = START
    d.generic(spec())
    d(Prepare(spec()), at_ms=700)
    ((label, *amounts),) = [held for held in take(d.pool, START + 900 * MS) if held.generic_mb_ns]
    assert (label, amounts) == ("", [0, 0, 0, d.pool.config.sandbox_overhead_mb * 700 * MS])


def test_no_more_is_provisioned_than_is_kept_and_than_there_is() -> None:
    d = Driver()
    kept = spec(min_instances=2)
    d.now = START
    d.generic(kept)
    bind = only(Bind, d(Prepare(kept)))
    d(SandboxReady(bind.sandbox))
    first, second = bind.instances
    d(InstanceUp(first), at_ms=100)
    d(InstanceUp(second), at_ms=400)
    d(Submit("a", kept), at_ms=500)  # busy or idle, it is provisioned
    d(InstanceDown(first, Cause.EXIT, "code:1"), at_ms=1000)
    found = take(d.pool, START + 1200 * MS)
    d(Forget(kept.key), at_ms=2000)
    found += take(d.pool, START + 9000 * MS)
    provisioned_ms = 900 + 1600  # the first from 100 to 1000, the second from 400 until it was forgotten
    assert summed(found)[HELLO][2] == 128 * provisioned_ms * MS


def test_what_a_forgotten_function_held_is_not_lost() -> None:
    d = Driver()
    instance = d.warm(spec())
    take(d.pool, d.now)
    d(Forget(HELLO), at_ms=250)
    d(InstanceDown(instance, Cause.EXIT, "code:0"), at_ms=260)
    for at_ms in range(300, 60_000, 500):
        for command in d(Tick(), at_ms=at_ms):
            if isinstance(command, Remove):
                d(SandboxDown(command.sandbox, Cause.KILLED))
    assert HELLO not in d.pool.functions
    assert summed(take(d.pool, d.now))[HELLO][0] == 128 * 250 * MS
