"""Queues over HTTP: what is sent, what is refused and how that is said, what is shown, what puts things right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.gateway import queues_api
from faas.model.message import SEND_MAX, Message, QueueName, Send
from tests.unit.gateway_fakes import Answered, Bench, make_bench

pytestmark = pytest.mark.anyio
JOBS = QueueName("default", "jobs")
PATH = "/v1/queues/jobs"
JSON = (("content-type", "application/json"),)


@pytest.fixture
def bench() -> Bench:
    return make_bench()


async def send(bench: Bench, value: Any, **more: Any) -> Answered:
    return await bench.call("POST", f"{PATH}/messages", json.dumps(value).encode(), headers=JSON, **more)


async def post(bench: Bench, what: str, value: Any = None) -> Answered:
    body = b"" if value is None else json.dumps(value).encode()
    return await bench.call("POST", f"{PATH}/{what}", body, headers=JSON if body else ())


async def get(bench: Bench, path: str) -> Any:
    answer = await bench.call("GET", path)
    assert answer.status == 200, answer.body
    return answer.json()


def held(bench: Bench) -> list[Message]:
    return [each.message for each in bench.queues.held[JOBS].waiting]


# -- sending ----------------------------------------------------------------------------------------------------------


async def test_one_message_with_all_it_may_have(bench: Bench) -> None:
    value = {"body": {"n": 1, "ä": [None]}, "attributes": {"kind": "x"}, "delay": "10s", "dedup_id": "d", "group": "g"}
    answer = await send(bench, value)
    (message,) = held(bench)
    assert (answer.status, answer.json()) == (201, {"id": message.id})
    assert message.body.decode() == '{"n":1,"ä":[null]}'
    assert (message.content_type, message.attributes) == ("application/json", {"kind": "x"})
    assert (message.delay_ms, message.dedup_id, message.group) == (10_000, "d", "g")
    assert message.key_id == "k1"
    assert message.trace_parent.startswith("00-")


@pytest.mark.parametrize(
    ("body", "stored"),
    [("text", "text"), ("", ""), (None, "null"), (0, "0"), (1.5, "1.5"), (False, "false"), ([], "[]"), ({}, "{}")],
)
async def test_a_string_is_stored_as_it_is_and_the_rest_as_json(bench: Bench, body: Any, stored: str) -> None:
    assert (await send(bench, {"body": body})).status == 201
    assert held(bench)[0].body.decode() == stored


async def test_a_list_is_one_step_and_doubles_are_said(bench: Bench) -> None:
    first = (await send(bench, {"body": 1, "dedup_id": "a"})).json()["id"]
    answer = await send(bench, [{"body": 2, "dedup_id": "a"}, {"body": 3}, {"body": 4, "delay": 0.5}])
    assert answer.status == 201
    double, second, third = answer.json()["messages"]
    assert double == {"id": first, "duplicate": True}
    assert [message.id for message in held(bench)] == [first, second["id"], third["id"]]
    assert held(bench)[2].delay_ms == 500
    assert len(bench.queues.sends) == 2


async def test_a_trace_goes_on_with_one_hop_more(bench: Bench) -> None:
    await send(bench, {"body": 1})
    parent = held(bench)[0].trace_parent
    body = json.dumps({"body": 2}).encode()
    await bench.call("POST", f"{PATH}/messages", body, headers=(*JSON, ("traceparent", parent)))
    first, second = held(bench)
    assert first.trace_parent.split("-")[1] == second.trace_parent.split("-")[1]
    assert (first.hops, second.hops) == (0, 1)


@pytest.mark.parametrize(
    ("value", "key", "words"),
    [
        ({}, "body", "is missing"),
        ({"body": 1, "dleay": 1}, "dleay", "attributes, body, dedup_id, delay, group"),
        ({"body": 1, "delay": "soon"}, "delay", "is not a duration"),
        ({"body": 1, "delay": True}, "delay", "not true or false"),
        ({"body": 1, "delay": "8d"}, "delay", "at most 7d"),
        ({"body": 1, "delay": -1}, "delay", "negative"),
        ({"body": 1, "attributes": ["a"]}, "attributes", "object of texts"),
        ({"body": 1, "attributes": None}, "attributes", "object of texts"),
        ({"body": 1, "attributes": {"a": 1}}, "attributes", "'a' is not; quote it"),
        ({"body": 1, "attributes": {"": "x"}}, "attributes", "names of 1 to 256"),
        ({"body": 1, "attributes": {f"a{n}": "" for n in range(65)}}, "attributes", "are 65"),
        ({"body": 1, "group": 5}, "group", "1 to 128"),
        ({"body": 1, "group": ""}, "group", "leave it out"),
        ({"body": 1, "dedup_id": "x" * 129}, "dedup_id", "1 to 128"),
        ({"body": "\ud800"}, "body", "surrogate"),
        ({"body": 1, "group": "\udfff"}, "group", "text"),
    ],
)
async def test_what_is_wrong_is_named(bench: Bench, value: Any, key: str, words: str) -> None:
    answer = await send(bench, value)
    problem = answer.problem()
    assert (answer.status, problem["code"]) == (400, "invalid-request")
    (error,) = problem["errors"]
    assert (error["index"], error["key"]) == (None, key)
    assert words in error["message"]
    assert words in problem["detail"]
    assert not bench.queues.sends


async def test_every_mistake_of_a_list_is_said_at_once_and_nothing_is_stored(bench: Bench) -> None:
    answer = await send(bench, [{"body": 1}, {"body": 1, "x": 1, "delay": "?"}, "text", {"group": "g"}])
    problem = answer.problem()
    found = [(each["index"], each["key"]) for each in problem["errors"]]
    assert found == [(1, "x"), (1, "delay"), (2, ""), (3, "body")]
    assert "message 3: 'body' is missing" in problem["detail"]
    assert not bench.queues.sends
    many = (await send(bench, [{}] * SEND_MAX)).problem()
    assert len(many["errors"]) == 100
    assert many["detail"].endswith("and 900 more.")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"body": NaN}', "NaN is not a JSON value"),
        (b'{"body": 1e999}', "'body' has no JSON text"),
        (b"[" * 100_000, "not JSON"),
        (b'"text"', "neither a message nor a list"),
        (b"[]", "from 1 to 1000 messages, this one 0"),
        (b"[" + b",".join([b'{"body":1}'] * (SEND_MAX + 1)) + b"]", "this one 1001"),
        (b'\xff{"body": 1}', "not JSON"),
    ],
)
async def test_what_is_no_message_gets_the_form_of_one(bench: Bench, raw: bytes, words: str) -> None:
    answer = await bench.call("POST", f"{PATH}/messages", raw, headers=JSON)
    assert answer.status == 400
    assert words in answer.problem()["detail"]
    assert not bench.queues.sends


async def test_half_of_a_surrogate_pair_stays_an_escape_within_json(bench: Bench) -> None:
    assert (await send(bench, {"body": ["\ud800"]})).status == 201
    assert held(bench)[0].body == b'["\\ud800"]'


async def test_other_content_types_are_told_how(bench: Bench) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        answer = await bench.call("POST", f"{PATH}/messages", b"hi", headers=(("content-type", content_type),))
        assert answer.status == 400
        assert "sent as application/json" in answer.problem()["detail"]
    plain = await bench.call("POST", f"{PATH}/messages", b'{"body": 1}')
    assert plain.status == 201, "without a content type it is taken for JSON"
    charset = (("content-type", "Application/JSON; charset=utf-8"),)
    assert (await bench.call("POST", f"{PATH}/messages", b'{"body": 1}', headers=charset)).status == 201


async def test_the_limit_of_a_body(bench: Bench) -> None:
    bytes_max = 6_000_000
    full = json.dumps({"body": "x" * (bytes_max - 12)}).encode()
    assert len(full) == bytes_max
    assert (await bench.call("POST", f"{PATH}/messages", full, headers=JSON)).status == 201
    over = await bench.call("POST", f"{PATH}/messages", full + b" ", headers=JSON)
    assert (over.status, over.problem()["code"]) == (413, "payload-too-large")


async def test_nothing_is_confirmed_that_the_store_does_not_have(bench: Bench) -> None:
    bench.queues.down = True
    answer = await send(bench, {"body": 1})
    assert (answer.status, answer.problem()["code"]) == (503, "store-unavailable")
    assert "10.0.0.7" not in answer.body.decode()


@pytest.mark.parametrize("name", ["Jobs", "1a", "a_b", "@call.hello", "a" * 64, "%40webhooks"])
async def test_a_queue_has_a_name_as_functions_have(bench: Bench, name: str) -> None:
    answer = await bench.call("POST", f"/v1/queues/{name}/messages", b'{"body": 1}', headers=JSON)
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert "cannot name a queue" in answer.problem()["detail"]
    for method, rest in (("GET", ""), ("GET", "/messages"), ("GET", "/dead"), ("POST", "/purge"), ("DELETE", "")):
        assert (await bench.call(method, f"/v1/queues/{name}{rest}")).status == 404
    assert not bench.queues.held


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_queues_are_listed_with_what_they_hold_and_who_takes(bench: Bench) -> None:
    await send(bench, [{"body": 1}, {"body": 2, "delay": 5}])
    bench.triggers.consume("jobs", "worker")
    bench.triggers.consume("jobs", "second", enabled=False)
    bench.triggers.consume("idle", "worker")
    bench.triggers.consume("theirs", "other", namespace="team-a")
    idle, jobs = (await get(bench, "/v1/queues"))["queues"]
    assert jobs == {
        "name": "jobs", "namespace": "default", "depth": 2, "ready": 1, "delayed": 1, "waiting": 0, "in_flight": 0,
        "dead": 0, "oldest_seconds": 1.5,
        "consumers": [
            {"trigger": "worker.jobs", "function": "worker", "enabled": True},
            {"trigger": "second.jobs", "function": "second", "enabled": False},
        ],
    }  # fmt: skip
    assert (idle["name"], idle["depth"]) == ("idle", 0), "a trigger names it: it is there, and empty"
    assert await get(bench, PATH) == {**jobs, "counts": {"sent": 2}}
    assert (await get(bench, "/v1/queues/idle"))["counts"] == {}
    assert await get(bench, "/v1/queues/idle/messages") == {"messages": []}


async def test_a_queue_nobody_ever_used_is_not_found(bench: Bench) -> None:
    for method, path in (
        ("GET", PATH), ("GET", f"{PATH}/messages"), ("GET", f"{PATH}/dead"), ("POST", f"{PATH}/redrive"),
        ("POST", f"{PATH}/purge"), ("DELETE", PATH),
    ):  # fmt: skip
        answer = await bench.call(method, path)
        assert answer.status == 404, (method, path)
        assert "with the first message" in answer.problem()["detail"]
    assert await get(bench, "/v1/queues") == {"queues": []}


async def test_peek_takes_nothing_and_shows_all_there_is(bench: Bench) -> None:
    await send(bench, [{"body": n, "group": "g"} for n in range(60)])
    first = (await get(bench, f"{PATH}/messages"))["messages"]
    assert [each["body"] for each in first] == [str(n) for n in range(10)]
    assert first[0] == {
        "id": held(bench)[0].id, "body": "0", "content_type": "application/json", "attributes": {}, "group": "g",
        "dedup_id": "", "attempts": 0, "error": "", "sent_at": "2023-11-14T22:13:20.123Z",
    }  # fmt: skip
    assert len((await get(bench, f"{PATH}/messages?limit=55"))["messages"]) == 55
    assert len((await get(bench, f"{PATH}/messages?limit=100"))["messages"]) == 60
    assert (await bench.call("GET", f"{PATH}/messages?limit=101")).status == 400
    assert len(held(bench)) == 60


async def test_what_is_no_text_is_shown_as_base64(bench: Bench) -> None:
    await bench.queues.send([Send(JOBS, Message("m1", b"\xff\x00"))])
    (shown,) = (await get(bench, f"{PATH}/messages"))["messages"]
    assert shown["body_base64"] == "/wA="
    assert "body" not in shown


async def test_large_messages_come_in_smaller_pages(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues_api, "ANSWER_BYTES_MAX", 8_000)
    await bench.queues.send([Send(JOBS, Message(f"m{n:02}", b"x" * 1_000)) for n in range(30)])
    assert len((await get(bench, f"{PATH}/messages?limit=30"))["messages"]) == 10
    for message in held(bench):
        bench.queues.bury(JOBS, message.id)
    seen, after = [], ""
    while after is not None:
        page = await get(bench, f"{PATH}/dead?limit=30&after={after}")
        assert len(page["messages"]) == 10
        seen += [each["id"] for each in page["messages"]]
        after = page["next"]
    assert seen == [f"m{n:02}" for n in range(30)]


async def test_dead_letters_say_why(bench: Bench) -> None:
    sent = (await send(bench, {"body": "x", "attributes": {"a": "b"}, "group": "g"})).json()["id"]
    bench.queues.bury(JOBS, sent)
    page = await get(bench, f"{PATH}/dead")
    (letter,) = page["messages"]
    assert page["next"] is None
    assert letter == {
        "id": sent, "body": "x", "content_type": "text/plain", "attributes": {"a": "b"}, "group": "g", "dedup_id": "",
        "attempts": 3, "error": "it failed 3 times", "sent_at": "2023-11-14T22:13:20.123Z",
        "reason": "it failed 3 times", "died_at": "2023-11-14T22:13:20.128Z",
    }  # fmt: skip


# -- putting right ----------------------------------------------------------------------------------------------------


async def dead(bench: Bench, count: int) -> list[str]:
    await bench.queues.send([Send(JOBS, Message(f"m{n:04}", b"x")) for n in range(count)])
    ids = [message.id for message in held(bench)]
    for each in ids:
        bench.queues.bury(JOBS, each)
    return ids


async def test_redrive_of_all_of_some_and_of_named_ones(bench: Bench) -> None:
    ids = await dead(bench, 6)
    assert (await post(bench, "redrive", {"ids": [ids[3], "none", ids[3]]})).json() == {"redriven": 1}
    assert (await post(bench, "redrive", {"limit": 2})).json() == {"redriven": 2}
    assert [message.id for message in held(bench)] == [ids[3], ids[0], ids[1]]
    assert (await post(bench, "redrive")).json() == {"redriven": 3}
    assert (await post(bench, "redrive", {"all": True})).json() == {"redriven": 0}


async def test_a_redrive_at_a_rate_is_in_the_delays_over_all_steps(bench: Bench) -> None:
    await dead(bench, 2500)
    assert (await post(bench, "redrive", {"rate": 50})).json() == {"redriven": 2500}
    assert [message.delay_ms for message in held(bench)] == [20 * n for n in range(2500)]
    assert [count for _, _, count in bench.queues.redrives] == [1000, 1000, 500]


async def test_a_slow_redrive_takes_only_what_comes_within_a_week(bench: Bench) -> None:
    await dead(bench, 10)
    assert (await post(bench, "redrive", {"rate": 1 / 86_400})).json() == {"redriven": 8}
    assert (await post(bench, "redrive", {"rate": 1e-9})).json() == {"redriven": 1}, "the first comes at once"


@pytest.mark.parametrize(
    "value",
    [
        {"id": "x"}, {"ids": "x"}, {"ids": [1]}, {"ids": ["x"], "all": True}, {"all": "yes"}, {"all": False},
        {"limit": 0}, {"limit": True}, {"rate": 0}, {"rate": "5"}, {"rate": 1_000_000},
    ],
)  # fmt: skip
async def test_a_redrive_that_is_not_understood_moves_nothing(bench: Bench, value: Any) -> None:
    await dead(bench, 1)
    assert (await post(bench, "redrive", value)).status == 400
    assert not bench.queues.redrives


async def test_purge_of_what_waits_and_of_what_died(bench: Bench) -> None:
    await dead(bench, 2)
    await send(bench, [{"body": 1}, {"body": 2}, {"body": 3}])
    assert (await post(bench, "purge")).json() == {"purged": 3}
    assert (await post(bench, "purge", {"dead": True})).json() == {"purged": 2}
    assert (await post(bench, "purge", {"dead": 1})).status == 400
    assert (await post(bench, "purge", {"all": True})).status == 400


async def test_a_deleted_queue_says_who_will_bring_it_back(bench: Bench) -> None:
    await send(bench, {"body": 1})
    bench.triggers.consume("jobs", "worker")
    answer = await bench.call("DELETE", PATH)
    consumers = [{"trigger": "worker.jobs", "function": "worker", "enabled": True}]
    assert answer.json() == {"name": "jobs", "deleted": True, "consumers": consumers}
    assert (await get(bench, PATH))["depth"] == 0


async def test_scopes_and_namespaces(bench: Bench) -> None:
    bench.keys.put("faas_send", "default", "invoke")
    bench.keys.put("faas_look", "default", "read")
    bench.keys.put("faas_deploy", "default", "deploy")
    bench.keys.put("faas_theirs", "team-a", "invoke", "read", "deploy")
    assert (await send(bench, {"body": 1}, key="faas_send")).status == 201
    for method, path, needed in (
        ("POST", f"{PATH}/messages", "faas_send"), ("GET", PATH, "faas_look"), ("GET", f"{PATH}/dead", "faas_look"),
        ("GET", f"{PATH}/messages", "faas_look"), ("GET", "/v1/queues", "faas_look"),
        ("POST", f"{PATH}/purge", "faas_deploy"), ("POST", f"{PATH}/redrive", "faas_deploy"),
        ("DELETE", PATH, "faas_deploy"),
    ):  # fmt: skip
        for key in ("faas_send", "faas_look", "faas_deploy"):
            body = b'{"body": 1}' if path.endswith("messages") and method == "POST" else b""
            status = (await bench.call(method, path, body, key=key)).status
            assert (status != 403) == (key == needed), (method, path, key)
    await send(bench, {"body": 1}, key="faas_theirs")
    assert {queue.namespace for queue in bench.queues.held} == {"team-a"}, "the other one was deleted above"
    assert (await bench.call("GET", f"{PATH}?namespace=default", key="faas_theirs")).status == 403
    assert (await get(bench, f"{PATH}?namespace=team-a"))["depth"] == 1
    assert (await bench.call("GET", "/v1/queues?namespace=*")).status == 400
