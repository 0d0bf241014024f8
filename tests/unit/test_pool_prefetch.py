"""Calls sent ahead: when, to whom, and that none is ever with two instances."""

from __future__ import annotations

from typing import Any

import pytest

from faas.model.errors import DeadlineExceeded, InstanceCrashed
from faas.model.invocation import StartKind
from faas.pool.entities import PoolConfig
from faas.pool.invariants import check
from faas.pool.messages import (
    Bind,
    Cancel,
    Cause,
    Command,
    Dispatch,
    Event,
    Expired,
    Fail,
    Finished,
    Fork,
    FunctionSpec,
    InstanceDown,
    InstanceUp,
    Kill,
    Prefetch,
    Recall,
    Recalled,
    Reject,
    Return,
    SandboxDown,
    SandboxReady,
    SandboxUp,
    Submit,
    Tick,
)
from faas.pool.pool import Pool
from faas.pool.prefetch import AHEAD_MAX, PAUSE_NS, RECALL_NS
from faas.testing.world import MS, SECOND, spec

SHORT_NS = MS // 10
ONE = spec(max_instances=1)


class Short:
    """A pool with ``instances`` busy instances of a function whose calls are short; call ``b<n>`` runs on the nth."""

    def __init__(self, function: FunctionSpec = ONE, *, recalls: bool = True, busy_ns: int = SHORT_NS) -> None:
        self.pool = Pool(PoolConfig(memory_budget_mb=10_000, generic_sandboxes=0), lambda: "s")
        self.now = 1_000 * SECOND
        self.function = function
        count = min(8, function.max_instances)
        self.submit(*[f"w{number}" for number in range(count)])
        out = self(SandboxUp("s")) + self(SandboxReady("s", recalls))
        self.instances = [each for c in out if isinstance(c, Bind | Fork) for each in c.instances]
        for instance in self.instances:
            self(InstanceUp(instance))
        for call in list(self.pool.calls.values()):
            assert call.instance is not None
            self(Finished(call.instance.id, call.id, busy_ns=busy_ns))
        self(Tick())
        self.submit(*[f"b{number}" for number in range(count)])

    def __call__(self, event: Event, after_ns: int = 0) -> list[Command]:
        self.now += after_ns
        out = self.pool.step(event, self.now)
        check(self.pool)
        return out

    def submit(self, *calls: str) -> list[Command]:
        return [command for call in calls for command in self(Submit(call, self.function))]


def test_short_calls_are_sent_ahead_and_begin_when_their_turn_comes() -> None:
    s = Short()
    (instance,) = s.instances
    assert s.submit("c", "d") == [Prefetch("c", instance), Prefetch("d", instance)]
    assert s(Finished(instance, "b0", busy_ns=SHORT_NS)) == [Dispatch("c", instance, StartKind.WARM, 0)]
    assert s(Finished(instance, "c", busy_ns=SHORT_NS)) == [Dispatch("d", instance, StartKind.WARM, 0)]
    assert s(Finished(instance, "d", busy_ns=SHORT_NS)) == []
    assert s.submit("e") == [Dispatch("e", instance, StartKind.WARM, 0)]


def test_so_many_and_no_more_the_rest_waits_and_moves_up() -> None:
    s = Short()
    (instance,) = s.instances
    calls = [f"c{number}" for number in range(AHEAD_MAX + 2)]
    assert s.submit(*calls) == [Prefetch(call, instance) for call in calls[:AHEAD_MAX]]
    assert s.pool.queued == 2
    assert s(Finished(instance, "b0", busy_ns=SHORT_NS)) == [
        Dispatch("c0", instance, StartKind.WARM, 0),
        Prefetch(calls[AHEAD_MAX], instance),
    ]


def test_instances_get_them_in_turn() -> None:
    s = Short(spec(max_instances=8))
    calls = [f"c{number}" for number in range(16)]
    sent = s.submit(*calls)
    assert all(isinstance(command, Prefetch) for command in sent)
    assert {c.instance for c in sent[:8]} == set(s.instances) == {c.instance for c in sent[8:]}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "how",
    [
        {"busy_ns": 5 * MS},
        {"busy_ns": 0},
        {"recalls": False},
        {"function": spec(max_instances=1, concurrency=2)},
        {"function": spec(max_instances=100)},
        {"function": spec(max_instances=1, stops=True)},
    ],
    ids=[
        "calls are long",
        "nothing is known",
        "not taken back",
        "several at once",
        "more instances may help",
        "who leaves may end the instance",
    ],
)
def test_otherwise_calls_wait_in_the_queue(how: dict[str, Any]) -> None:
    s = Short(**how)
    if s.function.max_instances > 1:
        s(InstanceDown(s.instances.pop(), Cause.EXIT))
        s(Tick())
    out = s.submit("c", "d", "e")
    assert not any(isinstance(command, Prefetch) for command in out)


