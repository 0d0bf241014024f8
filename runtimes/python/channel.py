"""A process's connection to the node: blocking, whole frames, safe to send on from any thread.

``_socket`` is the C half of ``socket``; the other half (enum, selectors) costs 6 ms and 0.4 MB that nothing here needs.
"""

# contextlib would cost more to import than all of this file:
# ruff: noqa: SIM105
from __future__ import annotations

import mmap
import os
import select
from _socket import AF_UNIX, MSG_DONTWAIT, SOCK_STREAM
from _socket import socket as Socket  # noqa: N812
from _thread import RLock, get_ident

from .codec import HEAD_BYTES, body_size, decode, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

RECEIVE_BYTES = 64 * 1024
LARGE_RECEIVE_BYTES = 1024 * 1024


_MADV_WIPEONFORK = 18  # Linux 4.14; the mmap module has no name for it


class Channel:
    """``fileno`` is for pollers. ``own[0]`` is true in the process that dialled, and false in every process forked
    from it, be it by Python or by C code: those must not speak here.
    """

    def __init__(self, connected: Socket) -> None:
        self._socket = connected
        self._receive, self._send = self._socket.recv, self._socket.sendall
        readable = select.poll()
        readable.register(connected.fileno(), select.POLLIN)
        self._wait = readable.poll
        self._buffer = bytearray()
        self._lock = RLock()
        self._sender = 0
        self._late: list[bytes] = []
        self.own: mmap.mmap | _OwnPid = _own_page()
        self.pid = os.getpid()

    @classmethod
    def dial(cls, path: str) -> Channel:
        """To the node. Raises ``OSError``."""
        connection = Socket(AF_UNIX, SOCK_STREAM)
        connection.connect(path)
        return cls(connection)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """Let go of the descriptor. Also what a forked child does first: the channel is its parent's."""
        self.own[0] = 0
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
                self._send(data)
                if more:
                    self._send(more)
                while self._late:
                    self._send(self._late.pop(0))
            finally:
                self._sender = 0

    # -- in ----------------------------------------------------------------------------------------------------------

    def receive(self) -> list[Any] | None:
        """Wait for the next frame. None when the node has closed the channel.

        The wait is a poll: Linux wakes who sleeps in recv(2) on a Unix socket also when the peer has read what was sent
        last (unix_write_space), so a process that answers and receives would be woken twice for each frame.
        """
        buffer = self._buffer
        if not buffer:
            self._wait()
            data = self._receive(RECEIVE_BYTES)
            if len(data) > HEAD_BYTES and body_size(data)[0] == len(data) - HEAD_BYTES:
                frame: list[Any] = unpack(data[HEAD_BYTES:])  # the usual: one frame came, and it came whole
                return frame
            buffer += data
        while (next_frame := self._next()) is None:
            data = self._receive(self._wanted())
            if not data:
                return None
            buffer += data
        return next_frame

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
        return self.received()

    def received(self) -> list[list[Any]]:
        """The frames that came with one that ``receive`` returned, or that ``available`` has just read."""
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


def _own_page() -> mmap.mmap | _OwnPid:
    """A page that begins with 1 here and is zeros in every child: the kernel wipes it at a fork (madvise(2)).

    A look at it costs no system call, a look at the pid costs one.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:  # a kernel that can't, such as gVisor's
        return _OwnPid()
    page[0] = 1
    return page


class _OwnPid:
    """Looks like the page that ``_own_page`` makes."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, _index: int) -> bool:
        return os.getpid() == self._pid

    def __setitem__(self, _index: int, _value: int) -> None:
        self._pid = 0
