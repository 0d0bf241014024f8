"""`faas trigger`: what wakes a function besides a request."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import click

from faas.cli import out
from faas.cli.client import Node, escape
from faas.cli.out import CliError
from faas.cli.verb import argument, json_option, noun, on_node, option

WHAT_CHARS_MAX = 60
trigger = noun("Triggers: queues and schedules that wake functions.")
id_argument = argument("id", help="As `faas trigger ls` shows.")


@trigger.verb(
    "faas trigger add order-worker --queue orders",
    """faas trigger add order-worker --queue '{ name = "orders", batch = 100, window = "1s" }'""",
    "faas trigger add report --cron '0 6 * * 1-5' --timezone Europe/Berlin",
    """faas trigger add report --cron '0 * * * *' --payload '{"job": "sweep"}' --missed once""",
)
@argument("function", help="The function; it is deployed already.")
@option("--queue", metavar="NAME|{TOML}", help="Wake it for messages of this queue.")
@option("--cron", metavar="SCHEDULE|{TOML}", help="Wake it at these times: minute hour day month weekday.")
@option("--timezone", metavar="ZONE", help="Of the schedule, such as Europe/Berlin; without it, UTC.")
@option("--payload", metavar="JSON", help="The event; without it, EventBridge's Scheduled Event.")
@option("--missed", type=click.Choice(("skip", "once")), help="After a downtime: nothing, or one run for all of it.")
@option("--jitter", metavar="TIME", help="Begin each run so much later at most, at random: 30s.")
@option("--paused", is_flag=True, help="It waits for `faas trigger resume`.")
@json_option
@on_node
def add(
    node: Node,
    function: str,
    queue: str | None,
    cron: str | None,
    paused: bool,
    as_json: bool,
    **more: str | None,
) -> None:
    """Add a trigger to a function, beside those of its manifest.

    It stays over deployments, until it is removed or the function is.
    """
    asked = {"function": function, **_asked(queue, cron, more), **({"enabled": False} if paused else {})}
    try:
        made = node.call("POST", "/v1/triggers", value=asked)
    except CliError as error:
        if error.problem.get("code") == "invalid-manifest":
            raise CliError(
                "this trigger cannot be added", error.why, "mend this and add it again", error.problem
            ) from error
        raise
    if as_json:
        out.emit_json(made)
        return
    out.say(made["id"])
    out.note(f"{function} is woken by {what(made)}; {_outlook(made, time.time())}")


def _asked(queue: str | None, cron: str | None, more: Mapping[str, str | None]) -> dict[str, Any]:
    """One of the two kinds as the node takes it."""
    from faas.cli.deploy import inline

    given = {name: value for name, value in more.items() if value is not None}
    if (queue is None) == (cron is None):
        raise click.UsageError("name one of --queue and --cron")
    if queue is not None:
        if given:
            raise click.UsageError(f"--{next(iter(given))} is of a schedule: use it with --cron")
        return {"queue": inline("--queue", queue, "name")}
    settings: dict[str, Any] = {**inline("--cron", str(cron), "schedule"), **given}
    if "payload" in given:
        try:
            settings["payload"] = json.loads(given["payload"])
        except ValueError as error:
            raise CliError(
                "--payload is not JSON", f"{given['payload'][:200]}\n{error}", '--payload \'{"job": "sweep"}\'', code=2
            ) from error
    return {"cron": settings}


@trigger.verb("faas trigger ls", "faas trigger ls --function report --json")
@option("--function", metavar="NAME", help="Of this function only.")
@json_option
@on_node
def ls(node: Node, function: str | None, as_json: bool) -> None:
    """List triggers: what wakes which function, and when next."""
    found = node.call("GET", "/v1/triggers", query={"function": function})["triggers"]
    if as_json:
        out.emit_json(found)
        return
    if not found:
        of = f" of {function}" if function else f" in the namespace {node.namespace}" if node.flag else ""
        out.note(f"no triggers{of}; add one: faas trigger add FUNCTION --queue NAME, or --cron '0 6 * * *'")
        return
    now_s = time.time()
    rows = [
        [each["id"], each["function"], what(each), "on" if each["enabled"] else "paused", *_runs(each, now_s)]
        for each in found
    ]
    out.table(["ID", "FUNCTION", "WHAT", "STATE", "NEXT RUN", "LAST RUN"], rows)


@trigger.verb("faas trigger rm report.cron-3f2a91")
@id_argument
@json_option
@on_node
def rm(node: Node, id: str, as_json: bool) -> None:  # noqa: A002
    """Remove a trigger that was added.

    One that stands in a manifest goes when it is taken out there; it can be paused meanwhile.
    """
    node.call("DELETE", f"/v1/triggers/{escape(id)}")
    if as_json:
        out.emit_json({"id": id, "removed": True})
        return
    out.say(f"removed {id}")


@trigger.verb("faas trigger pause order-worker.orders")
@id_argument
@json_option
@on_node
def pause(node: Node, id: str, as_json: bool) -> None:  # noqa: A002
    """Pause a trigger, over deployments, until it is resumed.

    Messages wait in their queue; runs of a schedule that fall into the pause are left out.
    """
    _switched(node, id, False, as_json)


@trigger.verb("faas trigger resume order-worker.orders")
@id_argument
@json_option
@on_node
def resume(node: Node, id: str, as_json: bool) -> None:  # noqa: A002
    """Let a paused trigger go on."""
    _switched(node, id, True, as_json)


def _switched(node: Node, trigger_id: str, enabled: bool, as_json: bool) -> None:
    found = node.call("PATCH", f"/v1/triggers/{escape(trigger_id)}", value={"enabled": enabled})
    if as_json:
        out.emit_json(found)
        return
    out.say(f"{'resumed' if enabled else 'paused'} {trigger_id}")
    out.note(_outlook(found, time.time()))


# -- in words -------------------------------------------------------------------------------------------------------


def what(trigger: Mapping[str, Any]) -> str:
    """What wakes the function: ``queue orders (3 waiting)``, ``0 6 * * 1-5 Europe/Berlin {"job": "sweep"}``."""
    if trigger["kind"] == "queue":
        waiting = f" ({trigger['depth']} waiting)" if trigger["depth"] else ""
        return f"queue {trigger['queue']['name']}{waiting}{_fed(trigger.get('connector'))}"
    cron = trigger["cron"]
    parts = [cron["schedule"], cron["timezone"]]
    if cron.get("payload") is not None:
        parts.append(json.dumps(cron["payload"], ensure_ascii=False))
    written = " ".join(parts)
    return written if len(written) <= WHAT_CHARS_MAX else written[: WHAT_CHARS_MAX - 3] + "..."


def _fed(connector: Mapping[str, Any] | None) -> str:
    """
    >>> _fed({"source": "rabbit, queue orders", "state": "running"})
    ', fed from rabbit, queue orders: running'
    """
    return "" if connector is None else f", fed from {connector['source']}: {connector['state']}"


def _runs(trigger: Mapping[str, Any], now_s: float) -> Sequence[str]:
    """The next run and the last, on this machine's clock."""
    if trigger["kind"] == "queue":
        return "-", "-"
    following, last = trigger["next_run"], trigger["last_run"]
    return (moment(following, now_s) if following else "-", moment(last, now_s) if last else "never")


