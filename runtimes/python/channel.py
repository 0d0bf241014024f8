"""A process's connection to the node: blocking, whole frames, safe to send on from any thread.

``_socket`` is the C half of ``socket``; the other half (enum, selectors) costs 6 ms and 0.4 MB that nothing here needs.
"""

# contextlib would cost more to import than all of this file:
# ruff: noqa: SIM105
from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_DONTWAIT, SOCK_STREAM
from _socket import socket as Socket  # noqa: N812
from _thread import RLock, get_ident

from .codec import HEAD_BYTES, decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECEIVE_BYTES = 64 * 1024
LARGE_RECEIVE_BYTES = 1024 * 1024


class Channel:
    """``fileno`` is for pollers; ``closed`` is true in a process that must not speak here any more."""

    def __init__(self, path: str) -> None:
        self._socket = Socket(AF_UNIX, SOCK_STREAM)
        self._socket.connect(path)
        self._buffer = bytearray()
        self._lock = RLock()
        self._sender = 0
        self._late: list[bytes] = []
        self.closed = False
        self.pid = os.getpid()

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the descriptor. Also what a forked child does first: the channel is its parent's."""
        self.closed = True
        try:
            self._socket.close()
        except OSError:  # the user closed the descriptor before
            pass

    # -- out ---------------------------------------------------------------------------------------------------------

    def send(self, data: bytes, more: bytes = b"") -> None:
        """Send whole frames. A signal handler that prints while its thread is in here gets its turn right after."""
        me = get_ident()
        if self._sender == me:
            self._late.append(data + more)
            return
        with self._lock:
            self._sender = me
            try:
                self._socket.sendall(data)
                if more:
                    self._socket.sendall(more)
                while self._late:
                    self._socket.sendall(self._late.pop(0))
            finally:
                self._sender = 0

    # -- in ----------------------------------------------------------------------------------------------------------

    def receive(self) -> list[Any] | None:
        """Wait for the next frame. None when the node has closed the channel."""
        while True:
            frame = self._next()
            if frame is not None:
                return frame
            data = self._socket.recv(self._wanted())
            if not data:
                return None
            if not self._buffer and int.from_bytes(data[:HEAD_BYTES], "big") == len(data) - HEAD_BYTES:
                return decode(data[HEAD_BYTES:])
            self._buffer += data

    def available(self) -> list[list[Any]] | None:
        """The frames that are there already; None when the node has closed the channel. For use after a poll."""
        try:
            data = self._socket.recv(self._wanted(), MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _wanted(self) -> int:
        if len(self._buffer) < HEAD_BYTES:
            return RECEIVE_BYTES
        missing = int.from_bytes(self._buffer[:HEAD_BYTES], "big") + HEAD_BYTES - len(self._buffer)
        return min(max(missing, RECEIVE_BYTES), LARGE_RECEIVE_BYTES)

    def _next(self) -> list[Any] | None:
        buffer = self._buffer
        if len(buffer) < HEAD_BYTES:
            return None
        stop = int.from_bytes(buffer[:HEAD_BYTES], "big") + HEAD_BYTES
        if len(buffer) < stop:
            return None
        with memoryview(buffer) as whole, whole[HEAD_BYTES:stop] as body:
            frame = decode(body)
        del buffer[:stop]
        return frame
