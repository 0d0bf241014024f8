"""The packed form of a message's data: what a queue's scripts store and hand back unread.

data = msgpack array of the fields of a message, in the order of ``_FIELDS``. Id and group stand in the record's header
(``lua/queue.lua``), because the scripts need them. Fields are only ever added at the end: a reader takes the default
for those that an older writer lacked, and leaves what a newer one added.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from faas.model.invocation import Trigger
from faas.model.message import Message

_FIELDS: Final = (
    "body",
    "content_type",
    "attributes",
    "dedup_id",
    "delay_ms",
    "trigger",
    "qualifier",
    "key_id",
    "trace_parent",
    "hops",
)
_TRIGGERS: Final = {trigger.value: trigger for trigger in Trigger}


class Stored(NamedTuple):
    """A record as the scripts keep it."""

    message: Message
    tries: int  # how often it was handed out
    sent_at_ms: int
    first_taken_at_ms: int
    error: str


def pack_message(message: Message) -> bytes:
    """Odd text (lone surrogates) becomes ``?``."""
    fields = [getattr(message, name) for name in _FIELDS]
    packed: bytes = msgpack.packb(fields, default=dict, use_bin_type=True, unicode_errors="replace")
    return packed


def unpack_all(text: bytes) -> list[Any]:
    """The msgpack objects of which a text is made. Raises ``ValueError`` where it is none."""
    try:
        unpacker = msgpack.Unpacker(raw=False, unicode_errors="replace", max_buffer_size=0)
        unpacker.feed(text)
        return list(unpacker)
    except (msgpack.UnpackException, ValueError) as error:
        raise ValueError(f"this was not stored by a queue ({error})") from error


def unpack_stored(header: Any, data: Any) -> Stored:
    """From the two objects of a record. Raises ``ValueError`` on others."""
    try:
        message_id, group, tries, sent_at_ms, _, first_taken_at_ms, error = header[:7]
        body, content_type, attributes, dedup_id, delay_ms, trigger, *more = data[: len(_FIELDS)]
        # By place, not by name: that takes half as long, and every message passes here.
        message = Message(
            message_id, body, content_type, attributes, group, dedup_id, delay_ms, _TRIGGERS[trigger], *more
        )
        return Stored(message, tries, sent_at_ms, first_taken_at_ms, error)
    except (ValueError, TypeError, KeyError) as problem:
        raise ValueError(f"this is no record of a message ({problem!r})") from problem
