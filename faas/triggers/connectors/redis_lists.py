"""A Redis list as a queue: each element is moved to a list of this node, and taken from there once it is stored.

Theory of operation
-------------------
``LMOVE`` from the list to the node's own *processing* list is one step, so an element is always in one of the two;
``LREM`` follows the send. What a node had when it died lies in its processing list: the node takes it up when it is
back, or another does once the dead node's sign of life has run out. Where order matters only the holder of the lease
fetches, and it takes up what others left at once. An element has no id: one that was sent and not yet removed when its
node died is sent twice.

Keys, for a list L that feeds the queue N/Q (all in L's slot of a cluster)
    {L}:faas:N/Q:nodes        set      nodes that have, or had, a processing list
    {L}:faas:N/Q:NODE         list     what NODE has taken and not sent yet; the newest at the left
    {L}:faas:N/Q:NODE:alive   string   expires when NODE has not fetched for ``ALIVE_MS``
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from typing import Any, Final, cast

import redis.asyncio

from faas.model.manifest import QueueSource
from faas.model.message import QueueName
from faas.triggers.connectors.redis_side import client_of, edge
from faas.triggers.connectors.source import FETCH_WAIT_S, Foreign, SourceFailed, message_of

ALIVE_MS: Final = 30_000
LOOK_S: Final = 10.0  # between looks for what dead nodes left


class RedisListSource:
    """``Source``. Wants a server that knows ``LMOVE``: Redis 6.2 or Valkey."""

    def __init__(self, url: str, source: QueueSource, queue: QueueName, node: str) -> None:
        self._url = url
        self._source = source
        self._end = source.end.upper()
        tagged = source.list if "{" in source.list else f"{{{source.list}}}"
        self._base = f"{tagged}:faas:{queue}"
        self._node = node
        self._mine = f"{self._base}:{node}"
        self._client: redis.asyncio.Redis | None = None
        self._left: list[bytes] = []  # in our processing list, to be sent before anything else
        self._look_at_s = 0.0

    async def open(self) -> None:
        self._client = client_of(self._url)
        with edge(self._url):
            self._left = list(reversed(await self._ask("LRANGE", self._mine, 0, -1)))
        self._look_at_s = 0.0

    async def fetch(self, count: int) -> Sequence[Foreign]:
        with edge(self._url):
            await self._show_life()
            now_s = asyncio.get_running_loop().time()
            if now_s >= self._look_at_s:
                self._look_at_s = now_s + LOOK_S
                await self._adopt()
            found, self._left = self._left[:count], self._left[count:]
            if not found:
                moving = ("BLMOVE", self._source.list, self._mine, self._end, "LEFT", FETCH_WAIT_S)
                first = await self._ask(*moving)
                found = [first] if first is not None else []
            if found and not self._left:
                found += await self._more(count - len(found))
        attributes = {"list": self._source.list}
        return [Foreign(message_of(self._source, body, attributes), body) for body in found]

    async def done(self, taken: Sequence[Foreign]) -> None:
        with edge(self._url):
            async with self._pipeline() as pipeline:
                for foreign in taken:
                    pipeline.execute_command("LREM", self._mine, -1, foreign.token)
                await pipeline.execute()

    async def refuse(self, foreign: Foreign) -> None:
        """It stays in our processing list, and goes back when the pump stops."""

    async def close(self) -> None:
        client = self._client
        if client is None:
            return
        with contextlib.suppress(SourceFailed, asyncio.CancelledError), edge(self._url):
            while await self._ask("LMOVE", self._mine, self._source.list, "LEFT", self._end) is not None:
                pass
            await self._ask("DEL", f"{self._mine}:alive")
        self._client, self._left = None, []
        with contextlib.suppress(SourceFailed), edge(self._url):
            await client.aclose()

    async def _show_life(self) -> None:
        async with self._pipeline() as pipeline:
            pipeline.execute_command("SADD", f"{self._base}:nodes", self._node)
            pipeline.execute_command("SET", f"{self._mine}:alive", "1", "PX", ALIVE_MS)
            await pipeline.execute()

    async def _adopt(self) -> None:
        """Take up what nodes left that show no life any more."""
        for name in await self._ask("SMEMBERS", f"{self._base}:nodes"):
            other = name.decode()
            theirs = f"{self._base}:{other}"
            if other == self._node or (not self._source.group_by and await self._ask("EXISTS", f"{theirs}:alive")):
                continue
            while (body := await self._ask("LMOVE", theirs, self._mine, "RIGHT", "LEFT")) is not None:
                self._left.append(body)
            await self._ask("SREM", f"{self._base}:nodes", other)

    async def _more(self, count: int) -> list[bytes]:
        there = min(count, await self._ask("LLEN", self._source.list))
        if there <= 0:
            return []
        async with self._pipeline() as pipeline:
            for _ in range(there):
                pipeline.execute_command("LMOVE", self._source.list, self._mine, self._end, "LEFT")
            return [body for body in await pipeline.execute() if body is not None]

    def _pipeline(self) -> Any:
        assert self._client is not None
        return self._client.pipeline(transaction=False)

    async def _ask(self, *command: str | float) -> Any:
        assert self._client is not None
        return await cast("Awaitable[Any]", self._client.execute_command(*command))  # type: ignore[no-untyped-call]
