"""`faas usage`: exact sums of what was consumed."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from faas.cli import out
from faas.cli.client import connect
from faas.cli.options import Json, Key, Namespace, Url, example


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def usage(
    start: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="A date, a month, 7d; without it, this month.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Without it, now.")] = None,
    by: Annotated[
        str, typer.Option(help="Any of namespace, function, version, key, trigger, hour, day, month.")
    ] = "function",
    form: Annotated[Format, typer.Option("--format", help="How to print it.")] = Format.TABLE,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    namespace: Namespace = None,
) -> None:
    """Show what was used: calls, billed time and memory-time. Times are UTC."""
    node = connect(url, key, namespace)
    with out.Progress("adding up"):
        report = node.call("GET", "/v1/usage", query={"from": start, "to": end, "by": by})
    if as_json or form is Format.JSON:
        out.emit_json(report)
    elif form is Format.CSV:
        _csv(report)
    else:
        _table(report)


def _csv(report: Mapping[str, Any]) -> None:
    """Every sum the node gives, as integers; labels first (RFC 4180)."""
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
        str(sums.get("gb_seconds", "0")),
    ]


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example("faas usage", "faas usage --from 7d --by function,day", "faas usage --from 2025-01 --format csv")
    )(usage)
