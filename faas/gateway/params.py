"""Query parameters as values: every reader raises ``InvalidRequest`` with what it would have taken."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from faas.model.errors import InvalidRequest
from faas.packaging.sizes import parse_duration_ms

_MONTH: Final = re.compile(r"\d{4}-\d{2}\Z")
_FORMS: Final = "an RFC 3339 time such as 2025-01-31T12:00:00Z, a date, a month (2025-01), or a duration such as 15m"


def time_ms(text: str, name: str, now_ms: int) -> int:
    """Unix milliseconds of a point in time: RFC 3339, a UTC date or month, or how long ago (``5m``, ``2d``).

    >>> time_ms("1970-01-01T00:00:01Z", "since", 0)
    1000
    >>> time_ms("5m", "since", 400_000)
    100000
    """
    if text and text[0].isdigit() and text[-1].isalpha() and "-" not in text:
        try:
            return max(0, now_ms - parse_duration_ms(text))
        except ValueError as error:
            raise InvalidRequest(f"{name}={text[:60]!r} is not {_FORMS}.") from error
    try:
        when = dt.datetime.fromisoformat(text + "-01" if _MONTH.match(text) else text)
    except ValueError as error:
        raise InvalidRequest(f"{name}={text[:60]!r} is not {_FORMS}.") from error
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    since_epoch = when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return max(0, since_epoch // dt.timedelta(milliseconds=1))


def month_start_ms(now_ms: int) -> int:
    """The start, in UTC, of the month that ``now_ms`` lies in: where a bill begins."""
    now = dt.datetime.fromtimestamp(now_ms / 1000, dt.UTC)
    return int(now.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)


def rfc3339_ms(unix_ms: int) -> str:
    seconds, ms = divmod(unix_ms, 1000)
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S}.{ms:03d}Z"


def whole(text: str | None, name: str, default: int, low: int, high: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high):
        raise InvalidRequest(f"{name}={text[:60]!r} is not a whole number from {low} to {high}.")
    return int(text)


def flag(text: str | None, name: str) -> bool:
    match (text or "0").lower():
        case "1" | "true" | "yes":
            return True
        case "0" | "false" | "no":
            return False
    raise InvalidRequest(f"{name}={(text or '')[:60]!r} is neither 1 nor 0.")