def test_who_waits_behind_a_long_call_is_asked_back_and_first_in_the_queue() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d", "e", "f")
    assert s(Tick(), RECALL_NS) == []
    assert s(Tick(), 1) == [Recall(instance)]
    assert s(Tick(), 10 * RECALL_NS) == [], "once is enough"
    assert s(Recalled(instance, ("c", "d", "e"))) == [Return("e"), Return("d"), Return("c")]
    assert [call.id for call in s.pool.functions[ONE.key].queue] == ["c", "d", "e", "f"]
    assert s.submit("g") == [], "not ahead again for a while"
    assert s(Finished(instance, "b0", busy_ns=SHORT_NS)) == [Dispatch("c", instance, StartKind.WARM, 0)]
    s(Tick(), PAUSE_NS)
    for _ in range(20):
        s(Finished(instance, "c", busy_ns=SHORT_NS))
    assert s.pool.functions[ONE.key].ahead


def test_where_the_node_was_late_nobody_is_kept_from_sending_ahead() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d", "e")
    assert s(Tick(), RECALL_NS + 1) == [Recall(instance)]
    s(Finished(instance, "b0", busy_ns=SHORT_NS))
    s(Recalled(instance, ("d", "e")))
    assert s.submit("f") == [Prefetch("f", instance)]


def test_taken_back_though_it_seemed_to_be_its_turn() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d")
    s(Tick(), RECALL_NS + 1)
    assert s(Finished(instance, "b0", busy_ns=SHORT_NS)) == [Dispatch("c", instance, StartKind.WARM, 0)]
    out = s(Recalled(instance, ("c", "d")))
    assert out[:2] == [Return("d"), Return("c")]
    assert out[2:] == [Dispatch("c", instance, StartKind.WARM, 0), Prefetch("d", instance)], "given to it once more"


def test_begun_before_it_could_be_taken_back() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d")
    s(Tick(), RECALL_NS + 1)
    s(Recalled(instance, ("d",)))
    assert s(Finished(instance, "b0", busy_ns=SHORT_NS)) == [Dispatch("c", instance, StartKind.WARM, 0)]
    assert s(Finished(instance, "c", busy_ns=SHORT_NS)) == [Dispatch("d", instance, StartKind.WARM, 0)]


def test_an_instance_that_dies_takes_along_what_it_may_have_begun() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d")
    out = s(InstanceDown(instance, Cause.EXIT, "code:1", ("c", "d")))
    assert [c.call for c in out if isinstance(c, Fail)] == ["b0"]
    assert [c.call for c in out if isinstance(c, Return)] == ["d", "c"]
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d")
    s(Finished(instance, "b0", busy_ns=SHORT_NS))
    out = s(InstanceDown(instance, Cause.EXIT, "code:1", ("d",)))
    assert [c.call for c in out if isinstance(c, Fail)] == ["c"]
    assert [c.call for c in out if isinstance(c, Return)] == ["d"]


def test_a_deadline_kills_the_instance_and_what_waited_in_it_goes_on_elsewhere() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c", "d")
    out = s(Expired("b0"))
    assert Kill(instance) in out
    assert [type(c.error) for c in out if isinstance(c, Fail)] == [DeadlineExceeded]
    assert not any(isinstance(c, Return) for c in out), "it may be about to begin them"
    assert s(Finished(instance, "c", busy_ns=SHORT_NS)) == [], "an answer to what was not dispatched counts for nothing"
    out = s(InstanceDown(instance, Cause.EXIT, "signal:SIGKILL", ("d",)))
    assert [(c.call, type(c.error)) for c in out if isinstance(c, Fail)] == [("c", InstanceCrashed)]
    assert Return("d") in out


def test_a_sandbox_that_is_lost_leaves_it_open_what_was_begun() -> None:
    s = Short()
    s.submit("c", "d")
    out = s(SandboxDown("s", Cause.LOST))
    assert [c.call for c in out if isinstance(c, Fail)] == ["b0", "c", "d"]


def test_a_caller_who_leaves_after_it_was_sent_ahead_changes_nothing() -> None:
    s = Short()
    (instance,) = s.instances
    s.submit("c")
    assert s(Cancel("c")) == []
    assert s(Finished(instance, "b0", busy_ns=SHORT_NS)) == [Dispatch("c", instance, StartKind.WARM, 0)]


def test_nothing_is_sent_ahead_on_a_node_that_shuts_down() -> None:
    s = Short()
    s.submit("c")
    s.pool.shut_down()
    assert [type(c) for c in s.submit("d")] == [Reject]
    assert s(Finished(s.instances[0], "b0", busy_ns=SHORT_NS)) == [Dispatch("c", s.instances[0], StartKind.WARM, 0)]
