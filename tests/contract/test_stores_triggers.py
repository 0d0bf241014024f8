"""Triggers beside manifests: what is stored, how long, and who hears of it. In memory and on a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from faas.model.errors import Conflict, NotFound, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.manifest import CronTrigger, Manifest, QueueTrigger
from faas.model.trigger import TriggerSpec
from faas.ports import Registry
from faas.stores.memory import MemoryRegistry
from faas.stores.memory_triggers import MemoryTriggers
from faas.stores.redis_client import Client, connect
from faas.stores.registry import RedisRegistry
from faas.stores.triggers import FIELDS_MAX, RedisTriggers
from faas.triggers.directory import Directory

pytestmark = pytest.mark.anyio
NIGHTLY = CronTrigger(schedule="0 3 * * *")


class ForgettingRegistry(MemoryRegistry):
    triggers: MemoryTriggers

    async def delete(self, namespace: str, name: str) -> None:
        await super().delete(namespace, name)
        self.triggers.forget(namespace, name)


@dataclass
class Setting:
    registry: Registry
    directory: Directory

    async def deploy(
        self,
        name: str = "hello",
        *,
        namespace: str = "default",
        queues: Sequence[str] = (),
        crons: Sequence[CronTrigger] = (),
        at_ms: int = 0,
    ) -> FunctionVersion:
        manifest = Manifest(name=name, queues=tuple(QueueTrigger(name=q) for q in queues), crons=tuple(crons))
        version = FunctionVersion(
            namespace=namespace,
            name=name,
            version=await self.registry.next_version(namespace, name),
            manifest=manifest,
            bundle="0" * 64,
            created_at_ms=at_ms,
        )
        await self.registry.commit(version)
        return version

    async def ids(self, namespace: str | None = "default") -> list[str]:
        return [trigger.id for trigger in await self.directory.list(namespace)]


def added(queue: str = "orders", batch: int = 10) -> TriggerSpec:
    trigger = QueueTrigger(name=queue, batch=batch)
    return TriggerSpec(id=f"hello.{queue}", namespace="default", function="hello", queue=trigger)


@pytest.fixture(params=["memory", "valkey"])
async def setting(request: pytest.FixtureRequest, client: Client) -> Setting:
    if request.param == "valkey":
        redis = RedisRegistry(client)
        return Setting(redis, Directory(redis, RedisTriggers(client)))
    memory = ForgettingRegistry()
    memory.triggers = MemoryTriggers(memory, memory.tell, lambda: time.time_ns() // 1_000_000)
    return Setting(memory, Directory(memory, memory.triggers))


async def test_triggers_follow_from_the_latest_manifest(setting: Setting) -> None:
    await setting.deploy(queues=["orders", "returns"], crons=[NIGHTLY, NIGHTLY], at_ms=5)
    await setting.deploy("other", namespace="acme", queues=["orders"])
    nightly = "hello.cron-38d259"
    found = await setting.directory.list("default")
    assert [each.id for each in found] == [nightly, f"{nightly}-2", "hello.orders", "hello.returns"]
    assert [(each.since_ms, each.source, each.enabled) for each in found[1:3]] == [
        (5, "manifest", True),
        (0, "manifest", True),
    ]
    assert await setting.ids(None) == ["other.orders", *(each.id for each in found)]
    await setting.deploy(queues=["returns"])
    assert await setting.ids() == ["hello.returns"]
    with pytest.raises(NotFound, match="faas trigger ls"):
        await setting.directory.get("default", "hello.orders")
    for nowhere in ("nobody.orders", "hello", "", "hello.returns.x", "\0"):
        with pytest.raises(NotFound):
            await setting.directory.get("default", nowhere)


async def test_one_is_added_paused_resumed_and_removed(setting: Setting) -> None:
    await setting.deploy()
    before_ms = time.time_ns() // 1_000_000
    made = await setting.directory.add(added())
    assert (made.source, made.enabled, made.queue) == ("added", True, QueueTrigger(name="orders"))
    assert await setting.directory.list("default") == [made]
    cron = TriggerSpec(id="hello.cron-x", namespace="default", function="hello", cron=NIGHTLY, enabled=False)
    made = await setting.directory.add(cron)
    assert not made.enabled
    assert made.since_ms >= before_ms - 1000
    assert (await setting.directory.set_enabled("default", made.id, True)).enabled
    resumed = await setting.directory.get("default", made.id)
    assert (resumed.enabled, resumed.since_ms >= made.since_ms) == (True, True)
    await setting.directory.delete("default", made.id)
    assert await setting.ids() == ["hello.orders"]
    with pytest.raises(NotFound):
        await setting.directory.delete("default", made.id)
    with pytest.raises(NotFound):
        await setting.directory.set_enabled("default", made.id, False)


async def test_what_cannot_be_is_refused(setting: Setting) -> None:
    with pytest.raises(NotFound, match="no function 'hello'"):
        await setting.directory.add(added())
    await setting.deploy(queues=["orders"])
    with pytest.raises(Conflict, match="already"):
        await setting.directory.add(added())
    with pytest.raises(Conflict, match="manifest of 'hello'"):
        await setting.directory.delete("default", "hello.orders")
    await setting.directory.add(added("returns"))
    with pytest.raises(Conflict, match=r"rm hello\.returns"):
        await setting.directory.add(added("returns", batch=3))


async def test_a_pause_holds_until_it_is_resumed(setting: Setting) -> None:
    await setting.deploy(queues=["orders"], crons=[NIGHTLY])
    cron = (await setting.ids())[0]
    for each in (cron, "hello.orders"):
        assert not (await setting.directory.set_enabled("default", each, False)).enabled
    await setting.deploy(queues=["returns"])
    await setting.deploy(queues=["orders"], crons=[NIGHTLY], at_ms=7)
    assert [(each.id, each.enabled) for each in await setting.directory.list("default")] == [
        (cron, False),
        ("hello.orders", False),
    ]
    before_ms = time.time_ns() // 1_000_000
    await setting.directory.set_enabled("default", cron, True)
    found = await setting.directory.get("default", cron)
    assert found.since_ms >= before_ms - 1000, "what fell into the pause is over"


async def test_a_function_made_anew_knows_nothing_of_the_one_before(setting: Setting) -> None:
    await setting.deploy(queues=["orders"])
    await setting.directory.add(added("returns"))
    await setting.directory.set_enabled("default", "hello.orders", False)
    await setting.registry.delete("default", "hello")
    assert await setting.ids() == []
    await setting.deploy(queues=["orders"])
    assert [(each.id, each.enabled) for each in await setting.directory.list("default")] == [("hello.orders", True)]


async def test_a_manifest_that_takes_over_an_added_one_gives_it_back(setting: Setting) -> None:
    await setting.deploy()
    await setting.directory.add(added(batch=3))
    await setting.deploy(queues=["orders"])
    found = await setting.directory.get("default", "hello.orders")
    assert (found.source, found.queue) == ("manifest", QueueTrigger(name="orders"))
    await setting.deploy()
    found = await setting.directory.get("default", "hello.orders")
    assert (found.source, found.queue) == ("added", QueueTrigger(name="orders", batch=3))


# -- following --------------------------------------------------------------------------------------------------------


class Follower:
    def __init__(self) -> None:
        self.heard: list[list[tuple[str, bool]]] = []
        self.new = asyncio.Event()

    def __call__(self, triggers: Sequence[TriggerSpec]) -> None:
        self.heard.append([(trigger.key, trigger.enabled) for trigger in triggers])
        self.new.set()

    async def hear(self, *wanted: tuple[str, bool]) -> None:
        async with asyncio.timeout(20):
            while not self.heard or self.heard[-1] != list(wanted):
                self.new.clear()
                await self.new.wait()


@asynccontextmanager
async def following(directory: Directory) -> AsyncIterator[Follower]:
    follower = Follower()
    directory.watch(follower)
    task = asyncio.ensure_future(directory.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_followers_hear_of_every_change(setting: Setting) -> None:
    await setting.deploy(queues=["orders"])
    async with following(setting.directory) as follower:
        await follower.hear(("default/hello.orders", True))
        late = Follower()
        setting.directory.watch(late)
        assert late.heard == follower.heard[-1:]
        await setting.directory.set_enabled("default", "hello.orders", False)
        await follower.hear(("default/hello.orders", False))
        await setting.deploy("other", namespace="acme")
        await setting.directory.add(added("returns"))
        await follower.hear(("default/hello.orders", False), ("default/hello.returns", True))
        await setting.directory.delete("default", "hello.returns")
        await follower.hear(("default/hello.orders", False))
        await setting.deploy()
        await follower.hear()
        await setting.deploy(queues=["orders"])
        await follower.hear(("default/hello.orders", False))
        await setting.registry.delete("default", "hello")
        await follower.hear()
    assert all(a != b for a, b in zip(follower.heard, follower.heard[1:], strict=False)), "nothing is said twice"


async def test_who_changes_a_trigger_is_answered_when_this_node_knows(setting: Setting) -> None:
    await setting.deploy(queues=["orders"])
    async with following(setting.directory) as follower:
        await follower.hear(("default/hello.orders", True))
        await setting.directory.set_enabled("default", "hello.orders", False)
        assert follower.heard[-1] == [("default/hello.orders", False)]
        await setting.directory.add(added("returns"))
        assert len(follower.heard[-1]) == 2
        await setting.directory.delete("default", "hello.returns")
        assert follower.heard[-1] == [("default/hello.orders", False)]


async def test_one_follower_that_fails_keeps_no_other_from_hearing(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: Sequence[TriggerSpec]) -> None:
        raise ZeroDivisionError

    setting.directory.watch(failing)
    async with following(setting.directory) as follower:
        await setting.deploy(queues=["orders"])
        await follower.hear(("default/hello.orders", True))
    assert "a follower of triggers failed" in caplog.text


# -- the real one alone -----------------------------------------------------------------------------------------------


async def test_what_changed_while_the_connection_was_lost_is_heard(client: Client, valkey_url: str) -> None:
    setting = Setting(RedisRegistry(client), Directory(RedisRegistry(client), RedisTriggers(client)))
    await setting.deploy(queues=["orders"])
    async with following(setting.directory) as follower, connect(valkey_url) as other:
        await follower.hear(("default/hello.orders", True))
        await other.client_kill_filter(_type="pubsub")
        await setting.directory.set_enabled("default", "hello.orders", False)
        await follower.hear(("default/hello.orders", False))


async def test_the_same_sent_again_changes_nothing(client: Client) -> None:
    setting = Setting(RedisRegistry(client), Directory(RedisRegistry(client), RedisTriggers(client)))
    store = RedisTriggers(client)
    await setting.deploy()
    await store.add(added())
    first = await client.hgetall("faas:triggers:default/hello")
    await store.add(added())
    await store.set_enabled("default", "hello", "hello.orders", True)
    assert await client.hgetall("faas:triggers:default/hello") == first
    assert first.keys() == {b"added:hello.orders", b"since:hello.orders"}
    await setting.registry.delete("default", "hello")
    assert await client.keys("faas:triggers*") == []
    for write in (store.add(added()), store.set_enabled("default", "hello", "hello.orders", False)):
        with pytest.raises(NotFound):
            await write
    assert await client.keys("faas:triggers*") == [], "nothing that the next of its name would inherit"


async def test_a_function_has_so_many_and_no_more(client: Client) -> None:
    setting = Setting(RedisRegistry(client), Directory(RedisRegistry(client), RedisTriggers(client)))
    await setting.deploy()
    await client.hset("faas:triggers:default/hello", mapping={f"since:{n}": "1" for n in range(FIELDS_MAX)})
    with pytest.raises(Conflict, match="too many"):
        await setting.directory.add(added())
    with pytest.raises(Conflict, match="too many"):
        await RedisTriggers(client).set_enabled("default", "hello", "hello.x", False)


async def test_no_server_is_said() -> None:
    async with connect("unix:///nowhere/valkey.sock") as client:
        directory = Directory(RedisRegistry(client), RedisTriggers(client))
        with pytest.raises(StoreUnavailable):
            await directory.list(None)
        with pytest.raises(StoreUnavailable):
            await RedisTriggers(client).read([("default", "hello")])
