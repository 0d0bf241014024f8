"""Lines over time in tables."""

from __future__ import annotations

import doctest
import io
from datetime import UTC, datetime, timedelta

import pytest

from faas.cli import sparks
from faas.cli.sparks import BARS, PLAIN, bars_for, buckets, spark, unit_of
from faas.gateway import usage_api
from faas.metering.sums import TIMES

NEW_YEAR = datetime(2025, 1, 1, tzinfo=UTC)


def test_the_worked_examples_hold() -> None:
    for module in (sparks, usage_api):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0


def test_one_call_is_seen_beside_a_million() -> None:
    assert spark([0, 1, 10**6]) == " " + BARS[0] + BARS[-1]
    assert spark([0, 0]) == "  "
    assert spark([]) == ""


def test_blocks_only_where_the_terminal_has_them() -> None:
    for encoding, bars in (("utf-8", BARS), ("UTF8", BARS), ("ascii", PLAIN), ("latin-1", PLAIN)):
        assert bars_for(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == bars


@pytest.mark.parametrize(
    ("length", "by", "unit"),
    [
        (timedelta(hours=3), [], ""),
        (timedelta(hours=4), ["function"], "hour"),
        (timedelta(hours=48), [], "hour"),
        (timedelta(hours=49), [], "day"),
        (timedelta(days=62), [], "day"),
        (timedelta(days=63), [], "month"),
        (timedelta(days=10), ["function", "day"], ""),
    ],
)
def test_the_longer_the_range_the_coarser_the_line(length: timedelta, by: list[str], unit: str) -> None:
    assert unit_of(NEW_YEAR, NEW_YEAR + length, by) == unit


@pytest.mark.parametrize("unit", ["hour", "day", "month"])
@pytest.mark.parametrize("offset_s", [0, 1, 3599, 86_399, 86_400 * 30 + 5])
def test_every_label_that_the_node_gives_has_its_place(unit: str, offset_s: int) -> None:
    start = NEW_YEAR + timedelta(seconds=offset_s)
    for length in (timedelta(hours=4), timedelta(hours=47, minutes=3), timedelta(days=59)):
        first, last = int(start.timestamp()) // 3600, (int((start + length).timestamp()) - 1) // 3600
        given = list(dict.fromkeys(TIMES[unit](hour) for hour in range(first, last + 1)))
        assert buckets(start, start + length, unit) == given
