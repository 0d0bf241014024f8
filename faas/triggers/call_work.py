"""What becomes of a call that nobody waits for: an asynchronous one, or a schedule's.

Theory of operation. The call's message lies in its function's own queue and its record in the call store. Each attempt
is one delivery of the message: the record says ``running``, the function runs, the record has the result, then the
message is settled together with what its destinations are to be told. Whoever dies in between leaves a record that has
ended and a message that comes again: that one is settled, not run. What ended first stays, so a call that was cancelled
while it ran is not revived by its result.

Who pays for what: a failure of the function is an attempt (``Again``, at last ``Bury``); what the platform could not do
is none, and raised; what can never succeed (no such function, an event that is not JSON) is given up at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from faas.events.destinations import EXHAUSTED, EXPIRED, REFUSED, SUCCESS, Ended, sends_for
from faas.events.retry import decide
from faas.model.call import CallRecord, CallStatus, Response
from faas.model.errors import FaasError, Fault, FunctionFailed, InvalidRequest, NotFound, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.hops import RANDOM_BITS, span_with
from faas.model.invocation import Call, Reply
from faas.model.message import CALLS, Ack, Again, Bury, Delivery, Message, Outcome, QueueName, Release
from faas.ports import Answering
from faas.ports.events import CallStore, Done
from faas.triggers.cancels import Cancels
from faas.triggers.consumer import Source
from faas.triggers.outage import pause_s

log = logging.getLogger("faas.triggers")

AT_ONCE_MAX: Final = 32  # of one function's, over all nodes: callers who wait shall find room beside them
LEASE_MS: Final = 8_000  # renewed while it runs: how soon somebody else has what a dead node had
LOST_MAX: Final = 20  # so often beyond its attempts a call may be lost with its node before it is given up
BUSY_MS: Final = 1000
STORE_TRIES_MAX: Final = 100  # about five minutes
REASON_CHARS_MAX: Final = 1000
_NS_PER_MS: Final = 1_000_000


class Invoker(Protocol):
    def submit(self, version: FunctionVersion, call: Call, reply: Answering) -> Any: ...

    def abandon(self, handle: Any, *, stop: bool = False) -> None: ...


class UnixTime(Protocol):
    def unix_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CallParts:
    """What the work needs of the node. ``find`` gives the version that a qualifier means now; ``known`` the latest
    one, if it can be said without asking anybody.
    """

    find: Callable[[str, str, str], Awaitable[FunctionVersion]]
    known: Callable[[str, str], FunctionVersion | None]
    invoker: Invoker
    calls: CallStore
    cancels: Cancels
    clock: UnixTime
    node: str
    body_bytes_max: int
    described: Callable[[FaasError], dict[str, str]]  # an error as records show it
    jitter: Callable[[], float] = random.random
    random_bits: Callable[[int], int] = field(default=random.getrandbits)

    def for_queue(self, queue: QueueName) -> tuple[Source, CallWork] | None:
        """Source and work of a function's own queue; None for any other."""
        if not queue.name.startswith(CALLS):
            return None
        function = queue.name.removeprefix(CALLS)
        version = self.known(queue.namespace, function)
        at_once = AT_ONCE_MAX
        if version is not None:
            at_once = min(at_once, version.manifest.max_instances * version.manifest.concurrency)
        return Source(queue, "@calls", 1, 0, at_once, _lease_ms), CallWork(queue.namespace, function, self)


async def _lease_ms() -> int:
    return LEASE_MS


class _Cancelled(Exception):
    """Somebody cancelled it while it ran."""


