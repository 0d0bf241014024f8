"""Budgets over HTTP and before a call: what is refused, what it says, what happens when a budget is raised."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from faas.billing.budget_words import month_of
from faas.model.errors import StoreUnavailable
from faas.model.webhook import secret_bytes
from faas.ports import Entry
from faas.stores.memory import MemoryLedger, MemoryRegistry
from faas.stores.memory_budgets import MemoryBudgets
from tests.unit.gateway_fakes import ADMIN, Answered, make_bench, make_record

pytestmark = pytest.mark.anyio
DIRECT = "/v1/functions/hello/invocations"
BUDGETS = "/v1/budgets/default"
ONE_CALL = 256  # mb_ms of ``make_record``
JOURNAL = "j@0"
NAMES = ("namespace", "scope", "name", "unit")  # of the labels of metrics


class World:
    """A bench whose ledger the test fills; ``position`` is how far the node's journal is."""

    def __init__(self, **changes: Any) -> None:
        self.ledger = MemoryLedger()
        self.store = MemoryBudgets(MemoryRegistry(), self.ledger)
        self.position = 0
        self.unflushed: list[Entry] = []
        self.bench = make_bench(budgets=self.store, notices=self.store, journal_id=lambda: JOURNAL, **changes)

    async def put(self, *budgets: dict[str, Any], key: str = ADMIN, **more: Any) -> Answered:
        value = {"budgets": list(budgets), **more}
        return await self.bench.call("PUT", BUDGETS, json.dumps(value).encode(), key=key)

    async def call(self) -> Answered:
        """One call that, if it may begin, ends and is journalled, but not in the ledger yet."""
        answer = await self.bench.call("POST", DIRECT)
        if answer.status == 200:
            version, call = self.bench.invoker.calls[-1]
            record = make_record(version, call, started_at_ns=self.bench.clock.unix_ns())
            self.position += 1
            self.unflushed.append(Entry(record, {}, self.position))
            self.bench.gateway.observe(record, self.position)
        return answer

    async def flush(self) -> None:
        await self.ledger.apply(JOURNAL, self.unflushed)


def gb(mb_ms: int) -> str:
    return str(Decimal(mb_ms) / 1_024_000)


