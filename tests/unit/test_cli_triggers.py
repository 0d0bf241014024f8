"""`faas trigger` against a node that says what the test wants."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from faas.cli.app import run
from faas.cli.triggers import moment
from tests.unit.fake_node import Answer, FakeNode

QUEUE: dict[str, Any] = {
    "id": "worker.orders", "namespace": "default", "function": "worker", "kind": "queue", "enabled": True,
    "source": "manifest", "queue": {"name": "orders", "batch": 10, "max_concurrency": 5, "window": "0s"}, "depth": 3,
}  # fmt: skip
CRON: dict[str, Any] = {
    "id": "report.cron-3f2a91", "namespace": "default", "function": "report", "kind": "cron", "enabled": True,
    "source": "added", "next_run": "2099-01-31T06:00:00+01:00", "last_run": None,
    "cron": {"schedule": "0 6 * * 1-5", "timezone": "Europe/Berlin", "missed": "skip", "jitter": "0s"},
}  # fmt: skip
PAUSED = {**CRON, "enabled": False, "next_run": None, "last_run": "2001-01-31T06:00:00+01:00"}


@pytest.fixture(autouse=True)
def answers(node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the node says; this machine's clock is that of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        node.answers |= {
            "GET /v1/triggers": {"triggers": [CRON, QUEUE]},
            "POST /v1/triggers": lambda asked: QUEUE if b'"queue"' in asked.body else CRON,
            f"PATCH /v1/triggers/{CRON['id']}": lambda asked: PAUSED if b"false" in asked.body else CRON,
            f"DELETE /v1/triggers/{CRON['id']}": Answer(204),
        }
        yield
    time.tzset()


def sent(node: FakeNode) -> Any:
    return json.loads(node.asked[-1].body)


def test_ls(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trigger", "ls", "--function", "report"]) == 0
    assert node.asked[-1].query == {"function": "report"}
    head, cron, queue = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "ID"
    assert [cell.strip() for cell in cron.split("  ") if cell] == [
        "report.cron-3f2a91", "report", "0 6 * * 1-5 Europe/Berlin", "on", "2099-01-31 05:00", "never",
    ]  # fmt: skip
    assert [cell.strip() for cell in queue.split("  ") if cell] == [
        "worker.orders", "worker", "queue orders (3 waiting)", "on", "-", "-",
    ]  # fmt: skip
    fed = {"connector": {"source": "rabbit, queue in", "state": "failing", "error": "it is away"}}
    node.answers["GET /v1/triggers"] = {"triggers": [{**QUEUE, **fed}]}
    assert run(["trigger", "ls"]) == 0
    assert "queue orders (3 waiting), fed from rabbit, queue in: failing" in capsys.readouterr().out
    node.answers["GET /v1/triggers"] = {"triggers": [PAUSED]}
    assert run(["trigger", "ls"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-4:] == ["paused", "-", "2001-01-31", "05:00"]
    assert run(["trigger", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [PAUSED]
    node.answers["GET /v1/triggers"] = {"triggers": []}
    assert run(["trigger", "ls"]) == 0
    assert "no triggers; add one: faas trigger add" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["--queue", "orders"], {"queue": {"name": "orders"}}),
        (["--queue", '{ name = "orders", batch = 3 }'], {"queue": {"name": "orders", "batch": 3}}),
        (["--cron", "0 6 * * *"], {"cron": {"schedule": "0 6 * * *"}}),
        (["--cron", '{ schedule = "0 6 * * *", missed = "once" }', "--timezone", "Europe/Berlin", "--paused"],
         {"cron": {"schedule": "0 6 * * *", "missed": "once", "timezone": "Europe/Berlin"}, "enabled": False}),
        (["--cron", "0 6 * * *", "--payload", '{"a": [1]}', "--missed", "once", "--jitter", "30s"],
         {"cron": {"schedule": "0 6 * * *", "payload": {"a": [1]}, "missed": "once", "jitter": "30s"}}),
    ],
)  # fmt: skip
def test_add(node: FakeNode, capsys: pytest.CaptureFixture[str], given: list[str], asked: dict[str, Any]) -> None:
    assert run(["trigger", "add", "worker", *given]) == 0
    assert sent(node) == {"function": "worker", **asked}
    printed = capsys.readouterr()
    assert printed.out.strip() == (QUEUE if "queue" in asked else CRON)["id"]
    assert ("3 messages wait" if "queue" in asked else "next run 2099-01-31 05:00") in printed.err
    assert run(["trigger", "add", "worker", *given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == printed.out.strip()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "name one of --queue and --cron"),
        (["--queue", "a", "--cron", "* * * * *"], "name one of"),
        (["--queue", "a", "--jitter", "3s"], "--jitter is of a schedule"),
        (["--cron", "* * * * *", "--payload", "{job"], "--payload is not JSON"),
        (["--cron", "{ schedule = }"], "not an inline TOML table"),
        (["--cron", "* * * * *", "--missed", "all"], "all"),
    ],
)
def test_what_cannot_be_asked(node: FakeNode, capsys: pytest.CaptureFixture[str], given: list[str], says: str) -> None:
    assert run(["trigger", "add", "worker", *given]) == 2
    assert says in capsys.readouterr().err
    assert not node.asked


def test_every_mistake_is_told_with_its_key(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    errors = [{"line": None, "key": "cron.schedule", "message": "is no schedule"}]
    node.problem("POST /v1/triggers", 422, "invalid-manifest", "cron.schedule: is no schedule", errors=errors)
    assert run(["trigger", "add", "worker", "--cron", "x"]) == 1
    said = capsys.readouterr().err
    assert "this trigger cannot be added" in said
    assert "cron.schedule: is no schedule" in said
    assert "add it again" in said
    node.problem("POST /v1/triggers", 409, "conflict", "It has it already.")
    assert run(["trigger", "add", "worker", "--cron", "x"]) == 1
    assert "It has it already." in capsys.readouterr().err


def test_pause_resume_and_rm(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trigger", "pause", CRON["id"]]) == 0
    assert sent(node) == {"enabled": False}
    printed = capsys.readouterr()
    assert (printed.out.strip(), "faas trigger resume" in printed.err) == (f"paused {CRON['id']}", True)
    assert run(["trigger", "resume", CRON["id"]]) == 0
    assert sent(node) == {"enabled": True}
    assert capsys.readouterr().out.strip() == f"resumed {CRON['id']}"
    assert run(["trigger", "resume", CRON["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == CRON
    assert run(["trigger", "rm", CRON["id"]]) == 0
    assert (node.asked[-1].method, capsys.readouterr().out.strip()) == ("DELETE", f"removed {CRON['id']}")
    assert run(["trigger", "rm", CRON["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"id": CRON["id"], "removed": True}


def test_times_are_said_on_this_machines_clock(node: FakeNode) -> None:
    now_s = datetime.fromisoformat("2026-03-04T12:00:00+00:00").timestamp()  # a Wednesday
    for written, said in (
        ("2026-03-04T16:05:00+02:00", "today 14:05"), ("2026-03-05T00:30:00+01:00", "today 23:30"),
        ("2026-03-05T06:00:00Z", "tomorrow 06:00"), ("2026-03-03T06:00:00Z", "yesterday 06:00"),
        ("2026-03-09T06:00:00Z", "Mon 06:00"), ("2026-03-11T06:00:00Z", "2026-03-11 06:00"),
        ("2026-03-02T06:00:00Z", "2026-03-02 06:00"),
    ):  # fmt: skip
        assert moment(written, now_s) == said
