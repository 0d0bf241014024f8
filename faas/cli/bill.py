"""`faas bill`: what a month costs; closing it, and correcting it once it is closed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.verb import argument, json_option, on_node, option, verb

FORMATS = ("table", "json", "csv", "html", "focus")
FOCUS_VERSIONS = ("1.4", "1.2", "1.0")


@verb(
    "faas bill 2026-11",
    "faas bill 2026-10 --format html > bill.html",
    "faas bill 2026-10 --close",
    'faas bill 2026-10 -N team-a --credit 12.50 --reason "the outage of the 14th"',
)
@argument("month")
@option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print it.")
@option("--focus-version", type=click.Choice(FOCUS_VERSIONS), help="Columns of which FOCUS; the newest has them all.")
@option("--close", is_flag=True, help="Freeze the month for all namespaces: its bill never changes again.")
@option("--force", is_flag=True, help="With --close: also when records of the month may still come.")
@option("--credit", metavar="AMOUNT", help="Take this off a closed bill, by a credit note on the next open one.")
@option("--reason", metavar="TEXT", help="With --credit: why; it stands on the bill.")
@json_option
@on_node
def bill(
    node: Node,
    month: str,
    form: str,
    focus_version: str | None,
    close: bool,
    force: bool,
    credit: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    """Show what a month costs, by namespace and function. MONTH is like 2026-11, in UTC."""
    path = f"/v1/bills/{escape(month)}"
    if force and not close:
        raise click.UsageError("--force goes with --close")
    if (credit is None) != (reason is None):
        raise click.UsageError("--credit and --reason go together")
    if credit is not None:
        if close:
            raise click.UsageError("a credit is for a bill that is closed: --close first")
        _credit(node, path, credit, str(reason), as_json)
        return
    form = "json" if as_json else form
    if focus_version and form != "focus":
        raise click.UsageError("--focus-version goes with --format focus")
    with out.Progress("adding up", quiet=as_json):
        if close:
            node.call("POST", f"{path}/close", value={"force": force})
        if form in ("table", "json"):
            found = node.call("GET", path)
        else:
            query = {"format": form, "focus_version": focus_version}
            with node.stream("GET", path, query=query) as response:
                content = response.read()
    if form == "json":
        out.emit_json(found)
    elif form == "table":
        _table(found)
        _warmth(node, found)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _credit(node: Node, path: str, amount: str, reason: str, as_json: bool) -> None:
    note = node.call("POST", f"{path}/credits", value={"amount": amount, "reason": reason})
    if as_json:
        out.emit_json(note)
        return
    out.say(f"{note['id']}: {note['amount']} {note['currency']} off what {note['namespace']} owes for {note['month']}")
    out.note("it is on the bill of the next open month")


def _table(found: Mapping[str, Any]) -> None:
    several = len(found["bills"]) > 1
    if not found["lines"]:
        out.note(f"nothing was used in {found['month']}")
    else:
        headers = ["WHAT", "QUANTITY", "UNIT", "PRICE", "AMOUNT", ""]
        rows = [_row(line, several) for line in found["lines"]]
        for bill in found["bills"]:
            what = f"total of {_plain(bill['namespace'])}" if several else "total"
            rows.append([what, "", "", "", bill["total"], bill["currency"]])
        if several:
            rows += [["total", "", "", "", total, currency] for currency, total in found["totals"].items()]
        out.table(headers, rows, right=["QUANTITY", "PRICE", "AMOUNT"])
    for bill in found["bills"]:
        for note in bill["notes"]:
            out.note(_plain(note))
    state = "closed" if found["status"] == "closed" else "open: it may still change"
    out.note(out.paint(f"{found['month']} is {state}", out.DIM, sys.stderr))


def _warmth(node: Node, found: Mapping[str, Any]) -> None:
    """What it cost the operator to hold memory that served nobody: beside the bill, and on none."""
    query = {"from": found["from"], "to": found["to"], "by": "namespace,function"}
    held = node.call("GET", "/v1/usage", query=query).get("held", {})
    cost, rate = Decimal(held.get("totals", {}).get("cost", 0)), held.get("rate")
    if cost and rate:
        what = f"keeping functions warm cost {cost:.6f} {rate['currency']} besides, by the price book '{rate['book']}',"
        whose = f"faas usage --from {found['from']} --to {found['to']} --by namespace,function"
        out.note(f"{what} and is billed to nobody: {whose}")


def _row(line: Mapping[str, Any], several: bool) -> list[str]:
    what = f"{line['namespace']}: {line['description']}" if several else line["description"]
    measured = line["kind"] in ("usage", "allowance")
    return [
        _plain(what),
        line["quantity"] if measured else "",
        (line["unit"] or "") if measured else "",
        line["unit_price"] if measured else "",
        _cents(line["amount"]),
        line["currency"],
    ]


def _cents(amount: str) -> str:
    """Exact, and never fewer than two decimals."""
    value = Decimal(amount)
    return f"{value:.2f}" if value == round(value, 2) else amount


def _plain(text: str) -> str:
    """One line that moves no cursor: reasons are what somebody typed."""
    return "".join(c if c.isprintable() else "?" for c in text)
