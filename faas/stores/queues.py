"""Queues in Redis. ``lua/queue.lua`` names every key.

Theory of operation
-------------------
A message that may be handed out is an entry of a stream; while it is out it is pending in the stream's consumer group.
One take makes one *batch*: which entries, whose trigger, under one lease. It is open until all of its entries are
settled or its lease has ended; the count of a trigger's open batches is what ``at_once`` bounds, exactly, over all
nodes. Messages that failed have a stream of their own, because they are handed out alone. What is delayed, or waits
behind its group's head, is in no stream: only a group's head is.

Every method is one script, so it is done whole or not at all, also by a server that is killed: its file holds all
writes of a script or none. Only ``send`` waits for the disk, where it can (``synced``): all else may be done again. A
server whose machine lost power is in the state of a second ago, but for what was sent: what was taken since is ready
again, and what was acked since comes again when its lease ends.

Nobody watches the clock in the store: each ``take`` first puts back what the leases that ended held, and moves what is
due, some of it at a time. Whoever sends rings a bell; the busy set is for bells that were lost.

A batch's name is made up by its taker, never twice. So a ``take`` whose answer was lost is asked again and has the
same batch, and a receipt from before a server lost power never fits another's batch.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from faas.model.errors import StoreUnavailable
from faas.model.message import (
    DEDUP_MS,
    Ack,
    Again,
    Batch,
    Bury,
    DeadLetter,
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
from faas.stores.message_codec import Stored, pack_message, unpack_all, unpack_stored
from faas.stores.redis_client import Client, ask, edge, script, subscription

BELLS: Final = "faas:queues:bells"
BUSY: Final = "faas:queues:busy"
TICKS: Final = "faas:ticks"
ANY: Final = QueueName("*", "*")
BATCH_MAX: Final = 1000  # messages in one take
PAGE_MAX: Final = 1000  # messages in one look
STATES_PER_CALL: Final = 50  # some ms of work for the server, as the next
REDRIVES_PER_CALL: Final = 200
WORDS_MAX: Final = 4000  # characters of an error or a reason that are kept

# A full server refuses to be sent more, but hands out and lets go of what it has.
_DRAINS: Final = "#!lua flags=allow-oom\n"
_READS: Final = "#!lua flags=no-writes\n"
_COUNTS: Final = ("sent", "acked", "retried", "dead", "dropped", "expired")


class RedisQueues:
    """``MessageQueue``. ``synced`` returns when all that was answered for is on disk (``AofSync.sync``)."""

    def __init__(self, client: Client, *, synced: Callable[[], Awaitable[None]] | None = None) -> None:
        self._client = client
        self._synced = synced
        self._send = script(client, "queue", "queue_send")
        self._take = script(client, "queue", "queue_take", head=_DRAINS)
        self._settle = script(client, "queue", "queue_settle", head=_DRAINS)
        self._renew = script(client, "queue", "queue_renew", head=_DRAINS)
        self._state = script(client, "queue", "queue_state", head=_READS)
        self._peek = script(client, "queue", "queue_peek", head=_READS)
        self._dead = script(client, "queue", "queue_dead", head=_READS)
        self._redrive = script(client, "queue", "queue_redrive", head=_DRAINS)
        self._purge = script(client, "queue", "queue_purge", head=_DRAINS)
        self._delete = script(client, "queue", "queue_delete", head=_DRAINS)
        self._tick = script(client, "queue", "queue_tick")

    async def send(self, sends: Sequence[Send]) -> list[str]:
        """See the port. The same id is known again for at least 30 s after it was sent.

        With the embedded Valkey the answer means that it is on disk: nothing that is killed and no power cut takes it.
        One that fails may be stored all the same.

        With a server of the operator's, the answer means what that server's own settings say. ``appendfsync always``:
        the same. ``everysec``: a power cut takes the last second, and killing the server's process up to two, since it
        answers before it has written while its disk is slow. ``no``: a power cut takes half a minute, a killed process
        nothing. Without an append-only file all since the last snapshot is lost, at a failover what was not replicated.
        """
        if not sends:
            return []
        with edge():
            found = await self._send(args=[DEDUP_MS, *_send_args(sends)])
        if self._synced is not None:
            await self._synced()
        return [message_id.decode() for message_id in found]

    # -- consumers --------------------------------------------------------------------------------------------------

    async def take(self, queue: QueueName, trigger: str, node: str, wanted: Wanted) -> Batch:
        batch = os.urandom(8).hex()
        most = max(1, min(wanted.messages, BATCH_MAX))
        batches = max(1, min(wanted.batches, BATCH_MAX // most))
        limits = (most, wanted.lease_ms, wanted.window_ms, wanted.at_once, batches)
        with edge():
            found = await self._take(args=[str(queue), trigger, node, batch, *limits])
        wait_ms, now_ms, sizes, *records = unpack_all(found)
        taken: list[list[Delivery]] = []
        unreadable = []
        rest = zip(records[::2], records[1::2], strict=True)
        for number, size in enumerate(sizes, 1):
            name = batch if number == 1 else f"{batch}-{number}"  # as lua/queue_take.lua
            taken.append([])
            for place, (header, data) in enumerate(islice(rest, size), 1):
                receipt = f"{name}.{place}"
                try:
                    taken[-1].append(_delivery(unpack_stored(header, data), receipt, now_ms))
                except ValueError as error:  # a newer node's, or somebody else wrote there: it would come for ever
                    unreadable.append(Bury(receipt, f"The node {node} cannot read it: {error}"))
        if unreadable:
            await self.settle(queue, unreadable)
        first, *more = [some for some in taken if some] or [[]]
        return Batch(first, wait_ms if wait_ms >= 0 else None, more)

    async def settle(self, queue: QueueName, outcomes: Sequence[Outcome], sends: Sequence[Send] = ()) -> list[str]:
        if not outcomes:
            return []
        packed = msgpack.packb([_settled(outcome) for outcome in outcomes], unicode_errors="replace")
        with edge():
            lost = await self._settle(args=[str(queue), packed, DEDUP_MS, *_send_args(sends)])
        return [outcomes[place].receipt for place in lost]

    async def renew(self, queue: QueueName, receipts: Sequence[str], lease_ms: int) -> list[str]:
        if not receipts:
            return []
        packed = msgpack.packb([_place_of(receipt) for receipt in receipts], unicode_errors="replace")
        with edge():
            lost = await self._renew(args=[str(queue), lease_ms, packed])
        return [receipts[place] for place in lost]

    # -- what is there ----------------------------------------------------------------------------------------------

    async def state(self, queue: QueueName) -> QueueState | None:
        with edge():
            (found,) = await self._state(args=[str(queue)])
        return _state(queue, found) if found else None

    async def states(self, namespace: str) -> list[QueueState]:
        names = sorted(name.decode() for name in await ask(self._client.smembers(f"faas:queues:{namespace}")))
        queues = [QueueName(namespace, name) for name in names if not name.startswith("@")]
        states: list[QueueState] = []
        for start in range(0, len(queues), STATES_PER_CALL):
            some = queues[start : start + STATES_PER_CALL]
            with edge():
                found = await self._state(args=[*map(str, some)])
            states += [_state(queue, each) for queue, each in zip(some, found, strict=True) if each]
        return states

    async def peek(self, queue: QueueName, limit: int) -> list[Delivery]:
        """Ready, then waiting behind their groups' heads, then delayed; ``attempt`` is that which comes next."""
        with edge():
            records = await self._peek(args=[str(queue), _page(limit)])
        return [_delivery(_shown(*unpack_all(record)), "", 0) for record in records]

    async def dead(self, queue: QueueName, limit: int, after: str = "") -> list[DeadLetter]:
        with edge():
            letters = await self._dead(args=[str(queue), _page(limit), after])
        return [_letter(letter) for letter in letters]

    async def busy(self) -> list[QueueName]:
        return [_queue(name) for name in sorted(await ask(self._client.smembers(BUSY)))]

    # -- upkeep -----------------------------------------------------------------------------------------------------

    async def redrive(
        self, queue: QueueName, ids: Sequence[str] | None, limit: int, *, first_ms: float = 0, spread_ms: float = 0
    ) -> int:
        """One step per ``REDRIVES_PER_CALL``."""
        done = 0
        wanted = limit if ids is None else min(limit, len(ids))
        for start in range(0, wanted, REDRIVES_PER_CALL):
            most = min(REDRIVES_PER_CALL, wanted - start)
            some = ids[start : start + most] if ids is not None else ()
            with edge():
                found = int(await self._redrive(args=[str(queue), most, first_ms + done * spread_ms, spread_ms, *some]))
            done += found
            if ids is None and found < most:
                break
        return done

    async def purge(self, queue: QueueName, *, dead: bool = False) -> int:
        with edge():
            return int(await self._purge(args=[str(queue), "dead" if dead else "messages"]))

    async def delete(self, queue: QueueName) -> bool:
        with edge():
            return bool(await self._delete(args=[str(queue)]))

    # -- schedules --------------------------------------------------------------------------------------------------

    async def tick(self, trigger: str, tick_ms: int, send: Send) -> bool:
        with edge():
            done = int(await self._tick(keys=[TICKS], args=[trigger, tick_ms, DEDUP_MS, *_send_args([send])]))
        if done < 0:
            raise StoreUnavailable("Its clock is more than a minute behind this node's. Set the clocks of both.")
        return done == 1

    async def last_ticks(self, triggers: Sequence[str]) -> dict[str, int]:
        if not triggers:
            return {}
        found = await ask(self._client.hmget(TICKS, list(triggers)))
        return {trigger: int(at_ms) for trigger, at_ms in zip(triggers, found, strict=True) if at_ms is not None}

    async def forget_ticks(self, triggers: Sequence[str]) -> None:
        if triggers:
            await ask(self._client.hdel(TICKS, *triggers))

    # -- bells ------------------------------------------------------------------------------------------------------

    async def bells(self) -> AsyncIterator[QueueName]:
        """Raises ``StoreUnavailable`` when the connection is lost; iterate anew."""
        async with aclosing(subscription(self._client, BELLS)) as names:
            async for name in names:
                yield _queue(name) if name else ANY


