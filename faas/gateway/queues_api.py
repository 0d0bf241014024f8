"""Queues over HTTP: send, look, and put right.

A queue comes into being when something is sent to it or a function's trigger names it; nobody declares one. What is
answered with 201 is in the store: a node or a store that is killed afterwards loses none of it.
"""

from __future__ import annotations

import base64
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from starlette.responses import Response

from faas.gateway import params
from faas.gateway.catalog import NAME
from faas.gateway.cloud_messages import events_reader
from faas.gateway.headers import said_hops, trace_parent
from faas.gateway.messages import Sender, reader_for
from faas.gateway.outbox import Outbox
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.model.errors import InvalidRequest, NotFound
from faas.model.message import DELAY_MS_MAX, DeadLetter, Delivery, QueueName, QueueState, Send
from faas.model.trigger import TriggerSpec

PEEK_MAX: Final = 100
DEAD_MAX: Final = 1_000
STEP: Final = 10  # messages read at first: they may be large
ANSWER_BYTES_MAX: Final = 8_000_000  # of bodies; what is beyond comes with the next page
REDRIVE_STEP: Final = 1_000  # dead letters in one step of the store
RATE_MAX: Final = 100_000


class QueuesApi:
    def __init__(self, services: Services) -> None:
        self._queues = services.queues
        self._outbox = Outbox(services.queues.send)
        self._triggers = services.triggers
        self._new_id = services.new_id
        self._bytes_max = services.limits.body_bytes_max
        self._random_bits = random.getrandbits

    def operations(self) -> list[Operation]:
        one = "/v1/queues/{name}"
        return [
            Operation("POST", f"{one}/messages", "invoke", self.send),
            Operation("GET", f"{one}/messages", "read", self.peek),
            Operation("GET", "/v1/queues", "read", self.list),
            Operation("GET", one, "read", self.read),
            Operation("DELETE", one, "deploy", self.delete),
            Operation("GET", f"{one}/dead", "read", self.dead),
            Operation("POST", f"{one}/redrive", "deploy", self.redrive),
            Operation("POST", f"{one}/purge", "deploy", self.purge),
        ]

    # -- sending ----------------------------------------------------------------------------------------------------

    async def send(self, context: Context) -> Response:
        """Store one message or a list of them, all or none; answers once the store has them."""
        queue = _named(context, sending=True)
        headers: dict[bytes, bytes] = dict(context.request.scope["headers"])
        reader = events_reader(headers) or reader_for(headers)
        raw = await context.body(self._bytes_max)
        least = said_hops(headers.get(b"faas-hops"))
        trace, hops = trace_parent(headers.get(b"traceparent"), self._new_id(), self._random_bits, least)
        asked = reader(raw, headers, Sender(self._new_id, context.grant.key.id, trace, hops))
        ids = await self._outbox.send([Send(queue, message) for message in asked.messages])
        stored = [
            {"id": known} if known == message.id else {"id": known, "duplicate": True}
            for known, message in zip(ids, asked.messages, strict=True)
        ]
        return Json({"messages": stored} if asked.many else stored[0], 201)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def list(self, context: Context) -> Response:
        """All queues of a namespace by name: those that were sent to, and those that triggers name."""
        namespace = _one_namespace(context)
        states = {state.queue.name: state for state in await self._queues.states(namespace)}
        consumers: dict[str, list[TriggerSpec]] = {}
        for trigger in await self._triggers.list(namespace):
            if trigger.queue is not None:
                consumers.setdefault(trigger.queue.name, []).append(trigger)
        return Json(
            {
                "queues": [
                    _state_document(states.get(name) or QueueState(QueueName(namespace, name)), consumers.get(name, ()))
                    for name in sorted(states.keys() | consumers.keys())
                ]
            }
        )

    async def read(self, context: Context) -> Response:
        """What a queue holds now, who takes from it, and its counters since ever."""
        queue = _named(context)
        state = await self._queues.state(queue)
        consumers = await self._consumers(queue)
        if state is None:
            if not consumers:
                raise _unknown(queue)
            state = QueueState(queue)
        return Json({**_state_document(state, consumers), "counts": dict(state.counts)})

    async def peek(self, context: Context) -> Response:
        """The next messages, in order; none of them is taken. Fewer than asked for when they are large."""
        queue = _named(context)
        limit = params.whole(context.query("limit"), "limit", STEP, 1, PEEK_MAX)
        count = min(limit, STEP)
        while True:
            found = await self._queues.peek(queue, count)
            large = sum(len(each.message.body) for each in found) * 4 > ANSWER_BYTES_MAX
            if len(found) < count or count >= limit or large:
                break
            count = min(limit, 4 * count)
        if not found:
            await self._must_exist(queue)
        return Json({"messages": [delivery_document(each, each.attempt - 1) for each in found]})

    async def dead(self, context: Context) -> Response:
        """Dead letters, oldest first; ``next`` is the ``after`` of the next page, null at the end."""
        queue = _named(context)
        limit = params.whole(context.query("limit"), "limit", 100, 1, DEAD_MAX)
        found = [letter async for letter in self._dead(queue, limit, context.query("after") or "")]
        if not found:
            await self._must_exist(queue)
        last = found[-1].delivery.message.id if found else ""
        more = bool(last) and bool(await self._queues.dead(queue, 1, last))
        return Json({"messages": [dead_document(each) for each in found], "next": last if more else None})

    async def _dead(self, queue: QueueName, limit: int, after: str) -> AsyncIterator[DeadLetter]:
        """A page, read in steps until it is full or large."""
        left, size = limit, 0
        while left and size < ANSWER_BYTES_MAX:
            count = min(left, STEP)
            letters = await self._queues.dead(queue, count, after)
            for letter in letters:
                yield letter
            if len(letters) < count:
                return
            left -= count
            size += sum(len(letter.delivery.message.body) for letter in letters)
            after = letters[-1].delivery.message.id

    async def _must_exist(self, queue: QueueName) -> None:
        """Raises ``NotFound``."""
        if await self._queues.state(queue) is None and not await self._consumers(queue):
            raise _unknown(queue)

    async def _consumers(self, queue: QueueName) -> Sequence[TriggerSpec]:
        return [each for each in await self._triggers.list(queue.namespace) if each.queue_name == queue]

    # -- putting right ----------------------------------------------------------------------------------------------

    async def redrive(self, context: Context) -> Response:
        """Put dead letters back: those that are named, or all, oldest first; with ``rate`` so many a second.

        The rate is in the messages' own delays. So it holds when the caller or the node goes away.
        """
        queue = _named(context)
        ids, limit, rate = _redrive(await context.json(optional=True))
        spread_ms = 1000 / rate if rate else 0.0
        most = 1 + int(DELAY_MS_MAX / spread_ms) if spread_ms else None  # of the first there is no delay
        if ids is not None:
            count = min(len(ids), limit or len(ids), most or len(ids))
            done = await self._queues.redrive(queue, ids, count, spread_ms=spread_ms)
        else:
            state = await self._queues.state(queue)
            dead = state.dead if state is not None else 0
            done = await self._redrive_any(queue, min(dead, limit or dead, most or dead), spread_ms)
        if not done:
            await self._must_exist(queue)
        return Json({"redriven": done})

    async def _redrive_any(self, queue: QueueName, count: int, spread_ms: float) -> int:
        """In steps. Never more than were dead at first: what dies again meanwhile is not put back for ever."""
        done = 0
        while done < count:
            step = min(count - done, REDRIVE_STEP)
            moved = await self._queues.redrive(queue, None, step, first_ms=done * spread_ms, spread_ms=spread_ms)
            done += moved
            if moved < step:
                break
        return done

    async def purge(self, context: Context) -> Response:
        """Forget all messages that wait, or with ``dead`` all dead letters."""
        queue = _named(context)
        asked = await context.json(optional=True)
        _only(asked, "A purge", "dead")
        dead = asked.get("dead", False)
        if not isinstance(dead, bool):
            raise InvalidRequest("'dead' must be true or false.")
        purged = await self._queues.purge(queue, dead=dead)
        if not purged:
            await self._must_exist(queue)
        return Json({"purged": purged})

    async def delete(self, context: Context) -> Response:
        """Forget a queue and all it holds; says which triggers still name it, as they bring it back."""
        queue = _named(context)
        consumers = await self._consumers(queue)
        if not await self._queues.delete(queue) and not consumers:
            raise _unknown(queue)
        return Json({"name": queue.name, "deleted": True, "consumers": [_consumer(each) for each in consumers]})


