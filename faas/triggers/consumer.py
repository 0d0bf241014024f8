"""One consumer: takes batches from a queue, has them handled, says what became of them.

Theory of operation. An idle consumer has no task and no timer: it is an object that waits for ``ring``. Rung, it runs
one task that takes batches while there is room for them (``at_once``) and the queue has some; each batch is handled in
a task of its own, so the next take runs beside the settling of what was taken before. When nothing comes the taking
task ends, and a timer stands for what the store foresees (``Batch.wait_ms``).

Invariants. At most one taking task; every delivery taken is in ``_running`` until it is settled, or until its lease is
over and it is somebody else's. While a batch runs its lease is renewed every third of it. A lease that was lost is
logged and its outcome is never sent. What cannot be settled because the store is away is tried again until the lease
has surely ended: then the message comes again by itself, which is what "at least once" means.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from faas.model.errors import FaasError, StoreUnavailable
from faas.model.message import Ack, Again, Bury, Delivery, Drop, Outcome, QueueName, Release, Send, Wanted
from faas.ports.events import MessageQueue, Work
from faas.triggers.outage import Outage, pause_s
from faas.triggers.settling import Settling

log = logging.getLogger("faas.triggers")

WAIT_S_MIN: Final = 0.002  # between takes that bring nothing
WAIT_S_MAX: Final = 3600.0
TAKE_MAX: Final = 4  # batches in one take
TAKE_BYTES_MAX: Final = 2**20  # in one take, if the next batches are like the last
REST_S: Final = 1.0  # after a batch that could not be tried, where nobody says how long
REST_S_MAX: Final = 30.0
LOST_OUTCOME_MS: Final = 1000
OUTCOMES: Final = {Ack: "acked", Again: "retried", Release: "released", Bury: "dead", Drop: "dropped"}

Count = Callable[[QueueName, str, int], None]  # so many messages of a queue had this outcome


class Source(NamedTuple):
    """Where a consumer takes from, and how. ``trigger`` is what ``at_once`` is counted under, over all nodes."""

    queue: QueueName
    trigger: str
    batch: int  # messages at most
    window_ms: int
    at_once: int
    lease_ms: Callable[[], Awaitable[int]]  # of a batch that is taken now


class _Running:
    """A batch in our hands."""

    __slots__ = ("deliveries", "lease_ends_s", "lost", "settling")

    def __init__(self, deliveries: Sequence[Delivery], lease_ends_s: float) -> None:
        self.deliveries = deliveries
        self.lease_ends_s = lease_ends_s  # by then the store has surely given it up
        self.lost: set[str] = set()
        self.settling = False


class Consumer:
    """``ring`` it when there may be something; ``drain`` and then ``close`` it."""

    def __init__(
        self,
        queue: MessageQueue,
        node: str,
        source: Source,
        work: Work,
        outage: Outage | None = None,
        count: Count = lambda _queue, _outcome, _messages: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.source = source
        self._queue = queue
        self._node = node
        self._work = work
        self._outage = outage or Outage()
        self._count = count
        self._jitter = jitter
        self._settling = Settling(queue, source.queue)
        self._loop = asyncio.get_running_loop()
        self._running: dict[asyncio.Task[None], _Running] = {}
        self._taking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._lease_s = 0.0
        self._several = 1  # batches that the next take may bring
        self._rung = False
        self._full = False
        self._rests_until_s = 0.0
        self._failures = 0  # of takes, in a row
        self._untried = 0  # batches in a row
        self._stopped = False

    @property
    def idle(self) -> bool:
        """Nothing is done; at most a timer stands (``waits``)."""
        return not self._running and self._taking is None

    @property
    def waits(self) -> bool:
        return self._timer is not None

    @property
    def in_flight(self) -> int:
        """Batches being handled or settled."""
        return len(self._running)

    def ring(self) -> None:
        """There may be something to take."""
        self._rung = True
        if self._stopped or self._taking is not None or self._loop.time() < self._rests_until_s:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._taking = self._loop.create_task(self._take())

    def stop(self) -> None:
        """Take nothing more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def drain(self) -> None:
        """Stop. What is just being taken goes back untouched; batches that run go on."""
        self.stop()
        if self._taking is not None:
            await asyncio.wait([self._taking])

    async def close(self, seconds: float | None) -> None:
        """Wait so long for batches that run; what is left is let go of, and comes again when its lease ends."""
        await self.drain()
        tasks = list(self._running)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        if self._renewing is not None:
            await asyncio.wait([self._renewing])  # the store's client has limits of its own
        if self._renewal is not None:
            self._renewal.cancel()

    # -- taking -----------------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        try:
            while not self._stopped:
                self._full = len(self._running) >= self.source.at_once
                if self._full or self._loop.time() < self._rests_until_s:
                    return
                self._rung = False
                if not await self._take_some() and not self._rung:
                    return
        except FaasError as error:
            self._failures += 1
            if isinstance(error, StoreUnavailable):
                self._outage.begins(error)
            else:
                log.warning("%s cannot be taken from: %s", self.source.trigger, error.message)
            self._rest(pause_s(self._failures, self._jitter()))
        except Exception:
            self._failures += 1
            log.exception("taking from %s failed", self.source.queue)
            self._rest(pause_s(self._failures, self._jitter()))
        finally:
            self._taking = None

    async def _take_some(self) -> bool:
        """Whether a batch came; if none did, the timer stands for when one may."""
        source = self.source
        lease_ms = await source.lease_ms()
        asked = min(self._several, source.at_once - len(self._running))
        wanted = Wanted(source.batch, lease_ms, source.window_ms, source.at_once, asked)
        batch = await self._queue.take(source.queue, source.trigger, self._node, wanted)
        self._outage.ends()
        self._failures = 0
        came = [some for some in (batch.deliveries, *batch.more) if some]
        self._several = self._next_several(came) if len(came) == asked else 1
        if came:
            self._lease_s = lease_ms / 1000
            for some in came:
                self._begin(_Running(some, self._loop.time() + self._lease_s))
            return True
        if batch.wait_ms is not None:
            self._ring_in(min(max(batch.wait_ms / 1000, WAIT_S_MIN), WAIT_S_MAX))
        return False

    def _next_several(self, came: Sequence[Sequence[Delivery]]) -> int:
        """After a take that brought as many batches as it asked for."""
        if len(came[-1]) < self.source.batch:
            return 1
        largest = max(sum(len(each.message.body) for each in some) for some in came)
        return max(1, min(TAKE_MAX, 2 * self._several, TAKE_BYTES_MAX // max(1, largest)))

    def _ring_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if self._stopped else self._loop.call_later(seconds, self._time_is_up)

    def _time_is_up(self) -> None:
        self._timer = None
        self.ring()

    def _rest(self, seconds: float) -> None:
        """Take nothing for so long, whatever rings."""
        until_s = self._loop.time() + seconds
        if until_s > self._rests_until_s:
            self._rests_until_s = until_s
            self._ring_in(seconds)

    # -- handling ---------------------------------------------------------------------------------------------------

    def _begin(self, running: _Running) -> None:
        work = self._give_back(running) if self._stopped else self._handle(running)
        task = self._loop.create_task(work)
        self._running[task] = running
        task.add_done_callback(self._ended)
        if self._renewal is None and self._renewing is None:
            self._renewal = self._loop.call_later(self._lease_s / 3, self._begin_renewal)

    def _ended(self, task: asyncio.Task[None]) -> None:
        running = self._running.pop(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a batch of %s was let go of", self.source.queue, exc_info=task.exception())
        if not self._running and self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self._full or any(delivery.message.group for delivery in running.deliveries):
            self.ring()  # there is room again, or the next of a group may come

    async def _give_back(self, running: _Running) -> None:
        await self._settle(running, [Release(each.receipt, 0) for each in running.deliveries], ())

    async def _handle(self, running: _Running) -> None:
        outcomes: Sequence[Outcome]
        sends: Sequence[Send] = ()
        try:
            outcomes, sends = await self._work.perform(running.deliveries)
            self._untried = 0
        except Exception as error:  # noqa: BLE001 - the contract of Work: what it raises puts the batch back
            outcomes = self._put_back(running.deliveries, error)
        outcomes = self._one_for_each(running.deliveries, outcomes)
        await self._settle(running, outcomes, sends)
        if any(isinstance(outcome, Again | Release) for outcome in outcomes):
            self.ring()  # asking again is how the time of the next attempt is known

    def _put_back(self, deliveries: Sequence[Delivery], error: Exception) -> list[Outcome]:
        """The batch could not be tried, and the next one could not either: rest."""
        self._untried += 1
        seconds = min(REST_S_MAX, REST_S * 2 ** min(self._untried - 1, 10)) * (0.5 + self._jitter() / 2)
        if isinstance(error, FaasError):
            seconds = max(seconds, float(getattr(error, "retry_after_s", 0)))
            log.info("a batch of %s waits %.1f s: %s", self.source.queue, seconds, error.message)
        else:
            log.error("a batch of %s could not be handled", self.source.queue, exc_info=error)
        self._rest(seconds)
        return [Release(each.receipt, int(seconds * 1000)) for each in deliveries]

    def _one_for_each(self, deliveries: Sequence[Delivery], outcomes: Sequence[Outcome]) -> list[Outcome]:
        given = {outcome.receipt: outcome for outcome in outcomes}
        missing = [each.receipt for each in deliveries if each.receipt not in given]
        if missing:
            log.error("%d messages of %s were handled without an outcome", len(missing), self.source.queue)
        return [given.get(each.receipt, Release(each.receipt, LOST_OUTCOME_MS)) for each in deliveries]

    async def _settle(self, running: _Running, outcomes: Sequence[Outcome], sends: Sequence[Send]) -> None:
        running.settling = True
        failures = 0
        while True:
            ours = [outcome for outcome in outcomes if outcome.receipt not in running.lost]
            if not ours:
                return
            try:
                gone = await self._settling.settle(ours, sends)
                break
            except StoreUnavailable as error:
                self._outage.begins(error)
                failures += 1
                if self._loop.time() > running.lease_ends_s:
                    log.warning("%d handled messages of %s will come again", len(ours), self.source.queue)
                    return
            await asyncio.sleep(pause_s(failures, self._jitter()))
        self._outage.ends()
        if gone and not failures:  # after a failure it may be that the first try did it
            log.warning("the lease of %d messages of %s had ended; they come again", len(gone), self.source.queue)
        counted: dict[str, int] = {}
        for outcome in ours:
            if outcome.receipt not in gone:
                name = OUTCOMES[type(outcome)]
                counted[name] = counted.get(name, 0) + 1
        for name, messages in counted.items():
            self._count(self.source.queue, name, messages)

    # -- leases -----------------------------------------------------------------------------------------------------

    def _begin_renewal(self) -> None:
        self._renewal = None
        self._renewing = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        """All that run, in one step."""
        held = {
            delivery.receipt: running
            for running in self._running.values()
            if not running.settling
            for delivery in running.deliveries
            if delivery.receipt not in running.lost
        }
        again_s = self._lease_s / 3
        try:
            gone = set(
                await self._queue.renew(self.source.queue, list(held), int(self._lease_s * 1000)) if held else ()
            )
            for receipt, running in held.items():
                if receipt not in gone:
                    running.lease_ends_s = self._loop.time() + self._lease_s
                elif not running.settling:
                    running.lost.add(receipt)
                    log.warning("the lease of a message of %s was lost while it was handled", self.source.queue)
        except StoreUnavailable as error:
            self._outage.begins(error)
            again_s = min(again_s, pause_s(3, self._jitter()))
        except Exception:
            log.exception("renewing leases of %s failed", self.source.queue)
        finally:
            self._renewing = None
            if self._running and self._renewal is None:
                self._renewal = self._loop.call_later(again_s, self._begin_renewal)
