"""The contract of the queues, on a real Valkey."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from faas.model.errors import StoreUnavailable
from faas.model.invocation import Trigger
from faas.model.message import (
    Ack,
    Again,
    Batch,
    Bury,
    Delivery,
    Drop,
    Message,
    Outcome,
    QueueName,
    QueueState,
    Release,
    Send,
    Wanted,
)
from faas.ports.events import MessageQueue
from faas.stores.queues import ANY, RedisQueues
from faas.stores.redis_client import Client
from tests.contract.valkeys import closing

pytestmark = pytest.mark.anyio
ORDERS = QueueName("default", "orders")
HIDDEN = QueueName("default", "@call.hello")
LONG_MS = 600_000


@pytest.fixture
def queues(client: Client) -> MessageQueue:
    return RedisQueues(client)


def send(number: int, queue: QueueName = ORDERS, **fields: Any) -> Send:
    return Send(queue, Message(id=f"{number:032x}", body=b'{"n":%d}' % number, **fields))


async def take(queues: MessageQueue, count: int = 10, queue: QueueName = ORDERS, **changes: Any) -> Batch:
    trigger = changes.pop("trigger", "default/worker.orders")
    wanted = Wanted(count, LONG_MS, at_once=10)._replace(**changes)
    return await queues.take(queue, trigger, "node-1", wanted)


async def take_when_due(queues: MessageQueue, **changes: Any) -> Batch:
    """As a consumer does: again after ``wait_ms``, until something is there."""
    with anyio.fail_after(20):
        while not (batch := await take(queues, **changes)).deliveries:
            assert batch.wait_ms is not None
            await anyio.sleep(batch.wait_ms / 1000)
    return batch


def numbers(deliveries: Any) -> list[int]:
    return [int(each.message.id, 16) for each in deliveries]


async def state(queues: MessageQueue, queue: QueueName = ORDERS) -> QueueState:
    found = await queues.state(queue)
    assert found is not None
    return found


async def held(queues: MessageQueue) -> tuple[int, int, int, int, int]:
    found = await state(queues)
    return found.ready, found.delayed, found.waiting, found.in_flight, found.dead


async def settle_all(queues: MessageQueue, deliveries: Any, queue: QueueName = ORDERS) -> None:
    assert await queues.settle(queue, [Ack(each.receipt) for each in deliveries]) == []


async def test_several_batches_come_in_one_step_each_with_a_lease_of_its_own(queues: MessageQueue) -> None:
    await queues.send([send(number, group="g" if number == 1 else "") for number in range(8)])
    batch = await take(queues, 3, batches=4)
    came = [batch.deliveries, *batch.more]
    assert [numbers(some) for some in came] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    names = [{each.receipt.partition(".")[0] for each in some} for some in came]
    assert len(set.union(*names)) == len(names), "each has one name"
    assert (await take(queues, 3, batches=4, at_once=3)).deliveries == []
    await settle_all(queues, came[1])
    assert (await held(queues))[3] == 5, "in flight"
    await queues.send([send(number) for number in range(8, 20)])
    again = await take(queues, 3, batches=4, at_once=4)
    assert [numbers(some) for some in (again.deliveries, *again.more)] == [[8, 9, 10], [11, 12, 13]], "room for two"
    receipts = [each.receipt for each in (*came[0], *came[2])]
    assert await queues.renew(ORDERS, [*receipts, came[1][0].receipt], LONG_MS) == [came[1][0].receipt]


async def test_of_several_batches_with_a_window_only_full_ones_come_before_its_end(queues: MessageQueue) -> None:
    await queues.send([send(number) for number in range(8)])
    batch = await take(queues, 3, batches=4, window_ms=LONG_MS)
    assert [numbers(some) for some in (batch.deliveries, *batch.more)] == [[0, 1, 2], [3, 4, 5]]
    assert (await take(queues, 3, batches=4, window_ms=LONG_MS)).deliveries == []
    late = await take_when_due(queues, count=3, batches=4, window_ms=1)
    assert [numbers(some) for some in (late.deliveries, *late.more)] == [[6, 7]]


async def test_a_message_comes_as_it_was_sent(queues: MessageQueue) -> None:
    message = Message(
        id="0" * 31 + "1",
        body=b"\x00\xff" * 100,
        content_type="image/png",
        attributes={"größe": "1", "": "\x00"},
        group="käse\x00\xff",
        dedup_id="d",
        trigger=Trigger.ASYNC,
        qualifier="live",
        key_id="k1",
        trace_parent="00-1-2-01",
        hops=3,
    )
    assert await queues.send([]) == []
    assert await queues.send([Send(ORDERS, message)]) == [message.id]
    (peeked,) = await queues.peek(ORDERS, 10)
    (taken,) = (await take(queues)).deliveries
    assert peeked == Delivery(message, "", 1, taken.sent_at_ms, 0)
    assert taken.message == message
    assert (taken.attempt, taken.error) == (1, "")
    assert 0 < taken.sent_at_ms <= taken.first_taken_at_ms
    assert await held(queues) == (0, 0, 0, 1, 0)
    nothing = await take(queues)
    assert nothing.deliveries == []
    assert nothing.wait_ms is not None, "the lease ends"
    assert 0 < nothing.wait_ms <= LONG_MS
    await settle_all(queues, [taken])
    found = await state(queues)
    assert (found.depth, found.oldest_ms) == (0, 0)
    assert dict(found.counts) == {"sent": 1, "acked": 1, "retried": 0, "dead": 0, "dropped": 0, "expired": 0}
    assert await queues.busy() == []


async def test_sent_twice_is_sent_once(queues: MessageQueue) -> None:
    first = send(1)
    ids = await queues.send([first, first, send(2, dedup_id="d"), send(3, dedup_id="d"), send(4, dedup_id="e")])
    assert [int(each, 16) for each in ids] == [1, 1, 2, 2, 4]
    batch = await take(queues)
    assert numbers(batch.deliveries) == [1, 2, 4]
    await settle_all(queues, batch.deliveries)
    assert await queues.send([first, send(5, dedup_id="d"), send(2, dedup_id="d")]) == [
        first.message.id,
        send(2).message.id,
        send(2).message.id,
    ]
    assert await held(queues) == (0, 0, 0, 0, 0)
    assert await queues.delete(ORDERS)
    await queues.send([send(6, dedup_id="d")])
    assert numbers((await take(queues)).deliveries) == [6], "a new queue knows nothing of the old one"


async def test_a_group_keeps_its_order_whatever_becomes_of_its_head(queues: MessageQueue) -> None:
    await queues.send([send(number, group="ab"[number % 2]) for number in range(8)])
    assert await held(queues) == (2, 0, 6, 0, 0)
    zero, one = (await take(queues)).deliveries
    assert numbers([zero, one]) == [0, 1]
    assert numbers((await take(queues)).deliveries) == []
    await queues.settle(ORDERS, [Again(zero.receipt, 0, "once more"), Release(one.receipt, 0)])
    (zero,) = (await take(queues)).deliveries
    assert (numbers([zero]), zero.attempt, zero.error) == ([0], 2, "once more")
    (one,) = (await take(queues)).deliveries
    assert (numbers([one]), one.attempt) == ([1], 1)
    await queues.settle(ORDERS, [Bury(zero.receipt, "bad"), Drop(one.receipt)])
    seen = []
    while batch := (await take(queues)).deliveries:
        seen += numbers(batch)
        await settle_all(queues, batch)
    assert seen == [2, 3, 4, 5, 6, 7]
    assert await queues.busy() == []


async def test_a_delay_holds_the_place_in_the_group(queues: MessageQueue) -> None:
    await queues.send([send(1, delay_ms=700, group="g"), send(2, group="g"), send(3, delay_ms=LONG_MS)])
    assert await held(queues) == (0, 2, 1, 0, 0)
    assert numbers(await queues.peek(ORDERS, 10)) == [2, 1, 3]
    assert (await state(queues)).oldest_ms == 0
    for number in (1, 2):
        batch = await take_when_due(queues)
        assert numbers(batch.deliveries) == [number]
        await settle_all(queues, batch.deliveries)
    assert await held(queues) == (0, 1, 0, 0, 0)
    assert await queues.busy() == [ORDERS]


async def test_what_failed_comes_alone_and_first(queues: MessageQueue) -> None:
    await queues.send([send(number) for number in range(6)])
    batch = (await take(queues, 4)).deliveries
    outcomes: list[Outcome] = [Again(each.receipt, 0, "no") for each in batch[:2]]
    assert await queues.settle(ORDERS, [*outcomes, Release(batch[2].receipt, 0)]) == []
    taken = [(await take(queues)).deliveries for _ in range(4)]
    assert [numbers(each) for each in taken] == [[0], [1], [4, 5, 2], []]
    assert [each.attempt for some in taken for each in some] == [2, 2, 1, 1, 1]
    assert (await state(queues)).counts["retried"] == 2
    assert await held(queues) == (0, 0, 0, 6, 0)


async def test_a_batch_waits_for_its_window(queues: MessageQueue) -> None:
    await queues.send([send(1), send(2)])
    waiting = await take(queues, 3, window_ms=LONG_MS)
    assert waiting.deliveries == []
    assert waiting.wait_ms is not None
    assert 0 < waiting.wait_ms <= LONG_MS
    await queues.send([send(3), send(4)])
    assert numbers((await take(queues, 3, window_ms=LONG_MS)).deliveries) == [1, 2, 3]
    assert (await take(queues, 3, window_ms=LONG_MS)).deliveries == []
    assert numbers((await take_when_due(queues, count=3, window_ms=100)).deliveries) == [4]


async def test_no_more_batches_are_out_than_may_be_and_a_free_place_rings(queues: MessageQueue) -> None:
    await queues.send([send(number) for number in range(5)])
    async with closing(queues.bells()) as bells:
        with anyio.fail_after(20):
            assert await anext(bells) == ANY
            first = await take(queues, 2, at_once=1)
            assert numbers(first.deliveries) == [0, 1]
            full = await take(queues, 2, at_once=1)
            assert full.deliveries == []
            assert full.wait_ms is not None, "the lease ends"
            assert numbers((await take(queues, 1, at_once=1, trigger="default/other.orders")).deliveries) == [2]
            await settle_all(queues, first.deliveries[:1])
            assert (await take(queues, 2, at_once=1)).deliveries == [], "one of it is out still"
            await settle_all(queues, first.deliveries[1:])
            assert await anext(bells) == ORDERS
            assert numbers((await take(queues, 2, at_once=1)).deliveries) == [3, 4]


async def test_who_lost_a_lease_has_nothing_to_say(queues: MessageQueue) -> None:
    await queues.send([send(1, group="g"), send(2), send(3, group="g")])
    late = (await take(queues, lease_ms=50, at_once=1)).deliveries
    again = [(await take_when_due(queues, at_once=2)).deliveries for _ in range(2)]
    assert [numbers(each) for each in again] == [[1], [2]], "alone, and before the others"
    assert [each.attempt for some in again for each in some] == [2, 2]
    assert [each.first_taken_at_ms for some in again for each in some] == [each.first_taken_at_ms for each in late]
    receipts = [each.receipt for each in late]
    assert await queues.settle(ORDERS, [Ack(each) for each in receipts], [send(9)]) == receipts
    assert await queues.renew(ORDERS, [*receipts, again[0][0].receipt], LONG_MS) == receipts
    assert await held(queues) == (0, 0, 1, 2, 0)
    assert await queues.settle(ORDERS, [Ack(receipts[0]), Ack(again[0][0].receipt)], [send(9)]) == receipts[:1]
    assert numbers((await take(queues)).deliveries) == [3, 9]
    for nonsense in ("", ".", "a.b", "..1", "x" * 5000, f"{receipts[0]}0", "\udcff.1"):
        assert await queues.settle(ORDERS, [Ack(nonsense)]) == [nonsense]
    assert (await state(queues)).counts["expired"] == 2


async def test_a_lease_is_renewed(queues: MessageQueue) -> None:
    await queues.send([send(1)])
    (mine,) = (await take(queues, lease_ms=200)).deliveries
    assert await queues.renew(ORDERS, [], 1) == []
    assert await queues.renew(ORDERS, [mine.receipt], LONG_MS) == []
    await anyio.sleep(0.25)
    assert (await take(queues)).deliveries == []
    assert await queues.renew(ORDERS, [mine.receipt], 1) == []
    assert numbers((await take_when_due(queues)).deliveries) == [1]


async def test_dead_letters_are_kept_with_their_reason_and_come_back(queues: MessageQueue) -> None:
    await queues.send([send(number, group="g" if number > 2 else "") for number in range(5)])
    while batch := (await take(queues)).deliveries:
        await queues.settle(ORDERS, [Bury(each.receipt, f"bad {each.message.id[-1]}") for each in batch])
    assert await queues.busy() == []
    letters = await queues.dead(ORDERS, 10)
    assert numbers(each.delivery for each in letters) == [0, 1, 2, 3, 4]
    assert letters[1].reason == "bad 1"
    assert letters[1].delivery.attempt == 1
    assert letters[1].delivery.sent_at_ms <= letters[1].delivery.first_taken_at_ms <= letters[1].died_at_ms
    assert numbers(each.delivery for each in await queues.dead(ORDERS, 2, letters[1].delivery.message.id)) == [2, 3]
    assert await queues.redrive(ORDERS, [send(4).message.id, send(77).message.id], 10) == 1
    assert await queues.redrive(ORDERS, None, 2) == 2
    assert await queues.redrive(ORDERS, None, 0) == 0
    batch = (await take(queues)).deliveries
    assert numbers(batch) == [4, 0, 1]
    assert {each.attempt for each in batch} == {1}
    assert await held(queues) == (0, 0, 0, 3, 2)
    assert await queues.purge(ORDERS, dead=True) == 2
    assert await held(queues) == (0, 0, 0, 3, 0)


async def test_a_purge_leaves_what_is_out_to_its_end(queues: MessageQueue) -> None:
    await queues.send([send(number, group="g" if number in {0, 4} else "") for number in range(5)])
    head, again, free = (await take(queues, 3)).deliveries
    await queues.settle(ORDERS, [Again(again.receipt, 0, "no")])
    (again,) = (await take(queues)).deliveries
    await queues.send([send(5, delay_ms=LONG_MS)])
    assert await held(queues) == (1, 1, 1, 3, 0)
    assert await queues.purge(ORDERS) == 3
    assert await held(queues) == (0, 0, 0, 3, 0)
    await queues.send([send(6, group="g")])
    assert await held(queues) == (0, 0, 1, 3, 0), "its group has a head still"
    assert await queues.settle(ORDERS, [Ack(head.receipt), Again(free.receipt, 0, "x"), Ack(again.receipt)]) == []
    assert sorted([*numbers((await take(queues)).deliveries), *numbers((await take(queues)).deliveries)]) == [2, 6]


async def test_a_queue_deleted_under_a_consumer(queues: MessageQueue) -> None:
    assert not await queues.delete(ORDERS)
    await queues.send([send(number, group="g" * (number % 2)) for number in range(5)])
    (mine, _) = (await take(queues, 2)).deliveries
    assert await queues.delete(ORDERS)
    assert await queues.state(ORDERS) is None
    assert await queues.busy() == []
    assert await queues.states("default") == []
    await queues.send([send(1, group="g")])
    assert await queues.settle(ORDERS, [Again(mine.receipt, 0, "x")], [send(8)]) == [mine.receipt]
    assert await queues.renew(ORDERS, [mine.receipt], 1) == [mine.receipt]
    assert numbers((await take(queues)).deliveries) == [1]


async def test_queues_are_listed_by_name_without_the_hidden_ones(queues: MessageQueue) -> None:
    await queues.send([send(1, HIDDEN), send(2, QueueName("team-a", "x")), send(3, QueueName("default", "b"))])
    await take(queues)
    await take(queues, queue=QueueName("default", "@webhooks"))
    assert [each.queue.name for each in await queues.states("default")] == ["b", "orders"], "a trigger names orders"
    assert await queues.states("nobody") == []
    assert set(await queues.busy()) == {HIDDEN, QueueName("team-a", "x"), QueueName("default", "b")}
    assert (await state(queues, HIDDEN)).ready == 1
    assert await queues.state(QueueName("default", "@webhooks")) is None


async def test_what_is_sent_with_an_outcome_goes_with_it(queues: MessageQueue) -> None:
    await queues.send([send(1), send(2)])
    one, two = (await take(queues)).deliveries
    await queues.settle(ORDERS, [Ack(one.receipt)], [send(3), send(4, HIDDEN, delay_ms=LONG_MS)])
    assert await held(queues) == (1, 0, 0, 1, 0)
    assert (await state(queues, HIDDEN)).delayed == 1
    assert set(await queues.busy()) == {ORDERS, HIDDEN}
    assert await queues.settle(ORDERS, [Ack(one.receipt), Drop(two.receipt)], [send(5)]) == [one.receipt]
    assert numbers((await take(queues)).deliveries) == [3, 5]
    assert (await state(queues)).counts["dropped"] == 1


async def test_a_hidden_queue_keeps_its_newest_dead_letters_only(queues: MessageQueue) -> None:
    await queues.send([send(number, HIDDEN) for number in range(130)])
    while batch := (await take(queues, 50, HIDDEN)).deliveries:
        await queues.settle(HIDDEN, [Bury(each.receipt, "bad") for each in batch])
    assert numbers(each.delivery for each in await queues.dead(HIDDEN, 1000)) == list(range(30, 130))
    found = await state(queues, HIDDEN)
    assert (found.dead, found.counts["dead"]) == (100, 130)


async def test_a_clock_that_is_ahead_runs_no_ticks_and_keeps_nobody_from_them(
    queues: MessageQueue, client: Client
) -> None:
    seconds, _ = await client.time()
    now_ms = seconds * 1000
    with pytest.raises(StoreUnavailable, match="Set the clocks"):
        await queues.tick("default/report.cron-1", now_ms + 3_600_000, send(1, HIDDEN))
    assert await queues.state(HIDDEN) is None
    assert await queues.tick("default/report.cron-1", now_ms, send(2, HIDDEN))
    assert await queues.tick("default/report.cron-1", now_ms + 30_000, send(3, HIDDEN))


async def test_a_tick_is_run_by_one(queues: MessageQueue) -> None:
    async with anyio.create_task_group() as group:
        for number in range(1, 5):
            group.start_soon(queues.tick, "default/report.cron-1", 60_000, send(number, HIDDEN))
    assert (await state(queues, HIDDEN)).ready == 1
    assert not await queues.tick("default/report.cron-1", 59_000, send(8, HIDDEN))
    assert await queues.tick("default/report.cron-1", 61_000, send(9, HIDDEN))
    assert await queues.last_ticks(["default/report.cron-1", "x"]) == {"default/report.cron-1": 61_000}
    await queues.forget_ticks(["default/report.cron-1"])
    await queues.forget_ticks([])
    assert await queues.last_ticks(["default/report.cron-1"]) == {}
    assert await queues.last_ticks([]) == {}


async def test_bells_ring_for_what_can_be_taken(queues: MessageQueue) -> None:
    async with closing(queues.bells()) as bells:
        with anyio.fail_after(20):
            assert await anext(bells) == ANY
            await queues.send([send(number) for number in range(3)])
            assert await anext(bells) == ORDERS
            await queues.send([send(4, HIDDEN, group="g"), send(5, HIDDEN, group="g")])
            assert await anext(bells) == HIDDEN, "once for the three before"
            (head,) = (await take(queues, queue=HIDDEN)).deliveries
            await settle_all(queues, [head], HIDDEN)
            assert await anext(bells) == HIDDEN, "the next of the group"
            (mine, *_) = (await take(queues)).deliveries
            await queues.settle(ORDERS, [Again(mine.receipt, 0, "")])
            assert await anext(bells) == ORDERS
