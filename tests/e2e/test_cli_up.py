"""`faas up`: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contract.valkeys import running_valkey
from tests.e2e.node import FAAS, READY_S, STOP_S, Node
from tests.e2e.processes import wait_until
from tests.e2e.test_cli import Cli

MakeNode = Callable[..., Node]


class Up:
    """`faas up` with its output; a bound on every wait."""

    def __init__(self, node: Node, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [FAAS, "up", *arguments],
            env=node.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.watchdog = threading.Timer(READY_S, self.process.kill)
        self.watchdog.start()

    def until(self, beginning: str) -> str:
        """The first line that begins so; all before it are in ``lines``."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith(beginning):
                return self.lines[-1]
        assert self.process.stderr is not None
        raise AssertionError(f"it ended without {beginning!r}: {self.lines} {self.process.stderr.read()}")

    def end(self) -> tuple[int, str, str]:
        """Exit code, the rest of stdout, stderr."""
        rest, said = self.process.communicate(timeout=STOP_S)
        self.watchdog.cancel()
        return self.process.returncode, rest, said

    def close(self) -> None:
        self.watchdog.cancel()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def up(make_node: MakeNode) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(node: Node, *arguments: str) -> Up:
        started.append(Up(node, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()


def test_the_demo_deploys_calls_and_says_what_it_cost(
    make_node: MakeNode, up: Callable[..., Up], tmp_path: Path
) -> None:
    """Twice in a row on one home, as `make up` is."""
    node = make_node()
    for version in (1, 2):
        running = up(node, "--demo")
        ready = running.until("ready ")
        url = ready.split()[1]
        assert ready == f"ready {url} engine={node.engine}"
        said = "\n".join(running.lines)
        assert f"engine {node.engine}: " in said
        assert f"deployed hello version {version} in " in said
        assert '\n{"message":"Hello, world!"}\n' in said.replace(": ", ":").replace('":"', '":"')
        assert re.search(
            r"time +\S+ m?s in all: queue .*, init .*, run .* \((cold|prewarmed|parked|warm) start\)", said
        )
        assert re.search(r"cost +\d+ ms x 64 MB = 0\.\d{6} GB-s billed", said)
        assert f"curl {url}/fn/hello" in said
        client = node.home / "client.toml"
        assert client.stat().st_mode & 0o777 == 0o600
        assert f'url = "{url}"' in client.read_text()
        assert json.loads(Cli(node, tmp_path)("invoke", "hello")) == {"message": "Hello, world!"}
        os.killpg(running.process.pid, signal.SIGINT)  # as Ctrl-C does: everybody in the group gets it
        code, rest, _ = running.end()
        assert code == 0
        assert [line.partition(":")[0] for line in rest.splitlines()] == ["stopping", "stopped"]
    assert "no node answers" in Cli(node, tmp_path).fails("ls")


def test_ready_as_json_is_one_line(make_node: MakeNode, up: Callable[..., Up]) -> None:
    node = make_node()
    running = up(node, "--json")
    ready = json.loads(running.until("{"))
    assert (ready["ready"], ready["engine"], len(running.lines)) == (True, node.engine, 1)
    running.process.terminate()
    code, rest, said = running.end()
    assert (code, rest) == (0, "")
    assert "stopped" in said


def test_a_second_node_on_the_same_home_is_refused(make_node: MakeNode, up: Callable[..., Up]) -> None:
    node = make_node()
    node.start()
    code, rest, said = up(node).end()
    assert (code, rest) == (1, "")
    assert f"a node runs with this FAAS_HOME already (process {node.pid})" in said
    node.healthy()


def test_a_port_in_use_is_named_with_the_way_out(make_node: MakeNode, up: Callable[..., Up]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, said = up(make_node(port=str(port))).end()
    assert code == 1
    assert f"127.0.0.1:{port}" in said
    assert "FAAS_PORT" in said


def test_a_setting_that_is_not_valid_stops_it_before_it_starts(make_node: MakeNode, up: Callable[..., Up]) -> None:
    node = make_node(queue_wait="soon")
    code, rest, said = up(node).end()
    assert (code, rest) == (2, "")
    assert "FAAS_QUEUE_WAIT=soon" in said
    assert not node.home.exists()


def test_functions_are_there_again_after_a_restart(make_node: MakeNode, tmp_path: Path) -> None:
    node = make_node()
    node.start()
    faas = Cli(node, tmp_path)
    faas("init", "kept")
    faas("deploy", "kept.py")
    node.restart()
    assert json.loads(faas("invoke", "kept", "-d", '{"name": "again"}')) == {"message": "Hello, again!"}


# -- the admin key ---------------------------------------------------------------------------------------------------


def test_the_key_is_in_one_place_and_stays_over_restarts(make_node: MakeNode, tmp_path: Path) -> None:
    node = make_node()
    node.start()
    key = node.key
    written = (node.home / "client.toml").read_text()
    (node.home / "client.toml").write_text(written.replace('"default"', '"team-a"'))
    node.restart()
    assert node.key == key
    assert 'namespace = "team-a"' in (node.home / "client.toml").read_text()
    assert [each["scopes"] for each in Cli(node, tmp_path).json("key", "ls")] == [["admin"]]
    holding = [path for path in node.home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    assert holding == [node.home / "client.toml"]


def test_who_loses_the_key_gets_another_and_is_told(make_node: MakeNode, tmp_path: Path) -> None:
    node = make_node()
    node.start()
    lost = node.key
    (node.home / "client.toml").unlink()
    node.restart()
    faas = Cli(node, tmp_path)
    assert node.key != lost
    assert "made another admin key" in node.said()
    old = faas.json("key", "ls")[0]
    faas("ls", "--key", lost)
    faas("key", "revoke", old["id"])
    assert "not known here" in faas.fails("ls", "--key", lost)
    node.restart()
    assert len(faas.json("key", "ls")) == 1


def test_a_first_start_that_is_killed_locks_nobody_out(
    make_node: MakeNode, up: Callable[..., Up], tmp_path: Path
) -> None:
    """At the moment the key is on disk: before or after the store has it, as it happens."""
    node = make_node()
    running = up(node)
    wait_until((node.home / "client.toml").exists, "the key is on disk", READY_S)
    running.process.kill()
    running.end()
    node.start()
    assert [each["scopes"] for each in Cli(node, tmp_path).json("key", "ls")] == [["admin"]]


def test_a_second_node_on_a_store_has_no_key_until_it_asks(
    make_node: MakeNode, up: Callable[..., Up], tmp_path: Path
) -> None:
    with running_valkey() as url:
        first, second = make_node(redis_url=url), make_node(redis_url=url)
        first.start()
        running = up(second)
        running.until("ready ")
        assert any("put it into yours, or start once with: faas up --new-admin-key" in line for line in running.lines)
        faas = Cli(second, tmp_path)
        assert "no key was given" in faas.fails("ls")
        faas("ls", "--key", first.key)
        running.process.terminate()
        assert running.end()[0] == 0
        running = up(second, "--new-admin-key")
        running.until("ready ")
        assert len(faas.json("key", "ls")) == 2
        assert first.key != second.key
        running.process.terminate()
        assert running.end()[0] == 0
        first.stop()


SLOW = """
import time


def handler(event, context):
    print("asleep")
    time.sleep(event["s"])
    return "awake"
"""


@pytest.mark.parametrize(("sleep_s", "signals", "status"), [(2, 1, 200), (600, 2, 0)])
def test_the_first_signal_lets_calls_end_the_second_does_not(
    make_node: MakeNode, up: Callable[..., Up], sleep_s: float, signals: int, status: int, tmp_path: Path
) -> None:
    """Either way the node ends well and leaves nothing (``make_node`` looks for containers afterwards)."""
    node = make_node(drain_timeout="10m")
    running = up(node)
    node.url = running.until("ready ").split()[1]
    faas = Cli(node, tmp_path)
    (tmp_path / "slow.py").write_text(SLOW)
    faas("deploy", "slow.py", "--timeout", "15m")
    statuses: list[int] = []

    def call() -> None:
        ran = faas.run("invoke", "slow", "-d", json.dumps({"s": sleep_s}), "--json")
        statuses.append(json.loads(ran.stdout)["status"] if ran.returncode == 0 else 0)

    caller = threading.Thread(target=call)
    caller.start()
    wait_until(lambda: "asleep" in faas("logs", "slow"), "the call runs")
    beginnings = ("stopping: ", "stopping at once")
    for beginning in beginnings[:signals]:
        running.process.send_signal(signal.SIGINT)
        running.until(beginning)
    code, rest, _ = running.end()
    caller.join()
    assert (code, rest, statuses) == (0, "stopped\n", [status])
