"""A month's money on a real node, as its operator does it at a terminal: prices, bill, closing, late use, a credit."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from faas.billing.present import focus
from faas.billing.statement import next_month
from tests.bill_samples import Page
from tests.e2e.node import FAAS, Node

WAIT_S = 60.0
PRICES = 'name = "ours"\ncurrency = "EUR"\nper_request = 0.25\nper_provisioned_gb_second = 0.000000001\n'
HELLO = """
def handler(event, context):
    return "hi"
"""


@pytest.fixture
def own_node() -> Iterator[Node]:
    """Of this test alone: it closes months."""
    made = Node("process")
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_month_from_calls_to_credit(own_node: Node, tmp_path: Path) -> None:
    node = own_node

    def faas(*arguments: str, code: int = 0) -> str:
        ran = subprocess.run(
            [FAAS, *arguments], cwd=tmp_path, env=node.environment(), capture_output=True, timeout=WAIT_S
        )
        assert ran.returncode == code, ran.stderr.decode()
        return (ran.stderr if code else ran.stdout).decode()

    def bill(month: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(faas("bill", month, "--json"))
        assert sum(Decimal(line["amount"]) for line in found["lines"]) == Decimal(found["total"])
        return found

    def calls(count: int) -> None:
        for _ in range(count):
            assert node.call("hello").status_code == 200
        node.settled()

    (tmp_path / "prices.toml").write_text(PRICES)
    faas("price", "set", "prices.toml")
    node.deploy("hello", HELLO, min_instances=1)
    month = f"{dt.datetime.now(dt.UTC):%Y-%m}"
    calls(3)
    found = bill(month)
    assert (found["status"], found["total"], found["currency"]) == ("open", "0.75", "EUR")

    table = faas("bill", month)
    assert [line.split()[-2:] for line in table.splitlines() if line.startswith("total")] == [["0.75", "EUR"]]
    assert Page(faas("bill", month, "--format", "html")).rows[-1] == ["Total", "0.75 EUR"]
    rows = list(csv.DictReader(io.StringIO(faas("bill", month, "--format", "csv"))))
    assert sum(Decimal(row["amount"]) for row in rows) == Decimal("0.75")
    for version in focus.COLUMNS:
        sheet = faas("bill", month, "--format", "focus", "--focus-version", version)
        assert tuple(sheet.splitlines()[0].split(",")) == focus.COLUMNS[version]

    assert "force" in faas("bill", month, "--close", code=1)
    assert "go together" in faas("bill", month, "--credit", "1", code=2)
    assert "open" in faas("bill", month, "--credit", "1", "--reason", "too soon", code=1)
    faas("bill", month, "--close", "--force")
    closed = bill(month)
    assert (closed["status"], closed["total"]) == ("closed", "0.75")

    calls(2)
    faas("bill", month, "--credit", "0.10", "--reason", "an outage")
    node.restart()
    assert bill(month) == closed
    later = bill(next_month(month))
    assert (later["status"], later["total"]) == ("open", "0.40")
    assert {(line["kind"], line["month"]) for line in later["lines"]} >= {("usage", month), ("credit", month)}
    kept = [line for line in later["lines"] if line["metric"] == "provisioned_gb_seconds"]
    assert sum(Decimal(line["quantity"]) for line in kept) > 0, (
        "what was kept warm is on record once the node has ended"
    )
