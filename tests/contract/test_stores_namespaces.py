"""The contract of the namespace store, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import anyio
import pytest

from faas.model.errors import Conflict, NotFound, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.manifest import Manifest
from faas.model.namespace import Namespace
from faas.ports import NamespaceStore, Registry
from faas.stores.memory import MemoryNamespaces, MemoryRegistry
from faas.stores.namespaces import RedisNamespaces
from faas.stores.redis_client import Client, connect
from faas.stores.registry import ANY, RedisRegistry

pytestmark = pytest.mark.anyio
Stores = tuple[NamespaceStore, Registry]
TEAM = Namespace(name="team-a", max_concurrency=5, memory_mb=1024, created_at_ms=77)


@pytest.fixture(params=["memory", "valkey"])
def stores(request: pytest.FixtureRequest, client: Client) -> Stores:
    if request.param == "memory":
        registry = MemoryRegistry()
        return MemoryNamespaces(registry), registry
    return RedisNamespaces(client), RedisRegistry(client)


async def test_what_is_stored_is_read_back(stores: Stores) -> None:
    namespaces, _ = stores
    assert await namespaces.get("team-a") is None
    assert await namespaces.put(TEAM, new=True)
    assert await namespaces.put(Namespace(name="b"), new=False)
    assert await namespaces.get("team-a") == TEAM
    assert await namespaces.list() == [Namespace(name="b"), TEAM]
    changed = TEAM.model_copy(update={"max_concurrency": None})
    assert not await namespaces.put(changed, new=False)
    assert await namespaces.get("team-a") == changed


async def test_what_is_to_be_new_must_be(stores: Stores) -> None:
    namespaces, _ = stores
    await namespaces.put(TEAM, new=True)
    with pytest.raises(Conflict, match="faas namespace set team-a"):
        await namespaces.put(Namespace(name="team-a"), new=True)
    assert await namespaces.get("team-a") == TEAM


async def test_only_one_without_functions_is_forgotten(stores: Stores) -> None:
    namespaces, registry = stores
    await namespaces.put(TEAM, new=True)
    await namespaces.put(Namespace(name="team"), new=True)
    manifest = Manifest(name="hello")
    await registry.commit(
        FunctionVersion(namespace="team-a", name="hello", version=1, manifest=manifest, bundle="0" * 64)
    )
    with pytest.raises(Conflict, match="has functions"):
        await namespaces.delete("team-a")
    await namespaces.delete("team")
    await registry.delete("team-a", "hello")
    await namespaces.delete("team-a")
    assert await namespaces.list() == []
    with pytest.raises(NotFound, match="team-a"):
        await namespaces.delete("team-a")


async def test_changes_are_announced_with_those_of_functions(stores: Stores) -> None:
    namespaces, registry = stores
    changes = registry.changes()
    with anyio.fail_after(10):
        assert await anext(changes) == ANY
        await namespaces.put(TEAM, new=True)
        assert await anext(changes) == ("team-a", "")
        await namespaces.delete("team-a")
        assert await anext(changes) == ("team-a", "")
    await changes.aclose()  # type: ignore[attr-defined]


async def test_a_store_that_is_gone_says_so() -> None:
    gone = connect("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        await RedisNamespaces(gone).list()
    await gone.aclose()
