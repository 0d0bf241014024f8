"""The benchmark's statistics."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench import report, starts, stats
from tests.bench.stats import Paired, median, percentile

numbers = st.lists(st.integers(0, 10**12), min_size=1, max_size=200)


@pytest.mark.parametrize("module", [stats, report, starts])
def test_examples_in_docstrings(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@given(numbers, st.floats(0.001, 1))
def test_a_percentile_is_a_sample_that_enough_do_not_exceed(samples: list[int], share: float) -> None:
    found = percentile(samples, share)
    assert found in samples
    assert sum(each <= found for each in samples) >= share * len(samples)
    smaller = [each for each in samples if each < found]
    assert len(smaller) < share * len(samples)


@given(numbers)
def test_the_median_splits_in_halves(samples: list[int]) -> None:
    found = median(samples)
    assert sum(each <= found for each in samples) * 2 >= len(samples)
    assert sum(each >= found for each in samples) * 2 >= len(samples)


def test_p99_of_60_samples_is_the_slowest() -> None:
    assert percentile(list(range(60)), 0.99) == 59
    assert percentile(list(range(100)), 0.99) == 98


@pytest.mark.parametrize("share", [0, -1, 1.1])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="not in"):
        percentile([1], share)


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="nothing"):
        median([])


def test_a_drifting_machine_does_not_change_the_ratio() -> None:
    slowing = Paired(ours=[200, 400, 800], floor=[100, 200, 400])
    assert slowing.ratio == 2
    assert slowing.spread == (2, 2)


def test_rounds_must_pair_up() -> None:
    with pytest.raises(ValueError, match="2 rounds and 1"):
        Paired([1, 2], [1])
    with pytest.raises(ValueError, match="0 rounds"):
        Paired([], [])
