"""`faas budget` against a node that says what the test wants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.cli.app import run
from tests.unit.fake_node import Asked, FakeNode

PATH = "/v1/budgets/default"
TEAM: dict[str, Any] = {
    "scope": "namespace", "name": "", "gb_seconds": "400000", "amount": None, "used_gb_seconds": "12.5",
    "used_amount": None, "state": "ok",
}  # fmt: skip
HELLO = {**TEAM, "scope": "function", "name": "hello", "gb_seconds": None, "amount": "10", "used_amount": "7.5"}
ASKED = ("scope", "name", "gb_seconds", "amount")


def document(budgets: list[dict[str, Any]], webhook: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "namespace": "default", "month": "2025-01", "renews_at": "2025-02-01T00:00:00Z", "currency": "EUR",
        "webhook": webhook, "budgets": budgets, "warnings": [],
    }  # fmt: skip


@pytest.fixture
def node(node: FakeNode) -> FakeNode:
    def put(asked: Asked) -> dict[str, Any]:
        value = json.loads(asked.body)
        webhook = {"url": value["webhook"], "secret": "whsec_x"} if value["webhook"] else None
        return document([{**TEAM, **each} for each in value["budgets"]], webhook)

    node.answers |= {f"GET {PATH}": document([TEAM, HELLO]), f"PUT {PATH}": put}
    return node


def sent(node: FakeNode) -> dict[tuple[str, str], tuple[str | None, str | None]]:
    budgets = json.loads(node.asked[-1].body)["budgets"]
    return {(each["scope"], each["name"]): (each["gb_seconds"], each["amount"]) for each in budgets}


def test_what_is_not_named_stays(node: FakeNode) -> None:
    assert run(["budget", "set", "--function", "hello", "--gb-seconds", "3"]) == 0
    assert sent(node) == {("namespace", ""): ("400000", None), ("function", "hello"): ("3", "10")}
    assert run(["budget", "set", "--of-key", "k1", "--amount", "2.5"]) == 0
    assert sent(node)["key", "k1"] == (None, "2.5")
    assert run(["budget", "set", "--gb-seconds", "none"]) == 0
    assert sent(node) == {("function", "hello"): (None, "10")}, "without a limit it is gone"


def test_a_webhook_is_told_with_its_secret_once(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["budget", "set", "--webhook", "https://example.com/w"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "whsec_x"
    assert set(sent(node)) == {("namespace", ""), ("function", "hello")}
    assert run(["budget", "set", "--webhook", "none"]) == 0
    assert json.loads(node.asked[-1].body)["webhook"] is None


def test_show(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["budget", "show"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["SCOPE", "NAME", "GB-SECONDS", "EUR", "STATE"]
    assert first.split() == ["namespace", "-", "12.5", "/", "400000", "-", "ok"]
    assert second.split() == ["function", "hello", "-", "7.5", "/", "10", "ok"]
    assert run(["budget", "show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["budgets"] == [TEAM, HELLO]
    node.answers[f"GET {PATH}"] = document([])
    assert run(["budget", "show"]) == 0
    assert "has no budgets" in capsys.readouterr().err


@pytest.mark.parametrize("given", [[], ["--function", "a", "--of-key", "b", "--amount", "1"]])
def test_a_limit_must_be_named_and_be_of_one_thing(node: FakeNode, given: list[str]) -> None:
    assert run(["budget", "set", *given]) == 2
    assert not node.asked
