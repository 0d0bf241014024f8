"""Logs: lines as JSON, or as Server-Sent Events while they come."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from starlette.responses import Response, StreamingResponse

from faas.gateway import params
from faas.gateway.catalog import Catalog
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.metering.present import rfc3339_ns
from faas.model.errors import StoreUnavailable
from faas.ports import LogLine

LINES_MAX: Final = 10_000
KEEP_ALIVE_S: Final = 15.0
_NS_PER_MS: Final = 1_000_000


class LogsApi:
    """``draining`` is set when the node goes down; followers end then."""

    def __init__(self, services: Services, catalog: Catalog, draining: asyncio.Event) -> None:
        self._logs = services.logs
        self._clock = services.clock
        self._catalog = catalog
        self._draining = draining

    def operations(self) -> list[Operation]:
        return [Operation("GET", "/v1/functions/{name}/logs", "read", self.logs)]

    async def logs(self, context: Context) -> Response:
        namespace, name = context.namespace, context.name
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        since = context.query("since")
        since_ms = params.time_ms(since, "since", now_ms) if since is not None else 0
        invocation = context.query("invocation") or ""
        limit = params.whole(context.query("limit"), "limit", 1000, 1, LINES_MAX)
        await self._catalog.find(namespace, name, "")
        if not params.flag(context.query("follow"), "follow"):
            lines = await self._logs.read(namespace, name, since_ms, invocation, limit)
            return Json({"lines": [document(line) for line in lines]})
        followed = self._logs.follow(namespace, name, since_ms, invocation)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._events(followed), media_type="text/event-stream", headers=headers)

    async def _events(self, lines: AsyncIterator[LogLine]) -> AsyncGenerator[bytes, None]:
        """``data: {json}`` per line, a comment when nothing came for a while, the end when the node drains."""
        yield b": following\n\n"
        stop = asyncio.create_task(self._draining.wait())
        following: asyncio.Task[LogLine] | None = None
        try:
            while True:
                if following is None:
                    following = asyncio.create_task(_next(lines))
                waiting: set[asyncio.Task[Any]] = {following, stop}
                done, _ = await asyncio.wait(waiting, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
                if stop in done:
                    yield b'event: end\ndata: {"reason": "the node is going down"}\n\n'
                    return
                if not done:
                    yield b": keep-alive\n\n"
                    continue
                try:
                    line = following.result()
                except (StopAsyncIteration, StoreUnavailable):
                    yield b'event: end\ndata: {"reason": "the log ended"}\n\n'
                    return
                following = None
                yield b"data: " + json.dumps(document(line), ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"
        finally:
            stop.cancel()
            if following is not None:
                following.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, StoreUnavailable):
                    await following
            close = getattr(lines, "aclose", None)
            if close is not None:
                await close()


async def _next(lines: AsyncIterator[LogLine]) -> LogLine:
    """A coroutine, which a task needs; ``anext`` itself may give any awaitable."""
    return await anext(lines)


def document(line: LogLine) -> dict[str, Any]:
    return {
        "time": rfc3339_ns(line.time_ns),
        "function": line.function,
        "version": line.version,
        "invocation_id": line.invocation_id,
        "stream": line.stream,
        "text": line.text,
    }
