"""`faas node`: the nodes of the platform."""

from __future__ import annotations

from faas.cli import out
from faas.cli.client import Node
from faas.cli.functions import summary
from faas.cli.verb import json_option, noun, on_node

node = noun("Nodes: the processes that run functions.")


@node.verb("faas node ls")
@json_option
@on_node
def ls(target: Node, as_json: bool) -> None:
    """List nodes: engine, what runs, what waits."""
    nodes = target.call("GET", "/v1/nodes")["nodes"]
    if as_json:
        out.emit_json(nodes)
        return
    rows = [
        [
            entry["name"],
            entry["state"],
            entry["engine"],
            summary(entry["instances"]),
            summary(entry["sandboxes"]),
            str(entry["queued"]),
            out.size(entry["memory_bytes"]),
        ]
        for entry in nodes
    ]
    out.table(["NAME", "STATE", "ENGINE", "INSTANCES", "SANDBOXES", "WAITING", "MEMORY"], rows, ["WAITING", "MEMORY"])
