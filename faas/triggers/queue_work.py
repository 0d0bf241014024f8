"""What becomes of a batch of a user's queue: filtered, put into an event, handled by the function, judged.

Who pays for what. A failure of the function (it raised, was too slow, crashed, or named messages in
``batchItemFailures``) is an attempt: ``Again`` with a growing pause, and after the manifest's ``retry`` ``Bury``. What
the platform could not do (no room, no money, no store) is none: it raises, and the consumer puts the batch back and
rests. A message that only another trigger wants is released for it; one that nobody wants is dropped.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from faas.events.filters import Filter
from faas.events.records import Event, body_of, events, failures
from faas.events.retry import decide
from faas.model.errors import FaasError, Fault, InvalidRequest, PayloadTooLarge
from faas.model.function import FunctionVersion
from faas.model.hops import HOPS_MAX
from faas.model.invocation import Call, Reply, Trigger
from faas.model.message import Ack, Again, Bury, Delivery, Drop, Outcome, QueueName, Release, Send
from faas.model.trigger import TriggerSpec
from faas.ports.events import Done
from faas.triggers.consumer import Source
from faas.triggers.consumers import Interest, Made

log = logging.getLogger("faas.triggers")

LEASE_TIMEOUTS: Final = 6  # the default of a lease, as AWS recommends of a queue's visibility timeout
OTHERS_MS: Final = 25  # until another trigger may take a message that only it wants
PAUSED_MS: Final = 5000  # ... while it is paused
LOST_MAX: Final = 20  # so often beyond its attempts a message may be lost with its node before it is given up
ERROR_CHARS_MAX: Final = 1000
_NS_PER_MS: Final = 1_000_000


class Ended(NamedTuple):
    """What destinations are told: messages that were handled, or one that was given up."""

    trigger: TriggerSpec
    version: FunctionVersion
    deliveries: Sequence[Delivery]
    invocation: str
    reason: str  # "" = handled
    response: bytes


class Judged(NamedTuple):
    """What an invocation came to. ``failed``: why, by message id; a missing one is done."""

    failed: dict[str, str]
    response: bytes


Destinations = Callable[[Ended], Sequence[Send]]


def _nowhere(_ended: Ended) -> Sequence[Send]:
    return ()


class Invoke(Protocol):
    async def __call__(self, version: FunctionVersion, call: Call) -> Reply: ...


class UnixTime(Protocol):
    def unix_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What the work needs of the node. ``find`` gives a function's latest version."""

    find: Callable[[str, str], Awaitable[FunctionVersion]]
    invoke: Invoke
    new_id: Callable[[], str]
    clock: UnixTime
    body_bytes_max: int
    destinations: Destinations = _nowhere
    jitter: Callable[[], float] = random.random

    def for_trigger(self, trigger: TriggerSpec, own: Filter | None, others: Callable[[], list[Interest]]) -> Made:
        """Source and work of a queue trigger."""
        queue, name = trigger.queue, trigger.queue_name
        if queue is None or name is None:
            raise ValueError(f"{trigger.key} is no queue trigger")

        async def lease_ms() -> int:
            if queue.lease_ms is not None:
                return queue.lease_ms
            version = await self.find(trigger.namespace, trigger.function)
            return LEASE_TIMEOUTS * version.manifest.timeout_ms

        source = Source(name, trigger.key, queue.batch, queue.window_ms, queue.max_concurrency, lease_ms)
        return source, QueueWork(trigger, name, own, others, self)


