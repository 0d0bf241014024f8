"""A real Valkey for a test module, and clients of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar, cast

from faas.stores.embedded import EmbeddedValkey
from faas.stores.redis_client import Client, connect

T = TypeVar("T")


class ExternalValkey(EmbeddedValkey):
    """As operators run theirs: it syncs by itself, and knows what is on disk."""

    def _config(self) -> str:
        return super()._config() + "appendfsync everysec\n"


@contextmanager
def running_valkey() -> Iterator[str]:
    """URL of a server that lives as long as the context."""
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    server = ExternalValkey(directory)
    asyncio.run(server.start())
    try:
        yield server.url
    finally:
        asyncio.run(server.stop())
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def emptied(url: str) -> AsyncIterator[Client]:
    """A client of a server in which nothing is stored."""
    client = connect(url)
    try:
        await client.flushall()
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Ends an async generator that a port calls an iterator."""
    async with aclosing(cast("AsyncGenerator[T, None]", iterator)):
        yield iterator
