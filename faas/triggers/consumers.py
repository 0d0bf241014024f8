"""All consumers of a node: one per enabled queue trigger, and one per hidden queue that has something.

Theory of operation. ``Triggers.watch`` says which triggers there are; their consumers are made, kept or let go of. One
subscription hears the bells of all queues and rings the consumers of the queue that is named. Bells may be lost, nodes
may die with messages in their hands: so about once a second the queues that hold anything are asked for, and their
consumers rung. A hidden queue (asynchronous calls, webhooks) gets a consumer when its bell rings or it holds something,
and loses it when it is empty. While the store is away all this is tried at growing intervals and goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from faas.events.filters import BadFilter, Filter, compile_filter
from faas.model.errors import StoreUnavailable
from faas.model.message import QueueName, QueueState
from faas.model.trigger import TriggerSpec
from faas.ports.events import MessageQueue, Triggers, Work
from faas.triggers.consumer import Consumer, Source
from faas.triggers.outage import Outage, pause_s

log = logging.getLogger("faas.triggers")

SWEEP_S: Final = 1.0
QUEUES_SHOWN_MAX: Final = 1000  # in metrics
EVERY: Final = QueueName("*", "*")

Made = tuple[Source, Work]
ForQueue = Callable[[QueueName], Made | None]


class Interest(NamedTuple):
    """What a trigger wants of its queue."""

    filter: Filter | None  # None = every message
    enabled: bool

    def wants(self, body: str, attributes: Mapping[str, str]) -> bool:
        return self.filter is None or self.filter.wants(body, attributes)


class ForTrigger(Protocol):
    def __call__(self, trigger: TriggerSpec, own: Filter | None, others: Callable[[], list[Interest]], /) -> Made:
        """The source and the work of a queue trigger. ``others``: those of the same queue, as they are then."""


class Consumers:
    """``for_queues`` are asked in turn for what a hidden queue's consumer shall do."""

    def __init__(
        self,
        queue: MessageQueue,
        triggers: Triggers,
        node: str,
        for_trigger: ForTrigger,
        for_queues: Sequence[ForQueue] = (),
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.counts: dict[tuple[str, str, str], int] = {}  # by namespace, queue, outcome; since the node started
        self._queue = queue
        self._triggers = triggers
        self._node = node
        self._for_trigger = for_trigger
        self._for_queues = for_queues
        self._jitter = jitter
        self._outage = Outage()
        self._specs: dict[str, TriggerSpec] = {}
        self._interests: dict[QueueName, dict[str, Interest]] = {}
        self._consumers: dict[QueueName, dict[str, Consumer]] = {}
        self._leaving: dict[asyncio.Task[None], Consumer] = {}
        self._stopped = False

    # -- life -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        self._triggers.watch(self._changed)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._sweep())

    async def drain(self) -> None:
        """Take nothing more."""
        self._stopped = True
        await asyncio.gather(*(consumer.drain() for consumer in self._all()))

    async def close(self, seconds: float = 5.0) -> None:
        """Wait so long for what runs."""
        await self.drain()
        leaving = [*self._leaving.values()]
        await asyncio.gather(*(consumer.close(seconds) for consumer in (*self._all(), *leaving)))
        await asyncio.gather(*self._leaving, return_exceptions=True)

    def _all(self) -> list[Consumer]:
        return [consumer for of_queue in self._consumers.values() for consumer in of_queue.values()]

    # -- which there are --------------------------------------------------------------------------------------------

    def _changed(self, triggers: Sequence[TriggerSpec]) -> None:
        """These are all triggers now."""
        if self._stopped:
            return
        wanted = {trigger.key: trigger for trigger in triggers if trigger.queue is not None}
        self._interests = _interests(wanted.values())
        for key, before in list(self._specs.items()):
            if wanted.get(key) != before:
                del self._specs[key]
                self._drop(before)
        for key, trigger in wanted.items():
            if key not in self._specs:
                self._specs[key] = trigger
                if trigger.enabled:
                    self._add(trigger)

    def _add(self, trigger: TriggerSpec) -> None:
        queue = trigger.queue_name
        interest = self._interests.get(queue, {}).get(trigger.key) if queue is not None else None
        if queue is None or interest is None:
            return  # its filter was refused: see _interests
        key = trigger.key

        def others() -> list[Interest]:
            return [each for name, each in self._interests.get(queue, {}).items() if name != key]

        self._open(key, self._for_trigger(trigger, interest.filter, others))

    def _open(self, key: str, made: Made) -> None:
        source, work = made
        consumer = Consumer(self._queue, self._node, source, work, self._outage, count=self._count, jitter=self._jitter)
        self._consumers.setdefault(source.queue, {})[key] = consumer
        consumer.ring()

    def _drop(self, trigger: TriggerSpec) -> None:
        of_queue = self._consumers.get(trigger.queue_name or EVERY, {})
        consumer = of_queue.pop(trigger.key, None)
        if consumer is None:
            return
        if not of_queue:
            del self._consumers[consumer.source.queue]
        task = asyncio.get_running_loop().create_task(consumer.close(None))
        self._leaving[task] = consumer
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    def _hidden(self, queue: QueueName) -> None:
        """Make the consumer of a queue that no trigger names, if it is to have one."""
        if self._stopped or not queue.name.startswith("@"):
            return
        for made in (for_queue(queue) for for_queue in self._for_queues):
            if made is not None:
                self._open(str(queue), made)
                return

    # -- what wakes them --------------------------------------------------------------------------------------------

    def _ring(self, queue: QueueName) -> None:
        of_queue = self._consumers.get(queue)
        if of_queue is None:
            self._hidden(queue)
            return
        for consumer in of_queue.values():
            consumer.ring()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async for queue in self._queue.bells():
                    failures = 0
                    if queue == EVERY:
                        self._outage.ends()
                        await self._look()
                    else:
                        self._ring(queue)
            except StoreUnavailable as error:
                self._outage.begins(error)
            except Exception:
                log.exception("listening to the queues' bells failed, will begin again")
            failures += 1
            await asyncio.sleep(pause_s(failures, self._jitter()))

    async def _sweep(self) -> None:
        failures = 0
        while True:
            try:
                await self._look()
                failures = 0
            except StoreUnavailable as error:
                failures += 1
                self._outage.begins(error)
            except Exception:
                failures += 1
                log.exception("looking for what waits in queues failed, will look again")
            pause = pause_s(failures, self._jitter()) if failures else 0.0
            await asyncio.sleep(max(pause, SWEEP_S * (0.75 + self._jitter() / 2)))

    async def _look(self) -> None:
        """Ring for every queue that holds something; let go of hidden ones that hold nothing."""
        busy = set(await self._queue.busy())
        for queue in busy:
            self._ring(queue)
        for queue in [name for name in self._consumers if name.name.startswith("@") and name not in busy]:
            if all(consumer.idle for consumer in self._consumers[queue].values()):
                for consumer in self._consumers.pop(queue).values():
                    consumer.stop()

    # -- what people see --------------------------------------------------------------------------------------------

    def _count(self, queue: QueueName, outcome: str, messages: int) -> None:
        key = (*queue, outcome)
        self.counts[key] = self.counts.get(key, 0) + messages

    async def states(self) -> list[QueueState]:
        """Of the queues in namespaces where one holds something or has a trigger; not of more than so many.

        Raises ``StoreUnavailable``.
        """
        named = {queue.namespace for queue in (*await self._queue.busy(), *self._interests)}
        found: list[QueueState] = []
        for namespace in sorted(named):
            found += await self._queue.states(namespace)
            if len(found) >= QUEUES_SHOWN_MAX:
                break
        return found[:QUEUES_SHOWN_MAX]


def _interests(triggers: Iterable[TriggerSpec]) -> dict[QueueName, dict[str, Interest]]:
    found: dict[QueueName, dict[str, Interest]] = {}
    for trigger in triggers:
        if trigger.queue is None or trigger.queue_name is None:
            continue
        try:
            made = compile_filter(trigger.queue.filter) if trigger.queue.filter is not None else None
        except BadFilter as error:
            log.error("the trigger %s takes nothing, its filter is wrong: %s", trigger.key, error)
            continue
        found.setdefault(trigger.queue_name, {})[trigger.key] = Interest(made, trigger.enabled)
    return found
