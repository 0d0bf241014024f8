"""Each answer of uvicorn's leaves in one system call.

uvicorn writes a response's head and body separately, which on a small answer doubles the most expensive thing a node
does per call. ``Cork`` stands between protocol and transport, holds what is written until the loop comes round, and
hands it on as one piece.
"""

from __future__ import annotations

import asyncio
from typing import Any

HELD_BYTES_MAX = 64 * 1024  # more than this goes out at once


class Cork:
    """An ``asyncio.Transport`` whose writes of one turn of the loop are joined. Closing sends what is held first."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        held = self._held
        if held or len(data) > HELD_BYTES_MAX:
            held.append(data)
            self._flush()  # the head has its body: no need to wait for the turn's end
        else:
            self._loop.call_soon(self._flush)
            held.append(data)

    def write_through(self, data: bytes) -> None:
        """Write what is whole already, after what is held."""
        self._flush()
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        held = self._held
        if held:
            data = held[0] if len(held) == 1 else b"".join(held)
            held.clear()
            if not self._transport.is_closing():  # the caller may have gone meanwhile, and uvloop then raises
                self._transport.write(data)
