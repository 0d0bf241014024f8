"""CloudEvents through the gateway: what the invoker gets, what the caller gets back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply, Trigger
from faas.model.manifest import Http
from faas.model.message import Message, QueueName
from faas.stores.idempotency import MemoryIdempotency
from tests.unit.gateway_fakes import JSON, Bench, FakeInvoker, make_bench, make_record, make_version

pytestmark = pytest.mark.anyio
PUBLIC = make_version(http=Http(public=True))
DIRECT = "/v1/functions/hello/invocations"
EVENT = {"specversion": "1.0", "id": "7", "source": "/shop", "type": "order.paid", "time": "2026-01-02T03:04:05Z"}
BINARY = [(f"ce-{name}", value) for name, value in EVENT.items()]
TEXT = json.dumps(EVENT).encode()


def returning(payload: bytes, status: int = 200, headers: Any = JSON) -> FakeInvoker:
    async def answer(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call), None, status, headers, payload)

    return FakeInvoker(answer)


@pytest.mark.parametrize("path", [DIRECT, "/fn/hello/orders"])
async def test_a_binary_event_arrives_structured_and_its_answer_is_binary(path: str) -> None:
    bench = make_bench(PUBLIC)  # an echo
    headers = [*BINARY, ("content-type", "application/json")]
    answer = await bench.call("POST", path, b'{"eur":5}', headers=headers)
    (_, call) = bench.invoker.calls[0]
    expected = {**EVENT, "datacontenttype": "application/json", "data": {"eur": 5}}
    assert (json.loads(call.payload), call.content_type) == (expected, "application/cloudevents+json")
    assert (answer.status, answer.json(), answer.header("content-type")) == (200, {"eur": 5}, "application/json")
    assert {name: answer.header(f"ce-{name}") for name in EVENT} == EVENT
    assert answer.header("faas-invocation-id") == call.id


async def test_the_http_request_is_that_of_a_structured_event() -> None:
    bench = make_bench(PUBLIC)
    await bench.call(
        "PUT", "/fn/hello/a%20b?c=d", b"hi", headers=[*BINARY, ("content-type", "text/plain"), ("x-a", "1")]
    )
    (_, call) = bench.invoker.calls[0]
    assert (call.trigger, call.http is not None) == (Trigger.HTTP, True)
    assert call.http is not None
    headers = dict(call.http.headers)
    assert (call.http.method, call.http.path, call.http.query) == ("PUT", "/a b", "c=d")
    assert (headers["content-type"], headers["x-a"]) == ("application/cloudevents+json", "1")
    assert headers["content-length"] == str(len(call.payload))
    assert not [name for name in headers if name.startswith("ce-")]


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/cloudevents+json; charset=utf-8", TEXT), ("Application/CloudEvents-Batch+json", b"[%b]" % TEXT)],
)
async def test_structured_and_batched_events_pass_and_come_back(kind: str, body: bytes) -> None:
    bench = make_bench(PUBLIC)
    answer = await bench.call("POST", DIRECT, body, headers=[("content-type", kind)])
    (_, call) = bench.invoker.calls[0]
    assert (call.payload, call.content_type) == (body, kind.partition(";")[0].lower())
    assert (answer.json(), answer.header("content-type")) == (json.loads(body), call.content_type)


@pytest.mark.parametrize("path", [DIRECT, "/fn/hello"])
async def test_events_that_are_none_are_refused_before_anything_runs(path: str) -> None:
    bench = make_bench(PUBLIC)
    answer = await bench.call("POST", path, b"{}", headers=[("ce-id", "1"), ("ce-specversion", "0.3")])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert len(answer.problem()["errors"]) == 3
    assert not bench.invoker.calls


@pytest.mark.parametrize(
    "invoker",
    [
        returning(b'{"ok":true}'),
        returning(TEXT, status=500),
        returning(TEXT, headers=((b"content-type", b"application/vnd.own+json"),)),
        returning(b"hi", headers=((b"content-type", b"text/plain"),)),
    ],
)
async def test_what_is_no_event_goes_out_as_usual(invoker: FakeInvoker) -> None:
    bench = make_bench(PUBLIC, invoker=invoker)
    answer = await bench.call("POST", "/fn/hello", TEXT, headers=[("content-type", "application/cloudevents+json")])
    sent = await invoker.answer(PUBLIC, invoker.calls[0][1])
    assert (answer.status, answer.body) == (sent.status, sent.payload)
    assert answer.header("content-type") == sent.headers[0][1].decode()


async def test_an_event_returned_to_who_sent_none_is_json() -> None:
    bench = make_bench(PUBLIC, invoker=returning(TEXT))
    answer = await bench.call("POST", DIRECT, b"{}", headers=[("content-type", "application/json")])
    assert (answer.body, answer.header("content-type")) == (TEXT, "application/json")


async def test_a_header_of_the_event_that_http_forbids_is_the_functions_fault() -> None:
    bad = json.dumps({**EVENT, "datacontenttype": "text/plain; a=\x01", "data": "x"}).encode()
    bench = make_bench(PUBLIC, invoker=returning(bad))
    answer = await bench.call("POST", DIRECT, b"", headers=BINARY)
    assert (answer.status, answer.body) == (200, bad)  # no valid event: JSON as it is


async def test_an_event_is_answered_once_whatever_its_mode() -> None:
    bench = make_bench(PUBLIC, idempotency=MemoryIdempotency())
    once = ("idempotency-key", "1")
    for _ in range(2):
        answer = await bench.call("POST", DIRECT, b"", headers=[*BINARY, once])
        assert answer.header("ce-id") == "7"
    other = [(name, "8" if name == "ce-id" else value) for name, value in BINARY]
    assert (await bench.call("POST", DIRECT, b"", headers=[*other, once])).status == 422
    assert len(bench.invoker.calls) == 1


# -- sent to a queue --------------------------------------------------------------------------------------------------

JOBS = QueueName("default", "jobs")


def stored(bench: Bench) -> list[Message]:
    return [each.message for each in bench.queues.held[JOBS].waiting]


async def test_an_event_sent_to_a_queue_is_a_message() -> None:
    bench = make_bench(PUBLIC)
    headers = [*BINARY, ("ce-region", "eu"), ("content-type", "application/json")]
    answer = await bench.call("POST", "/v1/queues/jobs/messages", b'{"eur":5}', headers=headers)
    (message,) = stored(bench)
    assert (answer.status, answer.json()) == (201, {"id": message.id})
    assert json.loads(message.body) == {
        **EVENT,
        "region": "eu",
        "datacontenttype": "application/json",
        "data": {"eur": 5},
    }
    assert message.attributes == {**EVENT, "region": "eu", "datacontenttype": "application/json"}
    assert (message.content_type, message.dedup_id) == ("application/cloudevents+json", "")


async def test_a_batch_sent_to_a_queue_is_a_message_for_each() -> None:
    bench = make_bench(PUBLIC)
    events = [{**EVENT, "id": str(n), "n": n, "data": "ä"} for n in range(3)]
    headers = [("content-type", "application/cloudevents-batch+json")]
    answer = await bench.call("POST", "/v1/queues/jobs/messages", json.dumps(events).encode(), headers=headers)
    messages = stored(bench)
    assert (answer.status, answer.json()) == (201, {"messages": [{"id": message.id} for message in messages]})
    assert [json.loads(message.body) for message in messages] == events
    assert [message.attributes["n"] for message in messages] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/cloudevents+json", b"{}"),
        ("application/cloudevents+xml", b"<a/>"),
        ("application/cloudevents-batch+json", b"[]"),
        ("application/cloudevents-batch+json", b"[%b,{}]" % TEXT),
        ("application/cloudevents-batch+json", b'[%b,"data":1e999}]' % TEXT[:-1]),
    ],
)
async def test_events_that_are_none_are_not_queued(kind: str, body: bytes) -> None:
    bench = make_bench(PUBLIC)
    answer = await bench.call("POST", "/v1/queues/jobs/messages", body, headers=[("content-type", kind)])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert JOBS not in bench.queues.held
