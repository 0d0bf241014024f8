"""What a node leaves behind when it dies without a word, and who clears that away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.conftest import EVERY, AnyEngine, Boot, make_engine
from tests.contract.sandboxes import closed, peer, spawn
from tests.contract.traces import alive, remains

pytestmark = pytest.mark.anyio
every = pytest.mark.parametrize("engine", EVERY, indirect=True)
_WAIT_S = 20


async def gone(pids: list[int]) -> bool:
    for _ in range(_WAIT_S * 50):
        if not any(alive(pid) for pid in pids):
            return True
        await asyncio.sleep(0.02)
    return False


@every
async def test_a_starting_node_removes_its_own_leftovers_and_no_others(
    engine: AnyEngine, kind: str, boot: Boot, home: Path
) -> None:
    neighbour = make_engine(kind, "node-2", home)
    await neighbour.start()
    try:
        left = await boot()
        beside = await boot(on=neighbour)
        successor = make_engine(kind, "node-1", home)  # as after a crash: nobody told it anything
        await successor.start()
        try:
            await closed(left.zygote)
            assert remains(successor) == []
            assert await beside.ask("answer = 'untouched'") == "untouched"
            fresh = await boot(on=successor)
            assert await fresh.ask("answer = 'works'") == "works"
        finally:
            await successor.close()
        assert await beside.ask("answer = 'still untouched'") == "still untouched"
    finally:
        await neighbour.close()


@every
async def test_sandboxes_die_with_a_killed_node(engine: AnyEngine, kind: str, home: Path) -> None:
    """``kill -9`` of the node: no process of a sandbox goes on, even if no node ever starts again."""
    command = [sys.executable, "-m", "tests.contract.crash_node", kind, "node-3", str(home)]
    with spawn(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as node:
        try:
            assert node.stdout is not None
            line = await asyncio.to_thread(node.stdout.readline)
            pids = [int(word) for word in line.split()]
            assert len(pids) == 2
            assert all(alive(pid) for pid in pids)
        finally:
            node.send_signal(signal.SIGKILL)
    assert await gone(pids)
    successor = make_engine(kind, "node-3", home)
    await successor.start()
    assert remains(successor) == []
    await successor.close()


@every
async def test_a_process_that_is_not_ours_survives_a_start(engine: AnyEngine, kind: str, home: Path) -> None:
    """Even one that carries a mark, as long as it is another node's or only looks similar."""
    marks = ["", "0123456789.node-1.s1", "node-1", "x"]
    strangers = [
        spawn(["sleep", "600"], env={**os.environ, "FAAS_SANDBOX": mark}, start_new_session=True) for mark in marks
    ]
    try:
        successor = make_engine(kind, "node-1", home)
        await successor.start()
        await successor.close()
        assert [stranger.poll() for stranger in strangers] == [None] * len(marks)
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


@pytest.mark.parametrize("engine", ["plain"], indirect=True)
async def test_what_left_its_group_and_its_parent_is_found_by_its_mark(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    instance = await probe.instance()
    source = """
        import os, time
        read, write = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.write(write, str(os.getpid()).encode())
                time.sleep(3600)
            os._exit(0)
        answer = int(os.read(read, 20))
    """
    daemon = await probe.ask(source, instance)
    assert alive(daemon)
    assert peer(instance)[0] != daemon
    await engine.remove(probe.id)
    assert await gone([daemon])
