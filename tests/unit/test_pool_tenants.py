"""Namespaces in one pool, by example: who gives way to whom, what limits do, when to come again.

tests/sim/test_neighbours.py has the bounds, under load and faults.
"""

from __future__ import annotations

import doctest
from types import ModuleType
from typing import Any

import pytest

from faas.model.errors import NoCapacity, Throttled
from faas.pool import fairness, retry, tenants
from faas.pool.messages import (
    Bind,
    Boot,
    Cause,
    Dispatch,
    Finished,
    Forget,
    Fork,
    FunctionSpec,
    InstanceDown,
    InstanceUp,
    Kill,
    Limit,
    Reject,
    Remove,
    SandboxDown,
    SandboxReady,
    SandboxUp,
    Stop,
    Submit,
    Tick,
)
from faas.pool.states import SandboxState
from faas.testing.world import MS, SECOND, spec
from tests.unit.test_pool import START, Driver, only


def of(namespace: str, name: str = "fn", **changes: Any) -> FunctionSpec:
    key = f"{namespace}/{name}@1"
    return spec(name, namespace=namespace, key=key, label=key, **changes)


def busy(d: Driver, function: FunctionSpec, count: int) -> list[str]:
    """So many instances of it, each with a call: the calls' names are the instances'."""
    d.pool.flavours.setdefault(function.flavour, 0)
    d.now += SECOND
    d(Tick())
    sandbox = next(each.id for each in d.pool.sandboxes.values() if each.state is SandboxState.BOOTING)
    d(SandboxUp(sandbox))
    made: list[str] = []
    for number in range(count):
        out = d(Submit(f"{function.key}-{number}", function))
        made += [each for c in out if isinstance(c, Bind | Fork) for each in c.instances]
    d(SandboxReady(sandbox))
    for instance in made:
        d(InstanceUp(instance))
    return made


def call_on(d: Driver, instance: str) -> str:
    return next(iter(d.pool.instances[instance].calls))


def full(d: Driver, *more: FunctionSpec) -> tuple[list[str], FunctionSpec]:
    """A node of 1,000 MB: `loud` holds 7 x 128 + 24 with calls waiting, `quiet` waits for its first instance."""
    loud = of("loud")
    for other in more:
        d(Submit("known", other))
    instances = busy(d, loud, 7)
    for number in range(3):
        d(Submit(f"more-{number}", loud))
    return instances, of("quiet", memory_mb=256)


# -- memory -----------------------------------------------------------------------------------------------------------


def test_an_instance_of_one_above_its_share_goes_to_who_waits_when_its_call_ends() -> None:
    d = Driver(memory_budget_mb=1000)
    instances, quiet = full(d)
    d(Submit("q", quiet))
    assert not [c for c in d.out if isinstance(c, Dispatch | Bind)]
    gone = []
    for instance in instances[:3]:
        out = d(Finished(instance, call_on(d, instance)))
        gone += [c.instance for c in out if isinstance(c, Stop)]
    assert gone == instances[:2], "as many as the other needs, though calls of its own wait"
    assert call_on(d, instances[2]).startswith("more")
    for instance in gone:
        d(InstanceDown(instance, Cause.EXIT, "code:0"))
    (boot,) = [s for s in d.pool.sandboxes.values() if s.state is SandboxState.BOOTING and s.function]
    d(SandboxUp(boot.id))
    bind = only(Bind, d.out)
    assert bind.key == quiet.key
    d(SandboxReady(bind.sandbox))
    assert only(Dispatch, d(InstanceUp(bind.instances[0]))).call == "q"


def test_an_instance_with_several_calls_takes_no_more_of_them_and_goes_with_the_last() -> None:
    d = Driver(memory_budget_mb=1000)
    loud = of("loud", memory_mb=700, concurrency=2)
    (instance,) = busy(d, loud, 2)
    d(Submit("q", of("quiet", memory_mb=256)))
    d(Submit("more", loud))
    first, second = d.pool.instances[instance].calls
    assert not [c for c in d(Finished(instance, first)) if isinstance(c, Dispatch)], "the call that waits is not for it"
    assert Kill(instance) in d(Finished(instance, second))


