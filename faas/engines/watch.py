"""Hearing from processes without waiting for them: that one has ended, what one has written."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

OUTPUT_BYTES_MAX = 16 * 1024


class Watch:
    """``ended`` is set when the process has ended, or when the watch is closed. To be made and closed on the loop."""

    def __init__(self, pidfd: int) -> None:
        self.ended = asyncio.Event()
        self._pidfd = pidfd
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self.close)

    @classmethod
    def of(cls, pid: int, is_meant: Callable[[], bool]) -> Watch | None:
        """Watch ``pid``; None when it is gone, or is not the one ``is_meant`` looks for: asked once it is held fast."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not is_meant():
            os.close(pidfd)
            return None
        return cls(pidfd)

    def close(self) -> None:
        if not self.ended.is_set():
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self.ended.set()


def collect(loop: asyncio.AbstractEventLoop, descriptor: int, into: bytearray, done: asyncio.Event | None) -> None:
    """Read ``descriptor`` to its end, or to as much as is kept; then close it: a flood of output costs us nothing."""
    os.set_blocking(descriptor, False)

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(descriptor, 4096)
            into.extend(data)
            if not data or len(into) >= OUTPUT_BYTES_MAX:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                if done is not None:
                    done.set()

    loop.add_reader(descriptor, readable)
