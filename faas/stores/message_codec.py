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
    fields = [getattr(message, name) for name in _FIELDS]
    packed: bytes = msgpack.packb(fields, default=dict, use_bin_type=True, unicode_errors="replace")
    return packed


def unpack_record(record: bytes) -> Stored:
    """Raises ``ValueError`` on what is no record."""
    try:
        header, data = msgpack.unpackb(_RECORD + record, raw=False, unicode_errors="replace")
        message_id, group, tries, sent_ms, _, first_ms, error = header[:7]
        fields: dict[str, Any] = dict(zip(_FIELDS, data, strict=False))
        fields["trigger"] = _TRIGGERS[fields["trigger"]]
        return Stored(Message(message_id, group=group, **fields), tries, sent_ms, first_ms, error)
    except (msgpack.UnpackException, ValueError, TypeError, KeyError) as problem:
        raise ValueError(f"this is no record of a message ({problem})") from problem
