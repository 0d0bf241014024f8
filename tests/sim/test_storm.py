"""Seeded storms over the real pool: a safety phase with every fault, then a liveness phase without any."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faas.pool.entities import PoolConfig
from faas.pool.scaling import BUSY_MIN
from faas.pool.states import SandboxState
from faas.testing.world import MS, SECOND, World, spec
from tests.sim.scenarios import storm


@pytest.mark.parametrize("seed", [*range(12), 116])  # 116: room made by evicting the very sandbox that was bound
def test_every_call_ends_once_whatever_fails_and_the_pool_recovers(seed: int) -> None:
    world = storm(seed)
    assert len(world.ended) == world.submitted


def test_the_storm_has_everything_in_it() -> None:
    world = storm(0)
    assert {"stall", "sleep", "death"} <= world.happened.keys()
    assert {"ok", "timeout", "instance-crashed", "cancelled", "no-capacity", "node died"} <= set(world.ended.values())


def test_a_seed_replays_to_the_same_end() -> None:
    def outcome(seed: int) -> tuple[int, dict[str, str], dict[str, int]]:
        world = storm(seed)
        return world.now, world.ended, world.starts

    assert outcome(2) == outcome(2)
    assert outcome(2) != outcome(4)


def test_a_failure_says_how_to_play_it_again() -> None:
    world = World(7, PoolConfig(2000), replay="the command")
    world.call(spec(), MS)
    world.at(SECOND, lambda: setattr(world.pool, "memory_mb", 1))
    with pytest.raises(AssertionError, match="memory counted 1") as failure, world.playing():
        world.run(2 * SECOND)
    assert failure.value.__notes__ == ["seed 7, at 1.020 s of virtual time; again: the command"]


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
