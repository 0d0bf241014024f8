"""A streamed response between the instance that writes it and the caller who reads it, with back pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from faas.model.errors import FaasError

BUFFER_BYTES_MAX = 1_000_000


class ResponseStream:
    """Chunks in, chunks out. Above ``BUFFER_BYTES_MAX`` unread bytes it asks to ``pause`` the instance's channel.

    An async iterator, which raises the error the stream ended with. A reader must ``aclose`` it; one that does so
    before the end has ``left``: chunks that still come are dropped, so that the instance is not held up.
    """

    def __init__(
        self, pause: Callable[[], None], resume: Callable[[], None], left: Callable[[], None] = lambda: None
    ) -> None:
        self._pause = pause
        self._resume = resume
        self._left = left
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._paused = False
        self._ended = False
        self._error: FaasError | None = None
        self._closed = False
        self._wake = asyncio.Event()
        self.bytes_out = 0

    # -- the writer's side ------------------------------------------------------------------------------------------

    def feed(self, chunk: bytes) -> None:
        self.bytes_out += len(chunk)
        if self._closed or not chunk:
            return
        self._chunks.append(chunk)
        self._buffered_bytes += len(chunk)
        if self._buffered_bytes > BUFFER_BYTES_MAX and not self._paused:
            self._paused = True
            self._pause()
        self._wake.set()

    def end(self, error: FaasError | None = None) -> None:
        """No more chunks; with ``error`` the reader is told so after what it has not read yet."""
        self._ended = True
        self._error = error
        self._unpause()
        self._wake.set()

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            self._resume()

    # -- the reader's side ------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._ended or self._closed:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        chunk = self._chunks.popleft()
        self._buffered_bytes -= len(chunk)
        if self._buffered_bytes <= BUFFER_BYTES_MAX // 2:
            self._unpause()
        return chunk

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Nobody reads any more. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._chunks.clear()
        self._buffered_bytes = 0
        self._unpause()
        if not self._ended:
            self._left()
