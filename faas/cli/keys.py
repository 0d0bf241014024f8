"""`faas key`: API keys."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from faas.cli import out
from faas.cli.client import connect, escape
from faas.cli.options import Json, Key, Namespace, Url, example

app = typer.Typer(help="API keys.", no_args_is_help=True)


@app.command(
    "create", epilog=example("faas key create --scope invoke", "faas key create --namespace team-a --scope deploy")
)
def create(
    scope: Annotated[
        list[str] | None, typer.Option(help="invoke, read, deploy or admin; repeatable. Without it, invoke and read.")
    ] = None,
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    namespace: Namespace = None,
) -> None:
    """Make a key for one namespace. It is shown once and stored nowhere in clear."""
    node = connect(url, key, namespace)
    asked: dict[str, Any] = {"namespace": node.namespace, **({"scopes": scope} if scope else {})}
    made = node.call("POST", "/v1/keys", value=asked)
    if as_json:
        out.emit_json(made)
        return
    out.say(made["secret"])
    out.note(f"key {made['id']} for namespace {made['namespace']}, may {', '.join(made['scopes'])}")
    out.note("keep it: it is not shown again; use it with FAAS_KEY or Authorization: Bearer")


@app.command("ls", epilog=example("faas key ls"))
def ls(as_json: Json = False, url: Url = None, key: Key = None, namespace: Namespace = None) -> None:
    """List keys, without what they are."""
    keys = connect(url, key, namespace).call("GET", "/v1/keys")["keys"]
    if as_json:
        out.emit_json(keys)
        return
    rows = [[entry["id"], entry["namespace"], ",".join(entry["scopes"]), entry["created_at"]] for entry in keys]
    out.table(["ID", "NAMESPACE", "SCOPES", "CREATED"], rows)


@app.command("revoke", epilog=example("faas key revoke k1a2b3c4"))
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `faas key ls` shows.")],  # noqa: A002
    as_json: Json = False,
    url: Url = None,
    key: Key = None,
    namespace: Namespace = None,
) -> None:
    """Revoke a key: it stops working within seconds."""
    connect(url, key, namespace).call("DELETE", f"/v1/keys/{escape(id)}")
    if as_json:
        out.emit_json({"id": id, "revoked": True})
        return
    out.say(f"revoked {id}")


def register(parent: typer.Typer) -> None:
    parent.add_typer(app, name="key")