def test_who_is_to_give_back_is_sent_no_calls_ahead() -> None:
    """An instance with calls ahead never comes to the end of them."""
    d = Driver(memory_budget_mb=1000)
    loud = of("loud", max_instances=7)
    instances = busy(d, loud, 7)
    for instance in instances:
        d(Finished(instance, call_on(d, instance), busy_ns=MS // 2))
    d.pool.functions[loud.key].recalls = True
    for number in range(30):
        d(Submit(f"a{number}", loud))
    d(Tick())
    assert d.pool.functions[loud.key].ahead
    d(Submit("q", of("quiet", memory_mb=256)))
    d(Tick())
    assert not d.pool.functions[loud.key].ahead
    stopped = 0
    for instance in instances:
        for _ in range(10):
            if d.pool.instances[instance].calls:
                stopped += sum(isinstance(c, Stop) for c in d(Finished(instance, call_on(d, instance))))
    assert stopped == 2


def test_within_its_share_a_namespace_gives_nothing_back() -> None:
    d = Driver(memory_budget_mb=1000)
    instances = busy(d, of("loud"), 3)
    d(Submit("more", of("loud")))
    d(InstanceUp(only(Fork, d.out).instances[0]))
    d(Submit("q", of("quiet", memory_mb=600)))
    d(Submit("yet-more", of("loud", max_instances=4)))
    assert not [c for c in d(Finished(instances[0], call_on(d, instances[0]))) if isinstance(c, Stop)]


def test_one_above_its_share_leaves_an_eighth_to_others_that_are_known() -> None:
    d = Driver(memory_budget_mb=1000, queue_depth_max=50)
    d(Submit("known", of("quiet", min_instances=0)))
    d(Tick())
    alone = Driver(memory_budget_mb=1000)
    alone.generic(of("loud"))
    for number in range(20):
        alone(Submit(str(number), of("loud")))
    assert alone.pool.memory_mb > 900, "who is alone may have it all"

    d = Driver(memory_budget_mb=1000)
    instance = d.warm(of("quiet"))
    d(Tick(), at_ms=60_000)
    d(InstanceDown(instance, Cause.EXIT, "code:0"))
    d(Tick(), at_ms=120_000)
    for sandbox in [s.id for s in d.pool.sandboxes.values() if s.state is SandboxState.BOOTING]:
        d(SandboxUp(sandbox))
    for number in range(20):
        d(Submit(str(number), of("loud")))
    assert d.pool.memory_mb <= 1000 - 125
    out = d(Submit("q", of("quiet", memory_mb=64)))
    assert [c for c in out if isinstance(c, Boot | Bind)], "there is room at once"


def test_what_one_far_above_its_share_holds_idle_is_evicted_first() -> None:
    """By its worth alone, `small` would go: it is used less."""
    d = Driver(memory_budget_mb=1000)
    for instance in busy(d, of("loud"), 5):
        for _ in range(20):
            d(Finished(instance, call_on(d, instance)))
            d(Submit("again", of("loud")))
        d(Finished(instance, call_on(d, instance)))
    (small,) = busy(d, of("small"), 1)
    d(Finished(small, call_on(d, small)))
    out = d(Submit("q", of("quiet", memory_mb=256)))
    stopped = [c.instance for c in out if isinstance(c, Stop)]
    assert stopped
    assert small not in stopped


def test_one_above_its_share_does_not_evict_what_others_hold_idle() -> None:
    d = Driver(memory_budget_mb=1000)
    (small,) = busy(d, of("small", memory_mb=64), 1)
    d(Finished(small, call_on(d, small)))
    busy(d, of("loud"), 6)
    for number in range(3):
        d(Submit(f"more-{number}", of("loud")))
        assert Stop(small) not in d.out
    assert not [c for c in d(Tick()) if isinstance(c, Remove) and c.sandbox == small.rpartition("-")[0]]


def test_a_generic_sandbox_that_has_to_make_room_is_not_bound() -> None:
    """Found by tests/sim/test_neighbours.py: one instance fitted, for the other the sandbox itself was evicted."""
    d = Driver(memory_budget_mb=430, sandbox_slots_max=1)
    busy(d, spec(), 1)
    boot = only(Boot, d(Submit("b", spec())))
    d(Submit("c", spec()))
    d(SandboxUp(boot.sandbox))
    d(Tick(), at_ms=1000)


# -- limits -----------------------------------------------------------------------------------------------------------


def test_calls_beyond_the_namespaces_limit_are_refused_at_once_and_told_what_to_do() -> None:
    d = Driver()
    d(Limit("team", 3, None))
    a, b = of("team", "a"), of("team", "b")
    instances = busy(d, a, 2)
    d(Submit("b", b))
    error = only(Reject, d(Submit("c", b))).error
    assert isinstance(error, Throttled)
    assert "'team'" in error.message
    assert "faas namespace set team --max-concurrency 6" in error.message
    assert error.details == {"namespace": "team", "limit": "max_concurrency"}
    assert not [c for c in d(Submit("other", of("elsewhere"))) if isinstance(c, Reject)], "it is nobody else's limit"
    d(Finished(instances[0], call_on(d, instances[0])))
    assert not [c for c in d(Submit("d", a)) if isinstance(c, Reject)]
    assert only(Reject, d(Submit("e", a)))


def test_a_limit_of_none_at_all_takes_no_calls_and_can_be_lifted() -> None:
    d = Driver()
    d(Limit("team", 0, None))
    assert only(Reject, d(Submit("a", of("team")))).error.code == "throttled"
    d(Limit("team", None, None))
    assert not [c for c in d(Submit("b", of("team"))) if isinstance(c, Reject)]
    assert not d.pool.limits


def test_a_node_may_have_a_limit_for_all_and_a_namespace_its_own() -> None:
    d = Driver(namespace_calls_max=1)
    d(Limit("big", 2, None))
    assert [bool([c for c in d(Submit(f"s{n}", of("small"))) if isinstance(c, Reject)]) for n in range(2)] == [0, 1]
    assert [bool([c for c in d(Submit(f"b{n}", of("big"))) if isinstance(c, Reject)]) for n in range(3)] == [0, 0, 1]


def test_memory_beyond_the_namespaces_limit_is_not_given_and_waiting_calls_get_what_comes_free() -> None:
    d = Driver(queue_depth_max=2)
    d(Limit("team", None, 256))
    instances = busy(d, of("team", "a"), 2)
    b = of("team", "b")
    d(Submit("b1", b))
    d(Submit("b2", b))
    assert d.pool.tenants["team"].instances_mb == 256
    error = only(Reject, d(Submit("b3", b))).error
    assert isinstance(error, Throttled)
    assert "limit of 256 MB" in error.message
    assert "faas namespace set team --memory 512MB" in error.message
    assert error.details["limit"] == "memory"
    out = d(Finished(instances[0], call_on(d, instances[0]))) + d(Tick())
    assert Stop(instances[0]) in out, "an idle instance of its other function makes room"
    out = d(InstanceDown(instances[0], Cause.EXIT, "code:0"))
    assert [c for c in out if isinstance(c, Boot | Bind)]


def test_raising_a_limit_helps_those_that_wait_at_once() -> None:
    d = Driver()
    d(Limit("team", None, 128))
    busy(d, of("team"), 1)
    assert not [c for c in d(Submit("b", of("team"))) if isinstance(c, Fork)]
    assert only(Fork, d(Limit("team", None, 1000)))


def test_a_function_larger_than_the_namespaces_limit_is_refused_at_once() -> None:
    d = Driver()
    d(Limit("team", None, 100))
    error = only(Reject, d(Submit("a", of("team")))).error
    assert "takes 128 MB an instance" in error.message
    assert "--memory 200MB" in error.message


def test_places_to_wait_are_shared_with_who_has_none() -> None:
    """Twelve: two namespaces that want them all get a third each, and there is one for whoever comes then."""
    d = Driver(waiting_max=12)
    waiting: dict[str, int] = {"a": 0, "b": 0}
    for number in range(12):
        for name in waiting:
            out = d(Submit(f"{name}{number}", of(name)))
            waiting[name] += not [c for c in out if isinstance(c, Reject)]
    assert waiting == {"a": 4, "b": 4}
    error = only(Reject, d(Submit("a", of("a")))).error
    assert isinstance(error, NoCapacity)
    assert "namespace 'a'" in error.message
    assert not [c for c in d(Submit("c", of("c"))) if isinstance(c, Reject)]


# -- when to come again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ahead", "at_once", "run_ms", "after_s"), [
    (1, 1, 1, 1), (10, 1, 450, 5), (10, 5, 450, 1), (10, 0, 450, 5), (1000, 1, 60_000, 60), (5, 1, 0, 1),
])  # fmt: skip
def test_retry_after_is_what_waits_by_how_fast_it_is_served(
    ahead: int, at_once: int, run_ms: int, after_s: int
) -> None:
    assert retry.after_s(ahead, at_once, run_ms * MS) == after_s


