"""`faas namespace`: tenants and their limits."""

from __future__ import annotations

from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.verb import argument, json_option, noun, on_node, option

LIMIT = "none"  # instead of a limit: the node's own
namespace = noun("Namespaces: tenants and their limits.")

_concurrency = option(
    "--max-concurrency",
    metavar="CALLS",
    help="Calls at once, waiting ones too, on each node; `none`: as the node has.",
)
_memory = option("--memory", metavar="SIZE", help="Of its instances together, on each node, as 2GB; `none`: likewise.")


@namespace.verb("faas namespace create team-a", "faas namespace create team-b --max-concurrency 50 --memory 2GB")
@argument("name")
@_concurrency
@_memory
@json_option
@on_node
def create(node: Node, name: str, max_concurrency: str | None, memory: str | None, as_json: bool) -> None:
    """Create a namespace with limits. One without needs no creating: deploy into it with -N."""
    asked = {"name": name, **_limits(max_concurrency, memory)}
    _said(node.call("POST", "/v1/namespaces", value=asked), as_json)


@namespace.verb("faas namespace set team-a --max-concurrency 100", "faas namespace set team-a --memory none")
@argument("name")
@_concurrency
@_memory
@json_option
@on_node
def set(node: Node, name: str, max_concurrency: str | None, memory: str | None, as_json: bool) -> None:  # noqa: A001
    """Change the limits that are named; they hold at once."""
    changes = _limits(max_concurrency, memory)
    if not changes:
        raise click.UsageError("name a limit to change: --max-concurrency or --memory")
    listed = node.call("GET", "/v1/namespaces")["namespaces"]
    known: dict[str, Any] = next((each for each in listed if each["name"] == name), {})
    limits = {setting: known.get(setting) for setting in ("max_concurrency", "memory")}
    _said(node.call("PUT", f"/v1/namespaces/{escape(name)}", value={**limits, **changes}), as_json)


@namespace.verb("faas namespace ls")
@json_option
@on_node
def ls(node: Node, as_json: bool) -> None:
    """List namespaces: their limits, and what they use of them."""
    found = node.call("GET", "/v1/namespaces")["namespaces"]
    if as_json:
        out.emit_json(found)
        return
    rows = [
        [
            each["name"],
            str(each["functions"]),
            f"{each['calls']} / {each['max_concurrency'] or '-'}",
            f"{each['memory_used']} / {each['memory'] or '-'}",
        ]
        for each in found
    ]
    out.table(["NAME", "FUNCTIONS", "CALLS", "MEMORY"], rows, ["FUNCTIONS", "CALLS", "MEMORY"])


@namespace.verb("faas namespace rm team-a")
@argument("name")
@json_option
@on_node
def rm(node: Node, name: str, as_json: bool) -> None:
    """Remove a namespace that has no functions. What it used stays in the books."""
    node.call("DELETE", f"/v1/namespaces/{escape(name)}")
    if as_json:
        out.emit_json({"name": name, "removed": True})
        return
    out.say(f"removed {name}")


def _limits(max_concurrency: str | None, memory: str | None) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    if max_concurrency is not None:
        if max_concurrency != LIMIT and not max_concurrency.isdecimal():
            raise click.UsageError("--max-concurrency is a whole number of calls, or none")
        limits["max_concurrency"] = None if max_concurrency == LIMIT else int(max_concurrency)
    if memory is not None:
        limits["memory"] = None if memory == LIMIT else memory
    return limits


def _said(made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        out.emit_json(made)
        return
    calls, memory = made["max_concurrency"], made["memory"]
    out.say(
        f"{made['name']}: {f'{calls} calls at once' if calls else 'no limit of calls of its own'}, "
        f"{f'{memory} of memory' if memory else 'no limit of memory of its own'}"
    )
