"""One consumer: taking, resting, renewing, settling, and leaving."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from faas.model.errors import Throttled
from faas.model.message import Ack, Again, Delivery, Message, QueueName, Release, Send
from faas.ports.events import Done
from faas.triggers.consumer import TAKE_BYTES_MAX, Consumer, Source
from tests.unit.consumer_fakes import ORDERS, FakeWork, FilledQueues, delivery, until

pytestmark = pytest.mark.anyio


def all_done(batch: Sequence[Delivery]) -> Done:
    return Done([Ack(each.receipt) for each in batch])


def consumer(
    queues: FilledQueues, work: FakeWork, at_once: int = 5, batch: int = 1, lease_ms: int = 60_000
) -> Consumer:
    async def lease() -> int:
        return lease_ms

    source = Source(ORDERS, "default/eat.orders", batch, 0, at_once, lease)
    return Consumer(queues, "node", source, work, jitter=lambda: 0.0)


def receipts(*names: str) -> set[str]:
    return {f"receipt-{name}" for name in names}


async def test_it_takes_until_there_is_nothing_and_then_holds_nothing() -> None:
    queues, work = FilledQueues(*"abcde"), FakeWork(all_done)
    made = consumer(queues, work, batch=2)
    before = asyncio.all_tasks()
    made.ring()
    await until(lambda: len(queues.settled) == 5)
    await until(lambda: made.idle)
    assert work.batches == [["a", "b"], ["c", "d"], ["e"]]
    assert asyncio.all_tasks() == before
    assert not made.waits
    assert queues.asked == [1, 2, 1], "one batch, two more that were not both full, and one take that was empty"


async def test_no_more_batches_are_out_than_it_may_have_and_the_next_comes_when_one_ends() -> None:
    queues, work = FilledQueues(*"abcdefgh"), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work, at_once=3)
    made.ring()
    await until(lambda: work.running == 3)
    for _ in range(3):
        made.ring()
        await asyncio.sleep(0)
    assert queues.asked == [1, 2]
    work.go.set()
    await until(lambda: len(queues.settled) == 8)
    assert work.most == 3
    await made.close(1)


async def test_more_batches_come_at_once_while_all_that_is_asked_for_comes() -> None:
    queues, work = FilledQueues(*map(str, range(40))), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work, at_once=9, batch=2)
    made.ring()
    await until(lambda: work.running == 9)
    assert queues.asked == [1, 2, 4, 2], "doubled up to four, and no more than there is room for"
    assert work.batches == [[str(at), str(at + 1)] for at in range(0, 18, 2)]
    work.go.set()
    await until(lambda: len(queues.settled) == 40 and made.idle)
    queues.ready = [delivery("more")]
    made.ring()
    await until(lambda: made.idle)
    assert queues.asked[-2:] == [1, 1], "one after a take that brought less"


async def test_batches_that_would_be_too_much_together_come_one_by_one() -> None:
    queues, work = FilledQueues(), FakeWork(all_done)
    queues.ready = [delivery(str(number), bytes(TAKE_BYTES_MAX // 2)) for number in range(6)]
    work.go.clear()
    made = consumer(queues, work, at_once=6)
    made.ring()
    await until(lambda: work.running == 6)
    assert queues.asked[:4] == [1, 2, 2, 1]
    work.go.set()
    await made.close(1)


async def test_a_bell_during_a_take_that_brings_nothing_is_not_lost() -> None:
    queues, work = FilledQueues(), FakeWork(all_done)
    queues.held_back = asyncio.Event()
    made = consumer(queues, work)
    made.ring()
    await until(lambda: queues.takes == 1)
    made.ring()
    queues.held_back.set()
    await until(lambda: made.idle)
    assert queues.takes == 2


async def test_what_the_store_foresees_is_taken_without_a_bell() -> None:
    queues, work = FilledQueues(), FakeWork(all_done)
    queues.wait_ms = 1
    made = consumer(queues, work)
    made.ring()
    await until(lambda: queues.takes == 3)
    queues.ready = [delivery("late")]
    queues.wait_ms = None
    await until(lambda: queues.settled == [Ack("receipt-late")] and made.idle)


async def test_a_batch_that_could_not_be_tried_goes_back_and_the_consumer_rests() -> None:
    def refuse(_batch: Sequence[Delivery]) -> Done:
        raise Throttled("too many", retry_after_s=7)

    queues, work = FilledQueues("a", "b"), FakeWork(refuse)
    made = consumer(queues, work, batch=1, at_once=1)
    made.ring()
    await until(lambda: queues.settled == [Release("receipt-a", 7000)])
    takes = queues.takes
    made.ring()
    await asyncio.sleep(0.01)
    assert queues.takes == takes, "a bell does not end a rest"
    assert made.waits, "a timer will"
    await made.close(1)


async def test_a_bug_in_the_work_puts_the_batch_back(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_batch: Sequence[Delivery]) -> Done:
        raise RuntimeError("a bug")

    queues = FilledQueues("a")
    made = consumer(queues, FakeWork(fail))
    made.ring()
    await until(lambda: len(queues.settled) == 1)
    assert isinstance(queues.settled[0], Release)
    assert "a bug" in caplog.text
    await made.close(1)


async def test_a_message_without_an_outcome_is_put_back() -> None:
    queues, work = FilledQueues("a", "b"), FakeWork(lambda batch: Done([Ack(batch[0].receipt)]))
    made = consumer(queues, work, batch=2)
    made.ring()
    await until(lambda: len(queues.settled) == 2)
    assert queues.settled == [Ack("receipt-a"), Release("receipt-b", 1000)]
    await made.close(1)


async def test_what_is_to_be_tried_again_is_asked_for_so_that_its_time_is_known() -> None:
    queues, work = FilledQueues("a"), FakeWork(lambda batch: Done([Again(batch[0].receipt, 5, "no")]))
    made = consumer(queues, work)
    work.go.clear()
    made.ring()
    await until(lambda: queues.takes == 2)
    queues.wait_ms = 30_000
    work.go.set()
    await until(lambda: queues.takes == 3)
    await until(lambda: made.in_flight == 0)
    assert made.waits, "a timer stands"
    await made.close(1)


# -- leases ---------------------------------------------------------------------------------------------------------


async def test_leases_are_renewed_while_it_runs_and_not_after() -> None:
    queues, work = FilledQueues("a", "b"), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work, lease_ms=30)
    made.ring()
    await until(lambda: len(queues.renewals) >= 3)
    assert set(queues.renewals[-1]) == receipts("a", "b")
    work.go.set()
    await until(lambda: len(queues.settled) == 2 and made.idle)
    renewals = len(queues.renewals)
    await asyncio.sleep(0.03)
    assert len(queues.renewals) == renewals


async def test_the_outcome_of_a_message_whose_lease_was_lost_counts_for_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queues, work = FilledQueues("a", "b"), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work, batch=2, lease_ms=30)
    made.ring()
    await until(lambda: work.running == 1)
    queues.gone = receipts("a")
    await until(lambda: len(queues.renewals) >= 2)
    assert set(queues.renewals[-1]) == receipts("b")
    work.go.set()
    await until(lambda: made.idle)
    assert queues.settled == [Ack("receipt-b")]
    assert caplog.text.count("was lost while it was handled") == 1


# -- a store that is away -------------------------------------------------------------------------------------------


async def test_what_was_handled_is_settled_once_the_store_is_back_with_what_goes_with_it() -> None:
    send = Send(QueueName("default", "next"), Message("m", b""))
    queues, work = FilledQueues("a"), FakeWork(lambda batch: Done([Ack(batch[0].receipt)], [send]))
    work.go.clear()
    made = consumer(queues, work)
    made.ring()
    await until(lambda: work.running == 1)
    queues.down = True
    work.go.set()
    await until(lambda: work.running == 0)
    await asyncio.sleep(0.05)
    assert made.in_flight == 1
    queues.down = False
    await until(lambda: made.in_flight == 0)
    assert queues.settled == [Ack("receipt-a")]
    assert queues.sent == [send]
    await made.close(1)


async def test_what_cannot_be_settled_before_its_lease_has_ended_is_let_go_of(caplog: pytest.LogCaptureFixture) -> None:
    queues, work = FilledQueues("a"), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work, lease_ms=20)
    made.ring()
    await until(lambda: work.running == 1)
    queues.down = True
    work.go.set()
    await until(lambda: made.in_flight == 0)
    assert not queues.settled
    assert "will come again" in caplog.text
    await made.close(1)


async def test_a_store_that_is_away_is_said_once_and_asked_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    queues, work = FilledQueues("a"), FakeWork(all_done)
    queues.down = True
    made = consumer(queues, work)
    made.ring()
    await until(lambda: queues.takes >= 3)
    queues.down = False
    await until(lambda: queues.settled == [Ack("receipt-a")])
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "nobody answers" not in caplog.records[1].message
    await made.close(1)


# -- leaving --------------------------------------------------------------------------------------------------------


async def test_going_down_gives_back_what_was_just_taken_and_waits_for_what_runs() -> None:
    queues, work = FilledQueues("a", "b", "c"), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work)
    queues.ready, later = queues.ready[:1], queues.ready[1:]
    made.ring()
    await until(lambda: work.running == 1 and made.in_flight == 1)
    await until(lambda: queues.takes == 2)
    queues.held_back, queues.ready = asyncio.Event(), later
    made.ring()
    await until(lambda: queues.takes == 3)
    draining = asyncio.ensure_future(made.drain())
    await asyncio.sleep(0)
    queues.held_back.set()
    await draining
    await until(lambda: queues.settled == [Release("receipt-b", 0)])
    closing = asyncio.ensure_future(made.close(10))
    await asyncio.sleep(0.01)
    assert not closing.done()
    work.go.set()
    await closing
    assert Ack("receipt-a") in queues.settled
    made.ring()
    await asyncio.sleep(0.01)
    assert [each.message.id for each in queues.ready] == ["c"]


async def test_closing_waits_no_longer_than_it_may() -> None:
    queues, work = FilledQueues("a"), FakeWork(all_done)
    work.go.clear()
    made = consumer(queues, work)
    made.ring()
    await until(lambda: work.running == 1)
    await made.close(0.01)
    assert work.running == 0
    assert not queues.settled
