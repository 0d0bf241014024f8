"""`faas price`: the books in force; `faas estimate`: what a function would cost, before it is deployed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, manifest_line
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, noun, on_node, option, verb

FLAGS: Mapping[str, str] = {"bill_init": "starts", "bill_retries": "retries", "bill_throttles": "refused calls"}
price = noun("Prices: what a unit of use costs.")
_BOOK = argument(
    "file", metavar="FILE|NAME", help="A price book in TOML; or one that is shipped: lambda, at-cost, free."
)


@price.verb("faas price show", "faas price show --month 2026-01", "faas price show --toml > prices.toml")
@option("--month", metavar="YYYY-MM", help="In force then; without it, now.")
@option("--toml", is_flag=True, help="The books as they were set, to change and set again.")
@json_option
@on_node
def show(node: Node, month: str | None, toml: bool, as_json: bool) -> None:
    """Show the prices in force."""
    found = node.call("GET", "/v1/prices", query={"month": month})
    if toml:
        out.say((found.get("toml") or _shipped("free")).rstrip())
    elif as_json:
        out.emit_json(found)
    else:
        _book(found)


@price.verb("faas price set prices.toml", "faas price set lambda")
@_BOOK
@json_option
@on_node
def set(node: Node, file: str, as_json: bool) -> None:  # noqa: A001
    """Set the price books, in the place of those there are. Closed bills stay as they are."""
    text = _text(file)
    _checked(text, file)
    found = node.call("PUT", "/v1/prices", value={"toml": text})
    if as_json:
        out.emit_json(found)
        return
    _book(found)


@price.verb("faas price check prices.toml")
@_BOOK
@json_option
def check(file: str, as_json: bool) -> None:
    """Say everything that is wrong with a price book; nothing is set, no node is asked."""
    books = _checked(_text(file), file)
    if as_json:
        out.emit_json({"valid": True, "books": [each.book.name for each in books.dated]})
        return
    for each in books.dated:
        out.say(f"{each.book.name}: valid, from {each.book.month or 'the beginning'}, in {each.book.currency}")


@verb("faas estimate hello.py --rps 5 --duration 120", "faas estimate report/ --rps 0.01 --duration 30s --memory 1GB")
@argument("path", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="A Python file, or a directory.")
@option("--rps", metavar="N", required=True, help="Calls per second, all month.")
@option("--duration", metavar="MS", required=True, help="Of a call: milliseconds, or as 1.5s.")
@option("--memory", metavar="SIZE", help="Instead of what the file says.")
@option("--cpu", metavar="MS", help="Processor time of a call; without it, all of its duration.")
@option("--bytes-out", metavar="N", type=click.IntRange(0), help="Size of an answer.")
@option("--month", metavar="YYYY-MM", help="At the prices of that month; without it, this one's.")
@json_option
@on_node
def estimate(node: Node, path: Path, as_json: bool, **load: Any) -> None:
    """Say what a function would cost a month.

    The load is steady: so many calls a second, each so long. Prices are those in force; below stands what the shipped
    books would ask.
    """
    asked = {**_settings(path), **{name: value for name, value in load.items() if value is not None}}
    found = node.call("POST", "/v1/estimates", value=asked)
    if as_json:
        out.emit_json(found)
        return
    _lines(found)


# -- showing ----------------------------------------------------------------------------------------------------------


def _book(found: Mapping[str, Any]) -> None:
    book = found["in_force"]
    since = f", since {book['from']}" if book["from"] else ""
    out.say(f"{book['name']} in {found['month']} for {found['namespace']}{since}: {book['currency']}")
    rows = []
    for price in book["prices"].values():
        if price["free"] != "0":
            rows.append([price["title"], price["unit"], f"first {_grouped(price['free'])}", "free"])
        for tier in price["tiers"]:
            reach = (
                f"up to {_grouped(tier['up_to'])}" if tier["up_to"] else "all" if len(price["tiers"]) == 1 else "above"
            )
            rows.append([price["title"], price["unit"], reach, tier["price"]])
    if rows:
        out.table(["WHAT", "UNIT", "A MONTH", "PRICE"], rows, ["PRICE"])
    else:
        out.say("nothing costs anything")
    billed = [what for flag, what in FLAGS.items() if book[flag]]
    out.say(f"billed too: {', '.join(billed) or 'nothing else'}")
    if not found["set"]:
        out.note("no price book was set; begin with a shipped one: faas price set lambda")


def _lines(found: Mapping[str, Any]) -> None:
    currency = found["currency"]
    rows = [
        [line["description"], _grouped(line["quantity"]), line["unit"], line["unit_price"], _amount(line["amount"])]
        for line in found["lines"]
        if line["kind"] != "rounding"
    ]
    rows.append(["total", "", "", "", found["total"]])
    out.table(["WHAT", "QUANTITY", "UNIT", "PRICE", currency], rows, ["QUANTITY", "PRICE", currency])
    for note in found["notes"]:
        out.note(note)
    others = [f"{o['book']} {o['total']} {o['currency']}" for o in found["compare"] if o["book"] != found["book"]]
    out.say(f"the same at shipped prices: {', '.join(others)}")


def _grouped(number: str) -> str:
    whole, point, rest = number.partition(".")
    return f"{int(whole):,}{point}{rest}"


def _amount(text: str) -> str:
    """For people: ten decimals at most, where the node gives all."""
    whole, point, rest = text.partition(".")
    return f"{whole}{point}{rest[:10]}" + ("..." if len(rest) > 10 else "")


# -- reading ----------------------------------------------------------------------------------------------------------


def _shipped(name: str) -> str:
    from faas.billing import shipped

    return shipped.text_of(name)


def _text(file: str) -> str:
    """A file's text, or that of a shipped book; a file wins."""
    path = Path(file)
    if not path.exists():
        from faas.billing import shipped

        if file in shipped.NAMES:
            return shipped.text_of(file)
        raise CliError(f"there is no file {file}", "", f"or name a shipped book: {', '.join(shipped.NAMES)}", code=2)
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"cannot read {file}", str(error)) from error


def _checked(text: str, file: str) -> Any:
    """The books; with everything that is wrong, as compilers print it."""
    from faas.billing.reading import parse_books
    from faas.model.errors import InvalidPrices

    try:
        return parse_books(text)
    except InvalidPrices as error:
        entries = [{"key": p.key, "message": p.message, "line": p.line} for p in error.problems]
        lines = [manifest_line(entry, file) for entry in entries]
        problem = {"title": "The price book is not valid", "code": error.code, "errors": entries}
        raise CliError(
            f"{file} is not a valid price book", "\n".join(lines), "mend it; nothing was set", problem
        ) from error


def _settings(path: Path) -> dict[str, Any]:
    """What of a function's own settings an estimate is about."""
    from faas.cli.deploy import declared_name, documents

    found: dict[str, Any] = {"function": declared_name(path)}
    read: Sequence[Any] = documents(path)
    for document in read:
        for name in ("memory", "min_instances"):
            if name in document.values and name not in found:
                found[name] = document.values[name]
    return found
