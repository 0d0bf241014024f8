"""Parking, as every engine promises it (``faas.ports.Parking``), on every way an engine has to do it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faas.engines import cgroup, proc
from faas.engines.docker import DockerEngine
from faas.model.errors import EngineUnavailable
from tests.contract.conftest import LIMITED, STOPPING, AnyEngine, Boot, make_engine
from tests.contract.sandboxes import ERROR, INVOKE, MB, RESULT, Channel, Probe, closed, peer, spawn
from tests.contract.traces import alive, remains

pytestmark = pytest.mark.anyio
stopping = pytest.mark.parametrize("engine", STOPPING, indirect=True)

SPIN = """
    import threading
    def spin():
        while True:
            pass
    threading.Thread(target=spin, daemon=True).start()
"""
FORK_ON = """
    import os, time
    if os.fork() == 0:
        while True:  # each lives a moment and leaves one behind
            time.sleep(0.001)
            if os.fork() != 0:
                os._exit(0)
"""


async def thaw(engine: AnyEngine, sandbox: str) -> None:
    later = engine.thaw(sandbox)
    if later is not None:
        await later


def below(root: int) -> list[int]:
    return [seen.pid for seen in proc.tree(root)]


def ticks(root: int) -> dict[int, str]:
    """Processor time of every process from ``root`` down, as the kernel counts it."""
    used = {}
    for pid in below(root):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[pid] = f"{fields[11]} {fields[12]}"
    return used


async def stands_still(root: int) -> bool:
    before = ticks(root)
    await asyncio.sleep(0.25)
    return ticks(root) == before


async def goes_on(root: int) -> None:
    """Return when some process has used processor time; the test's time limit ends it otherwise."""
    before = ticks(root)
    while ticks(root) == before:
        await asyncio.sleep(0.02)


async def call(channel: Channel, source: str) -> None:
    await channel.send(INVOKE, "0" * 32, 2**62, "direct", 1, "application/json", "", None, f'"{source}"'.encode())


async def spinning(boot: Boot) -> tuple[Probe, Channel, int]:
    """A sandbox with an instance that never rests, and the host's pid of its zygote."""
    probe = await boot()
    instance = await probe.instance()
    await probe.ask(SPIN, instance)
    return probe, instance, peer(probe.zygote)[0]


@stopping
async def test_a_frozen_sandbox_stands_still_and_goes_on(engine: AnyEngine, boot: Boot) -> None:
    probe, instance, zygote = await spinning(boot)
    neighbour = await boot()
    await goes_on(zygote)
    await engine.freeze(probe.id)
    assert await stands_still(zygote)
    await call(instance, "answer = 7 * 6")
    cgroup.of_process(zygote, "")  # whoever looks at it, a benchmark say, must not thaw it
    assert await neighbour.ask("answer = 'unharmed'") == "unharmed"
    assert await stands_still(zygote)
    await thaw(engine, probe.id)
    assert (await instance.until(RESULT, ERROR))[-1] == b"42"
    await goes_on(zygote)
    assert await probe.ask("answer = 'the zygote forks on'") == "the zygote forks on"


@stopping
async def test_it_says_how_it_does_it(engine: AnyEngine, kind: str, boot: Boot) -> None:
    promised = engine.freezer
    probe = await boot()
    assert engine.freezer == promised
    if "+" in kind:
        assert engine.freezer == {"api": "api", "signal": "signal", "v1": "direct"}[kind.partition("+")[2]]
    await engine.freeze(probe.id)
    later = engine.thaw(probe.id)
    assert (later is not None) == (engine.freezer == "api")  # whatever needs no engine has happened already
    if later is not None:
        await later
    assert await probe.ask("answer = 1") == 1


@stopping
async def test_both_can_be_said_twice(engine: AnyEngine, boot: Boot) -> None:
    probe, _, zygote = await spinning(boot)
    await thaw(engine, probe.id)
    assert await probe.ask("answer = 'it ran all the time'") == "it ran all the time"
    await asyncio.gather(engine.freeze(probe.id), engine.freeze(probe.id))
    await engine.freeze(probe.id)
    assert await stands_still(zygote)
    await asyncio.gather(*(thaw(engine, probe.id) for _ in range(3)))
    assert await probe.ask("answer = 1") == 1


@stopping
async def test_the_last_one_wins(engine: AnyEngine, boot: Boot) -> None:
    probe, instance, zygote = await spinning(boot)
    dice = random.Random(4)
    for round_ in range(6):
        said = [dice.random() < 0.5 for _ in range(6)] + [round_ % 2 == 0]
        tasks = []
        for frozen in said:
            tasks.append(asyncio.create_task(engine.freeze(probe.id) if frozen else thaw(engine, probe.id)))
            await asyncio.sleep(dice.choice([0, 0, 0.001, 0.01]))
        await asyncio.gather(*tasks)
        if said[-1]:
            assert await stands_still(zygote)
        else:
            assert await probe.ask("answer = 1", instance) == 1
    await thaw(engine, probe.id)


@stopping
async def test_a_freeze_that_is_cancelled_leaves_it_running(engine: AnyEngine, boot: Boot) -> None:
    probe, instance, _ = await spinning(boot)
    for pause_s in (0, 0.0002, 0.002, 0.01):
        task = asyncio.create_task(engine.freeze(probe.id))
        await asyncio.sleep(pause_s)
        if task.cancel():
            await asyncio.wait([task])
        if not task.cancelled():  # it was faster
            await thaw(engine, probe.id)
        assert await probe.ask("answer = 1", instance) == 1


