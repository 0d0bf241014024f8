"""A real Valkey for a test module, and clients of it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from faas.stores.embedded import EmbeddedValkey
from faas.stores.redis_client import Client, connect


@contextmanager
def running_valkey() -> Iterator[str]:
    """URL of a server that lives as long as the context."""
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    server = EmbeddedValkey(directory)
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
