"""Queues on a real Valkey that is killed, full, away, or holds what somebody else wrote."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from faas.model.errors import StoreUnavailable
from faas.model.message import Ack, Again, Bury, Message, Outcome, QueueName, Release, Send
from faas.stores import redis_client
from faas.stores.embedded import EmbeddedValkey
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client, connect
from tests.contract.test_queues import LONG_MS, ORDERS, held, numbers, send, settle_all, take

pytestmark = pytest.mark.anyio
PARTS = ("new", "again", "delayed", "waiting", "data", "groups", "open", "leases", "old", "dead", "letters", "counts")


async def everything(client: Client) -> dict[Any, Any]:
    """All keys and what they hold, as the server would write it down."""
    return {key: await client.dump(key) for key in await client.keys()}


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="faas-test-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_a_killed_server_has_all_that_it_answered_for(directory: Path) -> None:
    server = EmbeddedValkey(directory)
    await server.start()
    client = connect(server.url)
    queues = RedisQueues(client)
    try:
        await queues.send([send(number, group="g" if number < 3 else "") for number in range(20)])
        first, *rest = (await take(queues, 5)).deliveries
        await queues.settle(
            ORDERS, [Again(first.receipt, LONG_MS, "x"), Bury(rest[0].receipt, "bad"), Ack(rest[1].receipt)]
        )
        before = await held(queues)
        peeked, dead = await queues.peek(ORDERS, 100), await queues.dead(ORDERS, 100)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            await queues.state(ORDERS)
        await server.stop()
        await server.start()
        assert await held(queues) == before
        assert (await queues.peek(ORDERS, 100), await queues.dead(ORDERS, 100)) == (peeked, dead)
        assert await queues.busy() == [ORDERS]
        await settle_all(queues, rest[2:])
        assert numbers((await take(queues, 100)).deliveries) == [*range(7, 20)]
    finally:
        await client.aclose()
        await server.stop()


@pytest.mark.parametrize("part", PARTS)
async def test_a_key_of_another_type_is_named_and_nothing_is_done(client: Client, part: str) -> None:
    queues = RedisQueues(client)
    key = f"faas:queue:{ORDERS}:{part}"
    await queues.send([send(number, group="g" if number < 2 else "") for number in range(4)])
    head, bad, retried = (await take(queues, 3)).deliveries
    await client.delete(key)
    await client.set(key, "somebody else's")
    before = await everything(client)
    outcomes: list[Outcome] = [Ack(head.receipt), Bury(bad.receipt, "b"), Again(retried.receipt, 5, "c")]
    with pytest.raises(StoreUnavailable, match=f"{key} is not what a queue keeps there"):
        await queues.settle(ORDERS, outcomes, [send(9, group="g", delay_ms=5)])
    with pytest.raises(StoreUnavailable, match=key):
        await queues.purge(ORDERS)
    assert await everything(client) == before
    with pytest.raises(StoreUnavailable, match=key):
        await queues.delete(ORDERS)
    assert await everything(client) == before


async def test_a_send_to_several_queues_is_stored_whole_or_not_at_all(client: Client) -> None:
    queues = RedisQueues(client)
    await client.set("faas:queue:default/b:new", "somebody else's")
    with pytest.raises(StoreUnavailable, match="default/b:new"):
        await queues.send([send(1), send(2, QueueName("default", "b"))])
    with pytest.raises(StoreUnavailable, match="default/b:new"):
        await queues.tick("t", 1, send(2, QueueName("default", "b")))
    assert list(await everything(client)) == [b"faas:queue:default/b:new"]


async def test_a_full_server_takes_no_more_but_hands_out_what_it_has(client: Client) -> None:
    queues = RedisQueues(client)
    await queues.send([send(1), send(2)])
    await client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable, match="full"):
            await queues.send([send(3)])
        one, two = (await take(queues)).deliveries
        assert await queues.settle(ORDERS, [Ack(one.receipt), Release(two.receipt, 0)]) == []
        await settle_all(queues, (await take(queues)).deliveries)
    finally:
        await client.config_set("maxmemory", 0)
    assert await held(queues) == (0, 0, 0, 0, 0)


async def test_a_store_that_is_gone_says_so() -> None:
    gone = connect("redis://127.0.0.1:1/0")
    queues = RedisQueues(gone)
    for asked in (queues.send([send(1)]), take(queues), queues.settle(ORDERS, [Ack("a.1")]), queues.busy()):
        with pytest.raises(StoreUnavailable):
            await asked
    with pytest.raises(StoreUnavailable):
        await anext(queues.bells())
    await gone.aclose()


async def test_a_take_whose_answer_was_lost_has_the_same_batch(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    queues = RedisQueues(client)
    await queues.send([send(number) for number in range(5)])
    monkeypatch.setattr(os, "urandom", lambda size: b"\1" * size)
    lost = await take(queues, 3, at_once=1)
    assert numbers(lost.deliveries) == [0, 1, 2]
    again = await take(queues, 3, at_once=1)
    assert [each.receipt for each in again.deliveries] == [each.receipt for each in lost.deliveries]
    await settle_all(queues, again.deliveries)
    assert await held(queues) == (2, 0, 0, 0, 0)


async def test_several_batches_whose_answer_was_lost_come_again_as_they_were(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    queues = RedisQueues(client)
    await queues.send([send(number) for number in range(9)])
    monkeypatch.setattr(os, "urandom", lambda size: b"\1" * size)
    first = await take(queues, 2, batches=3)
    again = await take(queues, 2, batches=3)
    for batch in (first, again):
        assert [numbers(some) for some in (batch.deliveries, *batch.more)] == [[0, 1], [2, 3], [4, 5]]
    receipts = [each.receipt for some in (again.deliveries, *again.more) for each in some]
    assert receipts == [each.receipt for some in (first.deliveries, *first.more) for each in some]
    assert await held(queues) == (3, 0, 0, 6, 0)


async def test_what_cannot_be_read_goes_to_the_dead_letters(client: Client) -> None:
    queues = RedisQueues(client)
    await queues.send([send(1)])
    strange = msgpack.packb(["f" * 32, "", 0, 1, 0, 0, ""]) + msgpack.packb([b"x", "t", {}, "", 0, "of-the-future"])
    await client.xadd(f"faas:queue:{ORDERS}:new", {"m": strange})
    await queues.send([send(2)])
    assert numbers(await queues.peek(ORDERS, 10)) == [1, int("f" * 32, 16), 2]
    batch = (await take(queues)).deliveries
    assert numbers(batch) == [1, 2]
    await settle_all(queues, batch)
    (letter,) = await queues.dead(ORDERS, 10)
    assert letter.delivery.message == Message("f" * 32, b"")
    assert "of-the-future" in letter.reason
    assert await queues.busy() == []


async def test_many_are_purged_deleted_and_put_back_in_steps(client: Client) -> None:
    queues = RedisQueues(client)
    for start in range(0, 3000, 1000):
        await queues.send([send(number, group=str(number % 700)) for number in range(start, start + 1000)])
    buried = 0
    while batch := (await take(queues, 1000)).deliveries:
        buried += len(batch)
        await queues.settle(ORDERS, [Bury(each.receipt, "x") for each in batch])
    assert buried == 3000
    assert await queues.redrive(ORDERS, None, 1001) == 1001
    assert await held(queues) == (700, 0, 301, 0, 1999)
    assert await queues.purge(ORDERS) == 1001
    assert await held(queues) == (0, 0, 0, 0, 1999)
    assert await queues.delete(ORDERS)
    assert await client.keys(f"faas:queue:{ORDERS}:*") == []


async def test_consumers_of_several_nodes_share_all_messages_once(client: Client) -> None:
    queues = RedisQueues(client)
    seen: list[int] = []

    async def consume() -> None:
        while batch := (await take(queues, 7)).deliveries:
            seen.extend(numbers(batch))
            await settle_all(queues, batch)

    await queues.send([Send(ORDERS, Message(f"{number:032x}", b"")) for number in range(400)])
    await asyncio.gather(*[consume() for _ in range(5)])
    assert sorted(seen) == [*range(400)]
    assert await queues.busy() == []


async def test_a_server_that_hangs_is_given_up_after_one_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not after one for each try: whoever waits for it is told in time."""
    asked: list[bytes] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1000):
            writer.write(b"+OK\r\n" * part.count(b"SETINFO"))
            asked.extend([part] if b"SMEMBERS" in part else [])
        writer.close()

    monkeypatch.setattr(redis_client, "ANSWER_TIMEOUT_S", 0.2)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await RedisQueues(client).busy()
    assert len(asked) == 1, "it is asked once"
