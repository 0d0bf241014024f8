"""Triggers, as OpenAPI has them."""

from __future__ import annotations

from typing import Any, Final

from faas.gateway.openapi.words import (
    ANY,
    NAMESPACES,
    TEXT,
    WHOLE,
    WRITE_CODES,
    json,
    list_of,
    operation,
    parameter,
    record,
    ref,
)

_FLAG: Final = {"type": "boolean"}
_DURATION: Final = {"type": ["string", "number"], "description": "`30s`, or seconds."}
_TIME: Final = {"type": ["string", "null"], "format": "date-time"}


def paths() -> dict[str, Any]:
    one = json(ref("Trigger"))
    added = {"function": TEXT, "queue": ref("QueueSettings"), "cron": ref("CronSettings"), "enabled": _FLAG}
    return {
        "/v1/triggers": {
            "parameters": NAMESPACES,
            "get": operation(
                "listTriggers",
                "Queue and cron triggers, of manifests and added ones, by id.",
                {"200": json(record({"triggers": list_of(ref("Trigger"))}))},
                parameters=[
                    parameter("function", "query", "Of this function."),
                    parameter("kind", "query", "Of this kind.", {"enum": ["queue", "cron"]}),
                ],
            ),
            "post": operation(
                "addTrigger",
                "Add a trigger beside those of the function's manifest: a queue or a schedule.",
                {"201": one},
                body=_body(record(added, ("function",))),
                codes=WRITE_CODES,
            ),
        },
        "/v1/triggers/{id}": {
            "parameters": [parameter("id", "path", "As the list shows."), *NAMESPACES],
            "get": operation("readTrigger", "One trigger.", {"200": one}),
            "patch": operation(
                "pauseTrigger",
                "Pause or resume it, over deployments, until it is said otherwise or the function is deleted.",
                {"200": one},
                body=_body(record({"enabled": _FLAG})),
                codes=WRITE_CODES,
            ),
            "delete": operation(
                "deleteTrigger",
                "Take away one that was added. One of a manifest is a conflict: change the manifest, or pause it.",
                {"204": {"description": "Gone."}},
                codes=("400", "401", "403", "404", "409", "503"),
            ),
        },
    }


def schemas() -> dict[str, Any]:
    queue = {
        "name": TEXT, "batch": WHOLE, "window": _DURATION, "max_concurrency": WHOLE, "lease": _DURATION,
        "filter": {**ANY, "description": "An EventBridge pattern; the function is woken only for what it matches."},
    }  # fmt: skip
    cron = {
        "schedule": {**TEXT, "description": "Five fields: minute hour day month weekday."},
        "timezone": TEXT,
        "payload": {**ANY, "description": "The event; without it, EventBridge's Scheduled Event."},
        "missed": {"enum": ["skip", "once"]},
        "jitter": {**_DURATION, "description": "Each run begins so much later at most, at random."},
    }
    trigger = {
        "id": TEXT, "namespace": TEXT, "function": TEXT, "kind": {"enum": ["queue", "cron"]}, "enabled": _FLAG,
        "source": {"enum": ["manifest", "added"]}, "queue": ref("QueueSettings"), "cron": ref("CronSettings"),
        "depth": {**WHOLE, "description": "Of a queue: all that still has to be handled."},
        "next_run": {**_TIME, "description": "Of a schedule, with its zone's offset; null while it is paused."},
        "last_run": {**_TIME, "description": "Of a schedule: the last time for which it ran."},
    }  # fmt: skip
    return {
        "QueueSettings": record(queue, ("name",)),
        "CronSettings": record(cron, ("schedule",)),
        "Trigger": record(trigger, ("id", "namespace", "function", "kind", "enabled", "source")),
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}
