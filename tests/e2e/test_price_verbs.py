"""Prices, estimates and the cost of a call: the real CLI against a real node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas.billing import shipped
from tests.e2e.node import FAAS, Node

WAIT_S = 60.0
BOOK = """\
name = "ours"
currency = "EUR"
decimals = 4
per_request = 0.25
per_gb_second = 1024
"""
FUNCTION = """\
# /// script
# requires-python = ">=3.11"
# [tool.faas]
# memory = "256MB"
# ///
def handler(event, context):
    return event
"""


class Cli:
    """`faas` in a directory of its own, against one node."""

    def __init__(self, node: Node, cwd: Path) -> None:
        self.cwd = cwd
        self.environment = node.environment()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FAAS, *arguments], cwd=self.cwd, env=self.environment, capture_output=True, timeout=WAIT_S, text=True
        )

    def __call__(self, *arguments: str) -> str:
        ran = self.run(*arguments)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout


@pytest.fixture
def faas(node: Node, tmp_path: Path) -> Iterator[Cli]:
    made = Cli(node, tmp_path)
    yield made
    made("price", "set", "free")


def test_prices_are_set_shown_and_charged(faas: Cli, node: Node) -> None:
    (faas.cwd / "prices.toml").write_text(BOOK)
    (faas.cwd / "priced.py").write_text(FUNCTION)
    assert "0.25" in faas("price", "set", "prices.toml")
    assert faas("price", "show", "--toml") == BOOK
    assert json.loads(faas("price", "show", "--json"))["in_force"]["name"] == "ours"
    assert "Compute" in faas("price", "show")

    faas("deploy", "priced.py")
    record = node.record(node.call("priced", {}))
    mb_ms = 256 * record["billed_ms"]
    assert record["mb_ms"] == mb_ms
    assert (float(record["cost"]), record["currency"]) == (0.25 + mb_ms / 1000, "EUR")
    shown = faas("invocation", record["invocation_id"])
    assert f"{record['cost']} EUR" in shown
    faas("rm", "priced")


def test_what_does_not_hold_is_not_set(faas: Cli, node: Node) -> None:
    faas("price", "set", "lambda")
    (faas.cwd / "wrong.toml").write_text("per_request = -1\n")
    ran = faas.run("price", "set", "wrong.toml")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "wrong.toml:1: per_request: must be from 0" in ran.stderr
    refused = node.client.put("/v1/prices", content=b"per_request = -1", headers={"content-type": "application/toml"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-prices")
    assert faas("price", "show", "--toml") == shipped.text_of("lambda")


def test_lambdas_example_as_an_estimate(faas: Cli) -> None:
    """Three million calls a month of 120 ms in 1,536 MB: 2.73 USD (https://aws.amazon.com/lambda/pricing/)."""
    faas("price", "set", "lambda")
    (faas.cwd / "backend.py").write_text(FUNCTION)
    rps = f"{3_000_000 / (730 * 3600):.6f}"
    asked = ("estimate", "backend.py", "--rps", rps, "--duration", "120")
    found = json.loads(faas(*asked, "--memory", "1536MB", "--json"))
    assert (found["function"], found["requests"], found["total"]) == ("backend", 3_000_001, "2.73")
    printed = faas(*asked, "--memory", "1536MB")
    assert "Compute of backend, free allowance" in printed
    assert "2.73" in printed.splitlines()[-2]
    assert "the same at shipped prices: at-cost" in printed
    assert json.loads(faas(*asked, "--json"))["lines"][2]["quantity"] != found["lines"][2]["quantity"]  # 256 MB
    assert "--rps" in faas.run("estimate", "backend.py", "--duration", "120").stderr
