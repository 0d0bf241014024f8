"""`faas ls`, `show`, `rm`: the functions of a namespace."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.invocations import invocation_line
from faas.cli.triggers import trigger_line
from faas.cli.verb import argument, json_option, on_node, verb

RECENT = 5
VERSIONS = 5
name_argument = argument("name", help="The function.")


@verb("faas ls", "faas ls --json")
@json_option
@on_node
def ls(node: Node, as_json: bool) -> None:
    """List functions."""
    with out.Progress("asking the node", quiet=as_json):
        functions = node.call("GET", "/v1/functions")["functions"]
    if as_json:
        out.emit_json(functions)
        return
    if not functions:
        where = f" in the namespace {node.namespace}" if node.flag else ""
        out.note(f"no functions{where} yet; write one with: faas init hello")
        return
    now_s = time.time()
    rows = [
        [
            entry["name"],
            str(entry["version"]),
            summary(entry["instances"]),
            out.size(entry["manifest"]["memory_mb"] << 20),
            out.ago(out.unix_s(entry["created_at"]), now_s),
            entry["url"] + ("" if entry["public"] else "  (needs a key)"),
        ]
        for entry in functions
    ]
    out.table(["NAME", "VERSION", "INSTANCES", "MEMORY", "DEPLOYED", "URL"], rows, right=["VERSION", "MEMORY"])


def summary(counts: Mapping[str, int]) -> str:
    """``{"IDLE": 2, "BUSY": 1}`` -> ``1 busy, 2 idle``; a function that nobody calls has zero."""
    return ", ".join(f"{count} {state.lower()}" for state, count in sorted(counts.items()) if count) or "zero"


@verb("faas show hello")
@name_argument
@json_option
@on_node
def show(node: Node, name: str, as_json: bool) -> None:
    """Show a function: settings, versions, what is warm and why.

    And its latest invocations.
    """
    with out.Progress("asking the node", quiet=as_json):
        found = _look_up(node, name)
    if as_json:
        out.emit_json(found)
        return
    out.pairs(
        [
            ("function", f"{found['namespace']}/{found['name']}"),
            ("version", f"{found['version']}, deployed {found['created_at']}"),
            ("url", found["url"] + ("" if found["public"] else "  (needs an API key)")),
            ("settings", "\n".join(settings_lines(found["manifest"]))),
            ("triggers", "\n".join(map(trigger_line, found["triggers"])) or "none: it runs when it is called"),
            ("versions", "\n".join(version_lines(found["versions"]))),
            ("instances", "\n".join(sandbox_lines(found["sandboxes"]))),
            ("stand ready", ready_line(found["generic"])),
            ("this month", cost_line(found["usage"])),
            ("recent", "\n".join(map(invocation_line, found["invocations"])) or "no invocations on record"),
        ]
    )


def _look_up(node: Node, name: str) -> dict[str, Any]:
    path = f"/v1/functions/{escape(name)}"
    return {
        **node.call("GET", path),
        **node.call("GET", f"{path}/versions"),
        **node.call("GET", f"{path}/instances"),
        **node.call("GET", f"{path}/invocations", query={"limit": str(RECENT)}),
        **node.call("GET", "/v1/triggers", query={"function": name.partition("@")[0]}),
        "usage": node.call("GET", "/v1/usage", query={"function": name.partition("@")[0], "namespace": node.namespace}),
    }


def settings_lines(manifest: Mapping[str, Any]) -> list[str]:
    """The settings that matter at a glance, then those that are set at all."""
    keep_alive = manifest["keep_alive_ms"]
    kept = "auto" if keep_alive is None else out.milliseconds(keep_alive)
    memory, timeout = out.size(manifest["memory_mb"] << 20), out.milliseconds(manifest["timeout_ms"])
    if manifest.get("cpus"):
        memory += f", cpus {manifest['cpus']:g}"
    lines = [
        f"memory {memory}, timeout {timeout}, concurrency {manifest['concurrency']}, network {manifest['network']}",
        f"instances {manifest['min_instances']} to {manifest['max_instances']}, keep-alive {kept}",
    ]
    if manifest.get("on_disconnect") == "cancel":
        lines[-1] += ", cancelled when the caller leaves"
    lines += [f"{name}={value}" for name, value in manifest["env"].items()]
    for key, label in (("dependencies", "needs"), ("secrets", "secrets")):
        lines += [f"{label} {item}" for item in manifest[key]]
    return lines


def version_lines(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Newest first, as the node gives them."""
    lines = [f"{entry['version']}  {entry['created_at']}" for entry in versions[:VERSIONS]]
    return lines + ([f"and {len(versions) - VERSIONS} more"] if len(versions) > VERSIONS else [])


def ready_line(generic: Mapping[str, Any]) -> str:
    """What the next cold start finds."""
    ready = f"{generic['ready']} of {generic['kept']} sandboxes for any function's next cold start"
    return f"{ready}; {generic['why']}" if generic["kept"] else f"no sandbox for a cold start; {generic['why']}"


def cost_line(usage: Mapping[str, Any]) -> str:
    """Billed memory-time beside what was held without serving."""
    held = usage.get("held", {}).get("totals", {})
    idle, parked = (out.gb_seconds(held.get(f"{kind}_mb_ms", 0)) for kind in ("idle", "parked"))
    line = (
        f"{out.gb_seconds(usage['totals'].get('mb_ms', 0))} billed; held without serving: idle {idle}, parked {parked}"
    )
    kept = held.get("provisioned_mb_ms", 0)
    return f"{line}; {out.gb_seconds(kept)} provisioned by min_instances" if kept else line


def sandbox_lines(sandboxes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each sandbox with its instances below it, and why they are there."""
    if not sandboxes:
        return ["zero: nothing runs until somebody calls"]
    lines = []
    for sandbox in sandboxes:
        lines.append(
            f"{sandbox['sandbox']}  version {sandbox['version']}  {sandbox['state'].lower()}: {sandbox['why']}"
        )
        counts = Counter((instance["state"].lower(), instance["why"]) for instance in sandbox["instances"])
        lines += [
            f"  {count} {why if why.startswith(state) else f'{state}: {why}'}" for (state, why), count in counts.items()
        ]
    return lines


@verb("faas rm hello")
@name_argument
@json_option
@on_node
def rm(node: Node, name: str, as_json: bool) -> None:
    """Remove a function and its versions.

    Running calls end first; its usage stays on record.
    """
    with out.Progress(f"removing {name}", quiet=as_json):
        node.call("DELETE", f"/v1/functions/{escape(name)}", timeout_s=None)
    if as_json:
        out.emit_json({"name": name, "removed": True})
        return
    out.say(f"removed {name}")
