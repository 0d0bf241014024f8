"""Answers by idempotency key, in Redis and in memory. The Lua files name every key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import msgpack  # type: ignore[import-untyped]

from faas.ports.events import Answered, Claim
from faas.stores.redis_client import Client, edge, script
from faas.waiting import either

LOOK_AGAIN_S: Final = 1.0


class RedisIdempotency:
    """``IdempotencyStore``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._claim = script(client, "claim_key")
        self._settle = script(client, "settle_key")

    async def claim(self, key: str, request: str, owner: str, claim_ms: int) -> Claim:
        with edge():
            state, *answer = await self._claim(keys=[_hash(key)], args=[request, owner, claim_ms])
        return Claim(state.decode(), _unpacked(answer[0]) if answer else None)

    async def settle(self, key: str, request: str, owner: str, answer: Answered | None, keep_ms: int) -> bool:
        stored = b"" if answer is None else msgpack.packb(answer)
        with edge():
            ours = await self._settle(keys=[_hash(key)], args=[request, owner, stored, keep_ms, _channel(key)])
        return bool(ours)

    async def ends(self, key: str) -> AsyncIterator[None]:
        """A connection for each who waits: few do, and the gateway bounds them."""
        async with self._client.pubsub(ignore_subscribe_messages=False) as pubsub:
            with edge():
                await pubsub.subscribe(_channel(key))
                while True:
                    await pubsub.get_message(timeout=LOOK_AGAIN_S)
                    yield


def _hash(key: str) -> str:
    return f"faas:once:{key}"


def _channel(key: str) -> str:
    return f"faas:answered:{key}"


def _unpacked(stored: bytes) -> Answered:
    status, headers, payload = msgpack.unpackb(stored, use_list=False)
    return Answered(status, headers, payload)


@dataclass(slots=True)
class _Entry:
    request: str
    owner: str
    ends_s: float
    answer: Answered | None = None


class MemoryIdempotency:
    """The in-memory twin."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._waiting: dict[asyncio.Event, str] = {}

    async def claim(self, key: str, request: str, owner: str, claim_ms: int) -> Claim:
        now_s, entry = _now_s(), self._entries.get(key)
        if entry is None or entry.ends_s <= now_s:
            entry = self._entries[key] = _Entry(request, owner, 0)
        if entry.request != request:
            return Claim("other")
        if entry.answer is not None:
            return Claim("answered", entry.answer)
        if entry.owner != owner:
            return Claim("theirs")
        entry.ends_s = now_s + claim_ms / 1000
        return Claim("ours")

    async def settle(self, key: str, request: str, owner: str, answer: Answered | None, keep_ms: int) -> bool:
        now_s, entry = _now_s(), self._entries.get(key)
        if entry is not None and entry.ends_s > now_s and entry.owner != owner:
            return False
        if answer is not None:
            self._entries[key] = _Entry(request, owner, now_s + keep_ms / 1000, answer)
        elif entry is not None and entry.answer is None:
            del self._entries[key]
        for event, waited_for in self._waiting.items():
            if waited_for == key:
                event.set()
        return True

    async def ends(self, key: str) -> AsyncIterator[None]:
        event = asyncio.Event()
        self._waiting[event] = key
        try:
            while True:
                yield
                await either(event, LOOK_AGAIN_S)
                event.clear()
        finally:
            del self._waiting[event]


def _now_s() -> float:
    return asyncio.get_running_loop().time()
