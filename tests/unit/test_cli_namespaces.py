"""`faas namespace` against a node that says what the test wants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.cli.app import run
from tests.unit.fake_node import Answer, Asked, FakeNode

TEAM: dict[str, Any] = {
    "name": "team-a", "max_concurrency": 5, "memory": "2GB", "functions": 3, "calls": 1, "memory_used": "256MB",
    "created_at": "2025-01-31T12:00:00.000Z",
}  # fmt: skip


def test_create_says_what_holds(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["POST /v1/namespaces"] = Answer(201, json.dumps(TEAM).encode())
    assert run(["namespace", "create", "team-a", "--max-concurrency", "5", "--memory", "2GB"]) == 0
    assert json.loads(node.asked[0].body) == {"name": "team-a", "max_concurrency": 5, "memory": "2GB"}
    assert capsys.readouterr().out == "team-a: 5 calls at once, 2GB of memory\n"


def test_set_changes_what_is_named_and_keeps_the_rest(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    def put(asked: Asked) -> dict[str, Any]:
        return {**TEAM, **json.loads(asked.body)}

    node.answers |= {"GET /v1/namespaces": {"namespaces": [TEAM]}, "PUT /v1/namespaces/team-a": put}
    assert run(["namespace", "set", "team-a", "--max-concurrency", "none"]) == 0
    assert json.loads(node.asked[-1].body) == {"max_concurrency": None, "memory": "2GB"}
    assert capsys.readouterr().out == "team-a: no limit of calls of its own, 2GB of memory\n"


@pytest.mark.parametrize("given", [[], ["--max-concurrency", "many"], ["--max-concurrency", "-1"]])
def test_a_limit_must_be_named_and_be_one(node: FakeNode, given: list[str]) -> None:
    assert run(["namespace", "set", "team-a", *given]) == 2
    assert not node.asked


def test_ls_shows_what_is_used_of_what_there_is(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**TEAM, "name": "b", "max_concurrency": None, "memory": None}
    node.answers["GET /v1/namespaces"] = {"namespaces": [TEAM, other]}
    assert run(["namespace", "ls"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["team-a", "3", "1", "/", "5", "256MB", "/", "2GB"]
    assert second.split() == ["b", "3", "1", "/", "-", "256MB", "/", "-"]
    assert run(["namespace", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [TEAM, other]


def test_rm(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["DELETE /v1/namespaces/team-a"] = Answer(204)
    assert run(["namespace", "rm", "team-a"]) == 0
    assert capsys.readouterr().out == "removed team-a\n"
    node.problem("DELETE /v1/namespaces/team-a", 409, "conflict", "has functions")
    assert run(["namespace", "rm", "team-a"]) == 1
