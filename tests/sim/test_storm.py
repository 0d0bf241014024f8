"""Seeded storms over the real pool: a safety phase with every fault, then a liveness phase without any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faas.pool.entities import PoolConfig
from faas.pool.messages import Flavour, FunctionSpec
from faas.pool.scaling import BUSY_MIN
from faas.pool.states import SandboxState
from faas.testing.world import MS, SECOND, Faults, World, spec

STORM_S = 120


def specs(world: World) -> list[FunctionSpec]:
    rng = world.rng
    return [
        spec(
            f"fn{number}",
            memory_mb=rng.choice([64, 128, 512]),
            max_instances=rng.choice([1, 3, 20, 100]),
            # what is kept for one function is not there for another: only where there is room for both
            min_instances=rng.choice([0, 0, 0, 1]) if world.config.memory_budget_mb > 1000 else 0,
            concurrency=rng.choice([1, 1, 4]),
            keep_alive_ns=rng.choice([SECOND // 2, 10 * SECOND, 60 * SECOND, None]),
            warm_ns=rng.choice([0, SECOND // 2, 10 * SECOND]),
            flavour=Flavour("python", rng.choice(["none", "none", "egress"])),
        )
        for number in range(rng.randrange(1, 6))
    ]


def load(world: World, functions: list[FunctionSpec], until_s: int) -> None:
    """Bursts and trickles at random moments, deploys and deletes among them."""
    rng = world.rng
    while world.now < until_s * SECOND:
        function = rng.choice(functions)
        kind = rng.random()
        if kind < 0.05:
            world.forget(function)
        elif kind < 0.1:
            world.prepare(function)
        else:
            burst = rng.choice([1, 1, 1, 5, 40, 150])
            run_ns = rng.choice([200_000, 5 * MS, 100 * MS, 1 * SECOND])
            for _ in range(burst):
                world.call(function, run_ns)
        world.run(world.now + rng.randrange(1, 4 * SECOND))


@pytest.mark.parametrize("seed", range(24))
def test_every_call_ends_once_whatever_fails_and_the_pool_recovers(seed: int) -> None:
    config = PoolConfig(memory_budget_mb=World(seed, PoolConfig(1000)).rng.choice([600, 2000, 12000]))
    world = World(seed, config, Faults.stormy())
    functions = specs(world)
    load(world, functions, STORM_S)

    world.faults = Faults()
    world.run(world.now + 180 * SECOND)
    assert len(world.ended) == world.submitted, f"seed {seed}: calls without an end"

    before = world.submitted
    for function in functions:
        world.call(function, 5 * MS)
        world.run(world.now + 40 * SECOND)
    fresh = [world.ended[f"c{number}"] for number in range(before, world.submitted)]
    assert fresh == ["ok"] * len(functions), f"seed {seed}: {fresh}"

    for function in functions:
        world.forget(function)
    world.run(world.now + 120 * SECOND)
    assert not world.pool.instances
    assert {s.state for s in world.pool.sandboxes.values()} <= {SandboxState.GENERIC}
    assert world.containers == set(world.pool.sandboxes), f"seed {seed}: orphan containers"


def test_a_seed_replays_to_the_same_end() -> None:
    def outcome(seed: int) -> tuple[int, dict[str, str], dict[str, int]]:
        world = World(seed, PoolConfig(2000), Faults.stormy())
        load(world, specs(world), 30)
        return world.now, world.ended, world.starts

    assert outcome(7) == outcome(7)
    assert outcome(7) != outcome(8)


def test_burst_from_zero_is_answered_within_a_second() -> None:
    """A hundred concurrent calls of a 100 ms function, none running before."""
    world = World(1, PoolConfig(memory_budget_mb=14_000))
    world.prepare(spec("other"))
    world.run(2 * SECOND)
    started = world.now
    for _ in range(100):
        world.call(spec("burst"), 100 * MS)
    world.run(started + SECOND)
    assert list(world.ended.values()) == ["ok"] * 100


def test_down_to_zero_after_the_keep_alive() -> None:
    world = World(1, PoolConfig(memory_budget_mb=2000))
    world.call(spec(keep_alive_ns=5 * SECOND), MS)
    world.run(4 * SECOND)
    assert len(world.pool.instances) == 1
    world.run(12 * SECOND)
    assert not world.pool.instances
    assert [s.state for s in world.pool.sandboxes.values()] == [SandboxState.GENERIC]


def test_a_fast_function_is_not_given_an_instance_per_waiting_call() -> None:
    world = World(1, replace(PoolConfig(memory_budget_mb=14_000), queue_depth_max=1000))
    world.call(spec(), MS // 5)
    world.run(SECOND)
    for _ in range(64):
        world.call(spec(), MS // 5)
    assert len(world.pool.instances) <= BUSY_MIN
    world.run(2 * SECOND)
    assert set(world.ended.values()) == {"ok"}
