"""The real CLI against a real node: from a file to a metered answer, as a person at a terminal does it."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faas.packaging import pack
from tests.e2e.node import FAAS, Node
from tests.e2e.processes import wait_until

WAIT_S = 60.0
GREET = """
import logging
import sys


def handler(event, context):
    name = event.get("name", "world")
    print(f"greeting {name}")
    if name == "nobody":
        raise ValueError("nobody is there")
    if name == "loud":
        logging.getLogger(__name__).warning("not so loud")
    return {"message": f"Hello, {name}!"}
"""


class Cli:
    """`faas` in a directory of its own, against one node."""

    def __init__(self, node: Node, cwd: Path) -> None:
        self.cwd = cwd
        self.environment = node.environment()

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [FAAS, *arguments], cwd=self.cwd, env=self.environment, input=stdin, capture_output=True, timeout=WAIT_S
        )

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        """stdout of a command that must succeed."""
        ran = self.run(*arguments, stdin=stdin)
        assert ran.returncode == 0, ran.stderr.decode()
        assert b"\x1b" not in ran.stdout + ran.stderr  # piped: no colour, no spinner
        return ran.stdout.decode()

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))

    def fails(self, *arguments: str, code: int = 1) -> str:
        """stderr of a command that must fail, saying nothing on stdout."""
        ran = self.run(*arguments)
        assert (ran.returncode, ran.stdout) == (code, b""), ran.stderr.decode()
        return ran.stderr.decode()


@pytest.fixture
def faas(node: Node, tmp_path: Path) -> Cli:
    return Cli(node, tmp_path)


@pytest.fixture
def greet(faas: Cli) -> Iterator[str]:
    (faas.cwd / "greet.py").write_text(GREET)
    faas("deploy", "greet.py", "--memory", "64MB", "--env", "COLOUR=red")
    yield "greet"
    faas.run("rm", "greet")


def test_from_an_empty_directory_to_a_metered_answer_and_back(faas: Cli, node: Node) -> None:
    """Every verb once, in the order of a first hour."""
    assert "next:  faas deploy my_first.py" in faas("init", "my-first")
    deployed = faas("deploy", "my_first.py")
    assert deployed.startswith("my-first version 1 is ready (")
    assert f"{node.url}/fn/my-first\n" in deployed
    assert json.loads(faas("invoke", "my-first", "-d", '{"name": "Ada"}')) == {"message": "Hello, Ada!"}
    answer = node.fetch("/fn/my-first", params={"name": "Bob"})
    assert answer.json() == {"message": "Hello, Bob!"}
    assert "my-first" in faas("ls")
    assert re.search(
        r"^instances +\S+  version 1  bound: .*\n +1 idle, ends in ", faas("show", "my-first"), re.MULTILINE
    )
    wait_until(lambda: "greeting Bob" in faas("logs", "my-first"), "the second call's log is there")
    node.settled()
    (row,) = [row for row in faas.json("usage")["rows"] if row["function"] == "my-first"]
    assert row["invocations"] == 2
    assert row["mb_ms"] == 128 * row["billed_ms"] > 0
    assert faas("rm", "my-first") == "removed my-first\n"
    assert "There is no function 'my-first'" in faas.fails("invoke", "my-first")
    assert node.fetch("/fn/my-first").status_code == 404


def test_json_of_each_verb_is_json_and_nothing_else(faas: Cli, greet: str, node: Node) -> None:
    called = faas.json("invoke", greet, "-d", '{"name": "Ada"}')
    assert called["result"] == {"message": "Hello, Ada!"}
    assert called["status"] == 200
    assert called["billed_ms"] >= 1
    assert called["timing_ms"].keys() == {"queue", "init", "run"}
    node.settled()
    record = faas.json("invocation", called["invocation_id"])
    assert (record["status"], record["billed_ms"], record["memory_mb"]) == ("ok", called["billed_ms"], 64)
    assert called["invocation_id"] in [each["invocation_id"] for each in faas.json("invocations", greet)]
    assert called["invocation_id"] in faas("invocations", greet)
    assert "64 MB" in faas("invocation", called["invocation_id"])
    (listed,) = [each for each in faas.json("ls") if each["name"] == greet]
    assert (listed["version"], sum(listed["instances"].values()) >= 1) == (1, True)
    shown = faas.json("show", greet)
    assert shown["manifest"]["env"] == {"COLOUR": "red"}
    assert len(shown["versions"]) == 1
    lines = [json.loads(line) for line in faas("logs", greet, "--json").splitlines()]
    assert "greeting Ada" in [line["text"] for line in lines]
    assert faas.json("usage", "--by", "function,trigger")["by"] == ["function", "trigger"]
    assert faas.json("node", "ls")[0]["engine"] == node.engine
    assert [each["name"] for each in faas.json("runtime", "ls")] == ["python"]
    assert faas.json("init", "another") == {"name": "another", "path": "another.py"}
    again = faas.json("deploy", "greet.py", "--memory", "96MB")
    assert (again["version"], again["manifest"]["memory_mb"], again["manifest"]["env"]) == (2, 96, {})
    assert faas.json("rm", greet) == {"name": greet, "removed": True}


def test_a_log_is_followed_line_by_line(faas: Cli, greet: str) -> None:
    faas("invoke", greet, "-d", '{"name": "before"}')
    wait_until(lambda: "before" in faas("logs", greet), "the first line is there")
    follower = subprocess.Popen(
        [FAAS, "logs", greet, "-f"], cwd=faas.cwd, env=faas.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        while b"greeting before" not in _line(follower):  # a name's log outlives its function: others may be first
            pass
        faas("invoke", greet, "-d", '{"name": "loud"}')
        assert b"greeting loud" in _line(follower)
        assert b"WARNING: not so loud" in _line(follower)
    finally:
        follower.terminate()
        follower.communicate(timeout=WAIT_S)


def _line(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of output; bounded, byte by byte so that nothing stays in a buffer."""
    assert process.stdout is not None
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        limit = time.monotonic() + WAIT_S
        while not line.endswith(b"\n"):
            assert selector.select(limit - time.monotonic()), f"no whole line in {WAIT_S:g} s, only {line!r}"
            byte = os.read(process.stdout.fileno(), 1)
            assert byte, process.stderr.read() if process.stderr else b""
            line += byte
    return line


