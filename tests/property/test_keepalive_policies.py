"""What holds of every keep-alive policy whatever the calls, and of the forecast and the budget behind ours."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faas.pool.generics import Demand, generics_wanted
from faas.pool.keepalive import MINUTE_NS, POLICIES, Adaptive, Decision, KeepAlive, policy_of
from faas.pool.keepalive.bins import BEYOND, LAST
from faas.pool.keepalive.budget import BudgetSettings
from faas.pool.keepalive.forecast import Forecast
from faas.testing.replay.simulate import Holding, simulate
from faas.testing.replay.trace import Trace, TraceFunction

SECOND_NS = 1_000_000_000
CAP_NS = {"fixed": 10 * MINUTE_NS, "histogram": 265 * MINUTE_NS, "adaptive": 1501 * MINUTE_NS}

stories = settings(deadline=None, max_examples=40)

# (function, seconds since the call before, seconds it runs): from bursts to days
calls = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.one_of(
            st.integers(0, 100), st.integers(0, 4000), st.sampled_from([300, 900, 3600]), st.integers(0, 200_000)
        ),
        st.integers(0, 200),
    ),
    max_size=60,
)
MEMORY_MB = {"a": 10.0, "b": 100.0, "c": 1000.0, "d": 60.0}


@dataclass
class Node:
    """A pool as small as can be: it does what the policy says and writes down what was held."""

    policy: KeepAlive
    now_ns: int = 0
    reviews: list[tuple[int, str]] = field(default_factory=list)
    due_ns: dict[str, int] = field(default_factory=dict)
    busy_until_ns: dict[str, int] = field(default_factory=dict)
    idle_ns: dict[str, int] = field(default_factory=dict)
    decisions: list[tuple[int, str, Decision]] = field(default_factory=list)

    def decide(self, function: str) -> None:
        decision = self.policy.decide(function, self.now_ns)
        self.decisions.append((self.now_ns - self.idle_ns[function], function, decision))
        if decision.until_ns is not None:
            assert decision.until_ns > self.now_ns, "a decision holds for a while"
            self.due_ns[function] = decision.until_ns
            heapq.heappush(self.reviews, (decision.until_ns, function))

    def advance(self, until_ns: int) -> None:
        """Ends of calls and reviews, in their order."""
        while True:
            ends = min(((at, f) for f, at in self.busy_until_ns.items()), default=(until_ns + 1, ""))
            next_review = self.reviews[0] if self.reviews else (until_ns + 1, "")
            if min(ends, next_review)[0] > until_ns:
                break
            if ends <= next_review:
                self.now_ns, function = ends
                del self.busy_until_ns[function]
                self.idle_ns[function] = self.now_ns
                self.policy.idle(function, MEMORY_MB[function], MEMORY_MB[function], self.now_ns)
                self.decide(function)
            else:
                at, function = heapq.heappop(self.reviews)
                if self.due_ns.get(function) == at and function in self.idle_ns:
                    self.now_ns = at
                    self.decide(function)
        self.now_ns = until_ns

    def call(self, function: str, runs_ns: int) -> None:
        self.policy.called(function, self.now_ns)
        self.idle_ns.pop(function, None)
        self.due_ns.pop(function, None)
        end_ns = self.now_ns + runs_ns
        self.busy_until_ns[function] = max(end_ns, self.busy_until_ns.get(function, 0))


def lived(name: str, story: list[tuple[str, int, int]]) -> Node:
    node = Node(policy_of(name))
    for function, gap_s, runs_s in story:
        node.advance(node.now_ns + gap_s * SECOND_NS)
        node.call(function, runs_s * SECOND_NS)
    node.advance(node.now_ns + 1600 * MINUTE_NS)
    return node


@pytest.mark.parametrize("name", POLICIES)
@stories
@given(story=calls)
def test_no_policy_holds_longer_than_its_cap(name: str, story: list[tuple[str, int, int]]) -> None:
    node = lived(name, story)
    for idle_ns, _, decision in node.decisions:
        if idle_ns > CAP_NS[name]:
            assert not decision.keep
    for function in node.idle_ns:
        assert not node.policy.decide(function, node.now_ns).keep, "the last of each was a day ago"


@pytest.mark.parametrize("name", POLICIES)
@stories
@given(story=calls)
def test_the_same_calls_get_the_same_decisions(name: str, story: list[tuple[str, int, int]]) -> None:
    assert lived(name, story).decisions == lived(name, story).decisions


@pytest.mark.parametrize("name", POLICIES)
@stories
@given(story=calls)
def test_the_outlook_agrees_with_the_decision_and_changes_nothing(name: str, story: list[tuple[str, int, int]]) -> None:
    node = Node(policy_of(name))
    for function, gap_s, runs_s in story:
        node.advance(node.now_ns + gap_s * SECOND_NS)
        node.call(function, runs_s * SECOND_NS)
    for function in node.idle_ns:
        decision = node.policy.decide(function, node.now_ns)
        outlook = node.policy.outlook(function, node.now_ns)
        assert outlook == node.policy.outlook(function, node.now_ns)
        assert (outlook.keep_until_ns is not None) == decision.keep
        times = [t for t in (outlook.keep_until_ns, outlook.prewarm_at_ns, outlook.prewarm_until_ns) if t is not None]
        assert times == sorted(times)
        assert all(t > node.now_ns for t in times)
        assert outlook.why


@stories
@given(story=calls)
def test_the_budget_is_kept_whatever_the_calls(story: list[tuple[str, int, int]]) -> None:
    policy = lived("adaptive", story).policy
    assert isinstance(policy, Adaptive)
    budget, limits = policy.budget, policy.budget.settings
    most_mb = sum(MEMORY_MB[f] for f in {function for function, _, _ in story})
    under_way_min = 10  # one bin of each function
    slack = (limits.debt_min + under_way_min) * most_mb
    assert budget.spent_mb_min <= limits.share * budget.fixed_mb_min + slack
    assert budget.warm_mb == pytest.approx(most_mb)
    assert budget.balance_mb_min <= limits.share * budget.fixed_mb_min - budget.spent_mb_min + 1e-6


@stories
@given(seen=st.lists(st.one_of(st.integers(0, BEYOND), st.sampled_from([1, 5, 60])), max_size=400))
def test_a_forecast_is_a_distribution(seen: list[int]) -> None:
    forecast = Forecast()
    for index in seen:
        forecast.note(index)
    left = 1.0
    for index in range(1, LAST + 1):
        chance = forecast.chance(index)
        assert 0 < chance <= 0.999
        left *= 1 - chance
    assert 0 < left < 1
    assert sum(forecast.weights) == pytest.approx(1)
    assert min(forecast.weights) >= 0.01 - 1e-12
    assert sum(forecast.counts) <= forecast.seen <= 255


@stories
@given(seen=st.lists(st.integers(1, LAST), min_size=3, max_size=60))
def test_what_was_always_so_is_expected(seen: list[int]) -> None:
    forecast = Forecast()
    for _ in range(10):
        forecast.note(seen[0])
    assert max(range(1, LAST + 1), key=forecast.chance) == seen[0]
    assert forecast.chance(seen[0]) > 0.9


traces = st.lists(
    st.tuples(st.floats(1, 2000), st.dictionaries(st.integers(0, 199), st.integers(1, 9), min_size=1, max_size=30)),
    min_size=1,
    max_size=5,
).map(
    lambda rows: Trace(
        "t",
        200,
        tuple(
            TraceFunction(f"{place}", "http", mb, tuple(sorted(calls)), tuple(calls[m] for m in sorted(calls)))
            for place, (mb, calls) in enumerate(rows)
        ),
    )
)


@stories
@given(trace=traces, keep_min=st.integers(1, 60))
def test_the_replay_of_fixed_is_what_the_formula_gives(trace: Trace, keep_min: int) -> None:
    cold, idle = 0, 0.0
    for function in trace.functions:
        ends = (*function.active[1:], trace.minutes)
        gaps = [end - start for start, end in zip(function.active, ends, strict=True)]
        cold += 1 + sum(gap > keep_min for gap in gaps[:-1])
        idle += function.memory_mb * sum(min(gap - 1, keep_min) for gap in gaps)
    tally = simulate(trace, policy_of("fixed", keep_min * MINUTE_NS))
    assert tally.cold == cold
    assert tally.idle_mb_min == pytest.approx(idle)
    assert (tally.parked, tally.warm) == (0, trace.invocations - cold)


@pytest.mark.parametrize("name", POLICIES)
@stories
@given(trace=traces)
def test_every_call_of_a_replay_is_counted_once(name: str, trace: Trace) -> None:
    tally = simulate(trace, policy_of(name), Holding(parked_mb=15, warm_s=10))
    assert tally.cold + tally.parked + tally.warm == trace.invocations
    assert len(trace.functions) <= tally.cold <= sum(len(f.active) for f in trace.functions)


@stories
@given(trace=traces, warm_s=st.floats(1, 600))
def test_holding_parked_sandboxes_costs_what_is_parked_and_a_short_time_warm(trace: Trace, warm_s: float) -> None:
    allocated = simulate(trace, policy_of("fixed"))
    parked = simulate(trace, policy_of("fixed"), Holding(parked_mb=1, warm_s=warm_s))
    assert parked.cold == allocated.cold
    assert parked.idle_mb_min <= allocated.idle_mb_min + 1e-6
    assert parked.parked + parked.warm == allocated.warm


@stories
@given(trace=traces)
def test_the_replay_counts_what_the_budget_counts(trace: Trace) -> None:
    """The policy's own account of what it held is the simulator's, but for what was not reviewed after the end."""
    policy = Adaptive(BudgetSettings())
    tally = simulate(trace, policy)
    under_way = sum(f.memory_mb for f in trace.functions)
    assert policy.budget.spent_mb_min <= tally.idle_mb_min + 1e-6
    assert tally.idle_mb_min <= policy.budget.spent_mb_min + under_way * 1.000001


@given(
    takings=st.lists(st.tuples(st.integers(0, 10**11), st.booleans()), max_size=50),
    boot_ns=st.integers(1, 10**11),
    least=st.integers(0, 4),
    most=st.integers(4, 20),
)
def test_generic_sandboxes_are_within_limits_and_one_more_call_never_lowers_them(
    takings: list[tuple[int, bool]], boot_ns: int, least: int, most: int
) -> None:
    demand, now = Demand(), 0
    for gap_ns, had in takings:
        now += gap_ns
        before = generics_wanted(demand, now, boot_ns, least, most)
        demand = demand.taken(now) if had else demand.lacked(now)
        assert least <= before <= generics_wanted(demand, now, boot_ns, least, most) <= most