# -- what is asked for ------------------------------------------------------------------------------------------------


def _one_namespace(context: Context) -> str:
    if context.namespace == "*":
        raise InvalidRequest("Queues are of one namespace; name it, as in ?namespace=default.")
    return context.namespace


def _named(context: Context, *, sending: bool = False) -> QueueName:
    """The queue in the path. Raises ``NotFound``, or for one that would be made ``InvalidRequest``."""
    name: str = context.request.path_params["name"]
    queue = QueueName(_one_namespace(context), name)
    if NAME.match(name):
        return queue
    if sending:
        raise InvalidRequest(
            f"'{name[:80]}' cannot name a queue: a lower-case letter, then up to 62 of a-z, 0-9 and '-'."
        )
    raise _unknown(queue)


def _unknown(queue: QueueName) -> NotFound:
    where = "" if queue.namespace == "default" else f" in the namespace '{queue.namespace}'"
    return NotFound(
        f"There is no queue '{queue.name[:80]}'{where}. One comes into being with the first message that is sent to it."
    )


def _only(asked: dict[str, Any], what: str, *names: str) -> None:
    unknown = sorted(asked.keys() - set(names))
    if unknown:
        raise InvalidRequest(f"{what} has {', '.join(names)}, not '{unknown[0][:60]}'.")


