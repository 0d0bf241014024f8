"""What the pool promises, by example. The storms in tests/sim look for what nobody thought of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeVar

import pytest

from faas.model.errors import CallerLeft, DeadlineExceeded, FunctionFailed, InstanceCrashed, NoCapacity, Throttled
from faas.model.invocation import StartKind
from faas.pool.entities import PoolConfig
from faas.pool.eviction import priority
from faas.pool.invariants import check
from faas.pool.messages import (
    Abort,
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
    Park,
    Prepare,
    Reject,
    Remove,
    Resume,
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

    def __init__(self, **config: Any) -> None:
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


def test_a_sandbox_takes_no_more_instances_than_its_threads_have_room_for() -> None:
    d = Driver(sandbox_threads_max=100, wait_goal_ns=0)
    busy = spec(concurrency=40)
    d.generic(busy)
    for n in range(81):
        d(Submit(f"c{n}", busy))
    assert [len(each.instances) for each in d.pool.sandboxes.values() if each.instances] == [2]
    assert any(each.state is SandboxState.BOOTING for each in d.pool.sandboxes.values())


def test_one_instance_fits_whatever_its_concurrency() -> None:
    d = Driver(sandbox_threads_max=100)
    wide = spec(concurrency=1000)
    d.generic(wide)
    assert len(only(Bind, d(Submit("a", wide))).instances) == 1


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


def test_a_running_call_whose_caller_left_is_stopped_when_that_is_asked_for() -> None:
    d = Driver()
    instance = d.warm(spec())
    d(Submit("left", spec()))
    assert d(Cancel("left")) == []
    d(Cancel("left", stop=True))
    assert isinstance(only(Fail, d.out).error, CallerLeft)
    assert only(Kill, d.out) == Kill(instance)
    assert d(Cancel("left", stop=True)) == []


def test_neighbours_of_a_call_that_is_stopped_finish_first() -> None:
    d = Driver()
    both = spec(concurrency=2)
    instance = d.warm(both)
    d(Submit("left", both))
    d(Submit("stays", both))
    assert d(Cancel("left", stop=True))[1:] == [Abort("left", instance)]
    assert d(Finished(instance, "stays")) == [Kill(instance)]


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


def parked(d: Driver, function: FunctionSpec) -> str:
    """A parked sandbox of the function; it is 1,500 ms after START then."""
    instance = d.warm(function)
    sandbox = instance.split("-")[0]
    assert Stop(instance) in d(Tick(), at_ms=1001)
    d(InstanceDown(instance, Cause.EXIT, "code:0"), at_ms=1002)
    assert Park(sandbox) in d(Tick(), at_ms=1500)
    assert d.pool.sandboxes[sandbox].state is SandboxState.PARKED
    return sandbox


def test_between_warm_and_zero_a_sandbox_is_parked() -> None:
    d = Driver()
    sandbox = parked(d, spec(warm_ns=SECOND, keep_alive_ns=60 * SECOND))
    assert not [c for c in d(Tick(), at_ms=59_900) if isinstance(c, Remove)]
    assert Remove(sandbox) in d(Tick(), at_ms=60_001)


def test_parking_gives_back_the_memory_of_the_instances() -> None:
    d = Driver()
    parked(d, spec(warm_ns=SECOND, keep_alive_ns=60 * SECOND, memory_mb=512))
    assert d.pool.memory_mb < 512


def test_a_parked_sandbox_is_resumed_by_a_call_and_says_so() -> None:
    d = Driver()
    function = spec(warm_ns=SECOND, keep_alive_ns=60 * SECOND)
    sandbox = parked(d, function)
    out = d(Submit("again", function), at_ms=2000)
    instance = only(Fork, out).instances[0]
    assert [type(c) for c in out if isinstance(c, Resume | Fork)] == [Resume, Fork], "thawed before it is told to fork"
    dispatch = only(Dispatch, d(InstanceUp(instance), at_ms=2003))
    assert (dispatch.start, dispatch.init_ns) == (StartKind.PARKED, 3 * MS)
    assert d.pool.sandboxes[sandbox].state is SandboxState.BOUND


def test_a_sandbox_is_not_parked_between_two_calls() -> None:
    d = Driver()
    function = spec(warm_ns=0, keep_alive_ns=60 * SECOND)
    instance = d.warm(function)
    d(Tick(), at_ms=1)
    d(InstanceDown(instance, Cause.EXIT, "code:0"), at_ms=2)
    assert not [c for c in d(Tick(), at_ms=50) if isinstance(c, Park)]
    assert [c for c in d(Tick(), at_ms=150) if isinstance(c, Park)]


def test_a_parked_sandbox_makes_room_for_who_needs_it() -> None:
    d = Driver(memory_budget_mb=300)
    sandbox = parked(d, spec("old", warm_ns=SECOND, keep_alive_ns=600 * SECOND))
    for other in list(d.pool.sandboxes.values()):
        if other.state is SandboxState.BOOTING:
            d(SandboxUp(other.id), at_ms=1600)
    assert Remove(sandbox) in d(Submit("big", spec("new", memory_mb=256)), at_ms=2000)


def test_a_deploy_without_a_call_is_parked_too() -> None:
    d = Driver()
    d.generic(spec())
    bind = only(Bind, d(Prepare(spec())))
    d(SandboxReady(bind.sandbox), at_ms=5)
    assert Park(bind.sandbox) in d(Tick(), at_ms=200)


def test_a_resume_that_fails_starts_another_sandbox() -> None:
    d = Driver()
    function = spec(warm_ns=SECOND, keep_alive_ns=60 * SECOND)
    sandbox = parked(d, function)
    d(Submit("again", function), at_ms=2000)
    out = d(SandboxDown(sandbox, Cause.ENGINE, "thaw failed"), at_ms=2001)
    assert not [c for c in out if isinstance(c, Reject | Fail)]
    assert [s for s in d.pool.sandboxes.values() if s.state in (SandboxState.BINDING, SandboxState.BOOTING)]


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


# -- several calls in one instance ------------------------------------------------------------------------------------


def several(d: Driver, count: int, concurrency: int) -> tuple[str, FunctionSpec]:
    """One instance with ``count`` calls named 0, 1, 2..., dispatched at START."""
    function = spec(concurrency=concurrency, max_instances=1)
    instance = d.warm(function)
    for number in range(count):
        assert only(Dispatch, d(Submit(str(number), function), at_ms=0)).instance == instance
    return instance, function


def test_waiting_calls_start_as_many_instances_as_they_fill() -> None:
    d = Driver()
    function = spec(concurrency=10)
    d.generic(function)
    started = 0
    for number in range(25):
        for command in d(Submit(str(number), function)):
            if isinstance(command, Bind | Fork):
                started += len(command.instances)
    assert started == 3


def test_a_deadline_ends_its_call_and_lets_the_others_finish_first() -> None:
    d = Driver()
    instance, _function = several(d, 3, 3)
    out = d(Expired("1"), at_ms=30_000)
    assert only(Fail, out).call == "1"
    assert Abort("1", instance) in out
    assert Kill(instance) not in out
    assert Kill(instance) not in d(Finished(instance, "0"), at_ms=31_000)
    assert Kill(instance) not in d(Tick(), at_ms=35_000), "the calls that are left have deadlines of their own"
    assert Kill(instance) in d(Finished(instance, "2"), at_ms=36_000)
    assert not [c for c in d(Tick(), at_ms=36_500) if isinstance(c, Remove)]


def test_an_instance_with_a_call_past_its_deadline_gets_no_new_ones() -> None:
    d = Driver()
    instance, function = several(d, 2, 3)
    d(Expired("1"), at_ms=30_000)
    out = d(Submit("next", function), at_ms=30_001)
    assert not [c for c in out if isinstance(c, Dispatch)]
    d(Expired("0"), at_ms=30_002)
    assert Kill(instance) in d.out


def test_a_crash_fails_every_call_of_its_instance() -> None:
    d = Driver()
    instance, _ = several(d, 3, 3)
    failed = [c.call for c in d(InstanceDown(instance, Cause.EXIT, "code:1")) if isinstance(c, Fail)]
    assert failed == ["0", "1", "2"]


# -- eviction ---------------------------------------------------------------------------------------------------------


def loaded(d: Driver, function: FunctionSpec, calls: int, load_ms: int) -> str:
    """A parked sandbox of the function, which took so long to load and has served so many calls."""
    booting = [each.id for each in d.pool.sandboxes.values() if each.state is SandboxState.BOOTING]
    sandbox = booting[0] if booting else d.generic(function)
    d(SandboxUp(sandbox))
    at = (d.now - START) / MS + 1
    bind = only(Bind, d(Submit(f"{function.key}-0", function), at_ms=at))
    instance = bind.instances[0]
    d(SandboxReady(sandbox), at_ms=at + load_ms)
    d(InstanceUp(instance))
    d(Finished(instance, f"{function.key}-0"))
    for number in range(1, calls):
        d(Submit(f"{function.key}-{number}", function))
        d(Finished(instance, f"{function.key}-{number}"))
    d(Tick(), at_ms=at + load_ms + 2000)
    d(InstanceDown(instance, Cause.EXIT, "code:0"))
    assert Park(sandbox) in d(Tick(), at_ms=at + load_ms + 3000)
    return sandbox


def test_what_is_cheapest_to_bring_back_is_evicted_first() -> None:
    d = Driver(memory_budget_mb=190)
    times = {"warm_ns": SECOND, "keep_alive_ns": 3600 * SECOND}
    slow = loaded(d, spec("slow", **times), calls=3, load_ms=900)
    quick = loaded(d, spec("quick", **times), calls=3, load_ms=9)
    ready = next(each.id for each in d.pool.sandboxes.values() if each.state is SandboxState.BOOTING)
    d(SandboxUp(ready))
    out = d(Submit("big", spec("big", memory_mb=128)))
    assert [c.sandbox for c in out if isinstance(c, Remove)][:1] == [quick]
    assert d.pool.sandboxes[slow].state is SandboxState.PARKED


def test_what_is_not_used_any_more_ages_however_often_it_was_used() -> None:
    clock, old = 0.0, priority(0.0, uses=1000, cost_ns=10_000_000, size_mb=24)
    evictions = 0
    while priority(clock, uses=2, cost_ns=10_000_000, size_mb=24) <= old:
        clock = priority(clock, uses=2, cost_ns=10_000_000, size_mb=24)
        evictions += 1
    assert 100 < evictions < 1000


def test_min_instances_are_not_evicted() -> None:
    d = Driver(memory_budget_mb=300)
    kept = spec("kept", min_instances=1, memory_mb=128)
    d.generic(kept)
    bind = only(Bind, d(Prepare(kept)))
    d(SandboxReady(bind.sandbox))
    d(InstanceUp(bind.instances[0]))
    out = d(Submit("big", spec("big", memory_mb=256)), at_ms=1000)
    assert not [c for c in out if isinstance(c, Stop | Remove)]


# -- the keep-alive policy --------------------------------------------------------------------------------------------

MINUTE = 60 * SECOND


def at_rest(d: Driver, **changes: Any) -> FunctionSpec:
    """A function that was called once, at START, whose keep-alive is the policy's business; it is parked."""
    function = spec(keep_alive_ns=None, warm_ns=SECOND, **changes)
    instance = d.warm(function)
    d(Tick(), at_ms=1001)
    d(InstanceDown(instance, Cause.EXIT, "code:0"), at_ms=1002)
    d(Tick(), at_ms=6000)
    return function