def _outlook(trigger: Mapping[str, Any], now_s: float) -> str:
    if not trigger["enabled"]:
        return f"it is paused; let it go on: faas trigger resume {trigger['id']}"
    if trigger["kind"] == "queue":
        depth, connector = trigger["depth"], trigger.get("connector") or {}
        waits = f"{depth} message{' waits' if depth == 1 else 's wait'}" if depth else "nothing waits in it now"
        return f"{waits}; {connector['error']}" if connector.get("error") else waits
    return f"next run {moment(trigger['next_run'], now_s)}" if trigger["next_run"] else "it has no next run"


def trigger_line(trigger: Mapping[str, Any]) -> str:
    """One trigger in a line, for `faas show`."""
    return f"{trigger['id']}  {what(trigger)}; {_outlook(trigger, time.time())}"


def moment(rfc3339: str, now_s: float) -> str:
    """A time on this machine's clock, as one would say it: ``today 14:05``, ``Mon 06:00``, ``2026-03-29 06:00``."""
    when, now = datetime.fromisoformat(rfc3339).astimezone(), datetime.fromtimestamp(now_s).astimezone()
    days = (when.date() - now.date()) / timedelta(days=1)
    names = {-1: "yesterday", 0: "today", 1: "tomorrow"}
    day = names.get(int(days)) or (f"{when:%a}" if 0 < days < 7 else f"{when:%Y-%m-%d}")
    return f"{day} {when:%H:%M}"
