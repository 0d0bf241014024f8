"""What a pump needs of a foreign system, and what the adapters of all of them share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

from faas.invoker.ids import new_id
from faas.model.manifest import QueueSource
from faas.model.message import Message

FETCH_WAIT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 10.0


class SourceFailed(Exception):
    """The foreign system is away, or refuses what we want of it; in words for its operator."""


class Foreign(NamedTuple):
    """A message that was handed out to us: as ours, and what the foreign system knows it by."""

    message: Message
    token: Any


class Source(Protocol):
    """One place in a foreign system. All raise ``SourceFailed``, after which only ``close`` makes sense."""

    async def open(self) -> None:
        """Connect. What was handed out before and never acknowledged is handed out again sooner or later."""

    async def fetch(self, count: int) -> Sequence[Foreign]:
        """Up to ``count``, in order; waits up to ``FETCH_WAIT_S`` for the first one. They are ours until ``close``."""

    async def done(self, taken: Sequence[Foreign]) -> None:
        """Acknowledge: they are stored with us."""

    async def refuse(self, foreign: Foreign) -> None:
        """It can't be stored: leave it there, unacknowledged, and go on with others."""

    async def close(self) -> None:
        """Give back what was not acknowledged, and disconnect. Raises nothing."""


def message_of(
    source: QueueSource,
    body: bytes,
    attributes: Mapping[str, str],
    *,
    content_type: str = "",
    stable: Sequence[str | bytes] = (),
) -> Message:
    """Ours. ``stable`` is what is the same when the foreign system hands out the same message again, and only then.

    A body whose type nobody tells is text if it is UTF-8: it reaches the handler as it is.
    """
    return Message(
        id=new_id(),
        body=body,
        content_type=content_type or ("text/plain; charset=utf-8" if _is_text(body) else "application/octet-stream"),
        attributes=attributes,
        group=attributes.get(source.group_by, "") if source.group_by else "",
        dedup_id=digest(source.connection, *stable) if stable else "",
        trace_parent=attributes.get("traceparent", ""),
    )


def digest(*parts: str | bytes) -> str:
    """32 hex characters that stand for these parts."""
    hashed = sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        hashed.update(len(raw).to_bytes(8, "big") + raw)
    return hashed.hexdigest()[:32]


def text_of(value: object) -> str:
    """A header's value as text.

    >>> text_of(b"a"), text_of(True), text_of(3), text_of({"a": [1]})
    ('a', 'true', '3', '{"a": [1]}')
    """
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float | dict | list) or value is None:
        return json.dumps(value, default=text_of)
    return str(value)


def _is_text(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
