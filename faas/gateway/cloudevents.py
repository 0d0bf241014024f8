"""CloudEvents on their way through the gateway: requests as functions get them, replies as they go out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from faas.events.cloudevents import BATCH_TYPE, STRUCTURED_TYPE, Mode, Pairs, read, write
from faas.model.invocation import HttpRequest, Reply

_JSON = (b"content-type", b"application/json")


def taken(mode: Mode, pairs: Pairs, payload: bytes, http: HttpRequest | None) -> tuple[bytes, str, HttpRequest | None]:
    """Payload, content type and HTTP request of an invocation, in structured mode. Raises ``InvalidRequest``.

    A handler's event is the payload then. An app behind the HTTP trigger gets a request that carries the same event.
    """
    text = read(mode, pairs, payload)
    content_type = BATCH_TYPE if mode is Mode.BATCH else STRUCTURED_TYPE
    if http is not None:
        changed = ("content-type", "content-length", "transfer-encoding")
        kept = [(n, v) for n, v in http.headers if n not in changed and not n.startswith("ce-")]
        own = [("content-type", content_type), ("content-length", str(len(text)))]
        http = replace(http, headers=(*kept, *own))
    return text, content_type, http


def as_events(mode: Mode, reply: Reply) -> Reply:
    """A JSON reply that is an event, or a list of events, in the mode of its request; any other as it is."""
    if reply.stream is not None or reply.error is not None or not 200 <= reply.status <= 299:
        return reply
    if _JSON not in reply.headers:
        return reply
    response = write(mode, reply.payload, datetime.now(UTC).isoformat().replace("+00:00", "Z"))
    if response is None:
        return reply
    headers = (*(pair for pair in reply.headers if pair != _JSON), *response.headers)
    return replace(reply, headers=headers, payload=response.payload)
