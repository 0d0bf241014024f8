"""Invocations and calls that nobody waits for, as OpenAPI has them."""

from __future__ import annotations

from typing import Any, Final

from faas.gateway.openapi.words import (
    ANY,
    FREE,
    NAMESPACES,
    TEXT,
    TIME,
    json,
    list_of,
    operation,
    parameter,
    record,
    ref,
)

_STATES: Final = ["queued", "running", "retrying", "succeeded", "failed", "cancelled"]
LATER: Final[dict[str, Any]] = {
    "state": {**TEXT, "enum": _STATES, "description": "Of a call that nobody waited for: how far it is."},
    "created_at": TIME,
    "ended_at": {"type": ["string", "null"]},
    "retry_at": {"type": ["string", "null"]},
    "reason": {**TEXT, "description": "Why it is not tried again."},
    "attempts": list_of(FREE),
    "result": {"description": "What it returned: JSON, or text."},
    "result_base64": {**TEXT, "description": "What it returned, where that is bytes."},
    "deliveries": {**FREE, "description": "What became of telling its https destinations, by URL."},
}
ACCEPTED: Final = {
    "description": "With `Prefer: respond-async`: it is stored and will run.",
    "headers": {
        "Location": {"description": "Its record.", "schema": TEXT},
        "Preference-Applied": {"description": "`respond-async`.", "schema": TEXT},
    },
    "content": json(record({"id": TEXT, "status": TEXT}))["content"],
}
_ID: Final = parameter("id", "path", "The invocation's id.")
_WAIT: Final = parameter(
    "wait", "query", "Answer once it has ended, or after so long, at most 60 s: `30s`. For calls that nobody waits for."
)
_CODES: Final = ("400", "401", "403", "404", "409", "503")


def paths() -> dict[str, Any]:
    returned = {"description": "What the function returned, as it is.", "content": {"*/*": {"schema": ANY}}}
    secret = record({"namespace": TEXT, "secret": TEXT})
    return {
        "/v1/invocations/{id}": {
            "parameters": [_ID, *NAMESPACES],
            "get": operation(
                "readInvocation",
                "The record of one invocation; of a call that nobody waited for with its state and result.",
                {"200": json(ref("Invocation"))},
                parameters=[_WAIT],
            ),
            "delete": operation(
                "cancelInvocation",
                "Cancel a call that nobody waits for: queued it never runs, running it is stopped.",
                {"200": json(ref("Invocation"))},
                codes=_CODES,
            ),
        },
        "/v1/invocations/{id}/result": {
            "get": operation(
                "readResult",
                "What a call that nobody waited for returned, as its caller would have got it, errors too.",
                {"200": returned, "202": {**ACCEPTED, "description": "It has not ended."}},
                parameters=[_ID, _WAIT, *NAMESPACES],
                codes=(*_CODES, "500", "502", "504"),
            )
        },
        "/v1/webhooks/secret": {
            "get": operation(
                "readWebhookSecret",
                "What deliveries to the https destinations of a namespace are signed with (Standard Webhooks).",
                {"200": json(secret)},
                parameters=NAMESPACES,
            )
        },
    }
