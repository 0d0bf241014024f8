"""What `faas price` and `faas estimate` do without a node, and with one that answers as told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from faas.cli.prices import _amount, _grouped
from tests.unit.fake_node import Faas, FakeNode


def test_a_book_is_checked_without_a_node(faas: Faas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_URL", "http://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    assert faas("price", "check", "lambda") == (0, "lambda: valid, from the beginning, in USD\n", "")
    (tmp_path / "wrong.toml").write_text('currency = "euro"\nper_request = "x"\n')
    code, printed, said = faas("price", "check", "wrong.toml")
    assert (code, printed) == (1, "")
    assert "wrong.toml:1: currency: " in said
    assert "wrong.toml:2: per_request: " in said
    code, _, said = faas("price", "check", "wrong.toml", "--json")
    assert code == 1
    assert [error["line"] for error in json.loads(said)["errors"]] == [1, 2]
    code, _, said = faas("price", "check", "nothing.toml")
    assert code == 2
    assert "lambda, at-cost, free" in said
    assert json.loads(faas("price", "check", "free", "--json")[1]) == {"valid": True, "books": ["free"]}


def test_a_wrong_book_is_not_sent(faas: Faas, node: FakeNode, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("per_request = 1\n")
    assert faas("price", "set", "wrong.toml")[0] == 1
    assert not node.asked


def test_numbers_for_people() -> None:
    assert [_grouped("1234567.25"), _grouped("0")] == ["1,234,567.25", "0"]
    assert [_amount("0.5"), _amount("12"), _amount("0.00000000012345")] == ["0.5", "12", "0.0000000001..."]