class QueueWork:
    """``Work`` of one queue trigger."""

    def __init__(
        self,
        trigger: TriggerSpec,
        queue: QueueName,
        own: Filter | None,
        others: Callable[[], list[Interest]],
        parts: Parts,
    ) -> None:
        self._trigger = trigger
        self._queue = queue
        self._filter = own
        self._others = others
        self._parts = parts

    async def perform(self, batch: Sequence[Delivery]) -> Done:
        """Raises what the platform could not do, if nothing of the batch was handled."""
        outcomes: list[Outcome] = []
        sends: list[Send] = []
        wanted = self._wanted(batch, outcomes)
        if not wanted:
            return Done(outcomes)
        version = await self._parts.find(self._trigger.namespace, self._trigger.function)
        able = self._able(version, wanted, outcomes, sends)
        made, oversized = events(self._queue, able, self._parts.body_bytes_max)
        for each in oversized:
            size = f"as an event it is larger than the {self._parts.body_bytes_max} bytes that FAAS_MAX_BODY allows"
            self._bury(version, each, size, outcomes, sends)
        for index, event in enumerate(made):
            try:
                await self._handle(version, event, outcomes, sends)
            except FaasError as error:
                if not outcomes:
                    raise
                delay_ms = 1000 * int(getattr(error, "retry_after_s", 1))
                left = [each for later in made[index:] for each in later.deliveries]
                outcomes += [Release(each.receipt, delay_ms) for each in left]
                break
        return Done(outcomes, sends)

    # -- before -----------------------------------------------------------------------------------------------------

    def _wanted(self, batch: Sequence[Delivery], outcomes: list[Outcome]) -> list[Delivery]:
        if self._filter is None:
            return list(batch)
        found = []
        for delivery in batch:
            body, attributes = body_of(delivery.message), delivery.message.attributes
            if self._filter.wants(body, attributes):
                found.append(delivery)
                continue
            takers = [each.enabled for each in self._others() if each.wants(body, attributes)]
            if takers:
                outcomes.append(Release(delivery.receipt, OTHERS_MS if any(takers) else PAUSED_MS))
            else:
                outcomes.append(Drop(delivery.receipt))
        return found

    def _able(
        self, version: FunctionVersion, wanted: Sequence[Delivery], outcomes: list[Outcome], sends: list[Send]
    ) -> list[Delivery]:
        """Those that can be tried at all."""
        found = []
        attempts = version.manifest.retry.attempts
        for delivery in wanted:
            if delivery.message.hops > HOPS_MAX:
                chain = f"it is the end of a chain of {HOPS_MAX} calls that functions made of each other"
                self._bury(version, delivery, chain, outcomes, sends)
            elif delivery.attempt > attempts + LOST_MAX:
                lost = f"it was handed out {delivery.attempt - 1} times, and each time its node ended or lost its lease"
                self._bury(version, delivery, lost, outcomes, sends)
            else:
                found.append(delivery)
        return found

    # -- the call ---------------------------------------------------------------------------------------------------

    async def _handle(self, version: FunctionVersion, event: Event, outcomes: list[Outcome], sends: list[Send]) -> None:
        """One invocation. Raises what is no failure of the function."""
        first = event.deliveries[0]
        call = Call(
            self._parts.new_id(),
            Trigger.QUEUE,
            event.payload,
            content_type="application/json",
            key_id=first.message.key_id,
            attempt=first.attempt,
            trace_parent=first.message.trace_parent,
            hops=max(each.message.hops for each in event.deliveries),
        )
        failed, response = await self._judge(version, call, event)
        done = [each for each in event.deliveries if each.message.id not in failed]
        outcomes += [Ack(each.receipt) for each in done]
        if done and version.manifest.on_success:
            sends += self._parts.destinations(Ended(self._trigger, version, done, call.id, "", response))
        now_ms = self._parts.clock.unix_ns() // _NS_PER_MS
        for each in event.deliveries:
            if each.message.id in failed:
                self._failed(version, each, failed[each.message.id], call.id, now_ms, outcomes, sends)

    async def _judge(self, version: FunctionVersion, call: Call, event: Event) -> Judged:
        try:
            reply = await self._parts.invoke(version, call)
            if reply.error is not None:
                raise reply.error
            answer = reply.payload if reply.stream is None else await self._whole(reply)
        except FaasError as error:
            if error.fault is not Fault.FUNCTION and not isinstance(error, InvalidRequest | PayloadTooLarge):
                raise
            return Judged({each.message.id: _said(error) for each in event.deliveries}, b"")
        found = failures(answer, {each.message.id for each in event.deliveries})
        if found.reason:
            log.warning("%s: %s", self._trigger.key, found.reason)
            return Judged({each.message.id: found.reason for each in event.deliveries}, b"")
        return Judged(dict.fromkeys(found.ids, "the handler named it in batchItemFailures"), answer)

    async def _whole(self, reply: Reply) -> bytes:
        """A streamed answer; of one too large to be about failures, nothing."""
        kept = bytearray()
        if reply.stream is not None:
            async for chunk in reply.stream:
                if len(kept) <= self._parts.body_bytes_max:
                    kept += chunk
        return bytes(kept) if len(kept) <= self._parts.body_bytes_max else b""

    # -- after ------------------------------------------------------------------------------------------------------

    def _failed(
        self,
        version: FunctionVersion,
        delivery: Delivery,
        error: str,
        invocation: str,
        now_ms: int,
        outcomes: list[Outcome],
        sends: list[Send],
    ) -> None:
        age_ms = max(0, now_ms - delivery.sent_at_ms)
        verdict = decide(version.manifest.retry, attempt=delivery.attempt, age_ms=age_ms, jitter=self._parts.jitter())
        if isinstance(verdict, int):
            outcomes.append(Again(delivery.receipt, verdict, error))
        else:
            self._bury(version, delivery, f"{verdict}: {error}", outcomes, sends, invocation)

    def _bury(
        self,
        version: FunctionVersion,
        delivery: Delivery,
        reason: str,
        outcomes: list[Outcome],
        sends: list[Send],
        invocation: str = "",
    ) -> None:
        outcomes.append(Bury(delivery.receipt, reason[:ERROR_CHARS_MAX]))
        if version.manifest.on_failure:
            sends += self._parts.destinations(Ended(self._trigger, version, [delivery], invocation, reason, b""))


def _said(error: FaasError) -> str:
    """
    >>> from faas.model.errors import FunctionFailed
    >>> _said(FunctionFailed("ValueError", "no such order"))
    'ValueError: no such order'
    """
    kind = getattr(error, "error_type", "") or error.code
    return f"{kind}: {error.message}"[:ERROR_CHARS_MAX]
