"""`faas logs`: what a function printed, and what the platform says of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from faas.cli import out
from faas.cli.client import ConnectionFailed, Node, connect, escape
from faas.cli.options import Json, Key, Namespace, Url, example

RECONNECT_S = 1.0
STYLES = {"stderr": out.YELLOW, "WARNING": out.YELLOW, "ERROR": out.RED, "CRITICAL": out.RED, "platform": out.RED}
SHORT_ID = 8  # ids begin with the time; it is their end that tells them apart


def logs(
    name: Annotated[str, typer.Argument(help="The function.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come, until Ctrl-C.")] = False,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="15m, 2h, a date, or an RFC 3339 time.")] = None,
    invocation: Annotated[str | None, typer.Option(metavar="ID", help="Only what this invocation said.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="The last so many.")] = 100,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    namespace: Namespace = None,
) -> None:
    """Show the log of a function.

    Times are local. With --json, one JSON object a line.
    """
    node = connect(url, key, namespace)
    path = f"/v1/functions/{escape(name)}/logs"
    query = {"since": since, "invocation": invocation, "limit": str(lines)}
    with out.Progress("asking the node"):
        found = node.call("GET", path, query=query)["lines"]
    for line in found:
        _print(line, as_json)
    if follow:
        for line in followed(node, path, {"invocation": invocation, "since": since}, found):
            _print(line, as_json)
    elif not found and not as_json:
        out.note("nothing logged" + (" since then" if since else f"; call it: faas invoke {name}"))


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


def register(app: typer.Typer) -> None:
    app.command(
        epilog=example("faas logs hello", "faas logs hello -f --since 15m", "faas logs hello --json | jq .text")
    )(logs)