@stopping
async def test_processes_that_fork_meanwhile_are_stopped_too(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    instance = await probe.instance()
    zygote = peer(probe.zygote)[0]
    for _ in range(4):
        await probe.ask(FORK_ON, instance)
    await engine.freeze(probe.id)
    assert len(below(zygote)) >= 5
    assert await stands_still(zygote)
    await thaw(engine, probe.id)
    assert await probe.ask("answer = 1", instance) == 1


@stopping
async def test_a_frozen_sandbox_can_be_removed(engine: AnyEngine, boot: Boot) -> None:
    probe, instance, zygote = await spinning(boot)
    pids = below(zygote)
    assert len(pids) == 2
    await engine.freeze(probe.id)
    await asyncio.gather(engine.remove(probe.id), engine.exited(probe.id))
    await closed(instance)
    assert not any(alive(pid) for pid in pids)
    assert remains(engine) == []
    for done in (engine.freeze, engine.thaw):
        with pytest.raises(EngineUnavailable, match=probe.id):
            await (done(probe.id) or asyncio.sleep(0))


@stopping
async def test_so_can_one_that_is_just_being_frozen(engine: AnyEngine, boot: Boot) -> None:
    probe, instance, _ = await spinning(boot)
    freezing = asyncio.create_task(engine.freeze(probe.id))
    await asyncio.sleep(0.001)
    await engine.remove(probe.id)
    await asyncio.wait([freezing])
    assert freezing.exception() is None or isinstance(freezing.exception(), EngineUnavailable)
    await closed(instance)
    assert remains(engine) == []


@stopping
async def test_close_ends_frozen_ones(engine: AnyEngine, boot: Boot) -> None:
    probes = [await boot(), await boot()]
    await asyncio.gather(*(engine.freeze(probe.id) for probe in probes))
    await engine.close()
    for probe in probes:
        await closed(probe.zygote)
    assert remains(engine) == []


@stopping
async def test_a_starting_node_removes_what_a_killed_one_left_frozen(engine: AnyEngine, kind: str, home: Path) -> None:
    command = [sys.executable, "-m", "tests.contract.parked_node", kind, "node-3", str(home)]
    with spawn(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as node:
        try:
            assert node.stdout is not None
            line = await asyncio.to_thread(node.stdout.readline)
            pids = [int(word) for word in line.split()]
            assert len(pids) == 2
        finally:
            node.send_signal(signal.SIGKILL)
    successor = make_engine(kind, "node-3", home)
    await successor.start()
    assert remains(successor) == []
    assert not any(alive(pid) for pid in pids)
    await successor.close()


@stopping
async def test_one_that_ended_while_nobody_looked_is_no_trouble(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    await probe.dialled.close()
    await engine.exited(probe.id)
    for done in (engine.freeze, engine.thaw, engine.freeze):
        with contextlib.suppress(EngineUnavailable):
            await (done(probe.id) or asyncio.sleep(0))
    await engine.remove(probe.id)
    assert remains(engine) == []


@stopping
async def test_what_is_not_there_can_not_be_stopped(engine: AnyEngine) -> None:
    for done in (engine.freeze, engine.thaw):
        with pytest.raises(EngineUnavailable, match="s-nowhere"):
            await (done("s-nowhere") or asyncio.sleep(0))
    assert await engine.memory_bytes("s-nowhere") == 0


@pytest.mark.parametrize("engine", [kind for kind in STOPPING if kind.partition("+")[0] in LIMITED], indirect=True)
async def test_a_frozen_sandbox_can_be_resized(engine: AnyEngine, kind: str, boot: Boot) -> None:
    probe = await boot()
    await engine.freeze(probe.id)
    await engine.resize(probe.id, 192 * MB, cpus=0.5, share=0.25)
    await thaw(engine, probe.id)
    assert await probe.ask("answer = 'resized'") == "resized"


# -- what it holds --------------------------------------------------------------------------------------------------


@stopping
async def test_memory_is_what_the_sandbox_holds(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    parked = await engine.memory_bytes(probe.id)
    assert 2 * MB < parked < 64 * MB
    instance = await probe.instance()
    await probe.ask("import builtins; builtins.kept = bytearray(b'x') * (48 * 1048576)", instance)
    held = await engine.memory_bytes(probe.id)
    assert 48 * MB <= held - parked < 64 * MB
    await engine.freeze(probe.id)
    assert 48 * MB <= await engine.memory_bytes(probe.id) - parked < 64 * MB
    await thaw(engine, probe.id)
    assert await probe.ask("import builtins; answer = len(builtins.kept); del builtins.kept", instance) == 48 * MB
    assert await engine.memory_bytes(probe.id) - parked < 24 * MB


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_what_the_shim_holds_is_known_where_it_can_be_seen(engine: DockerEngine, boot: Boot) -> None:
    probe = await boot()
    assert MB < engine.overhead_bytes(probe.id) < 64 * MB
    await engine.remove(probe.id)
    assert engine.overhead_bytes(probe.id) == 0


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_a_user_who_may_only_read_control_groups_asks_the_engine_for_the_rest(
    engine: DockerEngine, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "may_write", lambda path: False)
    monkeypatch.setattr(cgroup.Cgroup, "limit", None)
    probe, _, zygote = await spinning(boot)
    assert engine.freezer == "api"
    await engine.resize(probe.id, 192 * MB)
    await engine.freeze(probe.id)
    assert await stands_still(zygote)
    assert await engine.memory_bytes(probe.id) > MB
    await thaw(engine, probe.id)
    assert await probe.ask("answer = 1") == 1
    ended = asyncio.create_task(engine.exited(probe.id))
    await engine.freeze(probe.id)
    await engine.remove(probe.id)
    await ended
    assert remains(engine) == []
