"""What a queue's handler gets, and what its answer means: as AWS Lambda does with SQS.

An event is ``{"Records": [...]}`` with a record per message (AWS Lambda Developer Guide, "Using Lambda with Amazon
SQS"), put together as bytes: what is the same for all messages of a batch is written once, and a body is escaped, not
parsed. A handler answers with nothing (all done) or ``{"batchItemFailures": [{"itemIdentifier": messageId}]}``.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from hashlib import md5
from json.encoder import encode_basestring
from typing import Final, NamedTuple

from faas.model.message import Delivery, Message, QueueName

REGION: Final = "local"
_HEAD: Final = b'{"Records":['
_TAIL: Final = b"]}"
ENVELOPE_BYTES: Final = len(_HEAD) + len(_TAIL)
_IDS_SHOWN: Final = 3
_NOTHING: Final = frozenset({b"", b"null", b"{}"})
_escaped = encode_basestring


def arn(queue: QueueName) -> str:
    """
    >>> arn(QueueName("default", "orders"))
    'arn:faas:default:queue:orders'
    """
    return f"arn:faas:{queue.namespace}:queue:{queue.name}"


def body_text(body: bytes) -> str:
    """A record's body: always a string. A body that was a JSON string is that string; other JSON is its own text.

    Bytes that are not UTF-8 have the replacement character in their place.

    >>> body_text(b'"plain"'), body_text(b'{"a":1}')
    ('plain', '{"a":1}')
    """
    text = body.decode("utf-8", "replace")
    if text.startswith('"'):
        try:
            found = json.loads(text)
        except ValueError:
            return text
        if isinstance(found, str):
            return found
    return text


def body_of(message: Message) -> str:
    """What a record of the message has as its body."""
    if message.content_type.startswith("application/json"):
        return body_text(message.body)
    return message.body.decode("utf-8", "replace")


def record(delivery: Delivery, source: str) -> bytes:
    """One message as SQS shows it, in JSON. ``source`` is the ``source_of`` its queue."""
    message = delivery.message
    text = body_of(message)
    encoded = text.encode("utf-8", "replace")
    more = ""
    if message.group:
        more += f',"MessageGroupId":{_escaped(message.group)}'
    if message.dedup_id:
        more += f',"MessageDeduplicationId":{_escaped(message.dedup_id)}'
    if message.trace_parent:
        more += f',"AWSTraceHeader":{_escaped(message.trace_parent)}'
    shown = ",".join(
        f'{_escaped(name)}:{{"stringValue":{_escaped(value)},"dataType":"String"}}'
        for name, value in message.attributes.items()
    )
    return (
        f'{{"messageId":{_escaped(message.id)},"receiptHandle":{_escaped(delivery.receipt)},"body":{_escaped(text)},'
        f'"attributes":{{"ApproximateReceiveCount":"{delivery.attempt}","SentTimestamp":"{delivery.sent_at_ms}",'
        f'"SenderId":{_escaped(message.key_id or "faas")},'
        f'"ApproximateFirstReceiveTimestamp":"{delivery.first_taken_at_ms or delivery.sent_at_ms}"{more}}},'
        f'"messageAttributes":{{{shown}}},"md5OfBody":"{md5(encoded, usedforsecurity=False).hexdigest()}",{source}}}'
    ).encode("utf-8", "replace")


def source_of(queue: QueueName) -> str:
    """What is the same in all records of a queue."""
    return f'"eventSource":"faas:queue","eventSourceARN":{_escaped(arn(queue))},"awsRegion":"{REGION}"'


class Event(NamedTuple):
    """One invocation's payload, and the messages in it."""

    payload: bytes
    deliveries: Sequence[Delivery]


def events(queue: QueueName, batch: Iterable[Delivery], bytes_max: int) -> tuple[list[Event], list[Delivery]]:
    """The batch as events of at most ``bytes_max``, one if it fits, in order; and messages too large for any."""
    source = source_of(queue)
    made: list[Event] = []
    oversized: list[Delivery] = []
    records: list[bytes] = []
    members: list[Delivery] = []
    size = ENVELOPE_BYTES
    for delivery in batch:
        text = record(delivery, source)
        if ENVELOPE_BYTES + len(text) > bytes_max:
            oversized.append(delivery)
            continue
        if records and size + 1 + len(text) > bytes_max:
            made.append(_event(records, members))
            records, members, size = [], [], ENVELOPE_BYTES
        size += len(text) + bool(records)
        records.append(text)
        members.append(delivery)
    if records:
        made.append(_event(records, members))
    return made, oversized


def _event(records: list[bytes], members: list[Delivery]) -> Event:
    return Event(_HEAD + b",".join(records) + _TAIL, members)


class Failures(NamedTuple):
    """``reason`` "" = the answer was understood, and ``ids`` failed; else it was not, and the whole batch failed."""

    ids: frozenset[str]
    reason: str = ""


def failures(answer: bytes, sent: Collection[str]) -> Failures:
    """What a handler's answer says about the messages with the ids ``sent``.

    As Lambda: nothing, ``null`` and an empty or null list mean that all are done; so does any answer that does not
    speak of ``batchItemFailures``. One that does and makes no sense fails the whole batch.

    >>> failures(b'{"batchItemFailures": [{"itemIdentifier": "a"}]}', {"a", "b"})
    Failures(ids=frozenset({'a'}), reason='')
    """
    if answer in _NOTHING or b"batchItemFailures" not in answer:
        return Failures(frozenset())
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        return _nonsense("it speaks of batchItemFailures but is no JSON")
    if not isinstance(value, dict):
        return _nonsense('it speaks of batchItemFailures but is no object such as {"batchItemFailures": [...]}')
    items = value.get("batchItemFailures")
    if items is None:
        return Failures(frozenset())
    if not isinstance(items, list):
        return _nonsense("batchItemFailures is not a list")
    found: set[str] = set()
    for item in items:
        name = item.get("itemIdentifier") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name:
            return _nonsense('batchItemFailures holds something other than {"itemIdentifier": messageId}')
        found.add(name)
    unknown = sorted(found.difference(sent))
    if unknown:
        shown = ", ".join(name[:64] for name in unknown[:_IDS_SHOWN])
        return _nonsense(f"batchItemFailures names messages that were not in the batch: {shown}")
    return Failures(frozenset(found))


def _nonsense(reason: str) -> Failures:
    return Failures(frozenset(), f"the handler's answer makes no sense, so the whole batch counts as failed: {reason}")