def refused(d: Driver, function: FunctionSpec) -> int:
    error = only(Reject, d(Submit("one-too-many", function))).error
    assert isinstance(error, Throttled | NoCapacity)
    return error.retry_after_s


@pytest.mark.parametrize("module", [fairness, retry])
def test_the_worked_examples_are_true(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed


def test_a_functions_own_limit_says_when_its_queue_is_served() -> None:
    """Five calls, this one included, two instances, four seconds each."""
    d = Driver(queue_depth_max=4)
    function = of("team", max_instances=2)
    instances = busy(d, function, 2)
    d.now += 4 * SECOND
    for number in range(2):
        d(Finished(instances[number], call_on(d, instances[number]), busy_ns=4 * SECOND))
    for number in range(6):
        d(Submit(str(number), function))
    assert refused(d, function) == 10


def test_before_any_call_has_ended_those_that_run_tell_how_long_they_take() -> None:
    d = Driver(queue_depth_max=1)
    function = of("team", max_instances=1)
    busy(d, function, 1)
    d(Submit("waits", function))
    assert refused(d, function) == 1
    d(Tick(), at_ms=8000)
    assert refused(d, function) == 14


def test_a_namespaces_limit_says_when_one_of_its_calls_should_have_ended() -> None:
    d = Driver()
    d(Limit("team", 2, None))
    busy(d, of("team"), 2)
    d(Tick(), at_ms=30_000)
    assert refused(d, of("team")) == 15


def test_a_node_without_memory_says_when_it_should_have_served_those_who_wait() -> None:
    d = Driver(memory_budget_mb=300, queue_depth_max=2)
    busy(d, of("loud", memory_mb=256), 1)
    quiet = of("quiet", memory_mb=256)
    d(Submit("a", quiet))
    d(Submit("b", quiet))
    d(Tick(), at_ms=6000)
    assert refused(d, quiet) == 15
    assert tenants.calls(d.pool, d.pool.tenants["quiet"]) == 2
    assert d.now == START + 6 * SECOND


def test_where_sandboxes_do_not_start_it_is_when_the_next_one_is_tried() -> None:
    d = Driver(queue_depth_max=1, backoff_ns=8 * SECOND, backoff_max_ns=30 * SECOND)
    boot = only(Boot, d(Submit("a", of("team"))))
    d(SandboxDown(boot.sandbox, Cause.ENGINE, "no image"))
    assert refused(d, of("team")) == 8


def test_a_namespace_goes_with_its_last_function_and_its_limit_stays() -> None:
    d = Driver()
    d(Limit("team", 1, None))
    instance = d.warm(of("team"))
    d(Forget(of("team").key))
    d(InstanceDown(instance, Cause.EXIT, "code:0"))
    d(SandboxDown(next(c.sandbox for c in d(Tick()) if isinstance(c, Remove)), Cause.KILLED))
    d(Tick())
    assert not d.pool.tenants
    d(Submit("a", of("team")))
    assert only(Reject, d(Submit("b", of("team"))))
