"""Queues, as OpenAPI has them."""

from __future__ import annotations

from typing import Any, Final

from faas.gateway.openapi.words import (
    ANY,
    LIMIT,
    NAMESPACES,
    TEXT,
    TIME,
    WHOLE,
    json,
    list_of,
    operation,
    parameter,
    record,
    ref,
)
from faas.model.message import SEND_MAX

_NAME: Final = parameter("name", "path", "The queue's name.", {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"})
_CODES: Final = ("400", "401", "403", "404", "413", "503")
_FLAG: Final = {"type": "boolean"}


def paths() -> dict[str, Any]:
    shared = [_NAME, *NAMESPACES]
    message, stored = ref("Message"), ref("Sent")
    return {
        "/v1/queues": {
            "get": operation(
                "listQueues",
                "Queues by name: what each holds, and the triggers that take from it.",
                {"200": json(record({"queues": list_of(ref("Queue"))}))},
                parameters=NAMESPACES,
            )
        },
        "/v1/queues/{name}": {
            "parameters": shared,
            "get": operation("readQueue", "One queue, with its counters since ever.", {"200": json(ref("Queue"))}),
            "delete": operation(
                "deleteQueue",
                "Forget a queue and all it holds. Triggers that name it stay, and are told: they bring it back.",
                {"200": json(record({"name": TEXT, "deleted": _FLAG, "consumers": list_of(ref("Consumer"))}))},
                codes=_CODES,
            ),
        },
        "/v1/queues/{name}/messages": {
            "parameters": shared,
            "post": operation(
                "sendMessages",
                f"Send one message or up to {SEND_MAX}, all or none. Answered once they are stored. "
                "CloudEvents 1.0 are messages, too, in binary, structured or batched mode.",
                {"201": json({"oneOf": [stored, record({"messages": list_of(stored)})]}, "Stored.")},
                body=_body({"oneOf": [message, {**list_of(message), "minItems": 1, "maxItems": SEND_MAX}]}),
                codes=("400", "401", "403", "413", "503"),
            ),
            "get": operation(
                "peekMessages",
                "The next messages in order; none is taken.",
                {"200": json(record({"messages": list_of(ref("Held"))}))},
                parameters=[parameter("limit", "query", "How many at most; fewer when they are large.", WHOLE)],
            ),
        },
        "/v1/queues/{name}/dead": {
            "parameters": shared,
            "get": operation(
                "listDeadLetters",
                "Messages that were given up, oldest first.",
                {"200": json(record({"messages": list_of(ref("DeadLetter")), "next": {"type": ["string", "null"]}}))},
                parameters=[
                    LIMIT | {"description": "How many at most."},
                    parameter("after", "query", "`next` of the page before."),
                ],
            ),
        },
        **_putting_right(shared),
    }


def _putting_right(shared: list[dict[str, Any]]) -> dict[str, Any]:
    redrive = {
        "ids": {**list_of(TEXT), "description": "These; without it, all."},
        "all": {**_FLAG, "description": "All, said aloud."},
        "limit": {"type": "integer", "minimum": 1, "description": "How many at most, the oldest."},
        "rate": {"type": "number", "exclusiveMinimum": 0, "description": "So many a second, whoever stays to watch."},
    }
    purge = {"dead": {**_FLAG, "description": "The dead letters, instead of those that wait."}}
    return {
        "/v1/queues/{name}/redrive": {
            "parameters": shared,
            "post": operation(
                "redriveQueue",
                "Put dead letters back into the queue as if they had just been sent.",
                {"200": json(record({"redriven": WHOLE}))},
                body=_body(record(redrive, ()), required=False),
                codes=_CODES,
            ),
        },
        "/v1/queues/{name}/purge": {
            "parameters": shared,
            "post": operation(
                "purgeQueue",
                "Forget the messages that wait, or the dead letters. Those in flight are run to their end.",
                {"200": json(record({"purged": WHOLE}))},
                body=_body(record(purge, ()), required=False),
                codes=_CODES,
            ),
        },
    }


def schemas() -> dict[str, Any]:
    texts = {"type": "object", "additionalProperties": TEXT}
    message = {
        "body": {**ANY, "description": "A string is stored as it is, any other JSON value as its text."},
        "attributes": texts,
        "delay": {"type": ["string", "number"], "description": "`10s`, or seconds; at most 7 days."},
        "dedup_id": {**TEXT, "description": "A second message of the same id within 5 minutes is not stored."},
        "group": {**TEXT, "description": "Order is kept among the messages of one group."},
    }
    held = {
        "id": TEXT, "body": TEXT, "body_base64": {**TEXT, "description": "Instead of `body`, of what is no text."},
        "content_type": TEXT, "attributes": texts, "group": TEXT, "dedup_id": TEXT, "attempts": WHOLE,
        "error": {**TEXT, "description": "Why the attempt before failed."}, "sent_at": TIME,
    }  # fmt: skip
    always = tuple(name for name in held if not name.startswith("body"))
    state = {
        "name": TEXT, "namespace": TEXT, "depth": {**WHOLE, "description": "All that still has to be handled."},
        "ready": WHOLE, "delayed": WHOLE, "waiting": {**WHOLE, "description": "Behind another of their group."},
        "in_flight": WHOLE, "dead": WHOLE, "oldest_seconds": {"type": "number"},
        "consumers": list_of(ref("Consumer")),
    }  # fmt: skip
    counts = {"type": "object", "additionalProperties": WHOLE, "description": "Since ever; of a single queue alone."}
    return {
        "Message": {**record(message, ("body",)), "additionalProperties": False},
        "Sent": record({"id": TEXT, "duplicate": {**_FLAG, "description": "`id` is that of the first."}}, ("id",)),
        "Held": record(held, always),
        "DeadLetter": record({**held, "reason": TEXT, "died_at": TIME}, (*always, "reason", "died_at")),
        "Consumer": record({"trigger": TEXT, "function": TEXT, "enabled": _FLAG}),
        "Queue": record({**state, "counts": counts}, tuple(state)),
    }


def _body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}
