"""`faas key`: API keys."""

from __future__ import annotations

from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.verb import argument, json_option, noun, on_node, option

SCOPES = ("invoke", "read", "deploy", "admin")
key = noun("API keys.")


@key.verb("faas key create --scope invoke", "faas key create --namespace team-a --scope deploy")
@option("--scope", "scopes", multiple=True, type=click.Choice(SCOPES), help="Repeatable; without it, invoke and read.")
@json_option
@on_node
def create(node: Node, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make a key for one namespace. It is shown once and stored nowhere in clear."""
    asked: dict[str, Any] = {"namespace": node.namespace, **({"scopes": scopes} if scopes else {})}
    made = node.call("POST", "/v1/keys", value=asked)
    if as_json:
        out.emit_json(made)
        return
    out.say(made["secret"])
    out.note(f"key {made['id']} for namespace {made['namespace']}, may {', '.join(made['scopes'])}")
    out.note("keep it: it is not shown again; use it with FAAS_KEY or Authorization: Bearer")


@key.verb("faas key ls")
@json_option
@on_node
def ls(node: Node, as_json: bool) -> None:
    """List keys, without what they are."""
    keys = node.call("GET", "/v1/keys")["keys"]
    if as_json:
        out.emit_json(keys)
        return
    rows = [[entry["id"], entry["namespace"], ",".join(entry["scopes"]), entry["created_at"]] for entry in keys]
    out.table(["ID", "NAMESPACE", "SCOPES", "CREATED"], rows)


@key.verb("faas key revoke k1a2b3c4")
@argument("id", help="As `faas key ls` shows.")
@json_option
@on_node
def revoke(node: Node, id: str, as_json: bool) -> None:  # noqa: A002
    """Revoke a key: it stops working within seconds."""
    node.call("DELETE", f"/v1/keys/{escape(id)}")
    if as_json:
        out.emit_json({"id": id, "revoked": True})
        return
    out.say(f"revoked {id}")
