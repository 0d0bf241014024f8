"""`faas logs`: what a function printed, and what the platform says of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from faas.cli import out
from faas.cli.client import ConnectionFailed, Node, escape
from faas.cli.verb import argument, json_option, on_node, option, verb

RECONNECT_S = 1.0
STYLES = {"stderr": out.YELLOW, "WARNING": out.YELLOW, "ERROR": out.RED, "CRITICAL": out.RED, "platform": out.RED}
SHORT_ID = 8  # ids begin with the time; it is their end that tells them apart


@verb("faas logs hello", "faas logs hello -f --since 15m", "faas logs hello --json | jq .text")
@argument("name", help="The function.")
@option("--follow", "-f", is_flag=True, help="Go on as lines come, until Ctrl-C.")
@option("--since", metavar="TIME", help="15m, 2h, a date, or an RFC 3339 time.")
@option("--invocation", metavar="ID", help="Only what this invocation said.")
@option(
    "--lines",
    "-n",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="The last so many.",
)
@json_option
@on_node
def logs(
    node: Node, name: str, follow: bool, since: str | None, invocation: str | None, lines: int, as_json: bool
) -> None:
    """Show the log of a function.

    Times are local. With --json, one JSON object a line.
    """
    path = f"/v1/functions/{escape(name)}/logs"
    query = {"since": since, "invocation": invocation, "limit": str(lines)}
    with out.Progress("asking the node", quiet=as_json):
        found = node.call("GET", path, query=query)["lines"]
    for line in found:
        _print(line, as_json)
    if follow:
        for line in followed(node, path, {"invocation": invocation, "since": since}, found):
            _print(line, as_json)
    elif not found and not as_json:
        out.note("nothing logged " + ("since then" if since else "so far"))


def followed(
    node: Node, path: str, query: Mapping[str, str | None], seen: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Lines after those in ``seen``, for ever. A broken connection is made again; no line comes twice.

    The node takes a time to begin from in milliseconds, so lines of the last one seen come again and are left out.
    """
    last = seen[-1]["time"] if seen else ""
    known = {_identity(line) for line in seen if line["time"][:23] == last[:23]}
    lost = False
    while True:
        asked = {**query, "follow": "1", **({"since": last} if last else {})}
        try:
            with node.stream("GET", path, query=asked, headers={"Accept": "text/event-stream"}, timeout_s=60) as events:
                if lost:
                    out.note(out.paint(f"connected again to {node.url}", out.DIM, sys.stderr))
                    lost = False
                for data in _events(events.lines()):
                    line = json.loads(data)
                    if _identity(line) in known:
                        continue
                    if line["time"][:23] != last[:23]:
                        known.clear()
                    last = line["time"]
                    known.add(_identity(line))
                    yield line
        except ConnectionFailed as error:
            if not lost:
                out.note(out.paint(f"{error.what}; trying again", out.DIM, sys.stderr))
            lost = True
        time.sleep(RECONNECT_S)


def _events(lines: Iterator[str]) -> Iterator[str]:
    """The data of each message of an event stream (WHATWG HTML, server-sent events); other events are left out."""
    data: list[str] = []
    kind = ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data and kind in {"", "message"}:
                yield "\n".join(data)
            data, kind = [], ""
        elif field == "data":
            data.append(value)
        elif field == "event":
            kind = value


def _identity(line: Mapping[str, Any]) -> tuple[str, ...]:
    return line["time"], line["invocation_id"], line["stream"], line["text"]


def _print(line: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        out.say(json.dumps(line, ensure_ascii=False))
        return
    moment = datetime.fromisoformat(line["time"]).astimezone().isoformat(" ", "milliseconds")[:23]
    head = out.paint(f"{moment} {line['invocation_id'][-SHORT_ID:] or '-':{SHORT_ID}}", out.DIM)
    stream = line["stream"]
    text = line["text"] if stream == "stdout" else f"{stream}: {line['text']}"
    out.say(f"{head}  {out.paint(text, STYLES[stream]) if stream in STYLES else text}")
