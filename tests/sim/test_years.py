"""More than a year of a node's life, mostly quiet: what only goes wrong now and then, or adds up slowly.

Functions with rhythms (by the minute, by the hour, by the day, at random) on a node with faults of every kind; each
seed is another node. Every step checks every invariant; at the end of each, with the faults gone, everything works.
"""

from __future__ import annotations

import random

import pytest

from faas.pool.entities import PoolConfig
from faas.pool.messages import Flavour, FunctionSpec
from faas.pool.states import SandboxState
from faas.testing.world import MS, SECOND, Faults, World, spec

HOUR = 3600 * SECOND
HOURS = 500
SEEDS = 20  # 10,000 hours in all


def functions_of(world: World) -> list[tuple[FunctionSpec, int]]:
    """Functions, and how long it is between their calls."""
    rng = world.rng
    periods = [20 * 60 * SECOND, HOUR, HOUR, 6 * HOUR, 24 * HOUR, 24 * HOUR]
    return [
        (
            spec(
                f"fn{number}",
                memory_mb=rng.choice([64, 128, 512]),
                max_instances=rng.choice([1, 10]),
                concurrency=rng.choice([1, 1, 5]),
                keep_alive_ns=rng.choice([None, None, None, 0, 300 * SECOND]),
                warm_ns=60 * SECOND,
                flavour=Flavour("python", rng.choice(["none", "egress"])),
            ),
            rng.choice(periods) if number else HOUR,
        )
        for number in range(rng.randrange(2, 6))
    ]


def live(world: World, functions: list[tuple[FunctionSpec, int]], hours: int) -> None:
    """Call each by its rhythm, late or early by a little, sometimes in a burst; deploy anew now and then."""
    rng = world.rng
    end = world.now + hours * HOUR
    due = {index: world.now + rng.randrange(period) for index, (_, period) in enumerate(functions)}
    while True:
        index = min(due, key=due.__getitem__)
        if due[index] >= end:
            world.run(end)
            return
        world.run(due[index])
        function, period = functions[index]
        if rng.random() < 0.002:
            world.forget(function)
        for _ in range(rng.choice([1, 1, 1, 1, 1, 1, 1, 12])):
            world.call(function, rng.choice([2 * MS, 80 * MS, 2 * SECOND]))
        due[index] += max(SECOND, int(rng.gauss(period, period / rng.choice([4, 100]))))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_node_lives_for_weeks_and_is_as_good_as_new(seed: int) -> None:
    budget_mb = random.Random(seed).choice([700, 2000, 8000])
    world = World(seed, PoolConfig(memory_budget_mb=budget_mb), Faults.stormy(), calm_tick_ns=60 * SECOND)
    functions = functions_of(world)
    live(world, functions, HOURS)

    world.faults = Faults()
    world.run(world.now + 300 * SECOND)
    assert len(world.ended) == world.submitted, f"seed {seed}: calls without an end"

    before = world.submitted
    for function, _ in functions:
        world.call(function, 5 * MS)
        world.run(world.now + 60 * SECOND)
    fresh = [world.ended[f"c{number}"] for number in range(before, world.submitted)]
    assert fresh == ["ok"] * len(functions), f"seed {seed}: {fresh}"

    for function, _ in functions:
        world.forget(function)
    world.run(world.now + 300 * SECOND)
    assert not world.pool.instances
    assert not world.pool.functions
    assert {s.state for s in world.pool.sandboxes.values()} <= {SandboxState.GENERIC}
    assert world.containers == set(world.pool.sandboxes), f"seed {seed}: orphan containers"
