"""``network = "egress"`` on Docker: the world can be reached; this host, its Redis and other functions cannot.

The world is a network namespace on the far side of this host, with an address that is routed and not the host's.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from faas.engines.docker import DockerEngine
from tests.contract.conftest import Boot, need
from tests.contract.sandboxes import MB

pytestmark = pytest.mark.anyio

WORLD, NEAR, REDIS = "198.51.100.2", "198.51.100.1", "198.51.100.3"
CONNECT = """
    import socket
    answer = []
    for host, port in {addresses!r}:
        with socket.socket() as s:
            s.settimeout(2)
            try:
                s.connect((host, port))
                answer.append(s.recv(16).decode())
            except OSError:
                answer.append("refused")
"""
SERVE = """
import socket, sys
listening = socket.create_server(("", 0))
print(listening.getsockname()[1], flush=True)
while True:
    connection, _ = listening.accept()
    connection.sendall(b"hello")
    connection.close()
"""


@pytest.fixture
def world() -> Iterator[int]:
    """A server at WORLD and REDIS, which are beyond this host; its port."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        need("it takes root and iproute2 to make a network beyond this host")
    name, far, near = f"faas-w{os.getpid() % 10000}", "faas-far", f"fw{os.getpid() % 10000}"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", name)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", name)
        ip("addr", "add", f"{NEAR}/24", "dev", near)
        ip("link", "set", near, "up")
        for address in (WORLD, REDIS):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", far)
        ip("-n", name, "link", "set", far, "up")
        ip("-n", name, "route", "add", "default", "via", NEAR)
        inside = ["nsenter", f"--net=/var/run/netns/{name}", sys.executable, "-c", SERVE]
        with subprocess.Popen(inside, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                yield int(server.stdout.readline())
            finally:
                server.kill()
    finally:
        subprocess.run(["ip", "link", "delete", near], check=False, capture_output=True)
        ip("netns", "delete", name)


@pytest.fixture
async def engine(docker_version: str, home: Path) -> AsyncIterator[DockerEngine]:
    made = DockerEngine("node-1", home, home / "store", blocked=(REDIS,))
    await made.start()
    yield made
    await made.close()


async def test_out_to_the_world_and_nowhere_else(engine: DockerEngine, boot: Boot, world: int) -> None:
    probe = await boot(network="egress")
    with socket.create_server(("", 0)) as host:
        threading.Thread(target=_greet, args=(host,), daemon=True).start()
        port = host.getsockname()[1]
        gateway = await probe.ask(
            "answer = [l.split()[2] for l in open('/proc/net/route') if l.split()[1] == '0' * 8][0]"
        )
        address = socket.inet_ntoa(int(gateway, 16).to_bytes(4, "little"))
        asked = [(WORLD, world), (REDIS, world), (address, port), (NEAR, port), ("169.254.169.254", 80)]
        assert await probe.ask(CONNECT.format(addresses=asked)) == ["hello", *["refused"] * 4]
        with socket.create_connection((address, port), timeout=5) as near:  # it was there to be reached
            assert near.recv(16) == b"hello"


async def test_functions_cannot_talk_to_each_other(engine: DockerEngine, boot: Boot) -> None:
    one, other = await boot(network="egress"), await boot(network="egress")
    instance = await one.instance()
    source = """
        import socket, threading
        listening = socket.create_server(("", 8000))
        def greet():
            while True:
                connection, _ = listening.accept()
                connection.sendall(b"hello")
        threading.Thread(target=greet, daemon=True).start()
        with socket.create_connection(("127.0.0.1", 8000)) as near:
            own = near.recv(16).decode()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.connect(("192.0.2.1", 9))
            answer = [own, s.getsockname()[0]]
    """
    greeting, address = await one.ask(source, instance)
    assert greeting == "hello"
    assert await other.ask(CONNECT.format(addresses=[(address, 8000)])) == ["refused"]


async def test_the_network_and_its_rules_go_with_the_engine(engine: DockerEngine, boot: Boot) -> None:
    await boot(network="egress", memory_bytes=128 * MB)
    assert engine._egress is not None
    bridge = engine._egress.bridge
    assert bridge in _interfaces()
    await engine.close()
    assert bridge not in _interfaces()
    assert bridge not in _rules()


def _interfaces() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def _rules() -> str:
    if os.geteuid() != 0:
        return ""  # then there are none: see EgressNetwork.guarded
    return subprocess.run(["iptables", "-w", "-S"], capture_output=True, text=True, check=True).stdout


def _greet(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"hello")
