"""What the destinations of a queue trigger's function are told: one event per message that has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from faas.events.destinations import EXHAUSTED, EXPIRED, SUCCESS, sends_for
from faas.events.destinations import Ended as Told
from faas.model.message import Delivery, Send
from faas.triggers.queue_work import Ended

_NS_PER_MS: Final = 1_000_000


class UnixTime(Protocol):
    def unix_ns(self) -> int: ...


def told(clock: UnixTime, ended: Ended) -> Sequence[Send]:
    """By ids that follow from the messages', so that a batch which is settled twice tells it once."""
    now_ms = clock.unix_ns() // _NS_PER_MS
    manifest = ended.version.manifest
    return [
        send
        for delivery in ended.deliveries
        for send in sends_for(_event(ended, delivery, now_ms), manifest.on_success, manifest.on_failure)
    ]


def _event(ended: Ended, delivery: Delivery, now_ms: int) -> Told:
    message, version = delivery.message, ended.version
    exhausted = delivery.attempt >= version.manifest.retry.attempts
    failure = EXHAUSTED if exhausted else EXPIRED
    return Told(
        invocation_id=message.id,
        namespace=version.namespace,
        function=version.name,
        version=version.version,
        condition=failure if ended.reason else SUCCESS,
        attempts=delivery.attempt,
        ended_at_ms=now_ms,
        request=message.body,
        request_type=message.content_type,
        response=ended.response,
        response_type="application/json",
        error={"code": "function-error", "message": ended.reason} if ended.reason else None,
        key_id=message.key_id,
        trace_parent=message.trace_parent,
        hops=message.hops,
    )
