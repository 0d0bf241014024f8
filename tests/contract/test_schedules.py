"""Schedules on a real Valkey: several nodes, one run per tick, whatever becomes of a node or of the store."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from faas.events.derive import of_manifest
from faas.events.schedule import at_ms, next_tick, unix_ms
from faas.model.errors import StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.invocation import Trigger
from faas.model.manifest import CronTrigger, Manifest
from faas.model.message import Ack, Wanted, calls_of
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client, connect
from faas.stores.registry import RedisRegistry
from faas.stores.triggers import RedisTriggers
from faas.triggers.directory import Directory
from faas.triggers.scheduler import Scheduler

pytestmark = pytest.mark.anyio
START = dt.datetime(2020, 3, 29, 0, 50, 30, tzinfo=dt.UTC)  # ten minutes before Berlin's clocks change
REPORT = CronTrigger(schedule="*/5 * * * *", timezone="Europe/Berlin", missed="once", jitter_ms=0)
CALLS = calls_of("default", "report")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def monotonic_ns(self) -> int:
        raise AssertionError("schedules go by the wall")

    def unix_ns(self) -> int:
        return unix_ms(self.now) * 1_000_000


class Cluster:
    """Nodes with a connection each, a clock that the test moves, and a consumer of the calls."""

    def __init__(self, url: str, client: Client) -> None:
        self.url = url
        self.registry = RedisRegistry(client)
        self.queues = RedisQueues(client)
        self.clock = Clock()
        self.nodes: list[Scheduler] = []
        self.directory = Directory(self.registry, RedisTriggers(client))
        self._ids = itertools.count(1)
        self._stack = AsyncExitStack()

    async def deploy(self, *crons: CronTrigger) -> str:
        number = await self.registry.next_version("default", "report")
        version = FunctionVersion(
            namespace="default",
            name="report",
            version=number,
            manifest=Manifest(name="report", crons=crons),
            bundle="0" * 64,
            created_at_ms=unix_ms(self.clock.now),
        )
        await self.registry.commit(version)
        found = of_manifest(version)
        return found[0].id if found else ""

    async def up(self, count: int) -> list[Scheduler]:
        """More nodes, each of which knows all triggers."""
        for _ in range(count):
            client = await self._stack.enter_async_context(connect(self.url))
            directory = Directory(RedisRegistry(client), RedisTriggers(client))
            node = Scheduler(directory, RedisQueues(client), self.clock, lambda: f"{next(self._ids):032x}")
            known = asyncio.Event()
            directory.watch(lambda _, known=known: known.set())  # type: ignore[misc]
            following = asyncio.ensure_future(directory.run())
            self._stack.push_async_callback(_end, following)
            async with asyncio.timeout(20):
                await known.wait()
            self.nodes.append(node)
        return self.nodes

    async def pass_time(self, minutes: int) -> None:
        for _ in range(minutes * 2):
            self.clock.now += dt.timedelta(seconds=30)
            await asyncio.gather(*(node.step() for node in self.nodes))

    async def ran(self) -> list[str]:
        """The ticks whose calls wait, in the order they are handed out; they are taken."""
        found: list[str] = []
        while True:
            batch = await self.queues.take(CALLS, "calls", "n1", Wanted(100, 60_000, at_once=1_000_000))
            if not batch.deliveries:
                return found
            for delivery in batch.deliveries:
                assert delivery.message.trigger is Trigger.CRON
                found.append(json.loads(delivery.message.body)["time"][11:16])
            assert not await self.queues.settle(CALLS, [Ack(delivery.receipt) for delivery in batch.deliveries])

    async def close(self) -> None:
        await self._stack.aclose()


async def _end(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@pytest.fixture
async def cluster(client: Client, valkey_url: str) -> AsyncIterator[Cluster]:
    made = Cluster(valkey_url, client)
    yield made
    await made.close()


async def test_each_tick_runs_once_over_all_nodes_and_over_a_change_of_the_clock(cluster: Cluster) -> None:
    await cluster.deploy(REPORT)
    await cluster.up(3)
    await cluster.pass_time(30)
    assert await cluster.ran() == ["00:55", "01:00", "01:05", "01:10", "01:15", "01:20"]


async def test_what_a_downtime_took_is_made_up_for_once(cluster: Cluster) -> None:
    await cluster.deploy(REPORT)
    await cluster.up(1)
    await cluster.pass_time(5)
    cluster.nodes.clear()
    cluster.clock.now += dt.timedelta(hours=3, minutes=2)
    await cluster.up(3)
    await cluster.pass_time(6)
    assert await cluster.ran() == ["00:55", "03:55", "04:00"]


async def test_a_pause_is_heard_by_every_node_and_not_made_up_for(cluster: Cluster) -> None:
    each_minute = REPORT.model_copy(update={"schedule": "* * * * *"})
    trigger_id = await cluster.deploy(each_minute)
    nodes = await cluster.up(2)
    await cluster.pass_time(5)
    await cluster.directory.set_enabled("default", trigger_id, False)
    await _known(nodes, 0)
    await cluster.pass_time(20)
    cluster.clock.now = dt.datetime.now(dt.UTC)  # the store says when it was resumed, and its clock is this machine's
    await cluster.directory.set_enabled("default", trigger_id, True)
    await _known(nodes, 1)
    resumed = await cluster.directory.get("default", trigger_id)
    following = next_tick(each_minute.schedule, "UTC", at_ms(resumed.since_ms))
    assert following is not None
    cluster.clock.now = following
    await asyncio.gather(*(node.step() for node in nodes))
    assert await cluster.ran() == [*(f"00:{minute}" for minute in range(51, 56)), f"{following:%H:%M}"]


async def test_of_a_store_that_went_away_nothing_is_lost(cluster: Cluster, client: Client) -> None:
    await cluster.deploy(REPORT)
    await cluster.up(2)
    await cluster.pass_time(4)
    refusing = [Scheduler.step(node) for node in cluster.nodes]
    cluster.clock.now += dt.timedelta(seconds=31)
    await client.config_set("maxmemory", "1")
    try:
        said = await asyncio.gather(*refusing, return_exceptions=True)
    finally:
        await client.config_set("maxmemory", "0")
    assert [type(each) for each in said] == [StoreUnavailable] * 2
    cluster.clock.now += dt.timedelta(seconds=20)
    await asyncio.gather(*(node.step() for node in cluster.nodes))
    assert await cluster.ran() == ["00:55"]


async def test_a_trigger_that_is_gone_runs_no_more(cluster: Cluster, client: Client) -> None:
    await cluster.deploy(REPORT)
    nodes = await cluster.up(2)
    await cluster.pass_time(5)
    assert await client.hlen("faas:ticks") == 1
    await cluster.deploy()
    await _known(nodes, 0)
    await cluster.pass_time(15)
    assert await cluster.ran() == ["00:55"]
    assert await client.hlen("faas:ticks") == 0, "what it ran last is forgotten in time"


async def _known(nodes: list[Scheduler], count: int) -> None:
    """Until every node has heard."""
    async with asyncio.timeout(20):
        while any(node.enabled != count for node in nodes):
            await asyncio.sleep(0.005)
