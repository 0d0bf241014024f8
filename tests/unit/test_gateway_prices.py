"""Prices and estimates over HTTP, and what an invocation on record cost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.metering.present import invocation_record
from tests.unit.gateway_fakes import ADMIN, Answered, Bench, make_bench
from tests.usage_samples import make_record

pytestmark = pytest.mark.anyio

BOOK = """\
[[book]]
name = "ours"
currency = "EUR"
per_million_requests = 1
per_gb_second = [{ up_to = 1000, price = 0.00002 }, { price = 0.00001 }]
free = { requests = 10 }

[book.namespaces.acme]
per_gb_second = 0.5
"""
TOML = [("content-type", "application/toml")]


async def put(bench: Bench, text: str, key: str = ADMIN) -> Answered:
    return await bench.call("PUT", "/v1/prices", text.encode(), key=key, headers=TOML)


async def estimate(bench: Bench, **asked: Any) -> Answered:
    return await bench.call("POST", "/v1/estimates", json.dumps(asked).encode())


async def test_what_was_set_is_in_force() -> None:
    bench = make_bench()
    before = (await bench.call("GET", "/v1/prices")).json()
    assert (before["set"], before["toml"], before["in_force"]["name"], before["books"]) == (False, None, "free", [])
    answer = await put(bench, BOOK)
    assert answer.status == 200
    found = (await bench.call("GET", "/v1/prices?month=2025-01")).json()
    assert {**answer.json(), "month": "2025-01"} == found
    assert (found["toml"], found["set_by"], found["books"]) == (BOOK, "k1", [{"name": "ours", "from": None}])
    assert found["in_force"] == {
        "name": "ours",
        "from": None,
        "currency": "EUR",
        "decimals": 2,
        "bill_init": True,
        "bill_retries": True,
        "bill_throttles": False,
        "prices": {
            "requests": {
                "title": "Requests",
                "unit": "request",
                "tiers": [{"up_to": None, "price": "0.000001"}],
                "free": "10",
            },
            "gb_seconds": {
                "title": "Compute",
                "unit": "GB-second",
                "tiers": [{"up_to": "1000", "price": "0.00002"}, {"up_to": None, "price": "0.00001"}],
                "free": "0",
            },
        },
    }


async def test_json_does_as_well() -> None:
    bench = make_bench()
    body = json.dumps({"toml": BOOK}).encode()
    headers = [("content-type", "application/json")]
    assert (await bench.call("PUT", "/v1/prices", body, headers=headers)).status == 200
    for wrong in (b"[]", b"{}", b'{"toml": 3}', b'{"toml": "", "more": 1}', b"{", b"\xff"):
        answer = await bench.call("PUT", "/v1/prices", wrong, headers=headers)
        assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert (await bench.call("GET", "/v1/prices")).json()["toml"] == BOOK


async def test_a_wrong_book_is_refused_with_every_error() -> None:
    bench = make_bench()
    await put(bench, BOOK)
    answer = await put(bench, 'name = "Ours"\ncurrency = "EUR"\nper_request = -1\n')
    assert (answer.status, answer.problem()["code"]) == (422, "invalid-prices")
    assert [(error["line"], error["key"]) for error in answer.problem()["errors"]] == [(1, "name"), (3, "per_request")]
    assert (await bench.call("GET", "/v1/prices")).json()["toml"] == BOOK


async def test_a_tenant_sees_its_own_prices_and_sets_none() -> None:
    bench = make_bench()
    bench.keys.put("tenant", "acme", "admin")
    await put(bench, BOOK)
    found = (await bench.call("GET", "/v1/prices", key="tenant")).json()
    assert (found["namespace"], found["in_force"]["prices"]["gb_seconds"]["tiers"]) == (
        "acme",
        [{"up_to": None, "price": "0.5"}],
    )
    assert not {"toml", "set_by"} & found.keys()
    refused = await put(bench, BOOK, key="tenant")
    assert (refused.status, refused.problem()["code"]) == (403, "forbidden")
    bench.keys.put("reader", "*", "read")
    assert (await put(bench, BOOK, key="reader")).status == 403


async def test_an_estimate_is_a_bill_with_others_to_compare() -> None:
    bench = make_bench()
    await put(bench, BOOK)
    answer = await estimate(bench, function="thumb", memory="1GB", rps=0.5, duration="1.5s", min_instances=0)
    found = answer.json()
    assert (answer.status, found["book"], found["currency"], found["requests"]) == (200, "ours", "EUR", 1_314_000)
    assert found["total"] == "21.03"  # 1.31399 for requests, 0.02 for 1000 GB-seconds, 19.70 for 1,970,000
    assert sum(float(line["amount"]) for line in found["lines"]) == pytest.approx(21.03)
    assert [(each["book"], each["currency"]) for each in found["compare"]] == [
        ("lambda", "USD"),
        ("at-cost", "EUR"),
        ("free", "USD"),
    ]
    milliseconds = await estimate(bench, function="thumb", memory=1024, rps="0.5", duration=1500)
    assert milliseconds.json() == found


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"duration": 5}, "rps"),
        ({"rps": 5}, "duration"),
        ({"rps": -1, "duration": 5}, "rps"),
        ({"rps": True, "duration": 5}, "rps"),
        ({"rps": "x", "duration": 5}, "rps"),
        ({"rps": "1e5000", "duration": 5}, "rps"),
        ({"rps": float("nan"), "duration": 5}, "rps"),
        ({"rps": 1, "duration": "5 parsecs"}, "duration"),
        ({"rps": 1, "duration": "9h"}, "duration"),
        ({"rps": 1, "duration": 5, "memory": "1KB"}, "memory"),
        ({"rps": 1, "duration": 5, "cpu": []}, "cpu"),
        ({"rps": 1, "duration": 5, "min_instances": -1}, "min_instances"),
        ({"rps": 1, "duration": 5, "bytes_out": 0.5}, "bytes_out"),
        ({"rps": 1, "duration": 5, "month": "2025"}, "month"),
        ({"rps": 1, "duration": 5, "function": "No"}, "function"),
        ({"rps": 1, "duration": 5, "colour": "red"}, "colour"),
    ],
)
async def test_what_is_wrong_with_an_estimate_is_named(asked: dict[str, Any], says: str) -> None:
    answer = await estimate(make_bench(), **asked)
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert says in answer.problem()["detail"]


async def test_a_record_says_what_it_cost() -> None:
    bench = make_bench()
    record = make_record(1, billed_ms=2, memory_mb=128)
    path = f"/v1/invocations/{record.invocation_id}"
    bench.records.kept["default", record.invocation_id] = invocation_record(record, {})
    assert (await bench.call("GET", path)).json()["cost"] == "0"
    await put(bench, BOOK)
    shown = (await bench.call("GET", path)).json()
    assert (shown["cost"], shown["currency"]) == ("0.000001005", "EUR")  # a request and 0.00025 GB-seconds
    listed = (await bench.call("GET", "/v1/functions/hello/invocations")).json()["invocations"]
    assert listed == [shown]
