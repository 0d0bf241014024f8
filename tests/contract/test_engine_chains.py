"""Functions that fork and exit in a chain for ever: no process lives long enough to be found, and yet it must end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas.engines.identity import SOCKET_MOUNT, SOCKET_NAME
from tests.contract.conftest import EVERY, PROCESS_WAYS, AnyEngine, Boot, make_engine
from tests.contract.sandboxes import closed, spawn
from tests.contract.traces import remains

pytestmark = pytest.mark.anyio
SIGNAL = ["plain+signal"] if "plain" in PROCESS_WAYS and os.geteuid() == 0 else []  # without control groups
GROUP, SESSION = "in its group", "in a session of its own"
EVERYWHERE = [(kind, GROUP) for kind in [*EVERY, *SIGNAL]] + [(kind, SESSION) for kind in ["plain", *SIGNAL]]
plain = pytest.mark.parametrize("engine", ["plain", *SIGNAL], indirect=True)

# All of the chain hold the connection, so its other end hears when the last of them has ended. It ends by itself if all
# else fails, and so does not outlive a test that fails.
CHAIN = """
    import os, socket, time
    held = socket.socket(socket.AF_UNIX)
    held.connect({address!r})
    until = time.monotonic() + 40
    if os.fork() == 0:
        if {session}:
            os.setsid()
        while time.monotonic() < until:
            if os.fork():
                os._exit(0)
        os._exit(0)
    held.close()
    answer = 1
"""


def chain(where: str, address: str) -> str:
    return CHAIN.format(address=address, session=where == SESSION)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that needs no file, for processes of the same network namespace."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0faas-test-{os.getpid()}")
        listener.listen()
        yield listener


async def ended(listener: socket.socket) -> None:
    """Wait until nobody holds the chain's connection any more."""
    listener.settimeout(20)
    held, _ = await asyncio.to_thread(listener.accept)
    with held:
        held.settimeout(20)
        assert await asyncio.to_thread(held.recv, 1) == b""


@pytest.mark.parametrize(("engine", "where"), EVERYWHERE, indirect=["engine"])
async def test_a_sandbox_with_a_chain_in_it_can_be_removed(
    engine: AnyEngine, kind: str, boot: Boot, where: str
) -> None:
    probe = await boot()
    instance = await probe.instance()
    directory = str(probe.dialled.spec.socket_dir) if kind.startswith("plain") else SOCKET_MOUNT
    await probe.ask(chain(where, f"{directory}/{SOCKET_NAME}"), instance)
    held = await asyncio.wait_for(probe.dialled.waiting.get(), 20)
    await engine.remove(probe.id)
    await closed(held)
    assert remains(engine) == []


@plain
@pytest.mark.parametrize(("first", "where"), [("the node", GROUP), ("the node", SESSION), ("the zygote", GROUP)])
async def test_a_chain_ends_with_a_killed_node(
    engine: AnyEngine, kind: str, home: Path, listening: socket.socket, where: str, first: str
) -> None:
    """By itself; or, if its zygote was killed before and could do nothing about it, when a node starts again."""
    source = chain(where, listening.getsockname().decode())
    command = [sys.executable, "-m", "tests.contract.crash_node", kind, "node-4", str(home), source]
    with spawn(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as node:
        assert node.stdout is not None
        zygote, _ = map(int, (await asyncio.to_thread(node.stdout.readline)).split())
        if first == "the zygote":
            os.kill(zygote, signal.SIGKILL)
        node.send_signal(signal.SIGKILL)
    if first == "the node":
        await ended(listening)
    successor = make_engine(kind, "node-4", home)
    await successor.start()
    if first == "the zygote":
        await ended(listening)
    assert remains(successor) == []
    await successor.close()
