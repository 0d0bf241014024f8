"""Bills over HTTP: formats, freezing, late use, credits, and who may see and do what."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from faas.billing.present import focus
from faas.billing.statement import next_month
from faas.ports import UsageRow
from faas.stores.memory import MemoryLedger
from tests.bill_samples import BOOK, HOSTILE, Page
from tests.unit.gateway_fakes import Answered, Bench, FakeClock, make_bench
from tests.usage_samples import make_entry

pytestmark = pytest.mark.anyio

NOW_NS = FakeClock().unix_ns()
NOW = dt.datetime.fromtimestamp(NOW_NS // 10**9, dt.UTC)
THIS = f"{NOW:%Y-%m}"
LAST, NEXT = next_month(THIS, -1), next_month(THIS)
DAY_S = 86_400


class Billed:
    """A gateway on a ledger that counts, with prices set."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.kept: dict[str, dict[tuple[str, str], int]] = {}  # by month
        self.bench: Bench = make_bench(ledger=self.ledger, held=self)
        self._number = 0

    async def prices(self, text: str = BOOK) -> None:
        services = self.bench.gateway._services
        await services.prices.set(text, 0, "key")

    async def use(self, month: str, calls: int = 1, **changes: Any) -> None:
        """Calls that began on the 15th, 1 GB-second each, in the ledger now."""
        began = dt.datetime.fromisoformat(f"{month}-15T12:00:00+00:00")
        values = {"memory_mb": 1024, "billed_ms": 1000, "started_at_ns": int(began.timestamp()) * 10**9, **changes}
        for _ in range(calls):
            self._number += 1
            entry = make_entry(self._number, **values)
            entry.sequence = self._number
            await self.ledger.apply("journal", [entry])

    async def held(self, *_: Any) -> list[UsageRow]:
        """With what follows it is a ``HeldStore``."""
        raise AssertionError("on no bill")

    async def held_by_time(self, *_: Any) -> AsyncIterator[list[UsageRow]]:
        yield await self.held()

    async def changes(self, start_ms: int, end_ms: int) -> int:
        return sum((await self.provisioned(start_ms, end_ms)).values())

    async def provisioned(self, start_ms: int, end_ms: int) -> dict[tuple[str, str], int]:
        month = f"{dt.datetime.fromtimestamp(start_ms / 1000, dt.UTC):%Y-%m}"
        assert f"{dt.datetime.fromtimestamp(end_ms / 1000, dt.UTC):%Y-%m}" == next_month(month)
        return self.kept.get(month, {})

    async def get(self, month: str, query: str = "", **more: Any) -> Answered:
        return await self.bench.call("GET", f"/v1/bills/{month}{query}", **more)

    async def bill(self, month: str, query: str = "", **more: Any) -> dict[str, Any]:
        answered = await self.get(month, query, **more)
        assert answered.status == 200, answered.body
        found: dict[str, Any] = answered.json()
        assert sum(Decimal(line["amount"]) for line in found["lines"]) == sum(map(Decimal, found["totals"].values()))
        return found

    async def post(self, path: str, value: Any = None, **more: Any) -> Answered:
        body = b"" if value is None else json.dumps(value).encode()
        return await self.bench.call("POST", f"/v1/bills/{path}", body, **more)

    async def close(self, month: str, *, force: bool = False) -> Answered:
        return await self.post(f"{month}/close", {"force": True} if force else None)


@pytest.fixture
async def billed() -> Billed:
    made = Billed()
    await made.prices()
    return made


def totals(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["namespace"], each["total"]) for each in found["bills"]]


# -- reading --------------------------------------------------------------------------------------------------------


async def test_an_open_month_is_worked_out_when_asked(billed: Billed) -> None:
    assert (await billed.bill(THIS))["lines"] == []
    await billed.use(THIS, 3)
    found = await billed.bill(THIS)
    assert (found["status"], found["currency"], found["total"]) == ("open", "EUR", "1.50")
    assert {line["function"] for line in found["lines"]} >= {"hello"}
    await billed.use(THIS)
    assert (await billed.bill(THIS))["total"] == "2.00"
    assert (await billed.bill(LAST))["lines"] == []


async def test_without_prices_all_is_free_and_says_so() -> None:
    billed = Billed()
    await billed.use(THIS)
    found = await billed.bill(THIS)
    assert found["total"] == "0.00"
    assert "free" in found["bills"][0]["notes"][0]


