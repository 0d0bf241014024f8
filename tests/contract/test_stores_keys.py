"""API keys: the contract of the key store, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import asyncio

import pytest

from faas.model.errors import NotFound
from faas.stores.keys import RedisKeyStore
from faas.stores.memory import MemoryKeyStore
from faas.stores.redis_client import Client, connect
from tests.usage_samples import NOON_MS, FixedClock

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "valkey"])
def keys(request: pytest.FixtureRequest, client: Client) -> MemoryKeyStore | RedisKeyStore:
    return MemoryKeyStore(FixedClock()) if request.param == "memory" else RedisKeyStore(client, FixedClock())


async def test_a_secret_finds_its_key_and_nothing_else_does(keys: MemoryKeyStore | RedisKeyStore) -> None:
    key, secret = await keys.create("acme", ["invoke", "read"])
    other, other_secret = await keys.create("*", ["admin"])
    assert (key.namespace, key.scopes, key.created_at_ms) == ("acme", ("invoke", "read"), NOON_MS)
    assert secret.startswith("faas_")
    assert len(secret) == 48
    assert key.id != other.id
    assert await keys.find(secret) == key
    assert await keys.find(other_secret) == other
    for wrong in ("", "faas_", secret[:-1], secret + "x", "x" * 5000, "\ud800", "ö"):
        assert await keys.find(wrong) is None
    assert sorted(await keys.list(), key=lambda k: k.id) == sorted([key, other], key=lambda k: k.id)


async def test_a_revoked_key_is_gone(keys: MemoryKeyStore | RedisKeyStore) -> None:
    key, secret = await keys.create("acme", ["invoke"])
    await keys.revoke(key.id)
    assert await keys.find(secret) is None
    assert await keys.list() == []
    with pytest.raises(NotFound, match=key.id):
        await keys.revoke(key.id)


async def test_the_first_admin_key_is_made_once(keys: MemoryKeyStore | RedisKeyStore) -> None:
    await keys.create("acme", ["invoke"])
    made = await asyncio.gather(*(keys.first() for _ in range(10)))
    ((key, secret),) = [pair for pair in made if pair is not None]
    assert (key.namespace, key.scopes) == ("*", ("admin",))
    assert await keys.find(secret) == key
    assert len(await keys.list()) == 2
    await keys.revoke(key.id)
    assert await keys.first() is not None, "nobody is locked out for ever"


async def test_two_nodes_that_start_at_once_make_one_key(valkey_url: str, client: Client) -> None:
    async with connect(valkey_url) as other:
        stores = [RedisKeyStore(c, FixedClock()) for c in (client, other)]
        made = await asyncio.gather(*(store.first() for store in stores for _ in range(10)))
    assert sum(pair is not None for pair in made) == 1


async def test_the_secret_itself_is_nowhere_in_the_store(client: Client) -> None:
    _, secret = await RedisKeyStore(client, FixedClock()).create("acme", ["invoke"])
    stored = repr([await client.hgetall(key) for key in await client.keys("*")])
    assert "acme" in stored
    assert secret not in stored
    assert secret.removeprefix("faas_") not in stored
