"""`faas usage`: exact sums of what was consumed."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node
from faas.cli.verb import json_option, on_node, option, verb

FORMATS = ("table", "json", "csv")
BY = "Any of namespace, function, version, key, trigger, hour, day, month."


@verb("faas usage", "faas usage --from 7d --by function,day", "faas usage --from 2025-01 --format csv")
@option("--from", "start", metavar="TIME", help="A date, a month, 7d; without it, this month.")
@option("--to", "end", metavar="TIME", help="Without it, now.")
@option("--by", metavar="LABELS", default="function", show_default=True, help=BY)
@option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it.")
@json_option
@on_node
def usage(node: Node, start: str | None, end: str | None, by: str, form: str, as_json: bool) -> None:
    """Show what was used: calls, billed time and memory-time. Times are UTC."""
    with out.Progress("adding up", quiet=as_json):
        report = node.call("GET", "/v1/usage", query={"from": start, "to": end, "by": by})
    if as_json or form == "json":
        out.emit_json(report)
    elif form == "csv":
        _csv(report)
    else:
        _table(report)


def _csv(report: Mapping[str, Any]) -> None:
    """Every sum the node gives, as integers; labels first (RFC 4180)."""
    import csv

    labels: Sequence[str] = report["by"]
    sums = [name for name in report["totals"] if name not in labels]
    writer = csv.writer(sys.stdout)
    writer.writerow([*labels, *sums])
    writer.writerows([row.get(name, 0) for name in (*labels, *sums)] for row in report["rows"])


def _table(report: Mapping[str, Any]) -> None:
    if not report["rows"]:
        out.note(f"nothing was used from {report['from']} to {report['to']}")
        return
    labels: Sequence[str] = report["by"]
    headers = [*(label.upper() for label in labels), "CALLS", "ERRORS", "RUN", "CPU", "OUT", "BILLED", "GB-SECONDS"]
    rows = [[*(str(row[label]) or "-" for label in labels), *_cells(row)] for row in report["rows"]]
    if len(rows) > 1:
        rows.append(["total", *[""] * (len(labels) - 1), *_cells(report["totals"])])
    out.table(headers, rows, right=headers[len(labels) :])
    out.note(out.paint(f"from {report['from']} to {report['to']}, whole hours", out.DIM, sys.stderr))


def _cells(sums: Mapping[str, Any]) -> list[str]:
    return [
        str(sums.get("invocations", 0)),
        str(sums.get("errors", 0)),
        out.milliseconds(sums.get("run_ns", 0) / out.NS_PER_MS),
        out.milliseconds(sums.get("cpu_ns", 0) / out.NS_PER_MS),
        out.size(sums.get("bytes_out", 0)),
        f"{sums.get('billed_ms', 0)} ms",
        f"{sums.get('mb_ms', 0) / out.MB_MS_PER_GB_SECOND:.6f}",
    ]