async def test_calls_stop_at_the_limit_and_go_on_when_it_is_raised() -> None:
    world = World()
    made = await world.put({"scope": "function", "name": "hello", "gb_seconds": gb(2 * ONE_CALL)})
    assert made.status == 200
    assert [(await world.call()).status for _ in range(2)] == [200, 200]
    refused = await world.call()
    assert refused.status == 402
    problem = refused.problem()
    month = month_of(world.bench.clock.unix_ns() // 10**9)
    assert problem["code"] == "budget-exhausted"
    assert problem["budget"] == {
        "namespace": "default", "scope": "function", "name": "hello", "unit": "gb_seconds", "limit": "0.0005",
        "used": "0.0005", "renews_at": month.renews_at,
    }  # fmt: skip
    assert "The budget of the function 'hello'" in problem["detail"]
    assert f"0.0005 of 0.0005 GB-seconds in {month.name}. It starts anew at {month.renews_at}" in problem["detail"]
    assert "faas budget set -N default --function hello --gb-seconds 0.001" in problem["detail"]
    assert len(world.bench.invoker.calls) == 2, "the invoker never saw it"

    raised = await world.put({"scope": "function", "name": "hello", "gb_seconds": gb(3 * ONE_CALL)})
    shown = raised.json()["budgets"][0]
    assert (shown["used_gb_seconds"], shown["gb_seconds"], shown["state"]) == ("0.0005", "0.00075", "ok")
    assert (await world.call()).status == 200
    assert (await world.call()).status == 402
    assert (await world.put()).json()["budgets"] == []
    assert (await world.call()).status == 200
    assert world.bench.invoker.guarded is None, "where there is no budget nobody is asked"


async def test_what_the_ledger_has_is_not_counted_again() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": gb(3 * ONE_CALL)})
    for used in (1, 2, 3):
        assert (await world.call()).status == 200
        await world.flush()
        await world.bench.gateway.budgets.refresh()
        shown = (await world.bench.call("GET", BUDGETS)).json()["budgets"][0]
        assert shown["used_gb_seconds"] == f"{Decimal(gb(used * ONE_CALL)):f}"
    assert (await world.call()).status == 402
    assert shown["state"] == "exhausted"


async def test_of_calls_that_ended_together_a_reading_in_between_counts_none_twice() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": gb(10 * ONE_CALL)})
    for _ in range(3):
        assert (await world.call()).status == 200
    await world.ledger.apply(JOURNAL, world.unflushed[:1])  # the flusher takes what it finds, not what ended together
    await world.bench.gateway.budgets.refresh()
    shown = (await world.bench.call("GET", BUDGETS)).json()["budgets"][0]
    assert shown["used_gb_seconds"] == f"{Decimal(gb(3 * ONE_CALL)):f}"


async def test_a_call_that_could_not_be_journalled_is_in_no_budget() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": gb(ONE_CALL)})
    await world.bench.call("POST", DIRECT)
    version, call = world.bench.invoker.calls[-1]
    world.bench.gateway.observe(make_record(version, call, started_at_ns=world.bench.clock.unix_ns()), 0)
    shown = (await world.bench.call("GET", BUDGETS)).json()["budgets"][0]
    assert (shown["used_gb_seconds"], shown["state"]) == ("0", "ok")


async def test_metrics_say_how_much_is_used_and_how_many_were_refused() -> None:
    world = World()

    async def shown() -> dict[tuple[str, ...], float]:
        text = (await world.bench.call("GET", "/metrics")).body.decode()
        samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
        return {
            (each.name, *(each.labels[name] for name in NAMES if name in each.labels)): each.value
            for each in samples
            if "budget" in each.name
        }

    assert await shown() == {}
    await world.put(
        {"scope": "function", "name": "hello", "gb_seconds": gb(4 * ONE_CALL)},
        {"scope": "namespace", "gb_seconds": gb(2 * ONE_CALL)},
        {"scope": "key", "name": "k9", "gb_seconds": "0"},
    )
    assert [(await world.call()).status for _ in range(4)] == [200, 200, 402, 402]
    used = "faas_budget_used_ratio"
    assert await shown() == {
        ("faas_budget_refused_total", "default"): 2,
        (used, "default", "function", "hello", "gb_seconds"): 0.5,
        (used, "default", "namespace", "", "gb_seconds"): 1,
        (used, "default", "key", "k9", "gb_seconds"): 1,
    }
    await world.put()
    assert await shown() == {("faas_budget_refused_total", "default"): 2}, "a counter never goes back"


async def test_a_new_month_begins_with_nothing_used() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": gb(ONE_CALL)})
    assert (await world.call()).status == 200
    await world.flush()
    assert (await world.call()).status == 402
    world.bench.clock.forward(40 * 86_400)
    await world.bench.gateway.budgets.refresh()
    assert (await world.call()).status == 200
    assert (await world.call()).status == 402


async def test_a_key_has_a_budget_of_its_own() -> None:
    world = World()
    other = world.bench.keys.put("faas_other", "default", "invoke")
    await world.put({"scope": "key", "name": other.id, "gb_seconds": "0"})
    assert (await world.call()).status == 200
    refused = await world.bench.call("POST", DIRECT, key="faas_other")
    assert (refused.status, refused.problem()["budget"]["scope"]) == (402, "key")


async def test_money_goes_by_the_price_book_in_force() -> None:
    world = World()
    refused = await world.put({"scope": "namespace", "amount": "1"})
    assert (refused.status, "faas price set" in refused.problem()["detail"]) == (400, True)
    book = b'name = "ours"\ncurrency = "EUR"\nper_request = 0.25\n'
    priced = await world.bench.call("PUT", "/v1/prices", book, headers=[("content-type", "application/toml")])
    assert priced.status == 200, priced.body
    made = (await world.put({"scope": "namespace", "amount": 0.5})).json()
    assert (made["currency"], made["budgets"][0]["used_amount"]) == ("EUR", "0")
    assert [(await world.call()).status for _ in range(3)] == [200, 200, 402]
    await world.flush()
    await world.bench.gateway.budgets.refresh()
    detail = (await world.call()).problem()["detail"]
    assert "0.5 of 0.5 EUR" in detail


async def test_while_the_store_is_away_the_node_stops_at_what_it_knows() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": gb(2 * ONE_CALL)})
    world.ledger.available = False
    with pytest.raises(StoreUnavailable):
        await world.bench.gateway.budgets.refresh()
    assert [(await world.call()).status for _ in range(3)] == [200, 200, 402]


async def test_other_namespaces_are_not_asked_about() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": "0"})
    assert world.bench.gateway.budgets.books("team-a") is None
    assert (await world.call()).status == 402
    call = (await world.bench.call("GET", "/v1/budgets/team-a")).json()
    assert (call["budgets"], call["webhook"], call["warnings"]) == ([], None, [])


@pytest.mark.parametrize(
    ("budgets", "more", "names"),
    [
        ([{"scope": "team"}], {}, "scope"), ([{"scope": "namespace"}], {}, "limit"),
        ([{"scope": "namespace", "name": "x", "gb_seconds": 1}], {}, "name"),
        ([{"scope": "function", "gb_seconds": 1}], {}, "name"),
        ([{"scope": "namespace", "gb_seconds": -1}], {}, "gb_seconds"),
        ([{"scope": "namespace", "gb_seconds": True}], {}, "gb_seconds"),
        ([{"scope": "namespace", "gb_seconds": "NaN"}], {}, "gb_seconds"),
        ([{"scope": "namespace", "gb_seconds": "1e99"}], {}, "gb_seconds"),
        ([{"scope": "namespace", "gb_seconds": 1}] * 2, {}, "twice"),
        ([{"scope": "namespace", "color": 1}], {}, "scope, name"), ([], {"color": "red"}, "color"),
        ([], {"webhook": "ftp://x/"}, "http"), ([], {"webhook": 7}, "webhook"),
        ([], {"webhook": {"url": "https://x/", "secret": "short"}}, "whsec_"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(budgets: list[Any], more: dict[str, Any], names: str) -> None:
    refused = await World().put(*budgets, **more)
    assert (refused.status, refused.problem()["code"]) == (400, "invalid-request")
    assert names in refused.problem()["detail"]


async def test_a_secret_is_shown_once_and_kept_with_its_url() -> None:
    world = World()
    budget = {"scope": "namespace", "gb_seconds": 1}
    first = (await world.put(budget, webhook="https://example.com/a")).json()["webhook"]
    assert len(secret_bytes(first["secret"])) == 32
    assert (await world.bench.call("GET", BUDGETS)).json()["webhook"] == {"url": "https://example.com/a"}
    assert (await world.put(budget, webhook="https://example.com/a")).json()["webhook"] == {"url": first["url"]}
    stored = (await world.store.list())[0].webhook
    assert stored is not None
    assert stored.secret == first["secret"]
    other = (await world.put(budget, webhook="https://example.com/b")).json()["webhook"]
    assert other["secret"] != first["secret"]


async def test_only_a_key_for_every_namespace_sets_them() -> None:
    world = World()
    world.bench.keys.put("faas_tenant", "default", "admin")
    world.bench.keys.put("faas_stranger", "team-a", "admin")
    assert (await world.put(key="faas_tenant")).problem()["code"] == "forbidden"
    assert (await world.bench.call("GET", BUDGETS, key="faas_tenant")).status == 200
    assert (await world.bench.call("GET", BUDGETS, key="faas_stranger")).problem()["code"] == "forbidden"
    assert (await world.bench.call("GET", "/v1/budgets/NO")).status == 400


async def test_a_call_is_refused_while_the_rest_is_held_for_those_that_run() -> None:
    world = World()
    await world.put({"scope": "namespace", "gb_seconds": gb(3 * ONE_CALL)})
    assert (await world.call()).status == 200
    books = world.bench.gateway.budgets.books("default")
    assert books is not None
    assert [books.admit(f"{n}-1", "hello", "k1") for n in (1, 2)] == [None, None]
    refused = (await world.call()).problem()["detail"]
    assert "is about to be used up: 0.00025 of 0.00075 GB-seconds, and the rest is held" in refused
    books.release("1-1")
    assert (await world.call()).status == 200
