"""What the simulation plays, by name and seed: a storm of two minutes, or weeks of a mostly quiet life.

python -m tests.sim.scenarios storm|weeks SEED [LAST_SEED]
"""

from __future__ import annotations

import sys

from faas.pool.entities import PoolConfig
from faas.pool.messages import Flavour, FunctionSpec
from faas.testing.world import MINUTE, MS, SECOND, Faults, World, spec

HOUR = 60 * MINUTE
STORM_S = 120
WEEKS_HOURS = 500
RECOVERED_NS = 3 * MINUTE  # after the faults have gone: the longest limit of the pool, a pause after failures, the rest


def made(name: str, seed: int, budgets_mb: list[int], calm_tick_ns: int = 0) -> World:
    """A world with every fault; the seed is said first, and every failure says how to play it again."""
    print(f"seed {seed}", flush=True)
    budget_mb = World(seed, PoolConfig(1000)).rng.choice(budgets_mb)
    gap_ns = max(5 * SECOND, 2 * calm_tick_ns)  # a tick that is late only because nothing goes on is no gap
    config = PoolConfig(memory_budget_mb=budget_mb, generic_sandboxes=seed % 3, gap_ns=gap_ns)
    replay = f".venv/bin/python -m tests.sim.scenarios {name} {seed}"
    return World(seed, config, Faults.stormy(), calm_tick_ns=calm_tick_ns, replay=replay)


def storm(seed: int) -> World:
    """Bursts and trickles at random moments, deploys and deletes among them, and everything goes wrong."""
    world = made("storm", seed, [600, 2000, 12000])
    functions = _storm_functions(world)
    with world.playing():
        _load(world, functions, STORM_S)
        world.recover(functions, RECOVERED_NS)
    return world


def _storm_functions(world: World) -> list[FunctionSpec]:
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


def _load(world: World, functions: list[FunctionSpec], seconds: int) -> None:
    rng = world.rng
    for _ in range(seconds // 2):  # time alone would not do: the machine may sleep through it
        function = rng.choice(functions)
        kind = rng.random()
        if kind < 0.05:
            world.forget(function)
        elif kind < 0.1:
            world.prepare(function)
        else:
            run_ns = rng.choice([200_000, 5 * MS, 100 * MS, 1 * SECOND])
            for _ in range(rng.choice([1, 1, 1, 5, 40, 150])):
                world.call(function, run_ns)
        world.run(world.now + rng.randrange(1, 4 * SECOND))


def weeks(seed: int, hours: int = WEEKS_HOURS) -> World:
    """Functions with rhythms (by the minute, by the hour, by the day, at random): what only goes wrong now and then,
    or adds up slowly."""
    world = made("weeks", seed, [700, 2000, 8000], calm_tick_ns=4 * MINUTE)
    functions = _weeks_functions(world)
    with world.playing():
        _live(world, functions, hours)
        world.recover([function for function, _ in functions], RECOVERED_NS)
    return world


def _weeks_functions(world: World) -> list[tuple[FunctionSpec, int]]:
    """Functions, and how long it is between their calls."""
    rng = world.rng
    periods = [20 * MINUTE, HOUR, HOUR, 6 * HOUR, 24 * HOUR, 24 * HOUR]
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


def _live(world: World, functions: list[tuple[FunctionSpec, int]], hours: int) -> None:
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


if __name__ == "__main__":
    play = {"storm": storm, "weeks": weeks}[sys.argv[1]]
    for each in range(int(sys.argv[2]), int(sys.argv[-1]) + 1):
        played = play(each)
        print(f"  {played.submitted} calls, {played.starts}, {played.happened}, {played.pool}", flush=True)
