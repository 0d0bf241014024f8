"""Log lines in Redis streams, one per function, capped.

``write`` never waits: it puts the line in a bounded buffer that a task empties every 50 ms with one script call. What
does not fit, because the store is away or too slow, is counted, and a line of the stream ``platform`` says how much.
A batch carries a number, so one that is sent again after a lost connection is not appended twice.

Lines are kept and told in the order of arrival, which is the order of writing for each node.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from faas.model.errors import StoreUnavailable
from faas.model.usage import NS_PER_MS
from faas.ports import Clock, LogLine
from faas.stores.redis_client import Client, ask, edge, script
from faas.waiting import either

log = logging.getLogger("faas.stores.logs")

FLUSH_S: Final = 0.05
BATCH_LINES_MAX: Final = 1000
BUFFER_LINES_MAX: Final = 20_000
BUFFER_BYTES_MAX: Final = 16 * 2**20
LINE_CHARS_MAX: Final = 16 * 1024
STREAM_LINES_MAX: Final = 10_000  # kept per function
STREAM_KEPT_MS: Final = 14 * 24 * 3_600_000  # after the last line
PAGE_LINES: Final = 500
BLOCK_MS: Final = 2000
RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 5.0
CLOCK_SKEW_MS: Final = 60_000  # between a node and the server, when looking for where to begin
PLATFORM: Final = "platform"


class RedisLogSink:
    """``LogSink``. ``run`` must run for lines to leave the buffer."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        *,
        stream_lines_max: int = STREAM_LINES_MAX,
        buffer_lines_max: int = BUFFER_LINES_MAX,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        self._client = client
        self._clock = clock
        self._append = script(client, "append_logs")
        self._stream_lines_max = stream_lines_max
        self._buffer_lines_max = buffer_lines_max
        self._buffer_bytes_max = buffer_bytes_max
        self._buffer: deque[LogLine] = deque()
        self._buffer_bytes = 0
        self._dropped: dict[tuple[str, str], int] = {}
        self._sink = secrets.token_hex(8)
        self._batch = 0  # number of the last batch made
        self._unsent: bytes | None = None  # that batch, until the server has it
        self._flushing = asyncio.Lock()
        self._work = asyncio.Event()
        self._stop = asyncio.Event()

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(self, line: LogLine) -> None:
        if len(self._buffer) >= self._buffer_lines_max or self._buffer_bytes >= self._buffer_bytes_max:
            key = line.namespace, line.function
            self._dropped[key] = self._dropped.get(key, 0) + 1
            return
        self._buffer.append(line)
        self._buffer_bytes += len(line.text)
        if len(self._buffer) == 1:
            self._work.set()

    async def run(self) -> None:
        """Empty the buffer until ``close``; while the store is away, try again and again."""
        wait_s = RETRY_S
        while not self._stop.is_set():
            await self._work.wait()
            await either(self._stop, FLUSH_S)
            try:
                await self._flush()
                wait_s = RETRY_S
            except StoreUnavailable as error:
                if wait_s == RETRY_S:
                    log.warning("function logs wait in memory: %s", error.message)
                await either(self._stop, wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)

    async def close(self, wait_s: float = 2.0) -> None:
        """Send what is buffered, for at most ``wait_s``, and end ``run``."""
        self._stop.set()
        self._work.set()
        try:
            async with asyncio.timeout(wait_s):
                await self._flush()
        except (TimeoutError, StoreUnavailable) as error:
            log.warning("%d log lines of functions are lost: %s", len(self._buffer), str(error) or "no answer in time")

    async def _flush(self) -> None:
        async with self._flushing:
            while self._unsent is not None or self._buffer or self._dropped:
                batch = self._unsent = self._unsent or self._take()
                with edge():
                    await self._append(
                        keys=[f"faas:logsink:{self._sink}"],
                        args=[self._batch, self._stream_lines_max, STREAM_KEPT_MS, batch],
                    )
                self._unsent = None
            self._work.clear()

    def _take(self) -> bytes:
        """The next batch, numbered; what was dropped is said at its end."""
        streams: dict[str, list[bytes]] = {}
        for _ in range(min(len(self._buffer), BATCH_LINES_MAX)):
            line = self._buffer.popleft()
            self._buffer_bytes -= len(line.text)
            streams.setdefault(_stream(line.namespace, line.function), []).append(_pack(line))
        if not self._buffer:
            for (namespace, function), count in self._dropped.items():
                text = f"{count} log lines were dropped here: the log store could not keep up."
                line = LogLine(self._clock.unix_ns(), namespace, function, 0, "", PLATFORM, text)
                streams.setdefault(_stream(namespace, function), []).append(_pack(line))
            self._dropped.clear()
        self._batch += 1
        flat = [part for pair in streams.items() for part in pair]
        packed: bytes = msgpack.packb(flat, use_bin_type=False)
        return packed

    # -- reading ----------------------------------------------------------------------------------------------------

    async def read(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = "", limit: int = 1000
    ) -> list[LogLine]:
        """The newest ``limit`` lines since then, of one invocation if given, oldest first."""
        found: list[LogLine] = []
        key, upto = _stream(namespace, function), "+"
        while len(found) < limit:
            page = await ask(self._client.xrevrange(key, upto, _begin(since_ms), count=PAGE_LINES))
            for _, fields in page:
                line = _unpack(namespace, function, fields)
                if _wanted(line, since_ms, invocation_id) and len(found) < limit:
                    found.append(line)
            if len(page) < PAGE_LINES:
                break
            upto = f"({page[-1][0].decode()}"
        return found[::-1]

    async def follow(
        self, namespace: str, function: str, since_ms: int, invocation_id: str = ""
    ) -> AsyncIterator[LogLine]:
        """The lines since then, then each new one as it comes. A store that goes away is waited for."""
        key, after, wait_s = _stream(namespace, function), _before(since_ms), RETRY_S
        while True:
            try:
                async with self._client.client() as own:  # a blocking read needs a connection for itself
                    while True:
                        reply = await ask(own.xread({key: after}, count=PAGE_LINES, block=BLOCK_MS))
                        wait_s = RETRY_S
                        for _, page in reply or ():
                            for entry_id, fields in page:
                                after = entry_id
                                line = _unpack(namespace, function, fields)
                                if _wanted(line, since_ms, invocation_id):
                                    yield line
            except StoreUnavailable as error:
                log.info("following the logs of %s waits: %s", function, error.message)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)


def _stream(namespace: str, function: str) -> str:
    return f"faas:logs:{namespace}:{function}"


def _pack(line: LogLine) -> bytes:
    text = line.text if len(line.text) <= LINE_CHARS_MAX else line.text[:LINE_CHARS_MAX] + "..."
    packed: bytes = msgpack.packb(
        (line.time_ns, line.version, line.invocation_id, line.stream, text), unicode_errors="replace"
    )
    return packed


def _unpack(namespace: str, function: str, fields: dict[bytes, Any]) -> LogLine:
    time_ns, version, invocation_id, stream, text = msgpack.unpackb(fields[b"l"])
    return LogLine(time_ns, namespace, function, version, invocation_id, stream, text)


def _wanted(line: LogLine, since_ms: int, invocation_id: str) -> bool:
    return line.time_ns >= since_ms * NS_PER_MS and (not invocation_id or line.invocation_id == invocation_id)


def _begin(since_ms: int) -> str:
    """Where to begin in a stream whose ids are the server's time of arrival, which is after the line's own."""
    return str(max(since_ms - CLOCK_SKEW_MS, 0))


def _before(since_ms: int) -> str:
    return f"{max(since_ms - CLOCK_SKEW_MS, 0)}-0"
