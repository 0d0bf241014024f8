"""What the pool promises, by example. The storms in tests/sim look for what nobody thought of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeVar

import pytest

from faas.model.errors import DeadlineExceeded, FunctionFailed, InstanceCrashed, NoCapacity, Throttled
from faas.model.invocation import StartKind
from faas.pool.entities import PoolConfig
from faas.pool.invariants import check
from faas.pool.messages import (
    Bind,
    Boot,
    Cancel,
    Cause,
    Command,
    Dispatch,
    Event,
    Expired,
    Fail,
    Finished,
    Forget,
    Fork,
    FunctionSpec,
    InitFailed,
    InstanceDown,
    InstanceUp,
    Kill,
    Prepare,
    Reject,
    Remove,
    SandboxDown,
    SandboxReady,
    SandboxUp,
    Stop,
    Submit,
    Tick,
)
from faas.pool.pool import Pool
from faas.pool.states import IllegalTransition, InstanceState, SandboxState
from faas.testing.world import MS, SECOND, spec

C = TypeVar("C")
START = 1_000 * SECOND


class Driver:
    """Steps a pool at times given in ms and keeps the last commands."""

    def __init__(self, **config: int) -> None:
        ids = (f"s{number}" for number in itertools.count(1))
        self.pool = Pool(PoolConfig(**{"memory_budget_mb": 10_000, **config}), lambda: next(ids))
        self.now = START
        self.out: list[Command] = []

    def __call__(self, event: Event, at_ms: float | None = None) -> list[Command]:
        if at_ms is not None:
            self.now = START + int(at_ms * MS)
        self.out = self.pool.step(event, self.now)
        check(self.pool)
        return self.out

    def generic(self, function: FunctionSpec) -> str:
        """A generic sandbox of the function's flavour, ready."""
        self.pool.flavours.setdefault(function.flavour, 0)
        boot = only(Boot, self(Tick()))
        self(SandboxUp(boot.sandbox))
        return boot.sandbox

    def warm(self, function: FunctionSpec) -> str:
        """An idle instance of the function, whose first call took 100 ms and ended at START."""
        self.now = START - 100 * MS
        self.generic(function)
        bind = only(Bind, self(Submit("first", function)))
        self(SandboxReady(bind.sandbox))
        self(InstanceUp(bind.instances[0]))
        self.now = START
        self(Finished(bind.instances[0], "first"))
        return bind.instances[0]


def only(kind: type[C], commands: Sequence[Command]) -> C:
    """The one command of that kind."""
    found = [c for c in commands if isinstance(c, kind)]
    assert len(found) == 1, commands
    return found[0]


def test_the_first_call_binds_a_generic_sandbox_and_is_told_so() -> None:
    d = Driver()
    sandbox = d.generic(spec())
    bind = only(Bind, d(Submit("a", spec()), at_ms=10))
    assert (bind.sandbox, bind.key, len(bind.instances)) == (sandbox, "default/hello@1", 1)
    assert d(SandboxReady(sandbox), at_ms=13) == []
    dispatch = only(Dispatch, d(InstanceUp(bind.instances[0]), at_ms=14))
    assert dispatch == Dispatch("a", bind.instances[0], StartKind.PREWARMED, 4 * MS)


def test_a_call_that_had_to_wait_for_a_container_is_a_cold_start() -> None:
    d = Driver()
    boot = only(Boot, d(Submit("a", spec()), at_ms=0))
    bind = only(Bind, d(SandboxUp(boot.sandbox), at_ms=250))
    d(SandboxReady(boot.sandbox), at_ms=252)
    dispatch = only(Dispatch, d(InstanceUp(bind.instances[0]), at_ms=253))
    assert (dispatch.start, dispatch.init_ns) == (StartKind.COLD, 3 * MS)


def test_warm_calls_use_the_instance_that_served_last() -> None:
    d = Driver()
    first = d.warm(spec())
    d(Submit("b", spec()))
    fork = only(Fork, d(Submit("c", spec())))
    d(InstanceUp(fork.instances[0]))
    d(Finished(first, "b"))
    d(Finished(fork.instances[0], "c"))
    assert only(Dispatch, d(Submit("d", spec()))) == Dispatch("d", fork.instances[0], StartKind.WARM, 0)