def _redrive(asked: dict[str, Any]) -> tuple[list[str] | None, int | None, float | None]:
    """Ids (None = any), how many at most, and how many a second."""
    _only(asked, "A redrive", "ids", "all", "limit", "rate")
    ids, every, limit, rate = (asked.get(name) for name in ("ids", "all", "limit", "rate"))
    if ids is not None and not (
        isinstance(ids, list) and len(ids) <= DEAD_MAX and all(isinstance(each, str) and each for each in ids)
    ):
        raise InvalidRequest(f"'ids' must be a list of at most {DEAD_MAX} message ids.")
    if every is not None and not isinstance(every, bool):
        raise InvalidRequest("'all' must be true; or name messages in 'ids'.")
    if ids is not None and every:
        raise InvalidRequest("Either 'ids' or 'all', not both.")
    if ids is None and every is False:
        raise InvalidRequest("Name messages in 'ids', or leave 'all' out to put all of them back.")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InvalidRequest("'limit' must be a whole number of at least 1.")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= RATE_MAX):
        raise InvalidRequest(f"'rate' must be a number of messages a second, up to {RATE_MAX}.")
    return None if ids is None else list(dict.fromkeys(ids)), limit, rate


# -- what is answered -------------------------------------------------------------------------------------------------


def _state_document(state: QueueState, consumers: Sequence[TriggerSpec]) -> dict[str, Any]:
    return {
        "name": state.queue.name,
        "namespace": state.queue.namespace,
        "depth": state.depth,
        "ready": state.ready,
        "delayed": state.delayed,
        "waiting": state.waiting,
        "in_flight": state.in_flight,
        "dead": state.dead,
        "oldest_seconds": state.oldest_ms / 1000,
        "consumers": [_consumer(each) for each in consumers],
    }


def _consumer(trigger: TriggerSpec) -> dict[str, Any]:
    return {"trigger": trigger.id, "function": trigger.function, "enabled": trigger.enabled}


def delivery_document(delivery: Delivery, attempts: int) -> dict[str, Any]:
    """``attempts``: how often it was tried; a message that waits is said to be at the attempt that comes."""
    message = delivery.message
    return {
        "id": message.id,
        **_body(message.body),
        "content_type": message.content_type,
        "attributes": dict(message.attributes),
        "group": message.group,
        "dedup_id": message.dedup_id,
        "attempts": attempts,
        "error": delivery.error,
        "sent_at": params.rfc3339_ms(delivery.sent_at_ms),
    }


def dead_document(letter: DeadLetter) -> dict[str, Any]:
    return {
        **delivery_document(letter.delivery, letter.delivery.attempt),
        "reason": letter.reason,
        "died_at": params.rfc3339_ms(letter.died_at_ms),
    }


def _body(body: bytes) -> dict[str, str]:
    """Text as it is; what is none (connectors bring in what others sent) as base64.

    >>> _body(b"hi"), _body(bytes([255]))
    ({'body': 'hi'}, {'body_base64': '/w=='})
    """
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode()}