async def test_what_is_kept_warm_is_billed_frozen_and_billed_late_once() -> None:
    billed = Billed()
    await billed.prices(BOOK + "per_provisioned_gb_second = 0.001\n")
    await billed.use(LAST, 3)
    billed.kept[LAST] = {("default", "hello"): 2_048_000_000, ("team-a", "uncalled"): 1_024_001}
    found = await billed.bill(LAST)
    assert totals(found) == [("default", "3.50"), ("team-a", "0.00")]
    kept = [line for line in found["lines"] if line["metric"] == "provisioned_gb_seconds"]
    assert [(line["function"], line["quantity"], line["unit_price"], line["amount"]) for line in kept] == [
        ("hello", "2000", "0.001", "2"),
        ("uncalled", "1.0000009765625", "0.001", "0.0010000009765625"),
    ]
    assert (await billed.close(LAST, force=True)).json()["status"] == "closed"
    assert (await billed.bill(THIS))["lines"] == []
    billed.kept[LAST] = {**billed.kept[LAST], ("default", "hello"): 3_072_000_000}  # written late
    assert (await billed.bill(LAST))["bills"] == [{**each, "id": f"{LAST}/{each['namespace']}/EUR"}
        for each in found["bills"]]  # fmt: skip
    (late,) = (await billed.bill(THIS))["lines"]
    assert (late["metric"], late["month"], late["quantity"], late["amount"]) == (
        "provisioned_gb_seconds", LAST, "1000", "1",
    )  # fmt: skip
    assert (await billed.close(THIS, force=True)).json()["total"] == "1.00"
    assert (await billed.bill(NEXT))["lines"] == []


async def test_every_format(billed: Billed) -> None:
    await billed.use(THIS, 3)
    page = await billed.get(THIS, "?format=html")
    assert page.header("content-type") == "text/html; charset=utf-8"
    assert "default-src 'none'" in (page.header("content-security-policy") or "")
    assert Page(page.body.decode()).rows[-1] == ["Total", "1.50 EUR"]
    sheet = await billed.get(THIS, "?format=csv")
    assert sheet.header("content-disposition") == f'attachment; filename="csv-{THIS}.csv"'
    assert sum(Decimal(row["amount"]) for row in csv.DictReader(io.StringIO(sheet.body.decode()))) == Decimal("1.50")
    for version in ("", *focus.COLUMNS):
        answered = await billed.get(THIS, f"?format=focus&focus_version={version}")
        rows = list(csv.reader(io.StringIO(answered.body.decode())))
        assert tuple(rows[0]) == focus.COLUMNS[version or "1.4"]
        assert answered.header("cache-control") == "no-store"


@pytest.mark.parametrize(
    "path", ["2026-13", "2026-1", "0000-01", "9999-12", "x", "2026-11?format=pdf", "2026-11?focus_version=2"]
)
async def test_what_is_no_bill(billed: Billed, path: str) -> None:
    answered = await billed.bench.call("GET", f"/v1/bills/{path}")
    assert answered.problem()["code"] == "invalid-request"


async def test_a_key_of_one_namespace_sees_that_one(billed: Billed) -> None:
    await billed.use(THIS, 2)
    await billed.use(THIS, 4, namespace="team-a")
    billed.bench.keys.put("tenant", "team-a", "read", "admin")
    assert totals(await billed.bill(THIS)) == [("default", "1.00"), ("team-a", "2.00")]
    assert totals(await billed.bill(THIS, "?namespace=default")) == [("default", "1.00")]
    mine = await billed.bill(THIS, key="tenant")
    assert totals(mine) == [("team-a", "2.00")]
    assert {line["namespace"] for line in mine["lines"]} == {"team-a"}
    assert (await billed.get(THIS, "?namespace=default", key="tenant")).status == 403
    assert (await billed.post(f"{LAST}/close", key="tenant")).problem()["code"] == "forbidden"
    credit = {"amount": 1, "reason": "mine"}
    assert (await billed.post(f"{LAST}/credits", credit, key="tenant")).problem()["code"] == "forbidden"
    await billed.use(LAST, namespace="team-a")
    await billed.use(LAST)
    await billed.close(LAST)
    assert totals(await billed.bill(LAST, key="tenant")) == [("team-a", "0.50")]


