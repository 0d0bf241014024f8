"""`faas invocations` and `faas invocation`: what happened, call by call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.verb import argument, json_option, on_node, option, verb

OPEN = ("queued", "running", "retrying")


def invocation_line(record: Mapping[str, Any]) -> str:
    """``2025-01-31T12:00:00.123Z  ok  warm  run 2.1 ms  billed 3 ms  0190...``, with the error if there was one."""
    error = record.get("error") or {}
    what = error.get("error_type") or error.get("code") or ""
    if "billed_ms" not in record:
        when = record["started_at"] or record["created_at"]
        return "  ".join(
            [when[:23].rstrip("Z") + "Z", record["status"].ljust(14), record["invocation_id"], what]
        ).rstrip()
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
@option("--wait", is_flag=True, help="Wait until it has ended.")
@option("--cancel", is_flag=True, help="Have it never run, or stop it; for calls made with --async.")
@json_option
@on_node
def invocation(node: Node, id: str, wait: bool, cancel: bool, as_json: bool) -> None:  # noqa: A002
    """Show one invocation: its times, what it used, why it failed."""
    path, query = f"/v1/invocations/{escape(id)}", {"wait": "60s"} if wait else {}
    with out.Progress("waiting for its end" if wait else "asking the node", quiet=as_json):
        record = node.call("DELETE", path) if cancel else node.call("GET", path, query=query, timeout_s=None)
        while wait and record.get("state") in OPEN:
            record = node.call("GET", path, query=query, timeout_s=None)
    if as_json:
        out.emit_json(record)
        return
    out.pairs(describe(record))


def describe(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """An invocation record as label and value, for people."""
    if "billed_ms" not in record:
        return _describe_call(record)
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
    return [*rows, *_about_call(record)]


def _describe_call(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A call that nobody waits for, of which no usage is on record yet."""
    version = f" version {record['version']}" if record.get("version") else ""
    rows = [
        ("invocation", record["invocation_id"]),
        ("function", f"{record['namespace']}/{record['function']}{version}"),
        ("trigger", record["trigger"] + _by_key(record)),
    ]
    error = record.get("error") or {}
    if error:
        rows.append(("error", ": ".join(str(error[part]) for part in ("error_type", "message") if error.get(part))))
    return [*rows, *_about_call(record)]


def _about_call(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What there is to say of calls that nobody waits for alone."""
    if "state" not in record:
        return []
    more = f", attempt {record['attempt']}" if record["attempt"] else ""
    more += f", again at {record['retry_at']}" if record.get("retry_at") else ""
    rows = [("state", record["state"] + more + (f": {record['reason']}" if record.get("reason") else ""))]
    rows.append(("accepted", record["created_at"] + (f", ended {record['ended_at']}" if record["ended_at"] else "")))
    if "result" in record:
        rows.append(("result", json.dumps(record["result"], ensure_ascii=False)))
    elif "result_base64" in record:
        rows.append(("result", f"bytes ({record['result_type']}): faas invocation {record['invocation_id']} --json"))
    rows += [("told", f"{url}: {outcome}") for url, outcome in record.get("deliveries", {}).items()]
    return rows


def _by_key(record: Mapping[str, Any]) -> str:
    return f", key {record['key_id']}" if record.get("key_id") else ""
