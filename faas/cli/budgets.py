"""`faas budget`: how much may be used up in a month."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.verb import json_option, noun, on_node, option

NONE = "none"  # instead of a limit or a webhook: not any more
UNITS = ("gb_seconds", "amount")
budget = noun("Budgets: what may be used up in a month.")


@budget.verb(
    "faas budget set --gb-seconds 400000",
    "faas budget set --function thumbnail --gb-seconds 1000 --webhook https://example.com/warnings",
    "faas budget set --of-key 3f9a1c --amount 10",
)
@option("--function", metavar="NAME", help="Of this function; without it or --of-key, of the namespace.")
@option("--of-key", "key_id", metavar="ID", help="Of all calls with this key: an id of `faas key ls`.")
@option("--gb-seconds", metavar="NUMBER", help="This much memory-time; `none`: no such limit.")
@option("--amount", metavar="NUMBER", help="This much money, by the price book in force; `none`: no such limit.")
@option("--webhook", metavar="URL", help="Where warnings of this namespace go, at 75, 90 and 100 %; `none`: nowhere.")
@json_option
@on_node
def set(  # noqa: A001
    node: Node,
    function: str | None,
    key_id: str | None,
    gb_seconds: str | None,
    amount: str | None,
    webhook: str | None,
    as_json: bool,
) -> None:
    """Limit what may be used up in a calendar month (UTC). What is not named stays as it is; it holds at once."""
    if function and key_id:
        raise click.UsageError("a budget is of --function or of a key, not of both")
    asked = {unit: value for unit, value in zip(UNITS, (gb_seconds, amount), strict=True) if value is not None}
    if not asked and webhook is None:
        raise click.UsageError("name a limit: --gb-seconds or --amount; or where warnings go: --webhook")
    path = f"/v1/budgets/{escape(node.namespace)}"
    known = node.call("GET", path)
    scope = "function" if function else "key" if key_id else "namespace"
    budgets = _changed(known["budgets"], scope, function or key_id or "", asked) if asked else _kept(known["budgets"])
    url = (known["webhook"] or {}).get("url") if webhook is None else None if webhook == NONE else webhook
    _said(node.call("PUT", path, value={"budgets": budgets, "webhook": url}), as_json)


@budget.verb("faas budget show", "faas budget show -N team-a --json")
@json_option
@on_node
def show(node: Node, as_json: bool) -> None:
    """Show the budgets of the namespace, and what was used of them this month."""
    _said(node.call("GET", f"/v1/budgets/{escape(node.namespace)}"), as_json)


def _kept(budgets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: each[name] for name in ("scope", "name", *UNITS)} for each in budgets]


def _changed(budgets: list[dict[str, Any]], scope: str, name: str, asked: Mapping[str, str]) -> list[dict[str, Any]]:
    """The list with one budget's limits changed, and without it when it has none left."""
    kept = {(each["scope"], each["name"]): each for each in _kept(budgets)}
    mine = kept.setdefault((scope, name), {"scope": scope, "name": name, **dict.fromkeys(UNITS)})
    mine.update({unit: None if value == NONE else value for unit, value in asked.items()})
    return [each for each in kept.values() if any(each[unit] is not None for unit in UNITS)]


def _said(document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        out.emit_json(document)
        return
    if not document["budgets"]:
        out.note(f"the namespace {document['namespace']} has no budgets")
    else:
        currency = document["currency"]
        rows = [
            [
                each["scope"],
                each["name"] or "-",
                *(f"{each[f'used_{unit}']} / {each[unit]}" if each[unit] is not None else "-" for unit in UNITS),
                each["state"],
            ]
            for each in document["budgets"]
        ]
        out.table(["SCOPE", "NAME", "GB-SECONDS", currency, "STATE"], rows, ["GB-SECONDS", currency])
        out.note(f"used and allowed in {document['month']}; anew at {document['renews_at']}")
    if document["webhook"]:
        out.note(f"warnings go to {document['webhook']['url']}")
        if "secret" in document["webhook"]:
            out.note("they are signed with this secret, which is shown once:")
            out.say(document["webhook"]["secret"])