def test_one_invocations_lines_can_be_picked(faas: Cli, greet: str) -> None:
    first = faas.json("invoke", greet, "-d", '{"name": "one"}')["invocation_id"]
    faas("invoke", greet, "-d", '{"name": "two"}')
    wait_until(lambda: "greeting two" in faas("logs", greet), "both are logged")
    picked = faas("logs", greet, "--invocation", first)
    assert "greeting one" in picked
    assert "greeting two" not in picked
    assert len(faas("logs", greet, "-n", "1").splitlines()) == 1


def test_bytes_go_through_unharmed(faas: Cli) -> None:
    (faas.cwd / "mirror.py").write_text("def handler(event, context):\n    return event[::-1]\n")
    faas("deploy", "mirror.py")
    data = bytes(range(256)) * 100
    (faas.cwd / "data.bin").write_bytes(data)
    assert faas.run("invoke", "mirror", "-d", "@data.bin").stdout == data[::-1]
    assert faas.run("invoke", "mirror", "-d", "-", stdin=data).stdout == data[::-1]
    faas("rm", "mirror")


def test_what_went_wrong_is_said_with_a_way_out(faas: Cli, greet: str) -> None:
    said = faas.fails("invoke", greet, "-d", '{"name": "nobody"}')
    assert said.startswith("error: ValueError: nobody is there\n")
    assert 'greet.py", line 10, in handler' in said
    assert "Did you mean 'greet'" in faas.fails("invoke", "gret")
    assert json.loads(faas.fails("show", "nothing", "--json"))["code"] == "not-found"
    assert "not known here" in faas.fails("ls", "--key", "wrong")
    assert "the data is not JSON" in faas.fails("invoke", greet, "-d", "{", code=2)
    assert "Usage:" in faas.fails("invoke", code=2)


