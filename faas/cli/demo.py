"""The demo of `faas up --demo`: what a new user would do first, through the HTTP API as any client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faas
from faas.cli import out
from faas.cli.client import Node
from faas.cli.deploy import deploy_path
from faas.cli.init import template
from faas.cli.invoke import facts
from faas.cli.out import CliError

NAME = "hello"
EVENT = {"name": "world"}
Say = Callable[[str], None]


def run_demo(node: Node, command: str, say: Say) -> None:
    """Deploy hello, call it, say what came back and what it cost. A failure is told, the node goes on."""
    try:
        _demo(node, command, say)
    except CliError as error:
        out.note("the demo did not work, the node serves all the same")
        out.fail(error, as_json=False)


def _demo(node: Node, command: str, say: Say) -> None:
    source = Path(faas.__file__).parent.parent / "functions" / f"{NAME}.py"
    if not source.is_file():  # installed without the examples
        source = node_scratch() / f"{NAME}.py"
        source.write_text(template(NAME, source.name), "utf-8")
    with out.timed() as took:
        deployed = deploy_path(node, source, {}, lambda _text: None)
    say(f"deployed {NAME} version {deployed['version']} in {out.milliseconds(round(took[0] * 1000))}")
    body = json.dumps(EVENT).encode()
    headers = {"Content-Type": "application/json"}
    with out.timed() as took:
        path = f"/v1/functions/{NAME}/invocations"
        with node.stream("POST", path, body=body, headers=headers, timeout_s=None) as response:
            answer = response.read().decode("utf-8", "replace")
    found = facts(response.headers)
    say("")
    say(f"$ {command} invoke {NAME} -d '{json.dumps(EVENT)}'")
    say(answer)
    say(f"  time   {timing_line(found, took[0])}")
    priced = node.call("GET", "/v1/prices")["set"]
    say(f"  cost   {cost_line(found['billed_ms'], deployed['manifest']['memory_mb'], priced=priced)}")
    say("")
    for line in what_next(command, deployed["url"]):
        say(line)


def node_scratch() -> Path:
    """A directory for the file we write when the examples are not there."""
    import tempfile

    return Path(tempfile.mkdtemp(prefix="faas-demo-"))


def timing_line(found: dict[str, Any], total_s: float) -> str:
    """``31 ms in all: queue 0.1 ms, init 3.2 ms, run 0.4 ms (prewarmed start)``"""
    phases = ", ".join(f"{phase} {out.milliseconds(ms)}" for phase, ms in found["timing_ms"].items())
    return f"{out.milliseconds(round(total_s * 1000, 1))} in all: {phases} ({found['start']} start)"


def cost_line(billed_ms: int | None, memory_mb: int, *, priced: bool = False) -> str:
    """``4 ms x 128 MB = 0.000500 GB-s``: the unit that is billed; its price is in the invocation's record."""
    billed = billed_ms or 0
    line = f"{billed} ms x {memory_mb} MB = {out.gb_seconds(billed * memory_mb)} billed"
    return line if priced else f"{line} (no prices are set)"


def what_next(command: str, public_url: str) -> list[str]:
    """A block of commands that work when pasted into another terminal."""
    home = os.environ.get("FAAS_HOME")
    lines = [
        f"curl {public_url}",
        f"{command} init greet && {command} deploy greet.py",
        f'{command} invoke greet -d \'{{"name": "Ada"}}\'',
        f"{command} logs greet",
        f"{command} usage",
    ]
    exported = [f"export FAAS_HOME={Path(home).absolute()}"] if home else []
    return ["Try next, in another terminal:", *("  " + line for line in [*exported, *lines]), ""]
