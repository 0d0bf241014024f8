"""`faas usage`: exact sums of what was consumed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click

from faas.cli import out, sparks
from faas.cli.client import Node
from faas.cli.verb import json_option, on_node, option, verb
from faas.metering.sizing import BYTES_PER_MB, suggested_mb

FORMATS = ("table", "json", "csv")
LABELS = ("namespace", "function", "version", "key", "trigger", "status", "start", "attempt", "hour", "day", "month")
BY = f"Any of {', '.join(LABELS)}."
CELLS_MAX = 5000  # of rows and times that lines are drawn for
HINTS_MAX = 5


@verb(
    "faas usage",
    "faas usage --from 7d --by function,day",
    "faas usage --from 2025-01 --where status=timeout --format csv",
    "faas usage --where attempt=retry --by function",
    "faas usage --sizes",
    "faas usage --from 1h --records --format csv",
    "faas usage --reconcile --from 2d",
)
@option("--from", "start", metavar="TIME", help="A date, a month, 7d; without it, this month.")
@option("--to", "end", metavar="TIME", help="Without it, now.")
@option("--by", metavar="LABELS", default="function", show_default=True, help=BY)
@option("--where", multiple=True, metavar="LABEL=VALUE", help="Only what has this label; may be given several times.")
@option("--reconcile", "check", is_flag=True, help="Hold the sums against the raw records; 1 if they differ.")
@option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it.")
@option("--sizes", is_flag=True, help="Memory used beside memory set, and what would do.")
@option("--records", is_flag=True, help="The records themselves, as CSV or as lines of JSON.")
@json_option
@on_node
def usage(
    node: Node,
    start: str | None,
    end: str | None,
    by: str,
    where: Sequence[str],
    form: str,
    sizes: bool,
    records: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Show what was used: calls, billed time and memory-time. Times are UTC.

    On a terminal with a line over time for each row, and a hint where a function has too much or too little memory.
    """
    if check:
        from faas.cli.reconcile import reconcile

        reconcile(node, start, end, as_json=as_json or form == "json")
        return
    query = {"from": start, "to": end, **dict(_filters(where))}
    form = "json" if as_json else form
    if records:
        _print(node, "/v1/usage/records", {**query, "format": "ndjson" if form == "json" else "csv"})
    elif sizes:
        _sizes(node, query, form)
    elif form == "csv":
        _print(node, "/v1/usage", {**query, "by": by, "format": "csv"})
    else:
        with out.Progress("adding up", quiet=as_json):
            report = node.call("GET", "/v1/usage", query={**query, "by": by})
        if form == "json":
            out.emit_json(report)
        else:
            _table(node, report, query)


def _filters(where: Sequence[str]) -> Iterator[tuple[str, str]]:
    for each in where:
        name, equals, value = each.partition("=")
        if name not in LABELS or not equals or not value:
            raise out.CliError(
                f"--where {each!r} is no LABEL=VALUE", "", f"labels are {', '.join(LABELS)}: --where status=ok", code=2
            )
        yield name, value


def _print(node: Node, path: str, query: Mapping[str, str | None]) -> None:
    """What the node sends, as it comes: it may be more than fits in memory."""
    sys.stdout.flush()
    with node.stream("GET", path, query=query, headers={"Accept": "*/*"}) as answer:
        for chunk in answer.chunks():
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


# -- the table --------------------------------------------------------------------------------------------------------


def _table(node: Node, report: Mapping[str, Any], query: Mapping[str, str | None]) -> None:
    labels: Sequence[str] = report["by"]
    held = {_key(row, labels): row for row in report.get("held", {}).get("rows", [])}
    called = {_key(row, labels) for row in report["rows"]}
    uncalled = [dict(zip(labels, key, strict=True)) for key in held if key not in called]
    report = {**report, "rows": [*report["rows"], *uncalled]}
    if not report["rows"]:
        out.note(f"nothing was used from {report['from']} to {report['to']}")
        return
    headers = [*(label.upper() for label in labels), *HEADERS]
    rows = [[*(str(row[label]) or "-" for label in labels), *_cells(row)] for row in report["rows"]]
    rate = report.get("held", {}).get("rate")
    if held:
        headers += (*HELD, COST) if rate else HELD
        for row, cells in zip(report["rows"], rows, strict=True):
            cells += _held_cells(held.get(_key(row, labels), {}), rate)
    lines = _lines(node, report, query) if sys.stdout.isatty() else []
    if lines:
        headers.append("CALLS OVER TIME")
        for row, line in zip(rows, lines, strict=True):
            row.append(line)
    if len(rows) > 1:
        of_all = [*_cells(report["totals"]), *(_held_cells(report["held"]["totals"], rate) if held else [])]
        rows.append(["total", *[""] * (len(labels) - 1), *of_all, *([""] if lines else [])])
    out.table(headers, rows, right=[*HEADERS, *HELD, COST])
    out.note(out.paint(f"from {report['from']} to {report['to']}", out.DIM, sys.stderr))
    for hour in report.get("partial", ()):
        out.note(f"not exact: the range cuts the hour {hour}, whose records are not all kept; take whole hours")
    generic_mb_ms = report.get("held", {}).get("totals", {}).get("generic_mb_ms", 0)
    if generic_mb_ms:
        ready = f"{out.gb_seconds(generic_mb_ms)} more were held by sandboxes that stood ready for anyone's cold start"
        out.note(out.paint(ready, out.DIM, sys.stderr))
    if rate and held:
        out.note(out.paint(rate_line(rate), out.DIM, sys.stderr))
    if sys.stdout.isatty():
        _hints(node, query)