def own(d: Driver, function: FunctionSpec) -> list[SandboxState]:
    return [s.state for s in d.pool.functions[function.key].sandboxes.values()]


def test_a_function_without_a_duration_is_held_as_long_as_the_policy_says() -> None:
    d = Driver(keep_alive="fixed", fixed_keep_alive_ns=10 * MINUTE)
    function = at_rest(d)
    d(Tick(), at_ms=9.9 * 60_000)
    assert own(d, function) == [SandboxState.PARKED]
    d(Tick(), at_ms=10.1 * 60_000)
    assert own(d, function) == []


def test_a_duration_of_its_own_overrides_the_policy() -> None:
    d = Driver(keep_alive="fixed", fixed_keep_alive_ns=10 * MINUTE)
    function = spec(keep_alive_ns=2 * SECOND)
    instance = d.warm(function)
    d(Tick(), at_ms=2001)
    d(InstanceDown(instance, Cause.EXIT, "code:0"), at_ms=2002)
    d(Tick(), at_ms=2500)
    assert own(d, function) == []


def test_a_function_called_by_the_hour_is_loaded_before_the_hour_and_let_go_after_it() -> None:
    d = Driver()
    function = at_rest(d)
    for hour in range(1, 6):
        minutes_held = 0
        for minute in range(1, 60):
            d(Tick(), at_ms=(hour * 60 - 60 + minute) * 60_000 + 30_000)
            for sandbox in list(d.pool.sandboxes.values()):
                if sandbox.state is SandboxState.BOOTING:
                    d(SandboxUp(sandbox.id))
                elif sandbox.state is SandboxState.BINDING:
                    d(SandboxReady(sandbox.id))
                elif sandbox.state is SandboxState.REMOVED:
                    d(SandboxDown(sandbox.id, Cause.KILLED))
            minutes_held += bool(own(d, function))
        out = d(Submit(f"hour-{hour}", function), at_ms=hour * 3_600_000)
        fork = only(Fork, out) if any(isinstance(c, Fork) for c in out) else only(Bind, out)
        kind = only(Dispatch, d(InstanceUp(fork.instances[0]))).start if isinstance(fork, Fork) else StartKind.PREWARMED
        if isinstance(fork, Bind):
            d(SandboxReady(fork.sandbox))
            d(InstanceUp(fork.instances[0]))
        d(Finished(fork.instances[0], f"hour-{hour}"))
        d(Tick(), at_ms=hour * 3_600_000 + 2000)
        d(InstanceDown(fork.instances[0], Cause.EXIT, "code:0"))
        d(Tick(), at_ms=hour * 3_600_000 + 10_000)
    assert kind is StartKind.PARKED, "the last call found it loaded"
    assert minutes_held < 30, f"held for {minutes_held} of 59 idle minutes"


def test_the_policy_hears_of_an_eviction() -> None:
    d = Driver(memory_budget_mb=300, keep_alive="fixed")
    function = at_rest(d)
    for each in list(d.pool.sandboxes.values()):
        if each.state is SandboxState.BOOTING:
            d(SandboxUp(each.id), at_ms=7000)
    d(Submit("big", spec("big", memory_mb=256)), at_ms=8000)
    assert own(d, function) == []
    assert d.pool.policy.outlook(function.key, d.now).keep_until_ns is None
