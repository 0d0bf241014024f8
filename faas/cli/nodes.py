"""`faas node`: the nodes of the platform."""

from __future__ import annotations

import typer

from faas.cli import out
from faas.cli.client import connect
from faas.cli.functions import summary
from faas.cli.options import Json, Key, Namespace, Url, example

app = typer.Typer(help="Nodes.", no_args_is_help=True)


@app.command("ls", epilog=example("faas node ls"))
def ls(as_json: Json = False, url: Url = None, key: Key = None, namespace: Namespace = None) -> None:
    """List nodes: engine, what runs, what waits."""
    nodes = connect(url, key, namespace).call("GET", "/v1/nodes")["nodes"]
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


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="node")
