"""Queues and triggers in memory: as much of their ports as the gateway needs. Time stands still at ``NOW_MS``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from faas.model.errors import NotFound, StoreUnavailable
from faas.model.manifest import QueueTrigger
from faas.model.message import Batch, DeadLetter, Delivery, Message, Outcome, QueueName, QueueState, Send, Wanted
from faas.model.trigger import TriggerSpec

NOW_MS = 1_700_000_000_123


@dataclass
class _Queue:
    waiting: list[Delivery] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    sent: int = 0


class FakeQueues:
    """``MessageQueue``. ``bury`` is the test's own: it makes a dead letter of a message that waits."""

    def __init__(self) -> None:
        self.held: dict[QueueName, _Queue] = {}
        self.known: dict[tuple[QueueName, str], str] = {}  # dedup ids
        self.sends: list[list[Send]] = []
        self.redrives: list[tuple[float, float, int]] = []  # first_ms, spread_ms, how many
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("redis://10.0.0.7:6379 refused the connection")

    def bury(self, queue: QueueName, message_id: str, reason: str = "it failed 3 times") -> None:
        held = self.held[queue]
        found = next(each for each in held.waiting if each.message.id == message_id)
        held.waiting.remove(found)
        held.dead.append(DeadLetter(replace(found, attempt=3, error=reason), reason, NOW_MS + 5))

    async def send(self, sends: Sequence[Send]) -> list[str]:
        self._check()
        self.sends.append(list(sends))
        ids = []
        for queue, message in sends:
            known = self.known.get((queue, message.dedup_id)) if message.dedup_id else None
            if known is None:
                held = self.held.setdefault(queue, _Queue())
                held.waiting.append(Delivery(message, "", 1, NOW_MS, 0))
                held.sent += 1
                self.known[queue, message.dedup_id] = message.id
            ids.append(known or message.id)
        return ids

    async def state(self, queue: QueueName) -> QueueState | None:
        self._check()
        held = self.held.get(queue)
        if held is None:
            return None
        delayed = sum(1 for each in held.waiting if each.message.delay_ms)
        return QueueState(
            queue,
            ready=len(held.waiting) - delayed,
            delayed=delayed,
            dead=len(held.dead),
            oldest_ms=1500 if held.waiting else 0,
            counts={"sent": held.sent},
        )

    async def states(self, namespace: str) -> list[QueueState]:
        found = [await self.state(queue) for queue in sorted(self.held) if queue.namespace == namespace]
        return [state for state in found if state is not None]

    async def peek(self, queue: QueueName, limit: int) -> list[Delivery]:
        return self.held.get(queue, _Queue()).waiting[:limit]

    async def dead(self, queue: QueueName, limit: int, after: str = "") -> list[DeadLetter]:
        found = self.held.get(queue, _Queue()).dead
        ids = [each.delivery.message.id for each in found]
        return found[ids.index(after) + 1 if after else 0 :][:limit]

    async def redrive(
        self, queue: QueueName, ids: Sequence[str] | None, limit: int, *, first_ms: float = 0, spread_ms: float = 0
    ) -> int:
        held = self.held.get(queue, _Queue())
        chosen = [each for each in held.dead if ids is None or each.delivery.message.id in ids][:limit]
        for index, each in enumerate(chosen):
            held.dead.remove(each)
            message: Message = replace(each.delivery.message, delay_ms=int(first_ms + index * spread_ms))
            held.waiting.append(Delivery(message, "", 1, NOW_MS, 0))
        self.redrives.append((first_ms, spread_ms, len(chosen)))
        return len(chosen)

    async def purge(self, queue: QueueName, *, dead: bool = False) -> int:
        held = self.held.get(queue, _Queue())
        gone: list[object] = list(held.dead if dead else held.waiting)
        (held.dead if dead else held.waiting).clear()
        return len(gone)

    async def delete(self, queue: QueueName) -> bool:
        return self.held.pop(queue, None) is not None

    async def take(self, queue: QueueName, trigger: str, node: str, wanted: Wanted) -> Batch:
        raise AssertionError("the gateway takes nothing")

    async def settle(self, queue: QueueName, outcomes: Sequence[Outcome], sends: Sequence[Send] = ()) -> list[str]:
        raise AssertionError("the gateway takes nothing")

    async def renew(self, queue: QueueName, receipts: Sequence[str], lease_ms: int) -> list[str]:
        raise AssertionError("the gateway takes nothing")

    async def tick(self, trigger: str, tick_ms: int, send: Send) -> bool:
        raise AssertionError("the gateway has no schedule")

    async def last_ticks(self, triggers: Sequence[str]) -> dict[str, int]:
        return {}

    async def forget_ticks(self, triggers: Sequence[str]) -> None:
        return None

    async def busy(self) -> list[QueueName]:
        return [queue for queue, held in self.held.items() if held.waiting]

    async def bells(self) -> AsyncIterator[QueueName]:
        yield QueueName("*", "*")


class FakeTriggers:
    """``Triggers`` of a list that the test fills."""

    def __init__(self) -> None:
        self.all: list[TriggerSpec] = []

    def consume(self, queue: str, function: str, *, enabled: bool = True, namespace: str = "default") -> None:
        self.all.append(
            TriggerSpec(
                id=f"{function}.{queue}",
                namespace=namespace,
                function=function,
                queue=QueueTrigger(name=queue),
                enabled=enabled,
            )
        )

    async def list(self, namespace: str | None) -> list[TriggerSpec]:
        return [each for each in self.all if namespace in (None, each.namespace)]

    async def get(self, namespace: str, trigger_id: str) -> TriggerSpec:
        for each in self.all:
            if (each.namespace, each.id) == (namespace, trigger_id):
                return each
        raise NotFound(f"There is no trigger '{trigger_id}'.")

    async def add(self, trigger: TriggerSpec) -> TriggerSpec:
        self.all.append(trigger)
        return trigger

    async def set_enabled(self, namespace: str, trigger_id: str, enabled: bool) -> TriggerSpec:
        found = await self.get(namespace, trigger_id)
        changed = found.model_copy(update={"enabled": enabled})
        self.all[self.all.index(found)] = changed
        return changed

    async def delete(self, namespace: str, trigger_id: str) -> None:
        self.all.remove(await self.get(namespace, trigger_id))

    def watch(self, changed: Callable[[Sequence[TriggerSpec]], None]) -> None:
        changed(self.all)
