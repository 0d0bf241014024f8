"""What is particular to Redis: lists of nodes that died, and channels, which only one node listens to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from faas.model.manifest import QueueSource
from faas.stores.leases import RedisLeases
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client
from faas.triggers.connectors import redis_lists
from faas.triggers.connectors.pump import OwnLease, PumpState
from faas.triggers.connectors.redis_lists import RedisListSource
from tests.contract.connector_nodes import QUEUE, Node, depth, guide_source, handle, numbered, until

pytestmark = pytest.mark.anyio

LIST = QueueSource(connection="it", list="jobs")
CHANNEL = guide_source("redis", "channel")


@pytest.fixture
def queues(client: Client) -> RedisQueues:
    return RedisQueues(client)


@pytest.fixture
async def node(client: Client, queues: RedisQueues, valkey_url: str) -> AsyncIterator[Callable[[str], Node]]:
    made: list[Node] = []

    def one(name: str) -> Node:
        made.append(Node(queues, client, {"it": valkey_url, "redis": valkey_url}, name))
        return made[-1]

    yield one
    for each in made:
        await each.stop()


async def abandoned(valkey_url: str, client: Client, name: str) -> None:
    """A node took five of these messages, and was killed before it sent any."""
    await client.lpush("jobs", *numbered(8))
    source = RedisListSource(valkey_url, LIST, QUEUE, name)
    await source.open()
    assert [each.message.body for each in await source.fetch(5)] == numbered(5)
    assert await client.lrange(f"{{jobs}}:faas:{QUEUE}:{name}", 0, -1) == numbered(5)[::-1]
    assert source._client is not None
    await source._client.aclose()


async def test_what_a_dead_node_had_is_sent_by_another(
    valkey_url: str, client: Client, queues: RedisQueues, node: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_lists, "ALIVE_MS", 300)
    monkeypatch.setattr(redis_lists, "LOOK_S", 0.1)
    await abandoned(valkey_url, client, "dead")
    await node("n2").start(LIST)
    handled = await handle(queues, 8)
    assert sorted(each.message.body for each in handled) == numbered(8)


async def test_a_node_that_is_back_sends_what_it_had_first(
    valkey_url: str, client: Client, queues: RedisQueues, node: Callable[[str], Node]
) -> None:
    await abandoned(valkey_url, client, "n1")
    await node("n1").start(LIST)
    assert [each.message.body for each in await handle(queues, 8)] == numbered(8)


async def test_a_node_that_lives_keeps_what_it_has(
    valkey_url: str, client: Client, queues: RedisQueues, node: Callable[[str], Node]
) -> None:
    await abandoned(valkey_url, client, "slow")
    await node("n2").start(LIST)
    assert [each.message.body for each in await handle(queues, 3)] == numbered(3, since=5)
    assert await client.llen(f"{{jobs}}:faas:{QUEUE}:slow") == 5


async def test_one_node_listens_to_a_channel_and_another_when_it_has_gone(
    client: Client, queues: RedisQueues, node: Callable[[str], Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnLease.__init__, "__kwdefaults__", {"ttl_ms": 600})
    nodes = [node("n1"), node("n2")]
    for each in nodes:
        await each.start(CHANNEL)

    async def settled() -> bool:
        return sorted(each.state() for each in nodes) == [PumpState.RUNNING, PumpState.STANDBY]

    await until(settled, "one listens and one stands by")
    for body in numbered(5):
        await client.publish("news.eu", body)
    handled = await handle(queues, 5)
    assert [each.message.body for each in handled] == numbered(5)
    assert handled[0].message.attributes == {"channel": "news.eu", "pattern": "news.*"}
    listening = next(each for each in nodes if each.state() == PumpState.RUNNING)
    await listening.stop()
    nodes.remove(listening)

    async def taken_over() -> bool:
        return nodes[0].state() == PumpState.RUNNING

    await until(taken_over, "the other one listens")
    await client.publish("news.eu", b"late")
    assert [each.message.body for each in await handle(queues, 1)] == [b"late"]
    assert await depth(queues) == 0


async def test_a_lease_is_one_owners_until_it_ends(client: Client) -> None:
    leases = RedisLeases(client)
    assert await leases.hold("l", "a", 60_000)
    assert not await leases.hold("l", "b", 60_000)
    await leases.release("l", "b")
    assert await leases.hold("l", "a", 60_000)
    await leases.release("l", "a")
    assert await leases.hold("l", "b", 50)
    await asyncio.sleep(0.1)
    assert await leases.hold("l", "a", 60_000)


async def test_a_holder_that_cannot_renew_stops_before_the_lease_has_ended(client: Client) -> None:
    lease = OwnLease(RedisLeases(client), "l", "a", ttl_ms=300)
    await lease.take()
    await client.set("faas:lease:l", "b")  # as if it had ended meanwhile
    async with asyncio.timeout(20):
        await lease.keep()


async def test_a_source_that_this_node_has_no_connection_for_is_said(
    queues: RedisQueues, node: Callable[[str], Node]
) -> None:
    lost = node("n1")
    await lost.start(QueueSource(connection="rabbit", queue="q"))

    async def said() -> bool:
        return lost.state() == "unknown"

    await until(said, "it is said")
    assert 'no connection "rabbit" (there is: it, redis)' in lost.connectors.states()[0].error
    lost.say(QueueSource(connection="it", queue="q"))

    async def other() -> bool:
        return "is a connection to Redis, and this needs one to RabbitMQ" in lost.connectors.states()[0].error

    await until(other, "the wrong kind is said")
