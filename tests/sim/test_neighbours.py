"""Two namespaces on one node: one floods it with long calls of large functions, the other has a few short ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from faas.pool import contention, tenants
from faas.pool.entities import PoolConfig
from faas.pool.messages import FunctionSpec, Limit
from faas.testing.world import MS, SECOND, Faults, World, spec

LOUD_NS = 2 * SECOND  # how long its calls run
START_NS = 300 * MS  # a container, a load, a fork
STOP_NS = 15 * MS  # an instance that ends, and the tick that may lie between


def of(namespace: str, name: str, **changes: object) -> FunctionSpec:
    key = f"{namespace}/{name}@1"
    return spec(name, namespace=namespace, key=key, label=key, **changes)


LOUD = [of("loud", f"big{number}", memory_mb=256, max_instances=1000) for number in range(3)]
QUIET = of("quiet", "small", memory_mb=384)  # what is left beside the other is too little for it


def world(seed: int, faults: Faults | None = None, budget_mb: int = 8000) -> World:
    made = World(seed, PoolConfig(memory_budget_mb=budget_mb, queue_depth_max=20), faults or Faults())
    made.run(SECOND)
    return made


def every(world: World, period_ns: int, action: Callable[[], None], until_ns: int) -> None:
    def again() -> None:
        if world.now < until_ns:
            action()
            world.at(period_ns, again)

    world.at(0, again)


def flood(world: World, until_ns: int) -> None:
    """More calls than the node could ever hold, again and again."""

    def burst() -> None:
        for function in LOUD:
            for _ in range(20):
                world.call(function, LOUD_NS - world.rng.randrange(500 * MS))

    every(world, SECOND, burst, until_ns)


def calls_of(world: World, function: FunctionSpec, run_ns: int, period_ns: int, until_ns: int) -> list[str]:
    made: list[str] = []
    every(world, period_ns, lambda: made.append(world.call(function, run_ns)), until_ns)
    return made


@pytest.mark.parametrize("seed", range(2))
def test_who_comes_to_a_node_that_is_full_waits_for_one_call_at_most(seed: int) -> None:
    """The other was not known to the node, so that nothing was left for it."""
    w = world(seed)
    flood(w, 30 * SECOND)
    w.run(10 * SECOND)
    assert w.pool.memory_mb > 8000 - 256 - 24, "the node is full"
    quiet = calls_of(w, QUIET, 20 * MS, 250 * MS, 25 * SECOND)
    w.run(40 * SECOND)
    assert {w.ended[call] for call in quiet} == {"ok"}
    assert max(w.waits[call] for call in quiet) <= LOUD_NS + STOP_NS + START_NS
    assert max(w.waits[call] for call in quiet[20:]) <= 10 * MS, "its instance stays, and is its own"


@pytest.mark.parametrize("seed", range(2))
def test_who_is_known_to_the_node_does_not_wait_at_all(seed: int) -> None:
    w = world(seed)
    w.call(QUIET, MS)
    w.run(20 * SECOND)
    flood(w, 40 * SECOND)
    w.run(30 * SECOND)
    assert w.pool.memory_mb > 6700, "the node is as full as it gets"
    quiet = calls_of(w, QUIET, 20 * MS, 250 * MS, 38 * SECOND)
    w.run(50 * SECOND)
    assert {w.ended[call] for call in quiet} == {"ok"}
    assert max(w.waits[call] for call in quiet) <= START_NS


@pytest.mark.parametrize("seed", range(2))
def test_who_wants_its_share_has_it_after_one_call(seed: int) -> None:
    """Both want everything. Half of the node is each one's, however early the other came and whatever it wants."""
    w = world(seed)
    flood(w, 40 * SECOND)
    w.run(10 * SECOND)

    def burst() -> None:
        for _ in range(40):
            w.call(QUIET, 500 * MS)

    every(w, 200 * MS, burst, 40 * SECOND)
    w.run(10 * SECOND + LOUD_NS + STOP_NS + 2 * START_NS)
    one = 384 + 24
    for _ in range(60):
        loud, quiet = (contention.held_mb(w.pool, w.pool.tenants[name]) for name in ("loud", "quiet"))
        assert quiet >= 4000 - 2 * one, f"quiet holds {quiet}, loud {loud}"
        assert loud >= 4000 - 2 * one, f"quiet holds {quiet}, loud {loud}"
        w.run(w.now + 200 * MS)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_is_starved_when_instances_die_and_do_not_stop_as_well(seed: int) -> None:
    """A stop that is not carried out costs its sandbox after ``stop_limit_ns``, whose removal may be forgotten too."""
    faults = Faults(fork_dies=0.03, call_crashes=0.02, event_twice=0.05, kill_ignored=0.05, sandbox_dies=0.002)
    w = world(seed, faults)
    flood(w, 40 * SECOND)
    w.run(10 * SECOND)
    quiet = calls_of(w, QUIET, 20 * MS, SECOND // 2, 38 * SECOND)
    w.run(90 * SECOND)
    assert len(w.ended) == w.submitted
    assert {w.ended[call] for call in quiet} <= {"ok", "instance-crashed"}
    stop_ns = w.pool.config.stop_limit_ns + 100 * MS
    assert max(w.waits[call] for call in quiet if call in w.waits) <= LOUD_NS + stop_ns + 2 * START_NS


@pytest.mark.parametrize("seed", range(6))
def test_limits_hold_and_every_call_ends_in_storms_of_several_namespaces(seed: int) -> None:
    faults = replace(Faults.stormy(), node_dies=0.0)  # a node that starts anew is told its limits anew
    w = world(seed, faults, budget_mb=2500)
    rng = w.rng
    names = ["a", "b", "c"]
    memory = {name: rng.choice([None, 300, 1000]) for name in names}
    calls = {name: rng.choice([None, 1, 10]) for name in names}
    for name in names:
        w.tell(Limit(name, calls[name], memory[name]))
    functions = [
        of(rng.choice(names), f"f{n}", memory_mb=rng.choice([64, 256, 512]), concurrency=rng.choice([1, 4]))
        for n in range(6)
    ]
    while w.now < 60 * SECOND:
        function = rng.choice(functions)
        if rng.random() < 0.1:
            w.forget(function)
        for _ in range(rng.choice([1, 5, 40])):
            w.call(function, rng.choice([5 * MS, SECOND]))
        for tenant in w.pool.tenants.values():
            assert tenant.instances_mb <= (memory[tenant.name] or 2500)
            assert tenants.calls(w.pool, tenant) <= (calls[tenant.name] or 10_000)
        w.run(w.now + rng.randrange(SECOND))
    w.calm()
    w.run(w.now + 180 * SECOND)
    assert len(w.ended) == w.submitted
    fits = [f for f in functions if f.memory_mb <= (memory[f.namespace] or 2500)]
    fresh = []
    for function in fits:
        fresh.append(w.call(function, 5 * MS))
        w.run(w.now + 20 * SECOND)
    assert [w.ended[call] for call in fresh] == ["ok"] * len(fits)
