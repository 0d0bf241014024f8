"""One kind of fault at a time, and what the pool promises under it."""

from __future__ import annotations

import pytest

from faas.pool.entities import PoolConfig
from faas.pool.messages import Boot, Cause, Command, Fork, Remove, SandboxUp
from faas.pool.states import SandboxState
from faas.testing.world import MINUTE, MS, SECOND, Faults, World, spec

BIG = PoolConfig(memory_budget_mb=8000)


class Watched(World):
    """Counts the commands by kind."""

    def _perform(self, command: Command) -> None:
        self.happened[type(command).__name__] = self.happened.get(type(command).__name__, 0) + 1
        World._perform(self, command)


@pytest.mark.parametrize("after_ms", [0, 30, 150, 240, 262, 266, 270, 800])
@pytest.mark.parametrize("stands_still", ["node", "machine"])
def test_who_was_starting_when_time_jumped_is_not_given_up(after_ms: int, stands_still: str) -> None:
    """An hour passes at once while sandboxes boot, load and fork: nothing is removed and every call is served."""
    world = Watched(3, BIG, timeout_ns=2 * 60 * MINUTE)
    for _ in range(5):
        world.call(spec(), 600 * MS)
    world.run(after_ms * MS)
    if stands_still == "node":
        world._stall(60 * MINUTE)
    else:
        world._sleep(60 * MINUTE)
    world.run(world.now + 2 * SECOND)
    assert list(world.ended.values()) == ["ok"] * 5
    assert world.happened[Boot.__name__] <= 2, "a boot was given up"
    assert Remove.__name__ not in world.happened
    assert world.pool.boot_ns < SECOND, "the hour was taken for the time a boot takes"


def test_calls_of_a_function_whose_instances_die_at_once_are_refused_and_it_is_not_forked_without_end() -> None:
    world = Watched(1, BIG, Faults(fork_dies=1.0))
    for _ in range(3):
        world.call(spec(), MS)
    world.run(2 * MINUTE)
    assert set(world.ended.values()) == {"no-capacity"}
    assert world.happened[Fork.__name__] < 60
    world.calm()
    world.run(4 * MINUTE)
    call = world.call(spec(), MS)
    world.run(world.now + 5 * SECOND)
    assert world.ended[call] == "ok"


def test_an_engine_that_does_not_let_go_keeps_its_memory_counted_and_idle_functions_still_make_room() -> None:
    config = PoolConfig(memory_budget_mb=24 * 4 + 512 + 512 + 128, generic_sandboxes=0)
    world = World(1, config, Faults(remove_hangs=1.0))
    world.call(spec("gone", memory_mb=512), SECOND)
    world.run(SECOND)
    (stuck,) = world.pool.sandboxes.values()
    world.machine.lose(stuck.id, Cause.LOST, "simulated")
    world.run(2 * SECOND)
    assert stuck.state is SandboxState.REMOVED
    assert world.pool.memory_mb == 24 + 512
    idle = world.call(spec("idle", memory_mb=512, keep_alive_ns=60 * MINUTE, warm_ns=60 * MINUTE), MS)
    world.run(10 * SECOND)
    assert world.ended[idle] == "ok"
    for number in range(5):
        world.call(spec(f"next{number}", memory_mb=256, keep_alive_ns=60 * MINUTE, warm_ns=60 * MINUTE), MS)
        world.run(world.now + 15 * SECOND)
    assert world.ended["c2"] == "ok", "what never comes was waited for in place of evicting what is idle"
    assert stuck.id in world.pool.sandboxes


def test_an_engine_that_hangs_forever_costs_its_sandboxes_and_no_more() -> None:
    world = Watched(1, PoolConfig(memory_budget_mb=400), Faults(boot_hangs=1.0))
    call = world.call(spec(), MS)
    world.run(11 * SECOND)
    assert world.ended[call] == "no-capacity"
    world.run(30 * MINUTE)
    assert world.pool.memory_mb <= 400
    assert world.machine.memory_mb == world.pool.memory_mb
    world.recover([spec()], 3 * MINUTE)


def test_a_removed_sandbox_that_comes_to_life_is_removed_all_the_same() -> None:
    world = World(1, BIG, Faults(boot_never_answers=1.0, remove_fails=1.0))
    world.call(spec(), MS)
    world.run(70 * SECOND)
    removed = [s.id for s in world.pool.sandboxes.values() if s.state is SandboxState.REMOVED]
    assert removed
    for sandbox in removed:
        world.tell(SandboxUp(sandbox))
        assert world.pool.sandboxes[sandbox].state is SandboxState.REMOVED
    world.calm()
    world.run(world.now + 12 * SECOND)
    assert not set(removed) & world.pool.sandboxes.keys()
    assert not set(removed) & world.machine.containers.keys()
