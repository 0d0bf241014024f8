"""A task that is cancelled in the middle of a command ends, at whatever step of it that happens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from faas.stores.redis_client import connect
from tests.contract.valkeys import running_valkey

TASKS = 200


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    with running_valkey() as url:
        yield url


@pytest.mark.anyio
async def test_a_busy_task_ends_when_it_is_cancelled(valkey_url: str) -> None:
    client = connect(valkey_url)

    async def busy() -> None:
        while True:
            await client.set("some", b"x" * 10_000)

    try:
        for _ in range(TASKS):
            task = asyncio.create_task(busy())
            for _ in range(random.randint(1, 40)):
                await asyncio.sleep(0)
            task.cancel()
            _, left = await asyncio.wait([task], timeout=20)
            assert not left, "it lives on"
        assert await client.get("some") == b"x" * 10_000
    finally:
        await client.aclose()
