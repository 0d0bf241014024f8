"""What every connector promises, on the real servers: nothing lost, and doubled only where nobody can tell."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import aio_pika
import nats
import pytest
import redis.asyncio

from faas.model.errors import StoreUnavailable
from faas.model.manifest import QueueSource
from faas.model.message import Ack, Bury, Delivery, Outcome, Send
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client
from faas.triggers.connectors import pump as pumps
from tests.contract.connector_nodes import QUEUE, Node, depth, guide_source, handle, numbered, until
from tests.contract.foreign import Cut, Nats, connectable

pytestmark = pytest.mark.anyio


class System(Protocol):
    """A foreign system, as its users see it."""

    source: QueueSource
    group_by: str  # what is the same for all of its messages
    url: str  # by which the connector goes
    tells_apart: bool  # whether a message has an identity of its own

    async def publish(self, bodies: Sequence[bytes]) -> None: ...

    async def left(self) -> int:
        """How many it still has to hand out, or handed out and waits for the acknowledgement."""

    async def down(self) -> None: ...

    async def up(self) -> None: ...

    async def close(self) -> None: ...


class Rabbit:
    tells_apart = True
    source = guide_source("rabbit")
    group_by = "queue"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._direct = url
        self._cut = Cut(str(parts.hostname), int(parts.port or 0))

    async def prepare(self) -> None:
        await self.up()
        self.url = f"amqp://guest:guest@127.0.0.1:{self._cut.port}/"
        self._connection = await aio_pika.connect(self._direct)
        self._channel = await self._connection.channel()
        self._queue = await self._channel.declare_queue("orders.in", durable=True)
        await self._queue.purge()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            message = aio_pika.Message(
                body, message_id=f"id of {body!r}", headers={"tenant": "t1", "tries": 3}, content_type="text/x-order"
            )
            await self._channel.default_exchange.publish(message, "orders.in")

    async def left(self) -> int:
        """Those that were handed out count again once the consumer is gone."""
        channel = await self._connection.channel()
        found = await channel.declare_queue("orders.in", passive=True)
        await channel.close()
        return int(found.declaration_result.message_count or 0)

    async def down(self) -> None:
        await self._cut.cut()

    async def up(self) -> None:
        await self._cut.mend()

    async def close(self) -> None:
        await self._queue.delete(if_unused=False, if_empty=False)
        await self._connection.close()
        with contextlib.suppress(Exception):
            await self._cut.cut()


class JetStream:
    tells_apart = True
    source = guide_source("nats")
    group_by = "stream"

    def __init__(self, server: Nats) -> None:
        self._server = server
        self.url = server.url

    async def prepare(self) -> None:
        await self._connect()
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await self._stream.delete_stream("ORDERS")
        await self._stream.add_stream(name="ORDERS", subjects=["orders.*"])

    async def publish(self, bodies: Sequence[bytes]) -> None:
        for body in bodies:
            await self._stream.publish("orders.eu", body, headers={"tenant": "t1", "Content-Type": "text/x-order"})

    async def left(self) -> int:
        consumers = await self._stream.consumers_info("ORDERS")
        if not consumers:
            return (await self._stream.stream_info("ORDERS")).state.messages
        return sum((each.num_pending or 0) + (each.num_ack_pending or 0) for each in consumers)

    async def down(self) -> None:
        await self._client.close()
        self._server.kill()

    async def up(self) -> None:
        self._server.start()
        await self._connect()

    async def close(self) -> None:
        await self._client.close()

    async def _connect(self) -> None:
        self._client = await nats.connect(self.url, allow_reconnect=False)
        self._stream = self._client.jetstream()


class List:
    tells_apart = False
    source = guide_source("redis")
    group_by = "list"

    def __init__(self, socket: str) -> None:
        self._direct = socket
        self._cut = Cut(socket, 0)

    async def prepare(self) -> None:
        await self.up()
        self.url = f"redis://127.0.0.1:{self._cut.port}/0"
        self._client = redis.asyncio.Redis(unix_socket_path=self._direct)

    async def publish(self, bodies: Sequence[bytes]) -> None:
        await self._client.lpush("orders:in", *bodies)

    async def left(self) -> int:
        keys = [key async for key in self._client.scan_iter("*orders:in*", _type="list")]
        return sum([await self._client.llen(key) for key in keys])

    async def down(self) -> None:
        await self._cut.cut()

    async def up(self) -> None:
        await self._cut.mend()

    async def close(self) -> None:
        await self._client.aclose()
        with contextlib.suppress(Exception):
            await self._cut.cut()


@pytest.fixture(params=["rabbitmq", "nats", "list"])
async def system(request: pytest.FixtureRequest, valkey_url: str, client: Client) -> AsyncIterator[System]:
    made: Any
    if request.param == "rabbitmq":
        made = Rabbit(request.getfixturevalue("rabbitmq_url"))
    elif request.param == "nats":
        made = JetStream(request.getfixturevalue("nats_server"))
    else:
        made = List(connectable(valkey_url))
    await made.prepare()
    yield made
    await made.close()


@pytest.fixture
async def nodes(client: Client) -> AsyncIterator[Callable[..., Node]]:
    made: list[Node] = []

    def one(queues: RedisQueues, urls: dict[str, str], name: str = "n1") -> Node:
        made.append(Node(queues, client, urls, name))
        return made[-1]

    yield one
    for node in made:
        await node.stop()


@pytest.fixture
def queues(client: Client) -> RedisQueues:
    return RedisQueues(client)


async def test_messages_come_in_order_with_what_is_known_of_them_and_are_acknowledged(
    system: System, nodes: Callable[..., Node], queues: RedisQueues
) -> None:
    await system.publish(numbered(120))
    node = nodes(queues, {system.source.connection: system.url})
    await node.start(system.source.model_copy(update={"group_by": system.group_by}))
    handled = await handle(queues, 120)
    assert [each.message.body for each in handled] == numbered(120)
    await node.stop()
    assert await system.left() == 0
    first = handled[0].message
    assert first.group == first.attributes[system.group_by]
    if isinstance(system, Rabbit):
        assert first.content_type == "text/x-order"
        assert first.attributes == {
            "tenant": "t1", "tries": "3", "message_id": "id of b'order 0'", "queue": "orders.in", "exchange": "",
            "routing_key": "orders.in",
        }  # fmt: skip
    elif isinstance(system, JetStream):
        assert first.content_type == "text/x-order"
        assert first.attributes.items() >= {"stream": "ORDERS", "subject": "orders.eu", "sequence": "1"}.items()
        assert first.attributes["tenant"] == "t1"
    else:
        assert (first.attributes, first.content_type) == ({"list": "orders:in"}, "text/plain; charset=utf-8")


class Dying(RedisQueues):
    """Stores the first batch, and then the node is no more: nothing of it comes back."""

    stored = False

    async def send(self, sends: Sequence[Send]) -> list[str]:
        if not self.stored:
            await super().send(sends)
        self.stored = True
        await asyncio.Event().wait()
        return []


async def test_killed_between_send_and_acknowledgement_loses_nothing(
    system: System, nodes: Callable[..., Node], queues: RedisQueues, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "STOP_WAIT_S", 0.0)
    monkeypatch.setattr("faas.triggers.connectors.nats.ACK_WAIT_S", 1.0)
    await system.publish(numbered(20))
    dying = Dying(client)
    killed = nodes(dying, {system.source.connection: system.url})
    await killed.start(system.source)

    async def stored() -> bool:
        return dying.stored

    await until(stored, "the first batch is stored")
    assert await system.left() + (20 if isinstance(system, Rabbit) else 0) >= 20, "acknowledged before it was sent"
    before = await depth(queues)
    await killed.stop()
    await system.publish(numbered(5, since=20))
    node = nodes(queues, {system.source.connection: system.url}, "n2")
    await node.start(system.source)
    again = 0 if system.tells_apart else before
    handled = await handle(queues, 25 + again)
    assert {each.message.body for each in handled} == set(numbered(25))
    assert len(handled) == 25 + again

    async def acknowledged() -> bool:
        return await system.left() == 0

    await until(acknowledged, "what was handed out again is acknowledged too")
    await node.stop()
    assert (await depth(queues), await system.left()) == (0, 0)


async def test_a_server_that_restarts_is_waited_for(
    system: System, nodes: Callable[..., Node], queues: RedisQueues, caplog: pytest.LogCaptureFixture
) -> None:
    node = nodes(queues, {system.source.connection: system.url})
    await system.publish(numbered(10))
    await node.start(system.source)
    await handle(queues, 10)
    await system.down()

    async def failing() -> bool:
        return node.state() == "failing"

    async def running() -> bool:
        return node.state() == "running"

    await until(failing, "the connector has seen it")
    await asyncio.sleep(0.5)  # it tries more than once
    await system.up()
    await system.publish(numbered(10, since=10))
    handled = await handle(queues, 10)
    assert {each.message.body for each in handled} == set(numbered(10, since=10))
    await until(running, "it runs")
    said = [record.getMessage() for record in caplog.records if record.name == pumps.log.name]
    assert len([words for words in said if "is tried again" in words]) == 1, said


async def test_a_paused_trigger_leaves_messages_where_they_are(
    system: System, nodes: Callable[..., Node], queues: RedisQueues
) -> None:
    node = nodes(queues, {system.source.connection: system.url})
    await system.publish(numbered(3))
    await node.start(system.source)
    await handle(queues, 3)
    node.say(system.source, enabled=False)

    async def gone() -> bool:
        return node.state() == ""

    await until(gone, "the pump is gone")
    await system.publish(numbered(3))
    assert await system.left() == 3
    assert await depth(queues) == 0
    node.say(system.source)
    if isinstance(system, Rabbit):  # the same ids and bodies as before
        await system.publish(numbered(3, since=3))
    await handle(queues, 3)


async def test_the_backlog_stays_where_it_is(
    system: System, nodes: Callable[..., Node], queues: RedisQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "DEPTH_MAX", 20)
    monkeypatch.setattr(pumps, "FULL_WAIT_S", 0.02)
    await system.publish(numbered(150))
    node = nodes(queues, {system.source.connection: system.url})
    await node.start(system.source)

    async def full() -> bool:
        return node.state() == "full"

    await until(full, "the pump says that the queue is full")
    assert 20 <= await depth(queues) <= 20 + pumps.BATCH
    assert {each.message.body for each in await handle(queues, 150)} == set(numbered(150))


async def test_a_message_that_nobody_can_handle_holds_up_nothing(
    system: System, nodes: Callable[..., Node], queues: RedisQueues
) -> None:
    await system.publish([*numbered(5), b"poison", *numbered(5, since=5)])
    node = nodes(queues, {system.source.connection: system.url})
    await node.start(system.source)

    def outcome(each: Delivery) -> Outcome:
        return Bury(each.receipt, "it raises") if each.message.body == b"poison" else Ack(each.receipt)

    handled = await handle(queues, 11, outcome)
    assert len(handled) == 11
    (dead,) = await queues.dead(QUEUE, 10)
    assert (dead.delivery.message.body, dead.reason) == (b"poison", "it raises")
    await node.stop()
    assert await system.left() == 0


async def test_what_cannot_be_stored_stays_there_and_the_others_pass(
    system: System, nodes: Callable[..., Node], queues: RedisQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pumps, "BODY_BYTES_MAX", 100)
    await system.publish([*numbered(2), b"x" * 101, *numbered(2, since=2)])
    node = nodes(queues, {system.source.connection: system.url})
    await node.start(system.source)
    assert [each.message.body for each in await handle(queues, 4)] == numbered(4)

    async def refused() -> bool:
        return [each.refused for each in node.connectors.states()] == [1]

    await until(refused, "it is counted")
    await node.stop()

    async def there() -> bool:
        return await system.left() == 1

    await until(there, "the foreign system has it back, alone")


class Away(RedisQueues):
    """Stores what it is sent, and cannot say so the first two times."""

    lost = 0

    async def send(self, sends: Sequence[Send]) -> list[str]:
        ids = await super().send(sends)
        self.lost += 1
        if self.lost <= 2:
            raise StoreUnavailable("the answer got lost")
        return ids


async def test_a_store_that_does_not_answer_is_asked_again_and_stores_once(
    system: System, nodes: Callable[..., Node], queues: RedisQueues, client: Client
) -> None:
    await system.publish(numbered(8))
    node = nodes(Away(client), {system.source.connection: system.url})
    await node.start(system.source)

    async def all_done() -> bool:
        return [(each.state, each.moved) for each in node.connectors.states()] == [("running", 8)]

    await until(all_done, "all are acknowledged")
    assert await depth(queues) == 8
