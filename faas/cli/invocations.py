"""`faas invocations` and `faas invocation`: what happened, call by call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.verb import argument, json_option, on_node, option, verb


def invocation_line(record: Mapping[str, Any]) -> str:
    """``2025-01-31T12:00:00.123Z  ok  warm  run 2.1 ms  billed 3 ms  0190...``, with the error if there was one."""
    error = record.get("error") or {}
    what = error.get("error_type") or error.get("code") or ""
    parts = [
        record["started_at"][:23] + "Z",
        record["status"].ljust(14),
        record["start"].ljust(9),
        f"run {out.milliseconds(record['run_ns'] / out.NS_PER_MS)}".ljust(12),
        f"billed {out.milliseconds(record['billed_ms'])}".ljust(15),
        record["invocation_id"],
        what,
    ]
    return "  ".join(parts).rstrip()


@verb("faas invocations hello -n 5")
@argument("name", help="The function.")
@option(
    "--limit",
    "-n",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="How many, newest first.",
)
@json_option
@on_node
def invocations(node: Node, name: str, limit: int, as_json: bool) -> None:
    """List the recent invocations of a function, newest first."""
    with out.Progress("asking the node", quiet=as_json):
        path = f"/v1/functions/{escape(name)}/invocations"
        records = node.call("GET", path, query={"limit": str(limit)})["invocations"]
    if as_json:
        out.emit_json(records)
        return
    if not records:
        out.note(f"no invocations on record; call it: faas invoke {name}")
    for record in records:
        out.say(invocation_line(record))


@verb("faas invocation 01936b2e4c1f7a3d8e5f60718293a4b5")
@argument("id", help="As `faas invoke -v` and the logs say.")
@json_option
@on_node
def invocation(node: Node, id: str, as_json: bool) -> None:  # noqa: A002
    """Show one invocation: its times, what it used, why it failed."""
    with out.Progress("asking the node", quiet=as_json):
        record = node.call("GET", f"/v1/invocations/{escape(id)}")
    if as_json:
        out.emit_json(record)
        return
    out.pairs(describe(record))


def describe(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An invocation record as label and value, for people."""
    phases = ", ".join(
        f"{name} {out.milliseconds(record[f'{name}_ns'] / out.NS_PER_MS)}" for name in ("queue", "init", "run")
    )
    error = record.get("error") or {}
    memory = f"{out.size(record['peak_memory_bytes'])} of {out.size(record['memory_mb'] << 20)} memory"
    traffic = f"{out.size(record['bytes_in'])} in, {out.size(record['bytes_out'])} out"
    billed = f"{record['billed_ms']} ms x {record['memory_mb']} MB"
    rows = [
        ("invocation", record["invocation_id"]),
        ("function", f"{record['namespace']}/{record['function']} version {record['version']}"),
        ("trigger", f"{record['trigger']}, attempt {record['attempt']}" + _by_key(record)),
        ("status", record["status"] + (f" ({record['exit']})" if record.get("exit") else "")),
        ("started", f"{record['started_at']} ({record['start']}) on {record['node']}"),
        ("time", phases),
        ("used", f"{memory}, {out.milliseconds(record['cpu_ns'] / out.NS_PER_MS)} CPU, {traffic}"),
        ("billed", f"{billed} = {out.gb_seconds(record['billed_ms'] * record['memory_mb'])}"),
    ]
    if record.get("cost") is not None:
        rows.append(("cost", f"{record['cost']} {record['currency']}"))
    if error:
        what = ": ".join(str(error[part]) for part in ("error_type", "message") if error.get(part)) or error.get("code")
        rows.append(("error", f"{what}\n{error.get('traceback') or ''}".rstrip()))
    if record.get("trace_parent"):
        rows.append(("trace", record["trace_parent"]))
    return rows


def _by_key(record: Mapping[str, Any]) -> str:
    return f", key {record['key_id']}" if record.get("key_id") else ""
