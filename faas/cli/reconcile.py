"""`faas usage --reconcile`: are the sums those of the raw records? Exit code 1 when they are not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from faas.cli import out
from faas.cli.client import Node

LABELS = ("hour", "namespace", "function", "version", "key", "trigger", "status", "start", "attempt", "metric")
SUMS = ("ledger", "records", "difference")
WHY = {
    "expired": "their raw records are no longer kept",
    "incomplete": "some of their raw records were not kept, because the retention was changed",
}


def reconcile(node: Node, start: str | None, end: str | None, *, as_json: bool) -> None:
    value = {name: text for name, text in (("from", start), ("to", end)) if text is not None}
    with out.Progress("adding up the raw records", quiet=as_json):
        found = node.call("POST", "/v1/usage/reconcile", value=value, timeout_s=None)
    if as_json:
        out.emit_json(found)
    else:
        _show(found)
    if not found["equal"]:
        sys.exit(1)


def _show(found: Mapping[str, Any]) -> None:
    shown = found["differences"]
    if shown:
        rows = [[str(row[name]) or "-" for name in (*LABELS, *SUMS)] for row in shown]
        headers = [name.upper() for name in (*LABELS, *SUMS)]
        out.table(headers, rows, right=headers[len(LABELS) :])
    if found["difference_count"] > len(shown):
        out.note(f"and {found['difference_count'] - len(shown)} more")
    for run in found["unchecked"]:
        hours = f"{run['hours']} hours from {run['first_hour']} to {run['last_hour']}"
        out.note(f"not checked: {hours if run['hours'] > 1 else run['first_hour']}, {WHY.get(run['why'], run['why'])}")
    if not found["hours"]:
        out.note(f"no raw records from {found['from']} to {found['to']}: nothing to compare")
        return
    differences, records = _counted(found["difference_count"], "difference"), _counted(found["records"], "record")
    hours = f"{_counted(found['hours'], 'hour')}, {found['first_hour']} to {found['last_hour']}"
    out.say(f"{differences} in {records} of {hours}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
