"""The Protocols of queues, triggers and asynchronous calls. One contract suite per port runs on every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from faas.model.call import CallRecord, CallStatus, Response
from faas.model.message import Batch, DeadLetter, Delivery, Message, Outcome, QueueName, QueueState, Send, Wanted
from faas.model.trigger import TriggerSpec


class Done(NamedTuple):
    """What became of a batch, and what is to be sent because of it, in one step."""

    outcomes: Sequence[Outcome]
    sends: Sequence[Send] = ()


class MessageQueue(Protocol):
    """All queues. Every method is one atomic step in the store, and raises ``StoreUnavailable``.

    Time is the store's own clock, so that nodes need not agree on theirs. A queue exists as soon as something was sent
    to it or a trigger names it; it holds its messages until they are settled, purged or the queue is deleted.
    """

    async def send(self, sends: Sequence[Send]) -> list[str]:
        """Store all of them or none; the ids under which they are known: for a duplicate that of the first.

        Sending the same message (the same ``id``) again, as after a lost answer, changes nothing.
        """

    async def take(self, queue: QueueName, trigger: str, node: str, wanted: Wanted) -> Batch:
        """Messages for one invocation, or several, under a lease. Messages that failed before come alone; those whose
        lease has ended are handed out again first.
        """

    async def settle(self, queue: QueueName, outcomes: Sequence[Outcome], sends: Sequence[Send] = ()) -> list[str]:
        """Say what became of a batch's messages, each once; returns the receipts that were no longer ours (their lease
        had ended, or the queue was deleted): nothing was done for these. ``sends`` go with it, in the same step, unless
        every receipt was no longer ours. The batch's place among ``at_once`` is free once all are settled.
        """

    async def renew(self, queue: QueueName, receipts: Sequence[str], lease_ms: int) -> list[str]:
        """Put the end of the lease so far from now; returns the receipts that are no longer ours."""

    async def state(self, queue: QueueName) -> QueueState | None:
        """None: there is no such queue."""

    async def states(self, namespace: str) -> list[QueueState]:
        """Of the queues of a namespace that people may see (no ``@``), by name."""

    async def peek(self, queue: QueueName, limit: int) -> list[Delivery]:
        """The next messages to be handed out, in order, and what is delayed after them; none of them is taken."""

    async def dead(self, queue: QueueName, limit: int, after: str = "") -> list[DeadLetter]:
        """Oldest first; ``after`` is the id of the last message of the page before."""

    async def redrive(
        self, queue: QueueName, ids: Sequence[str] | None, limit: int, *, first_ms: float = 0, spread_ms: float = 0
    ) -> int:
        """Put dead letters back, oldest first, as if they had just been sent; None = any. How many were.

        The first is delayed by ``first_ms``, each by ``spread_ms`` more than the one before: so they come at a rate.
        """

    async def purge(self, queue: QueueName, *, dead: bool = False) -> int:
        """Forget all messages (or all dead letters); how many. Those in flight are run to their end."""

    async def delete(self, queue: QueueName) -> bool:
        """Forget the queue and all it holds; False when there was none."""

    async def tick(self, trigger: str, tick_ms: int, send: Send) -> bool:
        """Send what a schedule is due, and remember the tick as the trigger's last: both or neither. False, and nothing
        is sent, when this tick or a later one is remembered: some other node was first. ``StoreUnavailable`` also for a
        tick that by the store's clock is not due for a minute: no clock that is wrong runs the others' ticks.
        """

    async def last_ticks(self, triggers: Sequence[str]) -> dict[str, int]:
        """The last tick, Unix ms, of those triggers that ever had one."""

    async def forget_ticks(self, triggers: Sequence[str]) -> None:
        """Their triggers are no more."""

    async def busy(self) -> list[QueueName]:
        """Every queue, hidden ones too, that holds a message which is not dead: whoever missed a bell looks here."""

    def bells(self) -> AsyncIterator[QueueName]:
        """Queues that may have something new for a consumer, from now on. ``("*", "*")`` says that any may; it comes
        once the subscription stands. Bells may be lost with the connection: look at times without one, too.
        """


class Triggers(Protocol):
    """All triggers: those of the latest version of every function, and those that were added by request.

    Nothing is stored for a trigger of a manifest but whether somebody has paused it, so a deployment needs no second
    write. Raises ``StoreUnavailable``.
    """

    async def list(self, namespace: str | None) -> list[TriggerSpec]:
        """By namespace and id. None = of all."""

    async def get(self, namespace: str, trigger_id: str) -> TriggerSpec:
        """Raises ``NotFound``."""

    async def add(self, trigger: TriggerSpec) -> TriggerSpec:
        """Raises ``NotFound`` without its function, ``Conflict`` when there is one of that id."""

    async def set_enabled(self, namespace: str, trigger_id: str, enabled: bool) -> TriggerSpec:
        """Pause or resume. Raises ``NotFound``."""

    async def delete(self, namespace: str, trigger_id: str) -> None:
        """Raises ``NotFound``, and ``Conflict`` for one that stands in a manifest."""

    def watch(self, changed: Callable[[Sequence[TriggerSpec]], None]) -> None:
        """Call ``changed`` with all triggers, at once if known, and whenever they may have changed."""


class Overlay(NamedTuple):
    """What is stored of one function's triggers beside its manifest."""

    added: Sequence[TriggerSpec] = ()  # as they were added, all of them enabled
    paused: frozenset[str] = frozenset()  # ids
    since_ms: Mapping[str, int] = {}  # id -> when it was added, or resumed


