"""Where an invocation's end is told: ``on_success`` and ``on_failure`` of a manifest.

What is sent is AWS Lambda's record of an asynchronous invocation (Lambda Developer Guide, "Capturing records of
asynchronous invocations"). A destination is a queue, a function (called asynchronously), or a URL: then it is a message
for the queue ``@webhooks``, which a worker posts. The ids of what is sent follow from the invocation, so sending again
after a crash changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from faas.model.hops import HOPS_MAX
from faas.model.invocation import Trigger
from faas.model.message import BODY_BYTES_MAX, WEBHOOKS, Message, QueueName, Send, calls_of

SUCCESS: Final = "Success"
EXHAUSTED: Final = "RetriesExhausted"
EXPIRED: Final = "EventAgeExceeded"
REFUSED: Final = "Refused"  # none of Lambda's: it could not be run at all
URL: Final = "url"  # attributes of a message in @webhooks
INVOCATION: Final = "invocation"
TYPE: Final = "application/json"
_ID: Final = re.compile(r"[0-9a-f]{32}\Z")
_TIME_DIGITS: Final = 12  # of an id, its first: Unix ms


@dataclass(frozen=True, slots=True)
class Ended:
    """An invocation that has ended for good. ``error`` is None after a success."""

    invocation_id: str
    namespace: str
    function: str
    version: int  # that ran last; 0 = none
    condition: str
    attempts: int
    ended_at_ms: int
    request: bytes
    request_type: str
    status: int = 200
    response: bytes = b""
    response_type: str = ""
    error: Mapping[str, Any] | None = None
    key_id: str = ""
    trace_parent: str = ""
    hops: int = 0


def sends_for(ended: Ended, on_success: str | None, on_failure: str | None) -> tuple[Send, ...]:
    """The messages that tell of it: none or one."""
    destination = on_success if ended.condition == SUCCESS else on_failure
    if not destination:
        return ()
    kind, _, name = destination.partition(":")
    if kind in ("queue", "function") and ended.hops > HOPS_MAX:
        return ()  # it was refused for ending a loop: its failure shall not be the next turn of that
    attributes: dict[str, str] = {}
    if kind == "queue":
        queue, trigger = QueueName(ended.namespace, name), Trigger.QUEUE
    elif kind == "function":
        queue, trigger = calls_of(ended.namespace, name), Trigger.ASYNC
    else:
        queue, trigger = QueueName(ended.namespace, WEBHOOKS), Trigger.QUEUE
        attributes = {URL: destination, INVOCATION: ended.invocation_id, "function": ended.function}
    message = Message(
        id=_derived_id(ended.invocation_id, destination),
        body=document(ended),
        content_type=TYPE,
        attributes=attributes,
        trigger=trigger,
        key_id=ended.key_id,
        trace_parent=ended.trace_parent,
        hops=ended.hops + 1,
    )
    return (Send(queue, message),)


def document(ended: Ended) -> bytes:
    """The event, in JSON. Payloads that would make it too large for a message are left out, and it says so."""
    at = datetime.fromtimestamp(ended.ended_at_ms / 1000, UTC)
    context: dict[str, Any] = {"statusCode": ended.status, "executedVersion": str(ended.version or "$LATEST")}
    answer = shown(ended.response, ended.response_type)
    if ended.error is not None:
        context["functionError"] = "Unhandled"
        lines = str(ended.error.get("traceback") or "").splitlines()
        answer = {
            "errorMessage": ended.error.get("message", ""),
            "errorType": ended.error.get("error_type") or ended.error.get("code", ""),
            "stackTrace": lines,
        }
    event: dict[str, Any] = {
        "version": "1.0",
        "timestamp": f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z",
        "requestContext": {
            "requestId": ended.invocation_id,
            "functionArn": f"arn:faas:{ended.namespace}:function:{ended.function}:{ended.version or '$LATEST'}",
            "condition": ended.condition,
            "approximateInvokeCount": ended.attempts,
        },
        "requestPayload": shown(ended.request, ended.request_type),
        "responseContext": context,
        "responsePayload": answer,
    }
    for payload in ("responsePayload", "requestPayload"):
        text = _json(event)
        if len(text) <= BODY_BYTES_MAX:
            return text
        event[payload] = None
        event["truncated"] = True
    return _json(event)


def shown(payload: bytes, content_type: str) -> Any:
    """A payload within JSON: its value if it is JSON, else text, else an object with base64.

    >>> shown(b'{"a": 1}', "application/json"), shown(b"hi", "text/plain"), shown(b"", "")
    ({'a': 1}, 'hi', None)
    """
    if not payload:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("", TYPE) or kind.endswith("+json"):
        try:
            return json.loads(payload, parse_constant=_no_number)
        except (ValueError, RecursionError):
            pass
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _json(event: Mapping[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _derived_id(invocation_id: str, destination: str) -> str:
    """In the form of invocation ids and of the same time, by which records are found."""
    digest = hashlib.sha256(f"{invocation_id}\0{destination}".encode()).hexdigest()
    time = invocation_id[:_TIME_DIGITS] if _ID.match(invocation_id) else ""
    return (time + digest)[:32]