class CallWork:
    """``Work`` of one function's own queue."""

    def __init__(self, namespace: str, function: str, parts: CallParts) -> None:
        self._namespace = namespace
        self._function = function
        self._parts = parts
        self._calls = parts.calls

    async def perform(self, batch: Sequence[Delivery]) -> Done:
        """Raises what the platform could not do."""
        done = [await self._one(delivery) for delivery in batch]
        return Done([each for one in done for each in one.outcomes], [each for one in done for each in one.sends])

    async def _one(self, delivery: Delivery) -> Done:
        message = delivery.message
        if self._parts.cancels.runs(self._namespace, message.id):  # its lease was lost, by a node that stood still
            return Done([Release(delivery.receipt, BUSY_MS)])
        try:
            version = await self._parts.find(self._namespace, self._function, message.qualifier)
        except NotFound as error:
            return await self._give_up(delivery, None, error, REFUSED, "there is nothing to run")
        node = self._parts.node
        status = await self._calls.begin(self._namespace, self._function, delivery, version.version, node)
        if status.final:
            return await self._ended_before(delivery, version)
        if delivery.attempt > version.manifest.retry.attempts + LOST_MAX:
            lost = FunctionFailed("Lost", f"{delivery.attempt - 1} attempts began and were lost with their node")
            return await self._give_up(delivery, version, lost, EXHAUSTED, lost.message)
        try:
            response = await self._run(version, delivery)
        except _Cancelled:
            return Done([Ack(delivery.receipt)])
        except FaasError as error:
            return await self._failed(delivery, version, error)
        stored = await _surely(lambda: self._calls.succeed(self._namespace, message.id, response))
        if stored is not CallStatus.SUCCEEDED:
            return await self._ended_before(delivery, version)
        return self._done(version, Ack(delivery.receipt), self._ended(delivery, version, SUCCESS, response))

    # -- the attempt ------------------------------------------------------------------------------------------------

    async def _run(self, version: FunctionVersion, delivery: Delivery) -> Response:
        """Raises what became of it instead, and ``_Cancelled``."""
        message, invoker = delivery.message, self._parts.invoker
        trace = traced(message, self._parts.random_bits)
        call = Call(
            message.id,
            message.trigger,
            message.body,
            message.content_type,
            message.key_id,
            delivery.attempt,
            trace,
            None,
            message.hops,
        )
        cancelled = False
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        run = invoker.submit(version, call, answer)

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            invoker.abandon(run, stop=True)

        with self._parts.cancels.watching(self._namespace, message.id, cancel):
            try:
                reply = await answer
                return await self._collected(reply)
            except asyncio.CancelledError:
                invoker.abandon(run)
                raise
            except FaasError:
                if cancelled:
                    raise _Cancelled from None
                raise
            finally:
                if cancelled:
                    log.info("the call %s of '%s' was cancelled while it ran", message.id, self._function)

    async def _collected(self, reply: Reply) -> Response:
        """The whole response, within the limit of bodies; raises what there is instead of one."""
        if reply.error is not None:
            raise reply.error
        payload = bytearray(reply.payload)
        if reply.stream is not None:
            close = getattr(reply.stream, "aclose", None)
            try:
                async for chunk in reply.stream:
                    payload += chunk
                    if len(payload) > self._parts.body_bytes_max:
                        break
            finally:
                if close is not None:
                    await close()
        if len(payload) > self._parts.body_bytes_max:
            limit = f"the result of a call that nobody waits for may have {self._parts.body_bytes_max} bytes"
            raise FunctionFailed("ResponseTooLarge", f"{limit}; this one has more")
        return Response(reply.status, reply.headers, bytes(payload))

    # -- after it ---------------------------------------------------------------------------------------------------

    async def _failed(self, delivery: Delivery, version: FunctionVersion, error: FaasError) -> Done:
        call_id, attempt = delivery.message.id, delivery.attempt
        if isinstance(error, InvalidRequest):
            return await self._give_up(delivery, version, error, REFUSED, error.message)
        if error.fault is not Fault.FUNCTION:
            await self._calls.put_back(self._namespace, call_id, None, 0, attempt - 1)
            raise error
        age_ms = max(0, self._parts.clock.unix_ns() // _NS_PER_MS - delivery.sent_at_ms)
        retry = version.manifest.retry
        verdict = decide(retry, attempt=attempt, age_ms=age_ms, jitter=self._parts.jitter())
        if isinstance(verdict, str):
            condition = EXHAUSTED if attempt >= retry.attempts else EXPIRED
            return await self._give_up(delivery, version, error, condition, verdict)
        shown = self._parts.described(error)
        await _surely(lambda: self._calls.put_back(self._namespace, call_id, shown, verdict, attempt))
        return Done([Again(delivery.receipt, verdict, said(shown))])

    async def _give_up(
        self, delivery: Delivery, version: FunctionVersion | None, error: FaasError, condition: str, reason: str
    ) -> Done:
        shown, call_id = self._parts.described(error), delivery.message.id
        stored = await _surely(lambda: self._calls.fail(self._namespace, self._function, call_id, shown, reason))
        if stored is not CallStatus.FAILED and version is not None:
            return await self._ended_before(delivery, version)
        bury = Bury(delivery.receipt, f"{reason}: {said(shown)}"[:REASON_CHARS_MAX])
        if version is None:
            return Done([bury])
        return self._done(version, bury, self._ended(delivery, version, condition, error=shown))

    async def _ended_before(self, delivery: Delivery, version: FunctionVersion) -> Done:
        """It has ended already, here or elsewhere, now or before a crash; what was not told of it is told."""
        record = await self._calls.get(self._namespace, delivery.message.id)
        if record is None or record.status is CallStatus.CANCELLED:
            return Done([Ack(delivery.receipt)])
        if record.status is CallStatus.SUCCEEDED:
            told = self._ended(delivery, version, SUCCESS, record.response or Response())
            return self._done(version, Ack(delivery.receipt), told)
        return self._buried_before(delivery, version, record)

    def _buried_before(self, delivery: Delivery, version: FunctionVersion, record: CallRecord) -> Done:
        shown = dict(record.error or {})
        bury = Bury(delivery.receipt, f"{record.reason}: {said(shown)}"[:REASON_CHARS_MAX])
        exhausted = record.attempts >= version.manifest.retry.attempts
        return self._done(
            version, bury, self._ended(delivery, version, EXHAUSTED if exhausted else EXPIRED, error=shown)
        )

    @staticmethod
    def _done(version: FunctionVersion, outcome: Outcome, ended: Ended) -> Done:
        manifest = version.manifest
        return Done([outcome], sends_for(ended, manifest.on_success, manifest.on_failure))

    def _ended(
        self,
        delivery: Delivery,
        version: FunctionVersion,
        condition: str,
        response: Response | None = None,
        error: dict[str, Any] | None = None,
    ) -> Ended:
        message, response = delivery.message, response or Response()
        return Ended(
            invocation_id=message.id,
            namespace=self._namespace,
            function=self._function,
            version=version.version,
            condition=condition,
            attempts=delivery.attempt,
            ended_at_ms=self._parts.clock.unix_ns() // _NS_PER_MS,
            request=message.body,
            request_type=message.content_type,
            status=response.status,
            response=response.payload,
            response_type=response.content_type,
            error=error,
            key_id=message.key_id,
            trace_parent=message.trace_parent,
            hops=message.hops,
        )


async def _surely(step: Callable[[], Awaitable[Any]]) -> Any:
    """What a call has come to is not given away because the store is away for a while."""
    for tries in range(1, STORE_TRIES_MAX):
        try:
            return await step()
        except StoreUnavailable:
            await asyncio.sleep(pause_s(tries, 0.5))
    return await step()


def said(error: dict[str, Any]) -> str:
    """
    >>> said({"code": "function-error", "error_type": "ValueError", "message": "no such order"})
    'ValueError: no such order'
    """
    return f"{error.get('error_type') or error.get('code', '')}: {error.get('message', '')}"


def traced(message: Message, random_bits: Callable[[int], int]) -> str:
    """The ``traceparent`` of an attempt: a span of its own, which says the hops, in the trace the message came with."""
    span = f"{span_with(message.hops, random_bits(RANDOM_BITS) or 1):016x}"
    parts = message.trace_parent.split("-")
    if len(parts) == 4:
        return f"00-{parts[1]}-{span}-{parts[3]}"
    return f"00-{message.id}-{span}-01"
