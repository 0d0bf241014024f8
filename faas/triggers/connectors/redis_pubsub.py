"""Redis pub/sub: at most once, as pub/sub is. What is published while nobody of us is subscribed is gone.

Everybody who subscribes gets every message, so one node alone does: the pump of this source holds a lease. A node that
is too slow is cut off by the server (``client-output-buffer-limit pubsub``), which costs what was published meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import RedisError

from faas.model.manifest import QueueSource
from faas.model.message import Message
from faas.triggers.connectors.redis_side import client_of, edge
from faas.triggers.connectors.source import FETCH_WAIT_S, Foreign, message_of


class RedisPubSubSource:
    """``Source``, with nothing to acknowledge."""

    def __init__(self, url: str, source: QueueSource) -> None:
        self._url = url
        self._source = source
        self._client: redis.asyncio.Redis | None = None
        self._subscription: Any = None  # the library does not type it

    async def open(self) -> None:
        self._client = client_of(self._url)
        channel = self._source.channel
        with edge(self._url):
            self._subscription = self._client.pubsub(ignore_subscribe_messages=True)
            pattern = any(sign in channel for sign in "*?[")
            await (self._subscription.psubscribe if pattern else self._subscription.subscribe)(channel)

    async def fetch(self, count: int) -> Sequence[Foreign]:
        found: list[Foreign] = []
        with edge(self._url):
            message = await self._subscription.get_message(timeout=FETCH_WAIT_S)
            while message is not None:
                found.append(Foreign(self._message(message), None))
                if len(found) == count:
                    break
                message = await self._subscription.get_message(timeout=0)
        return found

    async def done(self, taken: Sequence[Foreign]) -> None:
        """Nobody waits for that."""

    async def refuse(self, foreign: Foreign) -> None:
        """It is gone, as the log says."""

    async def close(self) -> None:
        client, self._client = self._client, None
        subscription, self._subscription = self._subscription, None
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            if subscription is not None:
                await subscription.aclose()
            if client is not None:
                await client.aclose()

    def _message(self, message: dict[str, Any]) -> Message:
        attributes = {"channel": message["channel"].decode("utf-8", "replace")}
        if message["pattern"] is not None:
            attributes["pattern"] = message["pattern"].decode("utf-8", "replace")
        return message_of(self._source, message["data"], attributes)
