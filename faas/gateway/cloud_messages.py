"""CloudEvents sent to a queue: a message for each, whose body is the structured event."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from faas.events.cloudevents import STRUCTURED_TYPE, Mode, attributes_of, mode_of, read
from faas.gateway.body import too_large
from faas.gateway.messages import Asked, Headers, Reader, Sender
from faas.model.errors import InvalidRequest
from faas.model.message import BODY_BYTES_MAX, SEND_MAX, Message


def events_reader(headers: Headers) -> Reader | None:
    """None for a request that carries no CloudEvents. Raises ``InvalidRequest`` for a format that is not read."""
    mode = mode_of(headers)
    return None if mode is None else partial(_read, mode)


def _read(mode: Mode, raw: bytes, headers: Headers, sender: Sender) -> Asked:
    """The event's attributes are the message's, as texts. Raises ``InvalidRequest``, ``PayloadTooLarge``."""
    text = read(mode, list(headers.items()), raw)
    value = json.loads(text)
    if mode is not Mode.BATCH:
        return Asked([_message(value, text, sender)], many=False)
    if not 0 < len(value) <= SEND_MAX:
        raise InvalidRequest(f"A batch has from 1 to {SEND_MAX} events, this one {len(value)}; send it in parts.")
    try:
        texts = [json.dumps(event, allow_nan=False).encode() for event in value]
    except ValueError:
        raise InvalidRequest("The batch holds a number that is too large.") from None
    return Asked([_message(event, each, sender) for event, each in zip(value, texts, strict=True)], many=True)


def _message(event: dict[str, Any], text: bytes, sender: Sender) -> Message:
    if len(text) > BODY_BYTES_MAX:
        raise too_large(BODY_BYTES_MAX)
    return Message(
        sender.new_id(),
        text,
        STRUCTURED_TYPE,
        attributes_of(event),
        key_id=sender.key_id,
        trace_parent=sender.trace_parent,
        hops=sender.hops,
    )