# -- closing --------------------------------------------------------------------------------------------------------


async def test_a_closed_month_is_frozen(billed: Billed) -> None:
    await billed.use(LAST, 3)
    closed = (await billed.close(LAST)).json()
    assert (closed["status"], closed["total"]) == ("closed", "1.50")
    assert closed["bills"][0]["id"] == f"{LAST}/default/EUR"
    await billed.use(LAST, 5)
    await billed.prices(BOOK.replace("0.5", "50"))
    assert await billed.bill(LAST) == closed
    assert (await billed.close(LAST)).json() == closed  # closing it again changes nothing


async def test_a_month_is_not_closed_before_it_has_settled(billed: Billed) -> None:
    refused = await billed.close(THIS)
    assert refused.status == 409
    assert f"{NEXT}-01T02:00:00.000Z" in refused.problem()["detail"]
    assert (await billed.close(NEXT, force=True)).status == 409  # it has not begun
    assert (await billed.bill(THIS))["status"] == "open"
    assert (await billed.close(THIS, force=True)).json()["status"] == "closed"
    mistakes: tuple[Any, ...] = ({"force": 1}, {"now": True}, [], "x")
    for wrong in mistakes:
        assert (await billed.post(f"{LAST}/close", wrong)).status == 400


async def test_closing_waits_for_two_hours_after_the_month() -> None:
    billed = Billed()
    begin = dt.datetime.fromisoformat(f"{NEXT}-01T00:00:00+00:00")
    billed.bench.clock.forward(begin.timestamp() + 7199 - NOW_NS / 1e9)
    assert (await billed.close(THIS)).status == 409
    billed.bench.clock.forward(2)
    assert (await billed.close(THIS)).status == 200


