"""`faas bill` against a node that says what the test wants."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.cli.app import run
from tests.unit.fake_node import fake_node

BILL: dict[str, Any] = {
    "month": "2025-01", "from": "2025-01-01T00:00:00Z", "to": "2025-02-01T00:00:00Z", "status": "open", "totals": {},
    "bills": [], "lines": [],
}  # fmt: skip
RATE = {"per_gb_second": "0.5", "currency": "EUR", "book": "ours"}


@pytest.mark.parametrize(("held", "said"), [(None, False), ("0", False), ("1.25", True)])
def test_what_keeping_warm_cost_is_said_apart_from_the_bill(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], held: str | None, said: bool
) -> None:
    with fake_node() as node:
        monkeypatch.setenv("FAAS_URL", node.url)
        monkeypatch.setenv("FAAS_KEY", "faas_x")
        shown = {"held": {"rows": [], "totals": {"cost": held}, "rate": RATE}} if held else {}
        node.answers |= {"GET /v1/bills/2025-01": BILL, "GET /v1/usage": {"rows": [], **shown}}
        assert run(["bill", "2025-01"]) == 0
        assert node.asked[-1].query["to"] == BILL["to"]
        assert run(["bill", "2025-01", "--json"]) == 0
    printed = capsys.readouterr()
    note = "keeping functions warm cost 1.250000 EUR besides, by the price book 'ours', and is billed to nobody"
    assert (note in printed.err) is said
    assert json.loads(printed.out) == BILL
