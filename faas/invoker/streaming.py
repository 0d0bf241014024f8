"""A streamed response between the instance that writes it and the caller who reads it, with back pressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from faas.model.errors import FaasError

BUFFER_BYTES_MAX = 1_000_000


class ResponseStream:
    """Chunks in, chunks out. Above ``BUFFER_BYTES_MAX`` unread bytes it asks to ``pause`` the instance's channel.

    A reader that leaves early closes the stream: later chunks are dropped, the instance is let run to its end.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._paused = False
        self._ended = False
        self._error: FaasError | None = None
        self._abandoned = False
        self._wake = asyncio.Event()
        self.bytes_out = 0

    def feed(self, chunk: bytes) -> None:
        self.bytes_out += len(chunk)
        if self._abandoned or not chunk:
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

    async def read(self) -> AsyncIterator[bytes]:
        """The chunks in order; raises the error the stream ended with."""
        try:
            while True:
                while self._chunks:
                    chunk = self._chunks.popleft()
                    self._buffered_bytes -= len(chunk)
                    if self._buffered_bytes <= BUFFER_BYTES_MAX // 2:
                        self._unpause()
                    yield chunk
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return
                self._wake.clear()
                await self._wake.wait()
        finally:
            self._abandoned = True
            self._chunks.clear()
            self._buffered_bytes = 0
            self._unpause()
