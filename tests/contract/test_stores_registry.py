"""The registry's contract, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from faas.model.errors import Conflict, NotFound, PayloadTooLarge, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.manifest import CronTrigger, Manifest
from faas.ports import Registry
from faas.stores.memory import MemoryRegistry
from faas.stores.redis_client import Client, connect
from faas.stores.registry import ANY, RedisRegistry
from tests.contract.valkeys import closing

pytestmark = pytest.mark.anyio

BUNDLE = hashlib.sha256(b"bundle").hexdigest()
LOCK = hashlib.sha256(b"lock").hexdigest()


@pytest.fixture(params=["memory", "valkey"])
def registry(request: pytest.FixtureRequest, client: Client) -> Registry:
    if request.param == "memory":
        return MemoryRegistry(blob_bytes_max=1000)
    return RedisRegistry(client, blob_bytes_max=1000)


def make(number: int = 1, name: str = "hello", namespace: str = "default", lock: str = "") -> FunctionVersion:
    manifest = Manifest(name=name, env={"A": "ö"}, crons=(CronTrigger(schedule="* * * * *", payload={"a": [1, None]}),))
    return FunctionVersion(
        namespace=namespace,
        name=name,
        version=number,
        manifest=manifest,
        bundle=BUNDLE,
        lock=lock,
        created_at_ms=number,
    )


async def test_versions_are_committed_one_after_the_other(registry: Registry) -> None:
    assert await registry.latest("default", "hello") is None
    assert await registry.next_version("default", "hello") == 1
    assert await registry.commit(make(1))
    assert not await registry.commit(make(2))
    assert await registry.next_version("default", "hello") == 3
    assert await registry.latest("default", "hello") == make(2)
    assert await registry.version("default", "hello", 1) == make(1)


@pytest.mark.parametrize("number", [1, 2, 4, 100])
async def test_any_other_number_is_a_conflict_that_tells_the_next(registry: Registry, number: int) -> None:
    await registry.commit(make(1))
    await registry.commit(make(2))
    other = make(number).model_copy(update={"created_at_ms": 77})
    with pytest.raises(Conflict, match="the next one is 3") as caught:
        await registry.commit(other)
    assert caught.value.details == {"next_version": 3}
    assert await registry.latest("default", "hello") == make(2)


async def test_of_many_commits_at_once_one_wins(registry: Registry) -> None:
    tries = [make(1).model_copy(update={"created_at_ms": n}) for n in range(20)]
    answers = await asyncio.gather(*(registry.commit(v) for v in tries), return_exceptions=True)
    assert [answer for answer in answers if not isinstance(answer, Conflict)] == [True]
    latest = await registry.latest("default", "hello")
    assert latest == tries[answers.index(True)]


async def test_a_commit_sent_twice_answers_twice_the_same(registry: Registry) -> None:
    assert await registry.commit(make(1))
    assert await registry.commit(make(1))
    assert not await registry.commit(make(2))
    assert not await registry.commit(make(2))
    assert await registry.next_version("default", "hello") == 3


async def test_functions_are_listed_by_namespace_and_name(registry: Registry) -> None:
    for namespace, name in [("b", "x"), ("a", "z"), ("ab", "a"), ("a", "y")]:
        await registry.commit(make(1, name, namespace))
    await registry.commit(make(2, "y", "a"))
    assert [(v.namespace, v.name, v.version) for v in await registry.functions(None)] == [
        ("a", "y", 2),
        ("a", "z", 1),
        ("ab", "a", 1),
        ("b", "x", 1),
    ]
    assert [v.name for v in await registry.functions("a")] == ["y", "z"]
    assert await registry.functions("none") == []


async def test_deleting_forgets_all_but_the_numbers(registry: Registry) -> None:
    with pytest.raises(NotFound, match="hello"):
        await registry.delete("default", "hello")
    await registry.commit(make(1))
    await registry.commit(make(2))
    await registry.delete("default", "hello")
    assert await registry.latest("default", "hello") is None
    assert await registry.functions(None) == []
    with pytest.raises(NotFound, match="no version 2"):
        await registry.version("default", "hello", 2)
    assert await registry.next_version("default", "hello") == 3
    with pytest.raises(Conflict):
        await registry.commit(make(1))
    assert await registry.commit(make(3)), "a new function"


async def test_blobs_are_found_by_their_digest(registry: Registry) -> None:
    assert await registry.put_blob(b"bundle") == BUNDLE
    assert await registry.put_blob(b"bundle") == BUNDLE
    assert await registry.blob(BUNDLE) == b"bundle"
    with pytest.raises(NotFound, match=LOCK):
        await registry.blob(LOCK)
    assert await registry.blob(await registry.put_blob(bytes(1000))) == bytes(1000)
    with pytest.raises(PayloadTooLarge, match="1000"):
        await registry.put_blob(bytes(1001))


async def test_changes_are_told_from_the_moment_of_the_first_word(registry: Registry) -> None:
    await registry.commit(make(1, "before"))
    async with asyncio.timeout(10), closing(registry.changes()) as changes:
        assert await anext(changes) == ANY
        await registry.commit(make(1))
        await registry.commit(make(1, "other", "acme"))
        await registry.delete("default", "hello")
        with pytest.raises(NotFound):
            await registry.delete("default", "hello")
        found = [await anext(changes) for _ in range(3)]
    assert found == [("default", "hello"), ("acme", "other"), ("default", "hello")]


# -- the real one alone -----------------------------------------------------------------------------------------------


async def test_blobs_live_as_long_as_a_version_names_them(client: Client) -> None:
    registry = RedisRegistry(client)
    await registry.put_blob(b"bundle")
    await registry.put_blob(b"lock")
    assert await client.pttl(f"faas:blob:{BUNDLE}") > 0
    await registry.commit(make(1, lock=LOCK))
    await registry.commit(make(2))
    await registry.commit(make(1, "other", lock=LOCK))
    await registry.put_blob(b"bundle")
    assert await client.pttl(f"faas:blob:{BUNDLE}") == await client.pttl(f"faas:blob:{LOCK}") == -1
    await registry.delete("default", "hello")
    assert await client.pttl(f"faas:blob:{BUNDLE}") == await client.pttl(f"faas:blob:{LOCK}") == -1
    await registry.delete("default", "other")
    assert await client.pttl(f"faas:blob:{BUNDLE}") > 0
    assert await client.pttl(f"faas:blob:{LOCK}") > 0
    assert await client.exists("faas:blobrefs") == 0
    assert await registry.blob(BUNDLE) == b"bundle"


async def test_a_damaged_blob_is_not_handed_out(client: Client) -> None:
    registry = RedisRegistry(client)
    await client.set(f"faas:blob:{BUNDLE}", b"bundlf")
    with pytest.raises(StoreUnavailable, match="damaged"):
        await registry.blob(BUNDLE)


async def test_a_lost_subscription_is_an_error_not_a_silence(client: Client, valkey_url: str) -> None:
    async with asyncio.timeout(10), closing(RedisRegistry(client).changes()) as changes:
        assert await anext(changes) == ANY
        async with connect(valkey_url) as other:
            assert await other.client_kill_filter(_type="pubsub") == 1
        with pytest.raises(StoreUnavailable):
            await anext(changes)
    async with asyncio.timeout(10), closing(RedisRegistry(client).changes()) as changes:
        assert await anext(changes) == ANY


async def test_no_server_is_said() -> None:
    async with connect("unix:///nowhere/valkey.sock") as client:
        registry = RedisRegistry(client)
        with pytest.raises(StoreUnavailable):
            await registry.commit(make(1))
        with pytest.raises(StoreUnavailable):
            await registry.latest("default", "hello")
        with pytest.raises(StoreUnavailable):
            await anext(registry.changes())