BREAKS = """
def handler(event, context):
    yield "begun\\n"
    raise RuntimeError("midway")
"""


def test_a_result_that_breaks_off_is_an_error_here_and_none_of_the_nodes(faas: Cli, node: Node) -> None:
    (faas.cwd / "breaks.py").write_text(BREAKS)
    faas("deploy", "breaks.py")
    logged = len(node.log.read_text())
    ran = faas.run("invoke", "breaks")
    assert (ran.returncode, ran.stdout) == (1, b"begun\n")
    assert "broke off" in ran.stderr.decode()
    found = re.search(r"faas invocation (\w+)", ran.stderr.decode())
    assert found
    node.settled()
    assert "RuntimeError: midway" in faas("invocation", found[1])
    said = node.log.read_text()[logged:]
    assert f"default/breaks, invocation {found[1]}, broke off: midway" in said
    assert "ERROR" not in said
    node.healthy()
    faas("rm", "breaks")


def test_bad_settings_come_with_file_and_line(faas: Cli) -> None:
    (faas.cwd / "bad.py").write_text(
        '# /// script\n# [tool.faas]\n# memory = "1MB"\n# timeoot = "5s"\n# ///\ndef handler(event, context): ...\n'
    )
    said = faas.fails("deploy", "bad.py", "--max-instances", "0")
    assert "  bad.py:3: memory: " in said
    assert '  bad.py:4: timeoot: unknown key; did you mean "timeout"?' in said
    assert "  max_instances: " in said
    assert [entry["line"] for entry in json.loads(faas.fails("deploy", "bad.py", "--json"))["errors"]] == [3, 4]
    (faas.cwd / "bad.py").write_text("import nothing_like_it\ndef handler(event, context): ...\n")
    said = faas.fails("deploy", "bad.py")
    assert "ModuleNotFoundError" in said
    assert 'bad.py", line 1' in said
    assert "bad" not in [each["name"] for each in faas.json("ls")]


def test_a_directory_deploys_under_the_name_in_its_settings(faas: Cli) -> None:
    project = faas.cwd / "project"
    project.mkdir()
    (project / "faas.toml").write_text('name = "from-project"\nentry = "serve"\n')
    (project / "serve.py").write_text("import helper\ndef handler(event, context):\n    return helper.NAME\n")
    (project / "helper.py").write_text('NAME = "helped"\n')
    assert pack.pack(project)
    faas("deploy", "project")
    assert faas("invoke", "from-project") == '"helped"'
    faas("rm", "from-project")


def test_keys_are_made_work_and_stop_working(faas: Cli, greet: str) -> None:
    made = faas.json("key", "create", "--scope", "invoke")
    assert json.loads(faas("invoke", greet, "--key", made["secret"])) == {"message": "Hello, world!"}
    assert "scope" in faas.fails("ls", "--key", made["secret"])
    assert made["id"] in faas("key", "ls")
    faas("key", "revoke", made["id"])
    assert "not known here" in faas.fails("invoke", greet, "--key", made["secret"])


def test_doctor_finds_the_node(faas: Cli, node: Node) -> None:
    ran = faas.run("doctor", "--json")
    found = json.loads(ran.stdout)
    states = {check["name"]: check for check in found["checks"]}
    assert (ran.returncode, found["ok"]) == (0, True), found
    assert states["node"]["found"] == f"{node.url} answers and takes our key"
    assert {row["setting"]: (row["value"], row["source"]) for row in found["settings"]}["FAAS_ENGINE"] == (
        node.engine,
        "environment",
    )
    assert "FAAS_QUEUE_WAIT" in faas.run("doctor").stdout.decode()