def _send_args(sends: Sequence[Send]) -> list[str | int | bytes]:
    args: list[str | int | bytes] = []
    for queue, message in sends:
        texts = (str(queue), message.id, message.group, message.dedup_id)
        args += [text.encode("utf-8", "replace") for text in texts]
        args += [max(0, message.delay_ms), pack_message(message)]
    return args


def _delivery(stored: Stored, receipt: str, now_ms: int) -> Delivery:
    message, tries, sent_at_ms, first_ms, error = stored
    return Delivery(message, receipt, tries + 1, sent_at_ms, first_ms or now_ms, error)


def _place_of(receipt: str) -> tuple[str, int]:
    """Batch, and place in it; a place that is nobody's for a receipt that isn't ours."""
    batch, _, place = receipt.partition(".")
    return batch, int(place) if place.isdecimal() and len(place) <= len(str(BATCH_MAX)) else 0


def _settled(outcome: Outcome) -> tuple[str, int, str, int, str]:
    """As ``lua/queue_settle.lua`` wants it."""
    batch, place = _place_of(outcome.receipt)
    match outcome:
        case Ack():
            return batch, place, "ack", 0, ""
        case Again(delay_ms=delay_ms, error=error):
            return batch, place, "again", max(0, delay_ms), error[:WORDS_MAX]
        case Release(delay_ms=delay_ms):
            return batch, place, "release", max(0, delay_ms), ""
        case Bury(reason=reason):
            return batch, place, "bury", 0, reason[:WORDS_MAX]
        case Drop():
            return batch, place, "drop", 0, ""


def _shown(header: Any, data: Any) -> Stored:
    """For people; of a message that cannot be read, what the scripts know of it."""
    try:
        return unpack_stored(header, data)
    except ValueError:
        message_id, group, tries, sent_at_ms, _, first_taken_at_ms, error = header[:7]
        return Stored(Message(message_id, b"", group=group), tries, sent_at_ms, first_taken_at_ms, error)


def _letter(letter: bytes) -> DeadLetter:
    (died_at_ms, reason), header, data = unpack_all(letter)
    message, tries, sent_at_ms, first_ms, error = _shown(header, data)
    return DeadLetter(Delivery(message, "", tries, sent_at_ms, first_ms, error), reason, died_at_ms)


def _page(limit: int) -> int:
    return max(0, min(limit, PAGE_MAX))


def _queue(name: bytes) -> QueueName:
    return QueueName(*name.decode().split("/", 1))


def _state(queue: QueueName, found: Sequence[Any]) -> QueueState:
    ready, delayed, waiting, in_flight, dead, oldest_ms, *counts = found
    return QueueState(
        queue, ready, delayed, waiting, in_flight, dead, oldest_ms, dict(zip(_COUNTS, counts, strict=True))
    )
