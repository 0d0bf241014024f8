"""`faas queue`: send to a queue, see what is in it, and put right what went wrong."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, noun, on_node, option

BODY_CHARS_MIN = 24  # of a body in a table, however narrow the terminal is
PIPED_CHARS = 160  # of a line where nobody's terminal says
REASON_CHARS = 40
queue = noun("Queues: send, look, and put dead letters back.")
queue_argument = argument("name", metavar="QUEUE", help="The queue.")
yes_option = option("--yes", "-y", is_flag=True, help="Do not ask.")


@queue.verb(
    'faas queue send orders -d \'{"item": "book"}\'',
    "faas queue send orders --text hello --delay 10m --attribute kind=greeting",
    "faas queue send orders -d @order.json --group customer-17 --dedup-id order-4711",
    "faas queue send orders --lines < orders.jsonl",
)
@queue_argument
@option("--data", "-d", metavar="JSON|@FILE|-", help="The body, any JSON value.")
@option("--text", metavar="TEXT", help="The body, as it is.")
@option("--lines", is_flag=True, help="Each line of -d @FILE, or of stdin, is the body of a message of its own.")
@option("--delay", metavar="TIME", help="Not before so long from now: 10s, 5m, at most 7d.")
@option("--group", metavar="NAME", help="Order is kept among the messages of one group.")
@option("--dedup-id", metavar="ID", help="Of two messages of the same id within 5 minutes the second is dropped.")
@option("--attribute", "-a", "attributes", multiple=True, metavar="NAME=TEXT", help="May be given several times.")
@json_option
@on_node
def send(
    node: Node,
    name: str,
    data: str | None,
    text: str | None,
    lines: bool,
    delay: str | None,
    group: str | None,
    dedup_id: str | None,
    attributes: Sequence[str],
    as_json: bool,
) -> None:
    """Send a message, or with --lines many.

    It is stored when this says so. Prints the message's id.
    """
    from faas.cli import queue_send

    if (data is not None) + (text is not None) > 1 or (lines and text is not None):
        raise click.UsageError("a message has one body: either -d, or --text, or --lines")
    if lines and dedup_id:
        raise click.UsageError("--dedup-id is one message's; with --lines all but the first would be dropped")
    more = {"delay": delay, "group": group, "dedup_id": dedup_id, "attributes": queue_send.attributes(attributes)}
    shared = {key: value for key, value in more.items() if value}
    path = f"/v1/queues/{escape(name)}/messages"
    if lines:
        queue_send.send_lines(node, name, path, data or "-", shared, as_json=as_json)
    else:
        queue_send.send_one(node, path, queue_send.body(data, text), shared, as_json=as_json)


# -- looking ----------------------------------------------------------------------------------------------------------

COUNTS = ("READY", "DELAYED", "WAITING", "IN FLIGHT", "DEAD")


@queue.verb("faas queue ls", "faas queue ls --json | jq '.[] | select(.dead > 0) | .name'")
@json_option
@on_node
def ls(node: Node, as_json: bool) -> None:
    """List queues: what waits, for how long, and who takes it."""
    with out.Progress("asking the node", quiet=as_json):
        queues = node.call("GET", "/v1/queues")["queues"]
    if as_json:
        out.emit_json(queues)
        return
    if not queues:
        where = f" in the namespace {node.namespace}" if node.flag else ""
        out.note(f'no queues{where} yet; send to one: faas queue send orders -d \'{{"item": "book"}}\'{node.flag}')
        return
    rows = [
        [
            each["name"],
            *(str(each[label.lower().replace(" ", "_")]) for label in COUNTS),
            _age(each),
            ", ".join(map(_consumer, each["consumers"])) or "-",
        ]
        for each in queues
    ]
    out.table(["NAME", *COUNTS, "OLDEST", "CONSUMERS"], rows, right=[*COUNTS, "OLDEST"])


def _age(state: Mapping[str, Any]) -> str:
    return out.milliseconds(1000 * state["oldest_seconds"]) if state["oldest_seconds"] else "-"


def _consumer(consumer: Mapping[str, Any]) -> str:
    return str(consumer["function"]) + ("" if consumer["enabled"] else " (paused)")


@queue.verb("faas queue show orders")
@queue_argument
@json_option
@on_node
def show(node: Node, name: str, as_json: bool) -> None:
    """Show what a queue holds, who takes from it, and what became of all that was sent."""
    found = node.call("GET", f"/v1/queues/{escape(name)}")
    if as_json:
        out.emit_json(found)
        return
    parts = ", ".join(f"{found[key]} {key.replace('_', ' ')}" for key in ("ready", "delayed", "waiting", "in_flight"))
    dead = f"{found['dead']}; see why: faas queue dead {name}{node.flag}" if found["dead"] else "none"
    out.pairs(
        [
            ("queue", f"{found['namespace']}/{found['name']}"),
            ("depth", f"{found['depth']}: {parts}"),
            ("oldest", _age(found)),
            ("dead", dead),
            ("consumers", "\n".join(map(_consumer_line, found["consumers"])) or NOBODY),
            ("since ever", ", ".join(f"{count} {what}" for what, count in found["counts"].items()) or "nothing sent"),
        ]
    )


NOBODY = "nobody takes from it; name it in a function's [[tool.faas.queue]], or: faas trigger add"


def _consumer_line(consumer: Mapping[str, Any]) -> str:
    state = "" if consumer["enabled"] else f", paused; go on: faas trigger resume {consumer['trigger']}"
    return f"{consumer['function']}  (trigger {consumer['trigger']}{state})"


@queue.verb("faas queue peek orders", "faas queue peek orders --limit 1 --json")
@queue_argument
@option("--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="How many at most.")
@json_option
@on_node
def peek(node: Node, name: str, limit: int, as_json: bool) -> None:
    """Show the next messages, in order.

    None of them is taken.
    """
    found = node.call("GET", f"/v1/queues/{escape(name)}/messages", query={"limit": str(limit)})["messages"]
    if as_json:
        out.emit_json(found)
        return
    if not found:
        out.note(f"nothing waits in {name}")
        return
    now_s = time.time()
    rows = [[each["id"], out.ago(out.unix_s(each["sent_at"]), now_s), str(each["attempts"])] for each in found]
    _with_bodies(["ID", "SENT", "ATTEMPTS"], rows, found)


@queue.verb("faas queue dead orders", "faas queue dead orders --limit 1000 --json | jq -r .messages[].body")
@queue_argument
@option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@option("--after", metavar="ID", help="Those after this one.")
@json_option
@on_node
def dead(node: Node, name: str, limit: int, after: str | None, as_json: bool) -> None:
    """Show dead letters, oldest first: messages that were given up, and why."""
    query = {"limit": str(limit), "after": after}
    page = node.call("GET", f"/v1/queues/{escape(name)}/dead", query=query)
    if as_json:
        out.emit_json(page)
        return
    found = page["messages"]
    if not found:
        out.note(f"no dead letters {'after that one ' if after else ''}in {name}")
        return
    now_s = time.time()
    rows = [
        [
            each["id"],
            out.ago(out.unix_s(each["died_at"]), now_s),
            str(each["attempts"]),
            _short(each["reason"], REASON_CHARS),
        ]
        for each in found
    ]
    _with_bodies(["ID", "DIED", "ATTEMPTS", "REASON"], rows, found)
    if page["next"]:
        out.note(f"there are more: faas queue dead {name} --after {page['next']}{node.flag}")
    out.note(f"put them back: faas queue redrive {name}{node.flag}   one of them: faas queue redrive {name} ID")


def _with_bodies(headers: Sequence[str], rows: list[list[str]], found: Sequence[Mapping[str, Any]]) -> None:
    """The table with groups, where there are any, and with as much of each body as there is room for."""
    headers = list(headers)
    if any(each["group"] for each in found):
        headers.append("GROUP")
        for row, each in zip(rows, found, strict=True):
            row.append(each["group"] or "-")
    used = sum(2 + max(len(row[index]) for row in [headers, *rows]) for index in range(len(headers)))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPED_CHARS
    for row, each in zip(rows, found, strict=True):
        text = each["body"] if "body" in each else f"base64 {each['body_base64']}"
        row.append(_short(text, max(BODY_CHARS_MIN, width - used)))
    out.table([*headers, "BODY"], rows, right=["ATTEMPTS"])


def _short(text: str, chars_max: int) -> str:
    """On one line, with nothing that could move a terminal's cursor.

    >>> _short("a\\nb", 9), _short("abcdef", 5)
    ('a b', 'ab...')
    """
    shown = "".join(char if char.isprintable() else " " for char in text[: chars_max + 1])
    return shown if len(shown) <= chars_max else shown[: chars_max - 3] + "..."


# -- putting right ----------------------------------------------------------------------------------------------------


@queue.verb(
    "faas queue redrive orders",
    "faas queue redrive orders --rate 5",
    "faas queue redrive orders 0190a1b2c3d4e5f60718293a4b5c6d7e",
)
@queue_argument
@argument("ids", nargs=-1, metavar="[ID]...", help="These, as `faas queue dead` shows them; without any, all.")
@option("--all", "every", is_flag=True, help="All of them, said aloud.")
@option("--limit", type=click.IntRange(1), help="The oldest so many.")
@option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="So many a second; this need not stay.")
@json_option
@on_node
def redrive(
    node: Node, name: str, ids: tuple[str, ...], every: bool, limit: int | None, rate: float | None, as_json: bool
) -> None:
    """Put dead letters back into their queue, as if they had just been sent."""
    if ids and every:
        raise click.UsageError("either name messages or say --all")
    asked: dict[str, Any] = {"ids": list(ids)} if ids else {"all": True}
    asked |= {key: value for key, value in (("limit", limit), ("rate", rate)) if value is not None}
    with out.Progress(f"putting dead letters back into {name}", quiet=as_json):
        count = node.call("POST", f"/v1/queues/{escape(name)}/redrive", value=asked, timeout_s=None)["redriven"]
    if ids and not count:
        named = "that is" if len(ids) == 1 else "any of those is"
        do = f"see what there is: faas queue dead {name}{node.flag}"
        raise CliError(f"nothing was put back: no dead letter of {name} is what was named", f"{named} gone already", do)
    if as_json:
        out.emit_json({"redriven": count})
        return
    out.say(f"put {_messages(count)} back into {name}" if count else f"no dead letters in {name}")
    if ids and count < len(set(ids)) and limit is None:
        out.note(f"the other {len(set(ids)) - count} are no dead letters of it now")
    if rate and count > 1:
        out.note(f"the last one is ready in {out.milliseconds(1000 * (count - 1) / rate)}")


@queue.verb("faas queue purge orders", "faas queue purge orders --dead --yes")
@queue_argument
@option("--dead", is_flag=True, help="The dead letters, instead of what waits.")
@yes_option
@json_option
@on_node
def purge(node: Node, name: str, dead: bool, yes: bool, as_json: bool) -> None:
    """Forget all messages that wait, or all dead letters.

    Those that a function has in hand are run to their end.
    """
    path = f"/v1/queues/{escape(name)}"
    if not yes and not as_json and sys.stdin.isatty():
        state = node.call("GET", path)
        count = state["dead"] if dead else state["depth"] - state["in_flight"]
        _ask(f"Forget {_messages(count, dead=dead)} of {name} for ever?")
    count = node.call("POST", f"{path}/purge", value={"dead": dead}, timeout_s=None)["purged"]
    if as_json:
        out.emit_json({"purged": count})
        return
    out.say(f"forgot {_messages(count, dead=dead)} of {name}")


@queue.verb("faas queue rm orders", "faas queue rm orders --yes")
@queue_argument
@yes_option
@json_option
@on_node
def rm(node: Node, name: str, yes: bool, as_json: bool) -> None:
    """Remove a queue and all it holds, dead letters too."""
    path = f"/v1/queues/{escape(name)}"
    if not yes and not as_json and sys.stdin.isatty():
        state = node.call("GET", path)
        held = [_messages(state["depth"])] if state["depth"] else []
        held += [_messages(state["dead"], dead=True)] if state["dead"] else []
        if held:
            _ask(f"Remove {name} with {' and '.join(held)} for ever?")
    removed = node.call("DELETE", path, timeout_s=None)
    if as_json:
        out.emit_json(removed)
        return
    out.say(f"removed {name}")
    for each in removed["consumers"]:
        out.note(
            f"the function {each['function']} still takes from it (trigger {each['trigger']}): a message revives it"
        )


def _ask(question: str) -> None:
    if not click.confirm(question, err=True):
        raise CliError("nothing was changed", "you said no")


def _messages(count: int, *, dead: bool = False) -> str:
    """
    >>> _messages(1), _messages(2000), _messages(2, dead=True)
    ('1 message', '2,000 messages', '2 dead letters')
    """
    return f"{count:,} {'dead letter' if dead else 'message'}{'' if count == 1 else 's'}"
