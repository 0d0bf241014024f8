"""Namespaces over HTTP: who may see and change them, and that the node is told of limits wherever they were set."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from faas.model.errors import Throttled
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply
from faas.model.manifest import Http
from faas.model.namespace import Namespace
from tests.unit.gateway_fakes import ADMIN, Answered, Bench, FakeInvoker, make_bench, make_record, make_version

pytestmark = pytest.mark.anyio


async def send(bench: Bench, method: str, path: str, value: Any, key: str = ADMIN) -> Answered:
    return await bench.call(method, path, json.dumps(value).encode(), key=key)


async def test_created_changed_listed_and_removed() -> None:
    bench = make_bench(make_version(namespace="team-b"))
    made = await send(bench, "POST", "/v1/namespaces", {"name": "team-a", "max_concurrency": 5, "memory": "2GB"})
    assert (made.status, made.json()["memory"]) == (201, "2GB")
    assert bench.invoker.limits == {"team-a": (5, 2048)}
    again = await send(bench, "POST", "/v1/namespaces", {"name": "team-a"})
    assert (again.status, again.problem()["code"]) == (409, "conflict")

    changed = await send(bench, "PUT", "/v1/namespaces/team-a", {"memory": 300_000_000})
    assert changed.status == 200
    assert {name: changed.json()[name] for name in ("max_concurrency", "memory")} == {
        "max_concurrency": None, "memory": "286MB"
    }  # fmt: skip
    assert bench.invoker.limits == {"team-a": (None, 286)}
    assert (await send(bench, "PUT", "/v1/namespaces/team-c", {})).status == 201

    listed = (await bench.call("GET", "/v1/namespaces")).json()["namespaces"]
    assert [(each["name"], each["functions"]) for each in listed] == [
        ("default", 0), ("team-a", 0), ("team-b", 1), ("team-c", 0)
    ]  # fmt: skip
    assert (await bench.call("GET", "/v1/namespaces/team-a")).json() == listed[1]
    assert (await bench.call("DELETE", "/v1/namespaces/team-a")).status == 204
    assert bench.invoker.limits["team-a"] == (None, None)
    assert (await bench.call("GET", "/v1/namespaces/team-a")).problem()["code"] == "not-found"
    assert (await bench.call("DELETE", "/v1/namespaces/team-a")).status == 404


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"max_concurrency": 0}, "max_concurrency"), ({"max_concurrency": True}, "max_concurrency"),
        ({"max_concurrency": "5"}, "max_concurrency"), ({"memory": "much"}, "memory"), ({"memory": "1KB"}, "memory"),
        ({"name": "other"}, "name"), ({"color": "red"}, "color"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(value: dict[str, Any], names: str) -> None:
    bench = make_bench()
    answer = await send(bench, "PUT", "/v1/namespaces/team-a", value)
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert f"'{names}'" in answer.problem()["detail"]
    assert not bench.invoker.limits


@pytest.mark.parametrize("name", ["", "Team", "a" * 64, "9a", 7, None])
async def test_a_name_must_be_one(name: Any) -> None:
    assert (await send(make_bench(), "POST", "/v1/namespaces", {"name": name})).status == 400


async def test_a_tenant_sees_its_own_limits_and_may_not_change_them() -> None:
    bench = make_bench(make_version(namespace="team-a"), make_version(namespace="team-b"))
    bench.keys.put("faas_a", "team-a", "admin")
    assert [n["name"] for n in (await bench.call("GET", "/v1/namespaces", key="faas_a")).json()["namespaces"]] == [
        "team-a"
    ]
    assert (await bench.call("GET", "/v1/namespaces/team-a", key="faas_a")).status == 200
    assert (await bench.call("GET", "/v1/namespaces/team-b", key="faas_a")).status == 403
    assert (await send(bench, "PUT", "/v1/namespaces/team-a", {}, "faas_a")).status == 403
    assert (await send(bench, "POST", "/v1/namespaces", {"name": "team-c"}, "faas_a")).status == 403
    assert (await bench.call("DELETE", "/v1/namespaces/team-a", key="faas_a")).status == 403
    assert not bench.invoker.limits


async def test_limits_that_were_set_elsewhere_hold_here_too() -> None:
    """What the registry announces; and all that is known once it can be heard."""
    bench = make_bench()
    await bench.namespaces.put(Namespace(name="before", max_concurrency=1), new=True)
    async with bench.gateway.serving():
        with anyio.fail_after(10):
            while not bench.registry.followers:
                await anyio.sleep(0.001)
            for follower in bench.registry.followers:
                follower.put_nowait(("*", "*"))
            while bench.invoker.limits != {"before": (1, None)}:
                await anyio.sleep(0.001)
            await bench.namespaces.put(Namespace(name="later", memory_mb=5), new=True)
            for follower in bench.registry.followers:
                follower.put_nowait(("later", ""))
            while "later" not in bench.invoker.limits:
                await anyio.sleep(0.001)
    assert bench.invoker.limits == {"before": (1, None), "later": (None, 5)}


async def test_a_refusal_names_the_limit_and_when_to_come_again() -> None:
    async def refuse(version: FunctionVersion, call: Call) -> Reply:
        error = Throttled("too many", 7, namespace="team-a", limit="max_concurrency")
        return Reply(make_record(version, call, status="rejected"), error)

    bench = make_bench(make_version(http=Http(public=True)), invoker=FakeInvoker(answer=refuse))
    answer = await bench.call("POST", "/fn/hello", key=None)
    assert (answer.status, answer.header("retry-after")) == (429, "7")
    problem = answer.problem()
    assert (problem["code"], problem["retry_after_s"]) == ("throttled", 7)
    assert (problem["limit"], problem["namespace"]) == ("max_concurrency", "team-a")
