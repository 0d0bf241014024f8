"""Sparklines: how something went over time, in one cell of a table (E. Tufte, "Beautiful Evidence", 2006)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TextIO

BARS = "▁▂▃▄▅▆▇█"
PLAIN = ".:-=+*#@"
HOUR = timedelta(hours=1)
STEPS = {"hour": HOUR, "day": timedelta(days=1)}
LEAST = timedelta(hours=4)  # of a range that is worth a line
HOURS_MOST, DAYS_MOST = timedelta(hours=48), timedelta(days=62)


def spark(values: Sequence[int], bars: str = BARS) -> str:
    """One sign for each value, by its share of the largest; a blank for 0.

    >>> spark([0, 1, 4, 8])
    ' ▁▄█'
    >>> spark([0, 0, 3], PLAIN)
    '  @'
    """
    most = max(values, default=0)
    return "".join(bars[(value * len(bars) - 1) // most] if value > 0 else " " for value in values)


def bars_for(stream: TextIO) -> str:
    """Blocks where the terminal can show them, ASCII elsewhere."""
    return BARS if (stream.encoding or "").lower().replace("-", "") == "utf8" else PLAIN


def unit_of(start: datetime, end: datetime, by: Sequence[str]) -> str:
    """What to draw a range by: hour, day or month; "" where a line would say nothing or the rows are times."""
    if end - start < LEAST or {"hour", "day", "month"} & set(by):
        return ""
    return "hour" if end - start <= HOURS_MOST else "day" if end - start <= DAYS_MOST else "month"


def buckets(start: datetime, end: datetime, unit: str) -> list[str]:
    """The labels that the node gives to a range's times.

    >>> from datetime import UTC
    >>> buckets(datetime(2025, 1, 30, 12, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC), "day")
    ['2025-01-30', '2025-01-31']
    """
    if unit == "month":
        first, last = start.year * 12 + start.month - 1, (end - timedelta.resolution)
        return [f"{number // 12}-{number % 12 + 1:02d}" for number in range(first, last.year * 12 + last.month)]
    at = start.replace(minute=0, second=0, microsecond=0)
    at = at.replace(hour=0) if unit == "day" else at
    found = []
    while at < end:
        found.append(at.strftime("%Y-%m-%d" if unit == "day" else "%Y-%m-%dT%H:00:00Z"))
        at += STEPS[unit]
    return found
