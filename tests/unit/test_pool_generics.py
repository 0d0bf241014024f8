"""How the pool keeps generic sandboxes ready: by demand, within memory, and never before those who wait."""

from __future__ import annotations

from faas.pool import upkeep
from faas.pool.entities import PoolConfig
from faas.pool.states import SandboxState
from faas.testing.world import MS, SECOND, World, spec

FLAVOUR = spec().flavour


def ready(world: World) -> int:
    return len(upkeep.generics_there(world.pool, FLAVOUR)[0])


def burst(world: World, functions: int, name: str = "fn") -> None:
    for number in range(functions):
        world.call(spec(f"{name}{number}", keep_alive_ns=0, warm_ns=0), MS)
    world.run(world.now + 3 * SECOND)


def test_calls_that_found_none_make_more_stand_ready_until_demand_has_faded() -> None:
    world = World(1, PoolConfig(memory_budget_mb=4000))
    burst(world, 6)
    assert world.starts == {"cold": 6}
    assert ready(world) in (6, 7)  # one may have come for a call that was served already
    burst(world, 6, "again")
    assert world.starts == {"cold": 6, "prewarmed": 6}
    world.run(world.now + 300 * SECOND)
    assert ready(world) == 1


def test_none_are_kept_where_the_number_set_is_0() -> None:
    world = World(1, PoolConfig(memory_budget_mb=4000, generic_sandboxes=0))
    burst(world, 6)
    world.run(world.now + 60 * SECOND)
    assert world.pool.memory_mb == 0
    assert upkeep.generics(world.pool, FLAVOUR, world.now).why == "none kept: the number set is 0"


def test_demand_gets_an_eighth_of_the_memory_at_most_and_the_number_set_gets_all_it_needs() -> None:
    world = World(1, PoolConfig(memory_budget_mb=8 * 24 * 3))
    for number in range(10):
        burst(world, 1, f"one{number}")
    burst(world, 3)
    assert ready(world) <= 3
    world = World(1, PoolConfig(memory_budget_mb=8 * 24, generic_sandboxes=5))
    burst(world, 1)
    assert ready(world) == 5


def test_two_boot_at_a_time() -> None:
    world = World(1, PoolConfig(memory_budget_mb=4000, generic_sandboxes=8))
    world.prepare(spec())
    for _ in range(40):
        world.run(world.now + 50 * MS)
        booting = [s for s in world.pool.sandboxes.values() if s.state is SandboxState.BOOTING and s.function is None]
        assert len(booting) <= upkeep.BOOTS_AT_ONCE
    assert ready(world) == 8


def test_no_generic_one_is_booted_with_memory_that_a_call_waits_for() -> None:
    """One of 512 MB waits for two of 256 MB to end: what comes free meanwhile is not spent on generic sandboxes."""
    world = World(1, PoolConfig(memory_budget_mb=24 * 3 + 560))
    small = [spec(f"small{number}", memory_mb=256, keep_alive_ns=60 * SECOND) for number in range(2)]
    for number, each in enumerate(small):
        world.call(each, (1 + number) * SECOND)
    world.run(900 * MS)
    world.call(spec("large", memory_mb=512), MS)
    world.run(1500 * MS)
    assert [f.short_of for f in world.pool.functions.values()] == ["", "", "memory"]
    assert (len(world.pool.sandboxes), ready(world)) == (2, 1)
    world.run(4 * SECOND)
    assert set(world.ended.values()) == {"ok"}
