"""What becomes of a batch: filters, the function's answers, who pays for a failure."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from faas.events.filters import compile_filter
from faas.model.errors import BudgetExhausted, DeadlineExceeded, FaasError, FunctionFailed, InstanceCrashed, Throttled
from faas.model.function import FunctionVersion
from faas.model.hops import HOPS_MAX
from faas.model.invocation import Call, Reply
from faas.model.manifest import QueueTrigger, Retry
from faas.model.message import Ack, Again, Bury, Delivery, Drop, Message, Outcome, Release, Send
from faas.model.trigger import TriggerSpec
from faas.triggers.consumers import Interest
from faas.triggers.queue_work import Ended, Parts, QueueWork
from tests.unit.consumer_fakes import ORDERS, delivery
from tests.unit.gateway_fakes import make_record, make_version

pytestmark = pytest.mark.anyio
Answer = Callable[[list[dict[str, Any]]], object]


class Function:
    """Answers calls with what ``answer`` makes of their records: a JSON value, or an error that it returns."""

    def __init__(self, answer: Answer, **manifest: Any) -> None:
        self.version = make_version("eat", 7, retry=Retry(attempts=3), **manifest)
        self.answer = answer
        self.calls: list[Call] = []
        self.ended: list[Ended] = []
        self.streams = False

    async def find(self, namespace: str, name: str) -> FunctionVersion:
        assert (namespace, name) == ("default", "eat")
        return self.version

    async def invoke(self, version: FunctionVersion, call: Call) -> Reply:
        self.calls.append(call)
        found = self.answer(json.loads(call.payload)["Records"])
        if isinstance(found, FaasError):
            return Reply(make_record(version, call), found)
        text = json.dumps(found).encode()
        if self.streams:
            return Reply(make_record(version, call), stream=_chunks(text))
        return Reply(make_record(version, call), payload=text)

    def destinations(self, ended: Ended) -> list[Send]:
        self.ended.append(ended)
        return [Send(ORDERS, Message(each.message.id + "-told", b"")) for each in ended.deliveries]

    def unix_ns(self) -> int:
        return 2_000_000_000

    def parts(self, body_bytes_max: int = 6_000_000) -> Parts:
        return Parts(self.find, self.invoke, lambda: "call", self, body_bytes_max, self.destinations, lambda: 0.5)

    def work(
        self, event_filter: Any = None, others: tuple[Interest, ...] = (), body_bytes_max: int = 6_000_000
    ) -> QueueWork:
        own = compile_filter(event_filter) if event_filter else None
        trigger = TriggerSpec(id="eat.orders", namespace="default", function="eat", queue=QueueTrigger(name="orders"))
        return QueueWork(trigger, ORDERS, own, lambda: list(others), self.parts(body_bytes_max))


async def _chunks(text: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(text), 5):
        yield text[at : at + 5]


async def outcomes(work: QueueWork, *batch: Delivery) -> dict[str, Outcome]:
    done = await work.perform(batch)
    found = {each.receipt.removeprefix("receipt-"): each for each in done.outcomes}
    assert len(found) == len(done.outcomes) == len(batch)
    return found


def failing(*ids: str) -> Answer:
    return lambda _records: {"batchItemFailures": [{"itemIdentifier": each} for each in ids]}


async def test_a_batch_is_one_call_of_the_latest_version() -> None:
    function = Function(lambda _records: None)
    batch = [
        delivery("a", b'{"n": 1}', trace_parent="00-1", key_id="k", hops=2),
        delivery("b", b"two", hops=3),
    ]
    found = await outcomes(function.work(), *batch)
    assert found == {"a": Ack("receipt-a"), "b": Ack("receipt-b")}
    (call,) = function.calls
    assert (call.id, call.trigger, call.attempt, call.hops) == ("call", "queue", 1, 3)
    assert (call.key_id, call.trace_parent, call.content_type) == ("k", "00-1", "application/json")
    assert [record["messageId"] for record in json.loads(call.payload)["Records"]] == ["a", "b"]


async def test_the_messages_that_the_handler_names_come_again_and_the_others_are_done() -> None:
    found = await outcomes(Function(failing("b")).work(), delivery("a"), delivery("b"), delivery("c"))
    assert found["a"] == Ack("receipt-a")
    assert found["c"] == Ack("receipt-c")
    assert isinstance(found["b"], Again)
    assert found["b"].delay_ms == 500
    assert "batchItemFailures" in found["b"].error


async def test_a_streamed_answer_counts_as_any_other() -> None:
    function = Function(failing("b"))
    function.streams = True
    found = await outcomes(function.work(), delivery("a"), delivery("b"))
    assert [type(found[name]) for name in "ab"] == [Ack, Again]


async def test_an_answer_that_makes_no_sense_fails_the_batch() -> None:
    found = await outcomes(Function(failing("unknown")).work(), delivery("a"), delivery("b", attempt=3))
    assert isinstance(found["a"], Again)
    assert "not in the batch: unknown" in found["a"].error
    assert isinstance(found["b"], Bury)
    assert "not in the batch: unknown" in found["b"].reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FunctionFailed("KeyError", "sku"), "KeyError: sku"),
        (DeadlineExceeded("too slow"), "timeout: too slow"),
        (InstanceCrashed("it died", "oom"), "instance-crashed: it died"),
    ],
)
async def test_a_failure_of_the_function_is_an_attempt(error: FaasError, said: str) -> None:
    function = Function(lambda _records: error, on_failure="queue:failed")
    found = await outcomes(function.work(), delivery("a"), delivery("b", attempt=3))
    assert found["a"] == Again("receipt-a", 500, said)
    assert found["b"] == Bury("receipt-b", f"the last of 3 attempts failed: {said}")
    assert [(ended.reason, [d.message.id for d in ended.deliveries]) for ended in function.ended] == [
        (f"the last of 3 attempts failed: {said}", ["b"])
    ]


@pytest.mark.parametrize("error", [Throttled("full", retry_after_s=4), BudgetExhausted("no money"), FaasError("a bug")])
async def test_what_the_platform_could_not_do_is_raised(error: FaasError) -> None:
    with pytest.raises(type(error)):
        await Function(lambda _records: error).work().perform([delivery("a", attempt=3)])


async def test_a_batch_too_large_for_one_event_is_several_and_what_the_platform_could_not_do_is_put_back() -> None:
    calls: list[int] = []

    def second_is_refused(records: list[dict[str, Any]]) -> object:
        calls.append(len(records))
        return Throttled("full", retry_after_s=4) if len(calls) == 2 else None

    large = [delivery(name, b"x" * 1000) for name in "abcd"] + [delivery("huge", b"x" * 9000)]
    found = await outcomes(Function(second_is_refused).work(body_bytes_max=3300), *large)
    assert calls == [2, 2]
    assert [type(found[name]) for name in "abcd"] == [Ack, Ack, Release, Release]
    assert found["c"] == Release("receipt-c", 4000)
    assert isinstance(found["huge"], Bury)
    assert "FAAS_MAX_BODY" in found["huge"].reason


async def test_filters_wake_the_function_only_for_what_it_wants() -> None:
    function = Function(lambda _records: None)
    pattern = {"body": {"kind": ["order"]}}
    paid = Interest(compile_filter({"body": {"kind": ["paid"]}}), enabled=True)
    lost = Interest(compile_filter({"body": {"kind": ["lost"]}}), enabled=False)
    work = function.work(pattern, (paid, lost))
    kinds = ("order", "paid", "lost", "junk")
    found = await outcomes(work, *(delivery(kind, json.dumps({"kind": kind}).encode()) for kind in kinds))
    assert [type(found[kind]) for kind in kinds] == [Ack, Release, Release, Drop]
    assert isinstance(found["paid"], Release)
    assert isinstance(found["lost"], Release)
    assert found["paid"].delay_ms < found["lost"].delay_ms
    (call,) = function.calls
    assert len(json.loads(call.payload)["Records"]) == 1
    await outcomes(work, delivery("junk"))
    assert len(function.calls) == 1


async def test_messages_that_cannot_be_tried_go_to_the_dead_letters_and_take_nobody_with_them() -> None:
    function = Function(lambda _records: None)
    batch = [delivery("a"), delivery("loop", hops=HOPS_MAX + 1), delivery("killer", attempt=99)]
    found = await outcomes(function.work(), *batch)
    assert found["a"] == Ack("receipt-a")
    assert isinstance(found["loop"], Bury)
    assert isinstance(found["killer"], Bury)
    assert "98 times" in found["killer"].reason


async def test_destinations_are_told_of_what_was_handled_in_the_same_step() -> None:
    function = Function(failing("b"), on_success="queue:done")
    done = await function.work().perform([delivery("a"), delivery("b")])
    (ended,) = function.ended
    assert [each.message.id for each in ended.deliveries] == ["a"]
    assert json.loads(ended.response)["batchItemFailures"]
    assert [send.message.id for send in done.sends] == ["a-told"]
    quiet = Function(lambda _records: None)
    assert not (await quiet.work().perform([delivery("a")])).sends
    assert not quiet.ended


@pytest.mark.parametrize(("lease_ms", "expected"), [(None, 6 * 2_000), (500, 500)])
async def test_a_lease_is_six_timeouts_unless_the_manifest_says_another(lease_ms: int | None, expected: int) -> None:
    function = Function(lambda _records: None, timeout_ms=2_000)
    queue = QueueTrigger(name="orders", batch=3, window_ms=10, max_concurrency=4, lease_ms=lease_ms)
    trigger = TriggerSpec(id="eat.orders", namespace="default", function="eat", queue=queue)
    source, _ = function.parts().for_trigger(trigger, None, list)
    assert await source.lease_ms() == expected
    assert source[:5] == (ORDERS, "default/eat.orders", 3, 10, 4)