def test_a_freed_instance_takes_the_oldest_waiting_call_in_the_same_step() -> None:
    d = Driver()
    instance = d.warm(spec(max_instances=1))
    for call in ("b", "c", "d"):
        d(Submit(call, spec(max_instances=1)))
    assert only(Dispatch, d(Finished(instance, "b"))).call == "c"
    assert repr(d.pool) == "<Pool 1 sandboxes, 1 instances, 1 busy, 1 queued, 152 MB>"


def test_waiting_calls_start_no_more_instances_than_calls() -> None:
    d = Driver()
    d.generic(spec())
    bind = only(Bind, d(Submit("a", spec())))
    more = [only(Fork, d(Submit(f"b{n}", spec()))) for n in range(9)]
    assert len(bind.instances) + sum(len(f.instances) for f in more) == 10


def test_a_sandbox_with_no_slot_left_is_joined_by_another() -> None:
    d = Driver(sandbox_slots_max=2)
    d.generic(spec())
    d(Submit("a", spec()))
    d(Submit("b", spec()))
    boot = only(Boot, d(Submit("c", spec())))
    bind = only(Bind, d(SandboxUp(boot.sandbox)))
    assert len(bind.instances) == 1


def test_the_functions_own_limit_is_answered_with_429() -> None:
    d = Driver(queue_depth_max=2)
    limited = spec(max_instances=1)
    d.warm(limited)
    for call in "abc":
        assert not [c for c in d(Submit(call, limited)) if isinstance(c, Reject)]
    error = only(Reject, d(Submit("d", limited))).error
    assert isinstance(error, Throttled)
    assert "max_instances 1" in error.message


def test_a_full_node_is_answered_with_503_and_says_what_is_short() -> None:
    d = Driver(queue_depth_max=1, memory_budget_mb=200)
    big = spec(memory_mb=150)
    d.warm(big)
    d(Submit("a", big))
    d(Submit("b", big))
    error = only(Reject, d(Submit("c", big))).error
    assert isinstance(error, NoCapacity)
    assert "memory budget" in error.message


def test_a_call_that_waited_too_long_is_refused() -> None:
    d = Driver(queue_wait_ns=SECOND)
    limited = spec(max_instances=1)
    d.warm(limited)
    d(Submit("a", limited))
    d(Submit("b", limited))
    assert not [c for c in d(Tick(), at_ms=900) if isinstance(c, Reject)]
    assert only(Reject, d(Tick(), at_ms=1100)).call == "b"


def test_idle_instances_elsewhere_make_room() -> None:
    d = Driver(memory_budget_mb=200)
    idle = d.warm(spec("idle"))
    assert Stop(idle) in d(Submit("a", spec("busy")))
    d(InstanceDown(idle, Cause.EXIT, "code:0"))
    sandbox = next(iter(d.pool.sandboxes))
    assert Remove(sandbox) in d(Tick()) or any(isinstance(c, Boot) for c in d.out)


def test_past_its_deadline_a_call_fails_and_only_its_instance_is_killed() -> None:
    d = Driver()
    instance = d.warm(spec())
    d(Submit("slow", spec()))
    d(Expired("slow"))
    assert isinstance(only(Fail, d.out).error, DeadlineExceeded)
    assert only(Kill, d.out) == Kill(instance)
    assert d(Finished(instance, "slow")) == [], "an answer after the deadline changes nothing"
    assert only(Fork, d(Submit("next", spec()))).sandbox == instance.split("-")[0]


def test_a_kill_that_is_not_carried_out_costs_the_sandbox() -> None:
    d = Driver()
    instance = d.warm(spec())
    d(Submit("slow", spec()))
    d(Expired("slow"), at_ms=0)
    assert Remove(instance.split("-")[0]) in d(Tick(), at_ms=2100)


@pytest.mark.parametrize(
    ("cause", "text", "expected"),
    [(Cause.OOM, "oom", "oom"), (Cause.EXIT, "signal:SIGSEGV", "signal:SIGSEGV"), (Cause.EXIT, "code:3", "code:3")],
)
def test_an_instance_that_dies_fails_its_call_with_the_reason(cause: Cause, text: str, expected: str) -> None:
    d = Driver()
    instance = d.warm(spec())
    d(Submit("a", spec()))
    error = only(Fail, d(InstanceDown(instance, cause, text))).error
    assert isinstance(error, InstanceCrashed)
    assert error.exit == expected


