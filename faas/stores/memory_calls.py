"""The in-memory twin of the store of asynchronous calls."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from typing import Any

from faas.model.call import CallRecord, CallStatus, Response
from faas.model.message import Delivery, Message

_ANY = ("*", "*")
_OPEN = frozenset({CallStatus.QUEUED, CallStatus.RUNNING, CallStatus.RETRYING})


class MemoryCalls:
    """``CallStore``. Nothing is given up for want of room."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._calls: dict[tuple[str, str], CallRecord] = {}
        self._listening: dict[str, builtins.list[asyncio.Queue[tuple[str, str]]]] = {}

    async def queued(self, namespace: str, function: str, message: Message) -> None:
        self._calls.setdefault((namespace, message.id), self._new(namespace, function, message))

    async def begin(self, namespace: str, function: str, delivery: Delivery, version: int, node: str) -> CallStatus:
        message = delivery.message
        known = self._calls.get((namespace, message.id)) or self._new(namespace, function, message)
        if known.status.final:
            return known.status
        begun = replace(known, version=version, node=node, attempts=delivery.attempt, retry_at_ms=0)
        begun = replace(begun, created_at_ms=delivery.sent_at_ms, started_at_ms=self._now_ms())
        self._calls[namespace, message.id] = replace(begun, status=CallStatus.RUNNING)
        return CallStatus.RUNNING

    async def put_back(
        self, namespace: str, call_id: str, error: Mapping[str, Any] | None, delay_ms: int, attempts: int
    ) -> None:
        known = self._calls.get((namespace, call_id))
        if known is None or known.status is not CallStatus.RUNNING:
            return
        status = CallStatus.RETRYING if attempts else CallStatus.QUEUED
        again_ms = self._now_ms() + delay_ms if attempts else 0
        changed = replace(known, status=status, attempts=attempts, retry_at_ms=again_ms)
        self._calls[namespace, call_id] = replace(changed, error=error) if error is not None else changed

    async def succeed(self, namespace: str, call_id: str, response: Response) -> CallStatus:
        return self._end(namespace, call_id, CallStatus.SUCCEEDED, response=response)

    async def fail(
        self, namespace: str, function: str, call_id: str, error: Mapping[str, Any], reason: str
    ) -> CallStatus:
        new = CallRecord(call_id, namespace, function, created_at_ms=self._now_ms())
        self._calls.setdefault((namespace, call_id), new)
        return self._end(namespace, call_id, CallStatus.FAILED, error=error, reason=reason)

    async def cancel(self, namespace: str, call_id: str) -> CallStatus | None:
        known = self._calls.get((namespace, call_id))
        if known is not None and known.status in _OPEN:
            self._end(namespace, call_id, CallStatus.CANCELLED)
            self._ring("cancelled", (namespace, call_id))
        return known.status if known is not None else None

    async def delivered(self, namespace: str, call_id: str, url: str, outcome: str) -> None:
        known = self._calls.get((namespace, call_id))
        if known is not None:
            told = {**known.deliveries, url: outcome}
            self._calls[namespace, call_id] = replace(known, deliveries=told)

    async def get(self, namespace: str, call_id: str) -> CallRecord | None:
        return self._calls.get((namespace, call_id))

    async def open(self, namespace: str, function: str, limit: int) -> builtins.list[CallRecord]:
        calls = [each for each in self._calls.values() if (each.namespace, each.function) == (namespace, function)]
        found = [each for each in calls if each.status in _OPEN]
        return sorted(found, key=lambda each: (each.created_at_ms, each.id), reverse=True)[:limit]

    async def bells(self, what: str) -> AsyncIterator[tuple[str, str]]:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._listening.setdefault(what, []).append(heard)
        try:
            yield _ANY
            while True:
                yield await heard.get()
        finally:
            self._listening[what].remove(heard)

    def _new(self, namespace: str, function: str, message: Message) -> CallRecord:
        return CallRecord(
            message.id,
            namespace,
            function,
            trigger=message.trigger,
            qualifier=message.qualifier,
            key_id=message.key_id,
            trace_parent=message.trace_parent,
            created_at_ms=self._now_ms(),
        )

    def _end(self, namespace: str, call_id: str, status: CallStatus, **more: Any) -> CallStatus:
        known = self._calls.get((namespace, call_id))
        if known is None:
            return CallStatus.CANCELLED
        if known.status.final:
            return known.status
        self._calls[namespace, call_id] = replace(known, status=status, ended_at_ms=self._now_ms(), **more)
        self._ring("ended", (namespace, call_id))
        return status

    def _ring(self, what: str, key: tuple[str, str]) -> None:
        for heard in self._listening.get(what, ()):
            heard.put_nowait(key)
