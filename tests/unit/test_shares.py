"""Processor time between namespaces and within one: the weights that sandboxes are told."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.pool import shares
from faas.pool.shares import NAMESPACE_CORES, OFF_MAX, Shares

Step = tuple[str, str, int]  # namespace, sandbox in it, MB; 0 = it is dropped


def test_the_worked_example() -> None:
    assert doctest.testmod(shares).failed == 0


def test_those_who_are_hardly_affected_are_left_in_peace() -> None:
    books = Shares()
    books.settle("a", "large", 10_000)
    assert books.settle("a", "small", 128).keys() == {"small"}
    assert books.settle("a", "another", 5_000).keys() == {"another", "large", "small"}
    assert books.drop("unknown") == {}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123"), st.integers(0, 4096)), max_size=60))
def test_each_namespace_weighs_the_same_and_divides_it_by_memory(steps: list[Step]) -> None:
    books = Shares()
    told: dict[str, float] = {}
    memory_mb: dict[str, dict[str, int]] = {"a": {}, "b": {}}
    for namespace, number, mb in steps:
        sandbox = namespace + number
        changed = books.settle(namespace, sandbox, mb) if mb else books.drop(sandbox)
        assert all(each.startswith(namespace) for each in changed), "another namespace is never touched"
        told |= {each: share for each, (_, share) in changed.items()}
        if mb:
            assert changed[sandbox][0] == mb
            memory_mb[namespace][sandbox] = mb
        else:
            memory_mb[namespace].pop(sandbox, None)
        for held in memory_mb.values():
            for each, size in held.items():
                right = NAMESPACE_CORES * size / sum(held.values())
                assert told[each] == pytest.approx(right, rel=OFF_MAX * 1.001)