HEADERS = ("CALLS", "ERRORS", "RUN", "CPU", "OUT", "PEAK", "BILLED", "GB-SECONDS")


# Memory-time held without serving, in GB-seconds; of IDLE, what ``min_instances`` kept is in PROVISIONED, too.
HELD = ("IDLE", "PARKED", "PROVISIONED")


# What holding cost the operator; in the total with what stood ready for anyone.
COST = "WARM COST"


def _held_cells(held: Mapping[str, Any], rate: Mapping[str, str] | None) -> list[str]:
    cells = [f"{held.get(f'{name.lower()}_mb_ms', 0) / out.MB_MS_PER_GB_SECOND:.6f}" for name in HELD]
    return [*cells, f"{Decimal(held.get('cost', 0)):.6f} {rate['currency']}"] if rate else cells


def rate_line(rate: Mapping[str, str]) -> str:
    """What holding is reckoned at."""
    per = f"{rate['per_gb_second']} {rate['currency']} per GB-second (price book '{rate['book']}')"
    return f"warm cost: idle, parked and ready memory at {per}; it is on no bill"


def _key(row: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(row[label] for label in labels)


def _cells(sums: Mapping[str, Any]) -> list[str]:
    return [
        str(sums.get("invocations", 0)),
        str(sums.get("errors", 0)),
        out.milliseconds(sums.get("run_ns", 0) / out.NS_PER_MS),
        out.milliseconds(sums.get("cpu_ns", 0) / out.NS_PER_MS),
        out.size(sums.get("bytes_out", 0)),
        out.size(sums["peak_memory_bytes"]) if sums.get("peak_memory_bytes") else "-",
        f"{sums.get('billed_ms', 0)} ms",
        f"{sums.get('mb_ms', 0) / out.MB_MS_PER_GB_SECOND:.6f}",
    ]


def _lines(node: Node, report: Mapping[str, Any], query: Mapping[str, str | None]) -> list[str]:
    """A sparkline of calls for each row; none where they would say nothing or be too many."""
    labels: Sequence[str] = report["by"]
    start, end = datetime.fromisoformat(report["from"]), datetime.fromisoformat(report["to"])
    unit = sparks.unit_of(start, end, labels)
    times = sparks.buckets(start, end, unit) if unit else []
    if not times or len(times) * len(report["rows"]) > CELLS_MAX:
        return []
    # the same range to the millisecond: no row is without its line, and none has calls that the table has not
    asked = {**query, "from": report["from"], "to": report["to"], "by": ",".join([*labels, unit])}
    found: dict[tuple[str, ...], dict[str, int]] = {}
    for row in node.call("GET", "/v1/usage", query=asked)["rows"]:
        found.setdefault(_key(row, labels), {})[row[unit]] = row["invocations"]
    bars = sparks.bars_for(sys.stdout)
    every = [found.get(_key(row, labels), {}) for row in report["rows"]]
    return [sparks.spark([calls.get(time, 0) for time in times], bars) for calls in every]


# -- memory -----------------------------------------------------------------------------------------------------------


def _newest(node: Node, query: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Of each function the newest version that was called, with ``suggested_mb`` (None: as it should be)."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in node.call("GET", "/v1/usage", query={**query, "by": "namespace,function,version"})["rows"]:
        if row.get("peak_memory_bytes"):
            newest[row["namespace"], row["function"]] = row  # ordered by version: the last one stays
    return [
        {**row, "suggested_mb": suggested_mb(row["peak_memory_bytes"], row["memory_mb"], row["invocations"])}
        for row in newest.values()
    ]


def _hints(node: Node, query: Mapping[str, str | None]) -> None:
    found = [row for row in _newest(node, query) if row["suggested_mb"]]
    for row in found[:HINTS_MAX]:
        peak, memory = out.size(row["peak_memory_bytes"]), out.size(row["memory_mb"] << 20)
        would = "would do" if row["suggested_mb"] < row["memory_mb"] else "is safer"
        hint = f"faas deploy FILE --memory {row['suggested_mb']}MB"
        out.note(f"{row['function']} (version {row['version']}) took {peak} of its {memory} at most; {hint} {would}")
    if len(found) > HINTS_MAX:
        out.note(f"{len(found) - HINTS_MAX} more have too much memory or too little: faas usage --sizes")


def _sizes(node: Node, query: Mapping[str, str | None], form: str) -> None:
    with out.Progress("adding up", quiet=form != "table"):
        found = _newest(node, query)
    names = ("namespace", "function", "version", "invocations", "memory_mb", "peak_memory_bytes", "suggested_mb")
    if form == "json":
        out.emit_json([{name: row[name] for name in names} for row in found])
    elif form == "csv":
        import csv

        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in found)
    elif not found:
        out.note("no calls on record that say what memory they took")
    else:
        out.table(SIZES, [_size_cells(row) for row in found], right=SIZES[2:])


SIZES = ("NAMESPACE", "FUNCTION", "VERSION", "CALLS", "MEMORY", "PEAK", "USED", "WOULD DO")


def _size_cells(row: Mapping[str, Any]) -> list[str]:
    memory_bytes = row["memory_mb"] * BYTES_PER_MB
    return [
        row["namespace"],
        row["function"],
        str(row["version"]),
        str(row["invocations"]),
        out.size(memory_bytes),
        out.size(row["peak_memory_bytes"]),
        f"{100 * row['peak_memory_bytes'] // memory_bytes} %",
        out.size(row["suggested_mb"] * BYTES_PER_MB) if row["suggested_mb"] else "as it is",
    ]
