"""Calls that end together: one write of the journal, then an answer for each, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from faas.invoker.ends import Ends
from faas.invoker.run import Run
from faas.model.errors import StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply, Trigger
from faas.model.manifest import Manifest
from faas.model.usage import UsageRecord
from faas.ports import Entry
from faas.wire import Result

VERSION = FunctionVersion(
    namespace="default",
    name="hello",
    version=1,
    manifest=Manifest.model_validate({"name": "hello", "entry": "hello"}),
    bundle="b",
)


class NoDeadlines:
    def remove(self, *_: object) -> None:
        pass


class Scene:
    """Everything that happens, in order."""

    def __init__(self, refuses: Callable[[tuple[str, ...]], bool] = lambda _ids: False) -> None:
        self.events: list[Any] = []
        self.refuses = refuses
        self.sequence = 0
        deadlines: Any = NoDeadlines()
        self.ends = Ends("n1", self, deadlines, lambda: 10, self.observe)

    def record(self, *entries: Entry) -> None:
        ids = tuple(entry.record.invocation_id for entry in entries)
        if self.refuses(ids):
            raise OSError(28, "No space left on device")
        self.events.append(("journalled", *ids))
        for entry in entries:
            self.sequence += 1
            entry.sequence = self.sequence

    def observe(self, record: UsageRecord, sequence: int) -> None:
        self.events.append(("observed", record.invocation_id, sequence))

    def run(self, call: str) -> Run:
        run = Run(Call(call, Trigger.DIRECT, b"{}"), VERSION, Replied(self.events, call), 1, 1)
        run.dispatched_ns = 2
        self.ends.runs[call] = run
        return run

    def end(self, run: Run) -> None:
        self.ends.end(run, None, now=9, response=Result(run.call.id, 200, (), 1, 1, 1, b"{}"))


class Replied:
    def __init__(self, events: list[Any], call: str) -> None:
        self.events, self.call = events, call

    def done(self) -> bool:
        return False

    def set_result(self, reply: Reply) -> None:
        self.events.append(("answered", self.call, type(reply.error).__name__))


def test_alone_it_is_journalled_then_answered() -> None:
    scene = Scene()
    scene.end(scene.run("a"))
    assert scene.events == [("journalled", "a"), ("answered", "a", "NoneType"), ("observed", "a", 1)]
    assert scene.ends.none_left.is_set()


def test_together_they_are_journalled_at_once_and_answered_in_order() -> None:
    scene = Scene()
    runs = [scene.run(call) for call in "abc"]
    with scene.ends.together():
        for run in runs:
            scene.end(run)
        assert scene.events == []
        assert not scene.ends.runs
        assert not scene.ends.none_left.is_set(), "who waits for the last answer waits until it is given"
    assert scene.events[0] == ("journalled", "a", "b", "c")
    assert [event[1] for event in scene.events if event[0] == "answered"] == ["a", "b", "c"]
    assert [event[1:] for event in scene.events if event[0] == "observed"] == [("a", 1), ("b", 2), ("c", 3)]
    assert scene.ends.none_left.is_set()


def test_together_with_a_bug_in_between_those_that_ended_are_answered() -> None:
    scene = Scene()

    def stumble() -> None:
        with scene.ends.together():
            scene.end(scene.run("a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stumble()
    assert ("answered", "a", "NoneType") in scene.events
    scene.end(scene.run("b"))
    assert scene.events[-3:] == [("journalled", "b"), ("answered", "b", "NoneType"), ("observed", "b", 2)]


def test_one_that_cannot_be_journalled_does_not_cost_the_others_their_answers() -> None:
    scene = Scene(lambda ids: "b" in ids)
    with scene.ends.together():
        for call in "abc":
            scene.end(scene.run(call))
    assert [event for event in scene.events if event[0] == "journalled"] == [("journalled", "a"), ("journalled", "c")]
    answers = {event[1]: event[2] for event in scene.events if event[0] == "answered"}
    assert answers == {"a": "NoneType", "b": StoreUnavailable.__name__, "c": "NoneType"}
    assert [event[1:] for event in scene.events if event[0] == "observed"] == [("a", 1), ("b", 0), ("c", 2)]


@pytest.mark.parametrize(
    ("trigger", "timeout_ms", "ends_ms"),
    [
        (Trigger.DIRECT, 3_600_000, 900_000),
        (Trigger.HTTP, 900_001, 900_000),
        (Trigger.HTTP, 5_000, 5_000),
        (Trigger.ASYNC, 3_600_000, 3_600_000),
        (Trigger.QUEUE, 3_600_000, 3_600_000),
        (Trigger.CRON, 3_600_000, 3_600_000),
    ],
)
def test_who_waits_for_an_answer_waits_15_minutes_at_most(trigger: Trigger, timeout_ms: int, ends_ms: int) -> None:
    version = VERSION.model_copy(update={"manifest": VERSION.manifest.model_copy(update={"timeout_ms": timeout_ms})})
    run = Run(Call("1" * 32, trigger, b""), version, Replied([], "1"), 1, 1)
    assert run.timeout_ms == ends_ms