async def test_many_close_at_once_and_all_hear_of_one_bill(billed: Billed) -> None:
    await billed.use(LAST, 3)
    answers = await asyncio.gather(*(billed.close(LAST) for _ in range(8)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1


# -- what comes later -----------------------------------------------------------------------------------------------


async def test_late_use_is_on_the_next_bill_at_the_old_price(billed: Billed) -> None:
    await billed.use(LAST, 9)
    await billed.close(LAST)
    await billed.prices(BOOK.replace("0.5", "50").replace("0.25", "25"))
    await billed.use(LAST, 3)  # the tenth GB-second costs 0.5, two more 0.25 each
    found = await billed.bill(THIS)
    assert found["total"] == "1.00"
    assert {line["month"] for line in found["lines"] if line["kind"] == "usage"} == {LAST}
    assert all(f"late: used in {LAST}" in line["description"] for line in found["lines"] if line["month"])
    assert any(LAST in note for note in found["bills"][0]["notes"])
    assert (await billed.bill(LAST))["total"] == "4.50"


async def test_closed_months_are_read_again_only_when_something_came(
    billed: Billed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    usage = billed.ledger.usage

    async def watched(start_ms: int, *more: Any) -> list[UsageRow]:
        asked.append(f"{dt.datetime.fromtimestamp(start_ms / 1000, dt.UTC):%Y-%m}")
        return await usage(start_ms, *more)

    monkeypatch.setattr(billed.ledger, "usage", watched)
    before = [next_month(THIS, -back) for back in (3, 2, 1)]
    for month in before:
        await billed.use(month, 2)
        await billed.close(month, force=True)
    assert asked == before, "each for its own bill alone"
    asked.clear()
    await billed.bill(THIS)
    assert asked == [THIS]
    await billed.use(before[1])
    for _ in range(2):
        asked.clear()
        assert (await billed.bill(THIS))["total"] == "0.50"
        assert asked == [before[1], THIS]
    await billed.close(THIS, force=True)
    asked.clear()
    assert (await billed.bill(NEXT))["lines"] == []
    assert asked == [NEXT], "it has been taken in"


async def test_late_use_is_billed_once(billed: Billed) -> None:
    await billed.use(LAST, 2)
    await billed.close(LAST)
    await billed.use(LAST, 2)
    assert (await billed.close(THIS, force=True)).json()["total"] == "1.00"
    assert (await billed.bill(NEXT))["lines"] == []
    await billed.use(LAST, 1)
    await billed.use(THIS, 1)
    found = await billed.bill(NEXT)
    assert {line["month"] for line in found["lines"] if line["kind"] != "rounding"} == {LAST, THIS}
    assert found["total"] == "1.00"


async def test_late_use_goes_to_the_open_month_that_is_next(billed: Billed) -> None:
    before = next_month(LAST, -1)
    await billed.use(before, 2)
    await billed.close(before)
    await billed.use(before, 2)
    assert (await billed.bill(LAST))["total"] == "1.00"
    assert (await billed.bill(THIS))["lines"] == []


async def test_late_use_of_another_currency_is_a_bill_of_its_own(billed: Billed) -> None:
    await billed.use(LAST, 2)
    await billed.close(LAST)
    await billed.prices(BOOK.replace("EUR", "USD"))
    await billed.use(LAST, 2)
    await billed.use(THIS, 4)
    found = await billed.bill(THIS)
    assert found["totals"] == {"EUR": "1.00", "USD": "2.00"}
    assert found["total"] is None


async def test_a_credit_is_on_the_next_bill_once(billed: Billed) -> None:
    await billed.use(LAST, 3)
    asked = {"amount": "0.40", "reason": f"{HOSTILE} überfällig"}
    assert (await billed.post(f"{LAST}/credits", asked)).status == 409  # still open
    await billed.close(LAST)
    given = await billed.post(f"{LAST}/credits", asked)
    assert given.status == 201
    assert (given.json()["amount"], given.json()["currency"], given.json()["month"]) == ("0.4", "EUR", LAST)
    assert (await billed.bill(LAST))["total"] == "1.50"
    await billed.use(THIS, 2)
    found = await billed.bill(THIS)
    assert found["total"] == "0.60"
    line = next(line for line in found["lines"] if line["kind"] == "credit")
    assert (line["amount"], line["month"], line["reference"]) == ("-0.4", LAST, given.json()["id"])
    page = Page((await billed.get(THIS, "?format=html")).body.decode())
    assert any(HOSTILE in row[0] for row in page.rows)
    listed = (await billed.bench.call("GET", f"/v1/bills/{LAST}/credits")).json()["credits"]
    assert listed == [given.json()]
    await billed.close(THIS, force=True)
    assert (await billed.bill(NEXT))["lines"] == []


async def test_a_credit_asked_for_twice_is_one(billed: Billed) -> None:
    await billed.use(LAST, 3)
    await billed.close(LAST)
    once = [("idempotency-key", "retry-7")]
    first = await billed.post(f"{LAST}/credits", {"amount": 1, "reason": "outage"}, headers=once)
    again = await billed.post(f"{LAST}/credits", {"amount": "1", "reason": "outage"}, headers=once)
    assert (first.status, again.status) == (201, 201)
    assert first.json() == again.json()
    other = await billed.post(f"{LAST}/credits", {"amount": 2, "reason": "outage"}, headers=once)
    assert other.status == 409
    assert (await billed.bill(THIS))["total"] == "-1.00"


@pytest.mark.parametrize(
    "wrong",
    [
        {"reason": "x"}, {"amount": 1}, {"amount": 0, "reason": "x"}, {"amount": -1, "reason": "x"},
        {"amount": "1e3", "reason": "x"}, {"amount": "0.001", "reason": "x"}, {"amount": True, "reason": "x"},
        {"amount": 1, "reason": " "}, {"amount": 1, "reason": "a\nb"}, {"amount": 1, "reason": "x" * 501},
        {"amount": 1, "reason": "x", "currency": "USD"}, {"amount": 1, "reason": "x", "to": "y"},
        {"amount": 1, "reason": "x", "namespace": "*"}, {"amount": 1, "reason": "x", "currency": 3},
    ],
)  # fmt: skip
async def test_what_is_no_credit(billed: Billed, wrong: dict[str, Any]) -> None:
    await billed.use(LAST, 3)
    await billed.close(LAST)
    assert (await billed.post(f"{LAST}/credits", wrong)).problem()["code"] == "invalid-request"
    assert (await billed.bench.call("GET", f"/v1/bills/{LAST}/credits")).json() == {"credits": []}


async def test_no_credit_for_who_was_billed_nothing(billed: Billed) -> None:
    await billed.use(LAST, 3)
    await billed.close(LAST)
    asked = {"amount": 1, "reason": "x", "namespace": "team-b"}
    assert (await billed.post(f"{LAST}/credits", asked)).status == 404