def test_everyone_who_waits_for_a_module_that_does_not_load_is_told_why() -> None:
    d = Driver()
    sandbox = d.generic(spec())
    d(Submit("a", spec()))
    d(Submit("b", spec()))
    out = d(InitFailed(sandbox, FunctionFailed("ImportError", "no module named x")), at_ms=5)
    assert {c.call for c in out if isinstance(c, Reject)} == {"a", "b"}
    assert Remove(sandbox) in out
    again = only(Reject, d(Submit("c", spec()), at_ms=6)).error
    assert isinstance(again, FunctionFailed), "not tried again at once"
    assert any(isinstance(c, Boot) for c in d(Submit("d", spec()), at_ms=5000)), "but later"


def test_a_sandbox_that_will_not_boot_is_tried_again_after_a_pause() -> None:
    d = Driver()
    boot = only(Boot, d(Submit("a", spec()), at_ms=0))
    assert not [c for c in d(SandboxDown(boot.sandbox, Cause.ENGINE, "no space left"), at_ms=1) if isinstance(c, Boot)]
    assert any(isinstance(c, Boot) for c in d(Tick(), at_ms=500))


def test_down_to_zero_then_replenished() -> None:
    d = Driver()
    instance = d.warm(spec(keep_alive_ns=SECOND))
    sandbox = instance.split("-")[0]
    assert Stop(instance) in d(Tick(), at_ms=1001)
    d(InstanceDown(instance, Cause.EXIT, "code:0"))
    assert Remove(sandbox) in d(Tick(), at_ms=1300)
    d(SandboxDown(sandbox, Cause.KILLED))
    assert [s.state for s in d.pool.sandboxes.values()] == [SandboxState.BOOTING], "only the next generic one"


def test_min_instances_are_started_and_stay() -> None:
    d = Driver()
    kept = spec(min_instances=2, keep_alive_ns=SECOND)
    d.generic(kept)
    bind = only(Bind, d(Prepare(kept)))
    assert len(bind.instances) == 2
    d(SandboxReady(bind.sandbox))
    for instance in bind.instances:
        d(InstanceUp(instance))
    assert not [c for c in d(Tick(), at_ms=60_000) if isinstance(c, Stop)]
    d(InstanceDown(bind.instances[0], Cause.EXIT, "code:1"))
    assert len(only(Fork, d(Tick())).instances) == 1


def test_prepare_loads_without_starting_an_instance() -> None:
    d = Driver()
    d.generic(spec())
    assert only(Bind, d(Prepare(spec()))).instances == ()


def test_a_forgotten_version_finishes_its_call_and_goes() -> None:
    d = Driver()
    instance = d.warm(spec())
    d(Submit("a", spec()))
    assert not [c for c in d(Forget(spec().key)) if isinstance(c, Kill | Remove)]
    d(Finished(instance, "a"))
    assert Stop(instance) in d(Tick())


def test_a_waiting_call_can_be_cancelled_and_a_running_one_goes_on() -> None:
    d = Driver()
    limited = spec(max_instances=1)
    instance = d.warm(limited)
    d(Submit("a", limited))
    d(Submit("b", limited))
    d(Cancel("b"))
    d(Cancel("a"))
    assert d(Finished(instance, "a")) == []
    assert d.pool.calls == {}


def test_answers_that_come_twice_or_too_late_change_nothing() -> None:
    d = Driver()
    instance = d.warm(spec())
    for event in (
        InstanceUp(instance),
        SandboxReady(instance.split("-")[0]),
        SandboxUp(instance.split("-")[0]),
        Finished(instance, "first"),
        InstanceDown("nobody", Cause.LOST),
        SandboxDown("nobody", Cause.LOST),
        Expired("nobody"),
        InitFailed("nobody", FunctionFailed("E", "m")),
    ):
        assert d(event) == []


def test_an_illegal_transition_raises() -> None:
    d = Driver()
    instance = d.pool.instances[d.warm(spec())]
    with pytest.raises(IllegalTransition, match="idle -> starting"):
        instance.move(InstanceState.STARTING, 0)


def test_a_node_that_shuts_down_refuses_what_is_new() -> None:
    d = Driver()
    d.pool.shut_down()
    assert isinstance(only(Reject, d(Submit("a", spec()))).error, NoCapacity)
