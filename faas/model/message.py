"""What travels through queues: messages as they are sent, and as they are handed to a consumer.

Three kinds share one mechanism. A message that a person sent to a queue; an asynchronous invocation, whose body is the
call's payload and whose queue belongs to the function alone (``calls_of``); a delivery to a webhook. So retries,
leases, dead letters and the guarantee are the same for all: handled at least once, and never lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from faas.model.invocation import Trigger

BODY_BYTES_MAX: Final = 6 * 2**20
SEND_MAX: Final = 1000  # messages in one request
DELAY_MS_MAX: Final = 7 * 24 * 3_600_000
DEDUP_MS: Final = 300_000  # how long a dedup id is remembered: as SQS FIFO queues do
CALLS: Final = "@call."  # what no user's queue begins with: "@" is no letter


class QueueName(NamedTuple):
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def calls_of(namespace: str, function: str) -> QueueName:
    """The queue of a function's asynchronous and scheduled invocations.

    >>> str(calls_of("default", "hello"))
    'default/@call.hello'
    """
    return QueueName(namespace, CALLS + function)


WEBHOOKS: Final = "@webhooks"  # of each namespace: deliveries to https destinations


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. The node never looks into ``body``; ``attributes`` are the sender's, strings by name."""

    id: str
    body: bytes
    content_type: str = "application/json"
    attributes: Mapping[str, str] = field(default_factory=dict)
    group: str = ""  # order is kept among the messages of one group; "" = no order
    dedup_id: str = ""  # one of the same id within ``DEDUP_MS`` is taken and dropped; "" = none
    delay_ms: int = 0
    trigger: Trigger = Trigger.QUEUE  # what the usage record will say
    qualifier: str = ""  # version or alias of the function; "" = latest when it is run
    key_id: str = ""
    trace_parent: str = ""
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message in the hands of a consumer until its lease ends, or as it lies in the queue (then without receipt)."""

    message: Message
    receipt: str  # what ``settle`` and ``renew`` want back; useless once somebody else has it
    attempt: int  # 1 at first; how often it was handed out for real (``Release`` takes its turn back)
    sent_at_ms: int  # by the store's clock, as all times here
    first_taken_at_ms: int  # 0 = never yet
    error: str = ""  # why the attempt before failed


class Wanted(NamedTuple):
    """How much a consumer takes, and how."""

    messages: int  # at most, of one batch
    lease_ms: int
    window_ms: int = 0  # that the oldest message waits for a full batch
    at_once: int = 1  # batches of the trigger that may be out, over all nodes
    batches: int = 1  # that may come in one step, only the last of them with fewer ``messages``


class Batch(NamedTuple):
    """What one invocation gets. Empty: nothing to do now; ask again after ``wait_ms``, or when the bell rings."""

    deliveries: Sequence[Delivery]
    wait_ms: int | None = None  # until a delay, a retry, a window or a lease ends; None = nothing is foreseen
    more: Sequence[Sequence[Delivery]] = ()  # further batches that came with it, each for an invocation of its own


class Ack(NamedTuple):
    """Done: forget it."""

    receipt: str


class Again(NamedTuple):
    """It failed: hand it out once more after ``delay_ms``, alone, and its group waits."""

    receipt: str
    delay_ms: int
    error: str


class Release(NamedTuple):
    """Nothing was tried (no room, no money, another's to take): hand it out again after ``delay_ms``; no attempt."""

    receipt: str
    delay_ms: int


class Bury(NamedTuple):
    """Given up: to the dead letters, with the reason in words. The next of its group comes."""

    receipt: str
    reason: str


class Drop(NamedTuple):
    """No trigger wants it (filters): forget it, and count that."""

    receipt: str


Outcome = Ack | Again | Release | Bury | Drop


class Send(NamedTuple):
    """A message for a queue, sent in the same step as something else: both or neither."""

    queue: QueueName
    message: Message


class DeadLetter(NamedTuple):
    delivery: Delivery  # the original message, ``attempt`` = how often it was tried
    reason: str
    died_at_ms: int


@dataclass(frozen=True, slots=True)
class QueueState:
    """What a queue holds now. ``ready`` may be taken; messages behind another of their group count in ``waiting``."""

    queue: QueueName
    ready: int = 0
    delayed: int = 0  # by the sender, or waiting for a retry
    waiting: int = 0
    in_flight: int = 0
    dead: int = 0
    oldest_ms: int = 0  # age of the oldest that is not delayed by its sender
    counts: Mapping[str, int] = field(default_factory=dict)  # since ever: sent, acked, retried, dead, dropped, expired

    @property
    def depth(self) -> int:
        """All that still has to be handled."""
        return self.ready + self.delayed + self.waiting + self.in_flight
