"""The invocation record as people and programs outside see it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from faas.model.usage import FIELDS, UsageRecord


def rfc3339_ns(unix_ns: int) -> str:
    """Unix nanoseconds as RFC 3339 in UTC with nine decimals.

    >>> rfc3339_ns(1_500_000_000_000_000_001)
    '2017-07-14T02:40:00.000000001Z'
    """
    seconds, rest_ns = divmod(unix_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09d}Z"


def usage_record(record: UsageRecord) -> dict[str, Any]:
    """JSON-ready; ``started_at`` is RFC 3339 text."""
    shown: dict[str, Any] = {}
    for name in FIELDS:
        if name == "started_at_ns":
            shown["started_at"] = rfc3339_ns(record.started_at_ns)
        else:
            shown[name] = getattr(record, name)
    shown["mb_ms"] = record.mb_ms
    return shown


def invocation_record(record: UsageRecord, detail: Mapping[str, Any]) -> dict[str, Any]:
    """The usage record plus ``invocation_id``, ``error``, ``exit`` and ``trace_parent`` (None where there is none)."""
    return {
        "invocation_id": record.invocation_id,
        **usage_record(record),
        "error": detail.get("error"),
        "exit": detail.get("exit"),
        "trace_parent": detail.get("trace_parent"),
    }
