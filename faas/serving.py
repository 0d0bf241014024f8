"""A node's front: the port it listens on, and the HTTP server that serves the gateway there."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import uvicorn

from faas.gateway.app import Gateway
from faas.settings import Settings

KEEP_ALIVE_S: Final = 75
GRACE_S: Final = 5  # for answers that are on their way out
BACKLOG: Final = 4096


def listen(settings: Settings) -> socket.socket:
    """Take the port first: everything else would be for nothing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        hint = "stop what uses it, or choose another with FAAS_PORT (0 takes a free one)"
        where = f"{settings.host}:{settings.port}"
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}; {hint}") from None
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: who runs the node decides when it stops."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()


@asynccontextmanager
async def http(gateway: Gateway, listener: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """The server, until the context is left."""
    config = uvicorn.Config(
        gateway,
        loop="none",
        http=gateway.protocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        date_header=True,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    task = asyncio.get_running_loop().create_task(server.serve([listener]))
    try:
        up = asyncio.ensure_future(server.up.wait())
        await asyncio.wait([up, task], return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        yield task
    finally:
        server.should_exit = True
        await asyncio.wait([task])


def shown_host(host: str) -> str:
    """An address people can open: the wildcard address is this machine."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    return f"[{shown}]" if ":" in shown and not shown.startswith("[") else shown