class TriggerStore(Protocol):
    """What ``Triggers`` cannot derive. A change is announced by ``Registry.changes`` as one of the function.

    What is stored belongs to one life of the function: deleting the function forgets it in the same step. Raises
    ``StoreUnavailable``.
    """

    async def read(self, functions: Sequence[tuple[str, str]]) -> list[Overlay]:
        """Of each ``(namespace, name)``, in their order."""

    async def add(self, trigger: TriggerSpec) -> None:
        """Raises ``NotFound`` without its function, ``Conflict`` when another was added under that id."""

    async def set_enabled(self, namespace: str, function: str, trigger_id: str, enabled: bool) -> None:
        """Raises ``NotFound`` without its function. Whether there is such a trigger is not looked at."""

    async def delete(self, namespace: str, function: str, trigger_id: str) -> bool:
        """Forget one that was added, and whether it was paused; False when there is none."""


class Answered(NamedTuple):
    """An answer as it went out, to be given again. ``headers`` are lower-case byte pairs."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    payload: bytes


class Claim(NamedTuple):
    """What became of the wish to answer a request once."""

    state: Literal["ours", "theirs", "other", "answered"]  # other: the key was used for another request
    answer: Answered | None = None  # of a request that was answered before


class IdempotencyStore(Protocol):
    """Answers by idempotency key. ``key`` is unique over tenants, ``request`` a digest of what is asked under it.

    Every method is one atomic step in the store, and raises ``StoreUnavailable``. A claim ends by itself after
    ``claim_ms``, so that what a killed node had claimed can be asked for again.
    """

    async def claim(self, key: str, request: str, owner: str, claim_ms: int) -> Claim:
        """Claim the key, or prolong the claim of the same ``owner``; or say why not."""

    async def settle(self, key: str, request: str, owner: str, answer: Answered | None, keep_ms: int) -> bool:
        """Keep the answer for so long; None lets go of the claim. False, and nothing is done, when somebody else has
        it by now. A claim that has ended and was taken by nobody still settles.
        """

    def ends(self, key: str) -> AsyncIterator[None]:
        """Yields whenever the claim on the key may have ended: at first once that is listened for, then when it was
        settled, and every second or so. Ask ``claim`` each time.
        """


class Work(Protocol):
    """What a consumer does with a batch: the one thing that differs between queues, calls and webhooks."""

    async def perform(self, batch: Sequence[Delivery]) -> Done:
        """Exactly one outcome for each delivery. What it raises puts the whole batch back (``Release``)."""


class CallStore(Protocol):
    """Asynchronous and scheduled calls, from when they are accepted until some days after their end.

    What ends first stays: no step leads out of a final status, whoever comes later with another. Times are the store's
    own. Raises ``StoreUnavailable``.
    """

    async def queued(self, namespace: str, function: str, message: Message) -> None:
        """It is accepted. Nothing, where it has begun already."""

    async def begin(self, namespace: str, function: str, delivery: Delivery, version: int, node: str) -> CallStatus:
        """An attempt begins. ``RUNNING``; anything else is how the call has ended, and it must not be run."""

    async def put_back(
        self, namespace: str, call_id: str, error: Mapping[str, Any] | None, delay_ms: int, attempts: int
    ) -> None:
        """It comes again after ``delay_ms``; ``attempts`` were made so far. ``error``: why the last one failed."""

    async def succeed(self, namespace: str, call_id: str, response: Response) -> CallStatus:
        """How it has ended: as said, unless another end came first."""

    async def fail(
        self, namespace: str, function: str, call_id: str, error: Mapping[str, Any], reason: str
    ) -> CallStatus:
        """As ``succeed``; also for a call that could not even begin."""

    async def cancel(self, namespace: str, call_id: str) -> CallStatus | None:
        """The status it had, and if that was not final it is cancelled now. None: there is no such call."""

    async def delivered(self, namespace: str, call_id: str, url: str, outcome: str) -> None:
        """What became of a delivery to one of its destinations, in words."""

    async def get(self, namespace: str, call_id: str) -> CallRecord | None: ...

    async def open(self, namespace: str, function: str, limit: int) -> list[CallRecord]:
        """Those that have not ended, newest first."""

    def bells(self, what: str) -> AsyncIterator[tuple[str, str]]:
        """Namespace and id of each call that has ``ended`` or was ``cancelled``, from now on. ``("*", "*")`` says that
        any may have; it comes once the subscription stands. Raises ``StoreUnavailable`` when that is lost.
        """


class WebhookSecrets(Protocol):
    async def secret(self, namespace: str) -> str:
        """What deliveries to a namespace's destinations are signed with; made when it is first asked for."""
