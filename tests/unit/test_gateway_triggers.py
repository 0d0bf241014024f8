"""Triggers over HTTP, on the real directory with its stores in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from faas.events.derive import cron_id
from faas.model.connection import System
from faas.model.function import FunctionVersion
from faas.model.manifest import CronTrigger, QueueTrigger
from faas.model.message import Message, QueueName, Send
from faas.stores.memory_triggers import MemoryTriggers
from faas.triggers.directory import Directory
from tests.unit.gateway_fakes import ADMIN, Answered, FakeRegistry, make_bench, make_version
from tests.unit.queue_fakes import FakeQueues

pytestmark = pytest.mark.anyio
NIGHTLY = CronTrigger(schedule="30 2 * * *", timezone="Europe/Berlin", jitter_ms=30_000)
CRON_ID = cron_id("hello", NIGHTLY)


class Queues(FakeQueues):
    def __init__(self) -> None:
        super().__init__()
        self.ticks: dict[str, int] = {}

    async def last_ticks(self, triggers: Sequence[str]) -> dict[str, int]:
        return {key: self.ticks[key] for key in triggers if key in self.ticks}


class World:
    def __init__(self, *versions: FunctionVersion, **changes: Any) -> None:
        self.queues = Queues()
        self.bench = make_bench(*versions)
        registry: FakeRegistry = self.bench.registry
        clock = self.bench.clock
        self.store = MemoryTriggers(registry, lambda key: None, lambda: clock.unix_ns() // 1_000_000)
        self.bench = make_bench(
            *versions,
            registry=registry,
            triggers=Directory(registry, self.store),
            queues=self.queues,
            clock=clock,
            **changes,
        )

    async def call(self, method: str, path: str = "", value: Any = None, key: str = ADMIN) -> Answered:
        body = b"" if value is None else json.dumps(value).encode()
        return await self.bench.call(method, f"/v1/triggers{path}", body, key=key)

    async def ids(self, query: str = "") -> list[str]:
        return [each["id"] for each in (await self.call("GET", query)).json()["triggers"]]


@pytest.fixture
def world() -> World:
    return World(
        make_version(queues=(QueueTrigger(name="orders"),), crons=(NIGHTLY,)),
        make_version(name="other", namespace="acme", queues=(QueueTrigger(name="orders"),)),
        make_version(name="plain"),
    )


async def test_each_is_shown_as_one_writes_it(world: World) -> None:
    await world.queues.send([Send(QueueName("default", "orders"), Message("1" * 32, b"{}"))])
    world.queues.ticks[f"default/{CRON_ID}"] = 1_699_925_400_000
    cron, queue = (await world.call("GET")).json()["triggers"]
    assert cron == {
        "id": CRON_ID, "namespace": "default", "function": "hello", "kind": "cron", "enabled": True,
        "source": "manifest",
        "cron": {"schedule": "30 2 * * *", "timezone": "Europe/Berlin", "missed": "skip", "jitter": "30s"},
        "next_run": "2023-11-15T02:30:00+01:00", "last_run": "2023-11-14T02:30:00+01:00",
    }  # fmt: skip
    assert queue == {
        "id": "hello.orders", "namespace": "default", "function": "hello", "kind": "queue", "enabled": True,
        "source": "manifest", "queue": {"name": "orders", "batch": 10, "max_concurrency": 5, "window": "0s"},
        "depth": 1,
    }  # fmt: skip
    assert (await world.call("GET", f"/{CRON_ID}")).json() == cron
    assert (await world.call("GET", "/hello.orders")).json() == queue


async def test_the_list_is_filtered(world: World) -> None:
    assert await world.ids() == [CRON_ID, "hello.orders"]
    assert await world.ids("?kind=cron") == [CRON_ID]
    assert await world.ids("?kind=queue&function=hello") == ["hello.orders"]
    assert await world.ids("?function=plain") == []
    assert await world.ids("?namespace=acme") == ["other.orders"]
    assert await world.ids("?namespace=*") == ["other.orders", CRON_ID, "hello.orders"]
    assert "neither 'queue' nor 'cron'" in (await world.call("GET", "?kind=http")).problem()["detail"]


async def test_one_is_added_paused_resumed_and_taken_away(world: World) -> None:
    asked = {"function": "plain", "queue": {"name": "orders", "batch": 3, "window": 0.25}}
    made = await world.call("POST", value=asked)
    assert (made.status, made.header("location")) == (201, "/v1/triggers/plain.orders")
    shown = made.json()
    assert (shown["source"], shown["queue"]["batch"], shown["queue"]["window"]) == ("added", 3, "250ms")
    again = await world.call("POST", value=asked)
    assert (again.status, "faas trigger rm plain.orders" in again.problem()["detail"]) == (409, True)
    paused = await world.call("PATCH", "/plain.orders", {"enabled": False})
    assert (paused.status, paused.json()) == (200, {**shown, "enabled": False})
    assert not (await world.call("GET", "/plain.orders")).json()["enabled"]
    assert (await world.call("PATCH", "/plain.orders", {"enabled": True})).json() == shown
    assert (await world.call("DELETE", "/plain.orders")).status == 204
    for method in ("GET", "DELETE"):
        gone = await world.call(method, "/plain.orders")
        assert (gone.status, "faas trigger ls" in gone.problem()["detail"]) == (404, True)


async def test_a_source_needs_a_connection_of_this_node_and_its_state_is_shown(world: World) -> None:
    source = {"connection": "rabbit", "queue": "incoming"}
    asked = {"function": "plain", "queue": {"name": "fed", "source": source}}
    refused = await world.call("POST", value=asked)
    assert refused.status == 422
    (problem,) = refused.problem()["errors"]
    assert problem["key"] == "queue.source.connection"
    assert 'no connection "rabbit" (there is: none)' in problem["message"]
    state = {"source": "rabbit, queue incoming", "state": "failing", "error": "away", "moved": 3, "refused": 1}
    fed = World(
        make_version(name="plain"), connections={"rabbit": System.RABBITMQ}, connector=lambda _queue, _source: state
    )
    made = await fed.call("POST", value=asked)
    assert (made.status, made.json()["connector"]) == (201, state)
    (listed,) = (await fed.call("GET")).json()["triggers"]
    assert listed["connector"] == state


async def test_a_schedule_is_added(world: World) -> None:
    cron = {"schedule": " 0  6 * * 1-5", "payload": {"job": "sweep"}, "missed": "once", "jitter": 5}
    made = (await world.call("POST", value={"function": "plain", "cron": cron, "enabled": False})).json()
    assert made["cron"] == {
        "schedule": "0 6 * * 1-5", "timezone": "UTC", "payload": {"job": "sweep"}, "missed": "once", "jitter": "5s",
    }  # fmt: skip
    assert (made["enabled"], made["next_run"], made["last_run"]) == (False, None, None)
    resumed = (await world.call("PATCH", f"/{made['id']}", {"enabled": True})).json()
    assert resumed["next_run"] == "2023-11-15T06:00:00Z"
    stored = await Directory(world.bench.registry, world.store).get("default", made["id"])
    assert stored.since_ms == world.bench.clock.unix_ns() // 1_000_000


async def test_one_of_a_manifest_stays_but_may_be_paused(world: World) -> None:
    refused = await world.call("DELETE", "/hello.orders")
    assert refused.status == 409
    assert "manifest of 'hello'" in refused.problem()["detail"]
    assert "faas trigger pause hello.orders" in refused.problem()["detail"]
    assert (await world.call("PATCH", f"/{CRON_ID}", {"enabled": False})).json()["next_run"] is None


@pytest.mark.parametrize("value", [{}, {"enabled": 1}, {"enabled": True, "batch": 3}, {"queue": {"name": "x"}}])
async def test_nothing_but_enabled_is_changed(world: World, value: dict[str, Any]) -> None:
    refused = await world.call("PATCH", "/hello.orders", value)
    assert (refused.status, refused.problem()["code"]) == (400, "invalid-request")
    assert "change the function's manifest" in refused.problem()["detail"]
    assert (await world.call("PATCH", "/nobody.orders", value)).status == 404


async def test_every_mistake_is_named_at_once(world: World) -> None:
    queue = {"name": "No", "batch": 0, "windw": "1s", "lease": "10s"}
    refused = await world.call(
        "POST", value={"function": "plain", "queue": queue, "cron": {"timezone": "Mars"}, "colour": 1, "enabled": "no"}
    )
    assert (refused.status, refused.problem()["code"]) == (422, "invalid-manifest")
    errors = {each["key"]: each["message"] for each in refused.problem()["errors"]}
    assert errors.keys() == {
        "colour", "enabled", "", "queue.name", "queue.batch", "queue.windw", "queue.lease", "cron.timezone",
        "cron.schedule",
    }  # fmt: skip
    assert 'did you mean "window"?' in errors["queue.windw"]
    assert "timeout (30s)" in errors["queue.lease"]
    for value, key in (
        ({"function": "plain"}, ""), ({"function": "NO", "queue": {"name": "x"}}, "function"),
        ({"queue": {"name": "x"}}, "function"), ({"function": "plain", "queue": "x"}, "queue"),
        ({"function": "plain", "cron": []}, "cron"),
        ({"function": "plain", "cron": {"schedule": "* * *"}}, "cron.schedule"),
        ({"function": "plain", "cron": {"schedule": "* * * * *", "missed": "never"}}, "cron.missed"),
        ({"function": "plain", "cron": {"schedule": "* * * * *", "jitter": "2h"}}, "cron.jitter"),
        ({"function": "plain", "cron": {"schedule": "* * * * *", "payload": "\ud800"}}, "cron.payload"),
    ):  # fmt: skip
        refused = await world.call("POST", value=value)
        assert [each["key"] for each in refused.problem()["errors"]] == [key], refused.body


async def test_it_needs_its_function_and_one_namespace(world: World) -> None:
    value = {"function": "nobody", "queue": {"name": "x"}}
    refused = await world.call("POST", value=value)
    assert (refused.status, refused.problem()["detail"]) == (
        404,
        "There is no function 'nobody'. Deploy it first; `faas ls` lists them.",
    )
    for method, path in (("POST", "?namespace=*"), ("GET", "/hello.orders?namespace=*")):
        assert (await world.call(method, path, value if method == "POST" else None)).status == 400


async def test_scopes_and_namespaces(world: World) -> None:
    world.bench.keys.put("faas_reader", "default", "read")
    world.bench.keys.put("faas_acme", "acme", "read", "deploy")
    added = {"function": "hello", "queue": {"name": "returns"}}
    assert (await world.call("GET", key="faas_reader")).status == 200
    for method, path, value in (
        ("POST", "", added), ("PATCH", "/hello.orders", {"enabled": False}), ("DELETE", "/hello.orders", None),
    ):  # fmt: skip
        assert (await world.call(method, path, value, key="faas_reader")).status == 403
    assert (await world.call("GET", key="faas_acme")).json()["triggers"][0]["id"] == "other.orders"
    assert (await world.call("PATCH", "/hello.orders", {"enabled": False}, key="faas_acme")).status == 404
    assert (await world.call("PATCH", "/other.orders", {"enabled": False}, key="faas_acme")).status == 200
    assert (await world.call("POST", "?namespace=default", added, key="faas_acme")).status == 403
