"""Deficit round robin: nobody is left out, and who always wants something gets as much as who else does."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from faas.pool.fairness import Turns, allowance, share

NAMES = ("a", "b", "c", "d")
COST = st.integers(1, 2000)


@given(st.integers(1, 1000), st.lists(st.tuples(COST, COST, st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_two_that_always_want_something_differ_by_a_quantum_and_two_requests(
    quantum: int, rounds: list[tuple[int, int, bool, bool]]
) -> None:
    """Whatever they ask for, over any stretch of time, and whoever else comes and goes."""
    turns = Turns(quantum)
    wants = {"a": rounds[0][0], "b": rounds[0][1]}
    lead, leads = 0, [0]
    for a, b, third, fourth in rounds:
        others = ({"c": a} if third else {}) | ({"d": b} if fourth else {})
        name = turns.next(wants | others)
        if name in wants:
            lead += wants[name] if name == "a" else -wants[name]
            leads.append(lead)
            wants[name] = {"a": a, "b": b}[name]
    largest = max(max(a, b) for a, b, _, _ in rounds)
    assert max(leads) - min(leads) <= quantum + 2 * largest


@given(
    st.integers(1, 500), st.lists(st.dictionaries(st.sampled_from(NAMES), COST, min_size=1), min_size=1, max_size=60)
)
def test_whoever_goes_on_wanting_is_served(quantum: int, rounds: list[dict[str, int]]) -> None:
    """At the latest when each other one has had what 2,000 MB of credit buy."""
    turns = Turns(quantum)
    for costs in rounds:
        turns.next(costs)
    served = Counter(turns.next(dict.fromkeys(NAMES, 2000)) for _ in range(4 * 3))
    assert set(served) == set(NAMES)


@given(
    st.integers(1, 500),
    st.lists(
        st.tuples(st.dictionaries(st.sampled_from(NAMES), COST), st.sets(st.sampled_from(NAMES))),
        max_size=80,
    ),
)
def test_only_those_are_served_that_want_and_can_be(
    quantum: int, rounds: list[tuple[dict[str, int], set[str]]]
) -> None:
    turns = Turns(quantum)
    for costs, able in rounds:
        name = turns.next(costs, able)
        assert (name in costs.keys() & able) if costs.keys() & able else name is None


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 5_000))
def test_an_allowance_is_free_memory_and_beyond_the_share_not_the_reserve(
    free: int, held: int, part: int, reserve: int
) -> None:
    may = allowance(free, held, part, reserve)
    assert 0 <= may <= free
    assert held + may <= part or free - may >= min(reserve, free)
    if held < part:
        assert may >= min(free, part - held)


@given(st.integers(1, 100_000), st.integers(0, 50))
def test_shares_add_up_to_no_more_than_there_is(total: int, contenders: int) -> None:
    assert share(total, contenders) * max(1, contenders) <= total
