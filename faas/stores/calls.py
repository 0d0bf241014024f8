"""Asynchronous calls and what came of them, in Redis. ``change_call.lua`` names every key.

What is kept is bounded: each call for a time, of a function so many that have ended, and so many bytes of results, of
which the oldest are given up first.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from faas.model.call import CallRecord, CallStatus, Response
from faas.model.invocation import Trigger
from faas.model.message import Delivery, Message
from faas.stores.redis_client import Client, ask, edge, script, subscription

KEEP_MS: Final = 7 * 24 * 3_600_000
ENDED_MAX: Final = 100_000  # of a function
RESULT_BYTES_MAX: Final = 64 * 2**20  # of a function
ANY: Final = ("*", "*")
_DELIVERY: Final = "to:"  # fields of deliveries begin with it
_NUMBERS: Final = ("version", "attempts", "created_at_ms", "started_at_ms", "ended_at_ms", "retry_at_ms")
_TEXTS: Final = ("qualifier", "key_id", "trace_parent", "node", "reason")


class RedisCalls:
    """``CallStore``."""

    def __init__(
        self,
        client: Client,
        *,
        keep_ms: int = KEEP_MS,
        ended_max: int = ENDED_MAX,
        result_bytes_max: int = RESULT_BYTES_MAX,
    ) -> None:
        self._client = client
        self._change = script(client, "change_call")
        self._limits = keep_ms, ended_max, result_bytes_max

    async def queued(self, namespace: str, function: str, message: Message) -> None:
        await self._step("accept", namespace, message.id, function, _about(message))

    async def begin(self, namespace: str, function: str, delivery: Delivery, version: int, node: str) -> CallStatus:
        fields = {
            **_about(delivery.message),
            "created_at_ms": delivery.sent_at_ms,
            "version": version,
            "node": node,
            "attempts": delivery.attempt,
        }
        return (await self._step("begin", namespace, delivery.message.id, function, fields))[1]

    async def put_back(
        self, namespace: str, call_id: str, error: Mapping[str, Any] | None, delay_ms: int, attempts: int
    ) -> None:
        fields: dict[str, Any] = {"attempts": attempts}
        if error is not None:
            fields["error"] = json.dumps(error)
        if attempts:
            fields["retry_at_ms"] = delay_ms
        await self._step("retry" if attempts else "release", namespace, call_id, "", fields)

    async def succeed(self, namespace: str, call_id: str, response: Response) -> CallStatus:
        packed = msgpack.packb([response.status, response.headers, response.payload])
        return (await self._step("succeed", namespace, call_id, "", {"response": packed}))[1]

    async def fail(
        self, namespace: str, function: str, call_id: str, error: Mapping[str, Any], reason: str
    ) -> CallStatus:
        fields = {"error": json.dumps(error), "reason": reason}
        return (await self._step("fail", namespace, call_id, function, fields))[1]

    async def cancel(self, namespace: str, call_id: str) -> CallStatus | None:
        return (await self._step("cancel", namespace, call_id, "", {}))[0]

    async def delivered(self, namespace: str, call_id: str, url: str, outcome: str) -> None:
        key = _key(namespace, call_id)
        if await ask(self._client.exists(key)):  # what has expired meanwhile shall not come back without an end
            await ask(self._client.hset(key, _DELIVERY + url, outcome))
            await ask(self._client.pexpire(key, self._limits[0], nx=True))

    async def get(self, namespace: str, call_id: str) -> CallRecord | None:
        return _record(namespace, call_id, await ask(self._client.hgetall(_key(namespace, call_id))))

    async def open(self, namespace: str, function: str, limit: int) -> builtins.list[CallRecord]:
        ids = await ask(self._client.zrevrange(f"faas:calls:{namespace}/{function}:open", 0, limit - 1))
        with edge():
            async with self._client.pipeline(transaction=False) as pipeline:
                for call_id in ids:
                    pipeline.hgetall(_key(namespace, call_id.decode()))
                found = await pipeline.execute()
        records = [_record(namespace, i.decode(), fields) for i, fields in zip(ids, found, strict=True)]
        return [record for record in records if record is not None and not record.status.final]

    async def bells(self, what: str) -> AsyncIterator[tuple[str, str]]:
        async with aclosing(subscription(self._client, f"faas:calls:{what}")) as heard:
            async for said in heard:
                namespace, _, call_id = said.decode().partition("/")
                yield (namespace, call_id) if said else ANY

    async def _step(
        self, step: str, namespace: str, call_id: str, function: str, fields: Mapping[str, Any]
    ) -> tuple[CallStatus | None, CallStatus]:
        pairs = [part for pair in fields.items() for part in pair]
        with edge():
            before, after = await self._change(
                keys=[_key(namespace, call_id)],
                args=[step, namespace, call_id, function, *self._limits, *pairs],
            )
        known = CallStatus(before.decode()) if before else None
        return known, CallStatus(after.decode()) if after else CallStatus.CANCELLED


def _key(namespace: str, call_id: str) -> str:
    return f"faas:call:{namespace}/{call_id}"


def _about(message: Message) -> dict[str, Any]:
    return {
        "trigger": message.trigger.value,
        "qualifier": message.qualifier,
        "key_id": message.key_id,
        "trace_parent": message.trace_parent,
    }


def _record(namespace: str, call_id: str, stored: Mapping[bytes, bytes]) -> CallRecord | None:
    if b"status" not in stored:
        return None
    fields = {name.decode(): value for name, value in stored.items()}
    response = None
    if "response" in fields:
        status, headers, payload = msgpack.unpackb(fields["response"])
        response = Response(status, tuple((name, value) for name, value in headers), payload)
    return CallRecord(
        id=call_id,
        namespace=namespace,
        function=fields["function"].decode(),
        status=CallStatus(fields["status"].decode()),
        trigger=Trigger(fields["trigger"].decode()) if "trigger" in fields else Trigger.ASYNC,
        error=json.loads(fields["error"]) if "error" in fields else None,
        response=response,
        given_up="given_up" in fields,
        deliveries={
            name.removeprefix(_DELIVERY): value.decode()
            for name, value in sorted(fields.items())
            if name.startswith(_DELIVERY)
        },
        **{name: int(fields.get(name, 0)) for name in _NUMBERS},  # type: ignore[arg-type]
        **{name: fields.get(name, b"").decode() for name in _TEXTS},  # type: ignore[arg-type]
    )
