"""The packed form of a message's data: what a queue's scripts store and hand back unread.

data = msgpack array: body, content type, attributes, dedup id, ms delayed, trigger, qualifier, key id, trace parent, hops

Id and group stand in the record's header (``lua/queue.lua``), because the scripts need them. Fields are only ever added
at the end: a reader takes the default for those an older writer lacked, and leaves what a newer one added.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack  # type: ignore[import-untyped]

from faas.model.invocation import Trigger
from faas.model.message import Message

_RECORD: Final = b"\x92"  # a record is two objects, header and data: read as the array of both


class Stored(NamedTuple):
    """A record as the scripts keep it."""

    message: Message
    tries: int  # how often it was handed out
    sent_at_ms: int
    first_taken_at_ms: int
    error: str


def pack_message(message: Message) -> bytes:
    """Odd text (lone surrogates) becomes ``?``."""
    fields = (
        message.body,
        message.content_type,
        dict(message.attributes),
        message.dedup_id,
        message.delay_ms,
        message.trigger.value,
        message.qualifier,
        message.key_id,
        message.trace_parent,
        message.hops,
    )
    packed: bytes = msgpack.packb(fields, use_bin_type=True, unicode_errors="replace")
    return packed


def unpack_record(record: bytes) -> Stored:
    """Raises ``ValueError`` on what is no record."""
    try:
        header, data = msgpack.unpackb(_RECORD + record, raw=False, unicode_errors="replace")
        message_id, group, tries, sent_ms, _, first_ms, error = header[:7]
        return Stored(_message(message_id, group, data), tries, sent_ms, first_ms, error)
    except (msgpack.UnpackException, ValueError, TypeError, IndexError) as problem:
        raise ValueError(f"this is no record of a message ({problem})") from problem


def _message(message_id: str, group: str, data: list[Any]) -> Message:
    body, content_type, attributes, dedup_id, delay_ms, trigger, qualifier, key_id, trace_parent, hops = data[:10]
    return Message(
        id=message_id,
        body=body,
        content_type=content_type,
        attributes=attributes,
        group=group,
        dedup_id=dedup_id,
        delay_ms=delay_ms,
        trigger=Trigger(trigger),
        qualifier=qualifier,
        key_id=key_id,
        trace_parent=trace_parent,
        hops=hops,
    )
