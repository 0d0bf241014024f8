"""What becomes of calls that nobody waits for: run, tried again, given up, cancelled, told of; with scripted parts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from faas.events.destinations import Ended, document, sends_for, shown
from faas.gateway.awaited import Awaited
from faas.invoker.run import described
from faas.model.call import CallStatus, Response
from faas.model.errors import CallerLeft, FunctionFailed, InvalidRequest, NoCapacity, NotFound
from faas.model.function import FunctionVersion
from faas.model.hops import HOPS_MAX
from faas.model.invocation import Call, Reply, Trigger
from faas.model.manifest import Retry
from faas.model.message import BODY_BYTES_MAX, Ack, Again, Bury, Delivery, Message, QueueName, Release, calls_of
from faas.stores.memory_calls import MemoryCalls
from faas.triggers.call_work import CallParts, traced
from faas.triggers.cancels import Cancels
from tests.unit.gateway_fakes import FakeClock, make_record, make_version

pytestmark = pytest.mark.anyio
ID = "0190" * 8
BROKEN = FunctionFailed("ValueError", "no such order")
Answer = Callable[[FunctionVersion, Call], Reply]


def ok(version: FunctionVersion, call: Call) -> Reply:
    return Reply(make_record(version, call), None, 200, ((b"content-type", b"application/json"),), b'{"a":1}')


def failing(error: Any) -> Answer:
    return lambda version, call: Reply(make_record(version, call), error)


class Bench:
    """One function, its work, and an invoker that answers as it is told; None = it runs until it is stopped."""

    def __init__(self, answer: Answer | None = ok, **manifest: Any) -> None:
        self.version = make_version(**manifest)
        self.answer = answer
        self.calls = MemoryCalls(lambda: 1_000)
        self.cancels = Cancels(self.calls)
        self.ran: list[Call] = []
        self.stopped: list[str] = []
        self.reply: Any = None
        parts = CallParts(
            self.find, lambda *_: self.version, self, self.calls, self.cancels, FakeClock(), "n1", 1_000, described,
            lambda: 0.5,
        )  # fmt: skip
        made = parts.for_queue(calls_of("default", "hello"))
        assert made is not None
        self.source, self.work = made

    async def find(self, namespace: str, name: str, qualifier: str) -> FunctionVersion:
        if qualifier == "9":
            raise NotFound("There is no version 9.")
        return self.version

    def submit(self, version: FunctionVersion, call: Call, reply: Any) -> Call:
        self.ran.append(call)
        self.reply = reply
        if self.answer is not None:
            reply.set_result(self.answer(version, call))
        return call

    def abandon(self, handle: Call, *, stop: bool = False) -> None:
        self.stopped.append(handle.id)
        if not self.reply.done():
            self.reply.set_result(Reply(make_record(self.version, handle), CallerLeft("it was stopped")))

    def delivery(self, attempt: int = 1, **message: Any) -> Delivery:
        values: dict[str, Any] = {"id": ID, "body": b'{"order":7}', "trigger": Trigger.ASYNC, **message}
        return Delivery(Message(**values), "r1", attempt, FakeClock().unix_ns() // 1_000_000, 0)

    async def perform(self, attempt: int = 1, **message: Any) -> tuple[Any, list[Any]]:
        done = await self.work.perform([self.delivery(attempt, **message)])
        (outcome,) = done.outcomes
        return outcome, list(done.sends)


async def test_a_result_is_stored_and_told() -> None:
    bench = Bench(on_success="queue:done", on_failure="queue:failed")
    outcome, (send,) = await bench.perform(key_id="k1", hops=2)
    assert outcome == Ack("r1")
    record = await bench.calls.get("default", ID)
    assert record is not None
    assert record.response == Response(200, ((b"content-type", b"application/json"),), b'{"a":1}')
    assert send.queue == QueueName("default", "done")
    assert (send.message.hops, send.message.key_id) == (3, "k1")
    assert (bench.ran[0].id, bench.ran[0].attempt, bench.ran[0].hops) == (ID, 1, 2)


async def test_one_that_ended_before_a_crash_is_told_and_not_run_again() -> None:
    bench = Bench(on_success="function:next")
    _, first = await bench.perform()
    outcome, again = await bench.perform(attempt=2)
    assert outcome == Ack("r1")
    assert [each.message.id for each in again] == [each.message.id for each in first]
    assert len(bench.ran) == 1


async def test_failures_are_tried_again_and_then_buried() -> None:
    bench = Bench(failing(BROKEN), retry=Retry(attempts=2), on_failure="queue:failed")
    outcome, sends = await bench.perform()
    assert isinstance(outcome, Again)
    assert "no such order" in outcome.error
    assert not sends
    record = await bench.calls.get("default", ID)
    assert record is not None
    assert (record.status, record.attempts) == (CallStatus.RETRYING, 1)
    outcome, (send,) = await bench.perform(attempt=2)
    assert isinstance(outcome, Bury)
    event = json.loads(send.message.body)
    assert event["requestContext"]["condition"] == "RetriesExhausted"
    assert event["responsePayload"]["errorType"] == "ValueError"
    outcome, again = await bench.perform(attempt=3)
    assert isinstance(outcome, Bury)
    assert [each.message.id for each in again] == [send.message.id]
    assert len(bench.ran) == 2


async def test_what_the_platform_could_not_do_is_no_attempt() -> None:
    bench = Bench(failing(NoCapacity("full")))
    with pytest.raises(NoCapacity):
        await bench.perform()
    record = await bench.calls.get("default", ID)
    assert record is not None
    assert (record.status, record.attempts) == (CallStatus.QUEUED, 0)


@pytest.mark.parametrize("hopeless", [InvalidRequest("not JSON"), NotFound("no version")])
async def test_what_can_never_succeed_is_given_up_at_once(hopeless: Any) -> None:
    bench = Bench(failing(hopeless))
    outcome, _ = await bench.perform(qualifier="9" if isinstance(hopeless, NotFound) else "")
    assert isinstance(outcome, Bury)
    record = await bench.calls.get("default", ID)
    assert record is not None
    assert record.status is CallStatus.FAILED


async def test_a_cancelled_call_never_runs() -> None:
    bench = Bench()
    await bench.calls.queued("default", "hello", bench.delivery().message)
    await bench.calls.cancel("default", ID)
    assert await bench.perform() == (Ack("r1"), [])
    assert not bench.ran


async def test_a_running_call_is_stopped_when_it_is_cancelled() -> None:
    bench = Bench(answer=None)
    with anyio.fail_after(10):
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(bench.cancels.run())
            running = group.create_task(bench.perform())
            while not bench.ran:
                await asyncio.sleep(0)
            busy, _ = await bench.perform(attempt=2)  # the lease was lost, the run was not
            assert isinstance(busy, Release)
            await bench.calls.cancel("default", ID)
            assert await running == (Ack("r1"), [])
            listening.cancel()
    assert bench.stopped == [ID]
    assert not bench.cancels.runs("default", ID)


async def test_streams_are_collected_within_the_limit() -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * 100

    def streaming(count: int) -> Answer:
        return lambda version, call: Reply(make_record(version, call), stream=chunks(count))

    small = Bench(streaming(5))
    assert (await small.perform())[0] == Ack("r1")
    record = await small.calls.get("default", ID)
    assert record is not None
    assert record.response is not None
    assert record.response.payload == b"x" * 500
    large = Bench(streaming(50), retry=Retry(attempts=1))
    outcome, _ = await large.perform()
    assert isinstance(outcome, Bury)
    assert "ResponseTooLarge" in outcome.reason


async def test_no_more_at_once_than_the_function_may_run() -> None:
    assert Bench(max_instances=2, concurrency=3).source.at_once == 6
    assert Bench(max_instances=1000).source.at_once == 32


async def test_whoever_waits_hears_of_the_end() -> None:
    calls = MemoryCalls(lambda: 1_000)
    awaited = Awaited(calls, lambda: False)
    await calls.queued("default", "hello", Message(ID, b""))
    with anyio.fail_after(10):
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(awaited.run())
            waiting = [group.create_task(awaited.ended("default", ID, 60)) for _ in range(3)]
            await asyncio.sleep(0.01)
            assert await awaited.ended("default", "unknown", 60) is None
            still = await awaited.ended("default", ID, 0)
            assert still is not None
            assert still.status is CallStatus.QUEUED
            await calls.fail("default", "hello", ID, {}, "x")
            found = [await each for each in waiting]
            listening.cancel()
    assert [each.status for each in found if each is not None] == ["failed"] * 3


def ended(**changes: Any) -> Ended:
    values: dict[str, Any] = {
        "invocation_id": ID, "namespace": "default", "function": "hello", "version": 2, "condition": "Success",
        "attempts": 1, "ended_at_ms": 1_573_754_730_568, "request": b'{"order":7}', "request_type": "application/json",
        "response": b"done", "response_type": "text/plain",
    }  # fmt: skip
    return Ended(**{**values, **changes})


def test_an_event_has_the_shape_of_lambdas() -> None:
    event = json.loads(document(ended()))
    assert event == {
        "version": "1.0",
        "timestamp": "2019-11-14T18:05:30.568Z",
        "requestContext": {
            "requestId": ID,
            "functionArn": "arn:faas:default:function:hello:2",
            "condition": "Success",
            "approximateInvokeCount": 1,
        },
        "requestPayload": {"order": 7},
        "responseContext": {"statusCode": 200, "executedVersion": "2"},
        "responsePayload": "done",
    }


def test_an_event_too_large_for_a_message_says_what_it_lacks() -> None:
    text = document(ended(response=b"x" * BODY_BYTES_MAX))
    assert len(text) < 2_000
    assert json.loads(text)["truncated"] is True
    assert json.loads(text)["requestPayload"] == {"order": 7}


def test_where_it_is_told() -> None:
    (queue,) = sends_for(ended(), "queue:done", None)
    (function,) = sends_for(ended(), "function:next", None)
    (hook,) = sends_for(ended(condition="RetriesExhausted"), None, "https://example.com/x")
    assert (str(queue.queue), str(function.queue)) == ("default/done", "default/@call.next")
    assert function.message.trigger is Trigger.ASYNC
    assert str(hook.queue) == "default/@webhooks"
    assert hook.message.attributes["url"] == "https://example.com/x"
    assert sends_for(ended(), None, "queue:failed") == ()
    ids = {each.message.id for each in (queue, function, hook)}
    assert len(ids) == 3
    assert all(len(each) == 32 and each.startswith(ID[:12]) for each in ids)


def test_a_loop_of_failures_ends_too() -> None:
    refused = ended(condition="Refused", hops=HOPS_MAX + 1)
    assert sends_for(refused, None, "function:hello") == ()
    assert len(sends_for(ended(condition="Refused", hops=HOPS_MAX), None, "function:hello")) == 1


@pytest.mark.parametrize(
    ("payload", "kind", "expected"),
    [
        (b"NaN", "application/json", "NaN"),
        (b"\xff", "application/json", {"base64": "/w=="}),
        (b"[1]", "application/cloudevents+json", [1]),
        (b"[1]", "text/plain", "[1]"),
    ],
)
def test_payloads_within_json(payload: bytes, kind: str, expected: Any) -> None:
    assert shown(payload, kind) == expected


def test_an_attempt_has_a_span_of_its_own_in_the_callers_trace() -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    parent = f"00-{trace}-00f067aa0ba902b7-01"
    made = traced(Message(ID, b"", trace_parent=parent, hops=3), lambda _: 5)
    assert made.startswith(f"00-{trace}-")
    assert made != parent
    assert traced(Message(ID, b""), lambda _: 5).startswith(f"00-{ID}-")
