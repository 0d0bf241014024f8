"""`POST /v1/usage/reconcile` and `faas usage --reconcile`: what is asked, what is answered, what is shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.metering.reconcile import COMPARED, EXPIRED, INCOMPLETE, Difference, HourCheck, differences
from faas.metering.sums import METRICS, Group
from tests.unit.fake_node import Faas, FakeNode
from tests.unit.gateway_fakes import ADMIN, make_bench

HOUR = 482_136  # 2025-01-01T00
GROUP = Group("default", "hello", "3", "k1", "http", "ok", "warm")


def test_every_metric_that_differs_is_named() -> None:
    ours = [3, 10, *[0] * 7]
    assert differences(HOUR, {GROUP: ours}, {GROUP: ours}) == ()
    assert differences(HOUR, {GROUP: ours}, {GROUP: [3, 9, *[0] * 7]}) == (Difference(HOUR, GROUP, METRICS[1], 10, 9),)
    assert [d.metric for d in differences(HOUR, {}, {GROUP: ours})] == ["invocations", "billed_ms"]
    assert [(d.metric, d.records) for d in differences(HOUR, {GROUP: ours}, {})] == [
        ("invocations", 0), ("billed_ms", 0)
    ]  # fmt: skip


@pytest.mark.anyio
async def test_the_answer_counts_names_and_joins() -> None:
    bench = make_bench()
    wrong = tuple(Difference(HOUR + 3, GROUP, "billed_ms", 2**60 + n, 5) for n in range(1200))
    bench.ledger.checks = [
        HourCheck(HOUR, EXPIRED),
        HourCheck(HOUR + 1, EXPIRED),
        HourCheck(HOUR + 2, COMPARED, 7),
        HourCheck(HOUR + 3, COMPARED, 5, wrong),
        HourCheck(HOUR + 4, INCOMPLETE),
        HourCheck(HOUR + 5, COMPARED, 1),
        HourCheck(HOUR + 6, INCOMPLETE),
    ]
    asked = json.dumps({"from": "2025-01-01T00:30:00Z", "to": "2025-01-01T07:00:00Z"}).encode()
    headers = [("content-type", "application/json")]
    found = (await bench.call("POST", "/v1/usage/reconcile", body=asked, headers=headers)).json()
    assert bench.ledger.reconciled == (HOUR * 3_600_000 + 1_800_000, (HOUR + 7) * 3_600_000, "")
    assert len(found.pop("differences")) == 1000
    assert found == {
        "from": "2025-01-01T00:00:00Z",
        "to": "2025-01-01T07:00:00Z",
        "equal": False,
        "difference_count": 1200,
        "records": 13,
        "hours": 3,
        "first_hour": "2025-01-01T02:00:00Z",
        "last_hour": "2025-01-01T05:00:00Z",
        "unchecked": [
            {
                "first_hour": f"2025-01-01T0{first}:00:00Z",
                "last_hour": f"2025-01-01T0{last}:00:00Z",
                "hours": n,
                "why": w,
            }
            for first, last, n, w in ((0, 1, 2, EXPIRED), (4, 4, 1, INCOMPLETE), (6, 6, 1, INCOMPLETE))
        ],
    }


@pytest.mark.anyio
async def test_a_key_of_one_namespace_checks_that_one() -> None:
    bench = make_bench()
    bench.keys.put("team", "team", "read")
    bench.keys.put("caller", "team", "invoke")
    found = (await bench.call("POST", "/v1/usage/reconcile", key="team")).json()
    assert bench.ledger.reconciled is not None
    assert bench.ledger.reconciled[2] == "team"
    assert (found["equal"], found["differences"], found["hours"], found["last_hour"]) == (True, [], 0, None)
    assert (await bench.call("POST", "/v1/usage/reconcile?namespace=a", key="team")).status == 403
    assert (await bench.call("POST", "/v1/usage/reconcile", key="caller")).status == 403
    assert (await bench.call("POST", "/v1/usage/reconcile?namespace=a", key=ADMIN)).status == 200
    assert bench.ledger.reconciled[2] == "a"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "asked", [{"since": "1d"}, {"from": 5}, {"from": "soon"}, {"from": "2025-02", "to": "2025-01"}, []]
)
async def test_what_cannot_be_asked(asked: Any) -> None:
    answer = await make_bench().call("POST", "/v1/usage/reconcile", body=json.dumps(asked).encode())
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")


EQUAL: dict[str, Any] = {
    "from": "2025-01-01T00:00:00Z", "to": "2025-01-01T07:00:00Z", "equal": True, "difference_count": 0,
    "differences": [], "records": 13, "hours": 3, "first_hour": "2025-01-01T02:00:00Z",
    "last_hour": "2025-01-01T05:00:00Z", "unchecked": [],
}  # fmt: skip
ROW = {
    "hour": "2025-01-01T03:00:00Z", **GROUP._asdict(), "metric": "billed_ms", "ledger": 9, "records": 5, "difference": 4
}  # fmt: skip


def test_equal_sums_are_said(node: FakeNode, faas: Faas) -> None:
    node.answers["POST /v1/usage/reconcile"] = EQUAL
    code, printed, _ = faas("usage", "--reconcile", "--from", "2d", "--to", "1h")
    assert (code, printed) == (
        0, "0 differences in 13 records of 3 hours, 2025-01-01T02:00:00Z to 2025-01-01T05:00:00Z\n"
    )  # fmt: skip
    assert json.loads(node.asked[-1].body) == {"from": "2d", "to": "1h"}
    code, printed, _ = faas("usage", "--reconcile", "--json")
    assert (code, json.loads(printed), json.loads(node.asked[-1].body)) == (0, EQUAL, {})


def test_a_difference_is_shown_and_is_a_failure(node: FakeNode, faas: Faas) -> None:
    run = {"first_hour": "2024-12-31T00:00:00Z", "last_hour": "2024-12-31T23:00:00Z", "hours": 24, "why": "expired"}
    found = {**EQUAL, "equal": False, "difference_count": 3, "differences": [ROW], "unchecked": [run]}
    node.answers["POST /v1/usage/reconcile"] = found
    code, printed, said = faas("usage", "--reconcile")
    assert code == 1
    lines = [line.split() for line in printed.splitlines()]
    assert lines[0][-3:] == ["LEDGER", "RECORDS", "DIFFERENCE"]
    assert lines[1][0] == "2025-01-01T03:00:00Z"
    assert lines[1][-4:] == ["billed_ms", "9", "5", "4"]
    assert printed.splitlines()[2].startswith("3 differences in 13 records")
    assert "and 2 more" in said
    assert "not checked: 24 hours from 2024-12-31T00:00:00Z to 2024-12-31T23:00:00Z, their raw records" in said
    code, printed, _ = faas("usage", "--reconcile", "--json")
    assert (code, json.loads(printed)) == (1, found)


def test_nothing_to_compare_is_said(node: FakeNode, faas: Faas) -> None:
    node.answers["POST /v1/usage/reconcile"] = {**EQUAL, "hours": 0, "records": 0}
    code, printed, said = faas("usage", "--reconcile")
    assert (code, printed) == (0, "")
    assert said.startswith("no raw records from 2025-01-01")
