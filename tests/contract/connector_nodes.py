"""A node's connectors, without the rest of the node, and what its triggers would do with the queue."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from faas.model.manifest import QueueSource, QueueTrigger
from faas.model.message import Ack, Delivery, Outcome, QueueName, Wanted
from faas.model.trigger import TriggerSpec
from faas.packaging.document import Document
from faas.packaging.manifest import parse
from faas.stores.leases import RedisLeases
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client
from faas.triggers.connectors.connectors import Connectors

QUEUE = QueueName("default", "orders")
GUIDE = Path(__file__).parents[2] / "functions" / "README.md"


def guide_source(connection: str, place: str = "") -> QueueSource:
    """What the guide shows for this connection: the first that has ``place``."""
    blocks = re.findall(r"^```toml\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    settings = [tomllib.loads(block).get("tool", {}).get("faas", {}) for block in blocks]
    found = [
        queue.source
        for each in settings
        for queue in parse(Document(values={"name": "f", "queue": each.get("queue", [])})).queues
        if queue.source is not None and queue.source.connection == connection
    ]
    return next(source for source in found if not place or getattr(source, place))


class Node:
    """The connectors of a node, and what a trigger of it would do with the queue."""

    def __init__(self, queues: RedisQueues, client: Client, urls: dict[str, str], name: str = "n1") -> None:
        self.connectors = Connectors(self, queues, RedisLeases(client), urls, name)  # type: ignore[arg-type]
        self._task: asyncio.Task[None] | None = None
        self._changed: Callable[[Sequence[TriggerSpec]], None] = lambda _: None

    def watch(self, changed: Callable[[Sequence[TriggerSpec]], None]) -> None:
        self._changed = changed

    async def start(self, source: QueueSource | None) -> None:
        self._task = asyncio.create_task(self.connectors.run())
        await asyncio.sleep(0)
        self.say(source)

    def say(self, source: QueueSource | None, *, enabled: bool = True) -> None:
        """Triggers changed: this is the only one now."""
        trigger = QueueTrigger(name=QUEUE.name, source=source)
        self._changed([TriggerSpec(id="f.orders", namespace="default", function="f", queue=trigger, enabled=enabled)])

    def state(self) -> str:
        return ",".join(each.state for each in self.connectors.states("default"))

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            await self.connectors.close()
            await task


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not await holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"it never came to it that {what}") from None


async def depth(queues: RedisQueues) -> int:
    state = await queues.state(QUEUE)
    return state.depth if state is not None else 0


async def handle(
    queues: RedisQueues, expected: int, outcome: Callable[[Delivery], Outcome] = lambda each: Ack(each.receipt)
) -> list[Delivery]:
    """Take and settle until so many were handled."""
    handled: list[Delivery] = []

    async def more() -> bool:
        while True:
            batch = await queues.take(QUEUE, "f.orders", "n1", Wanted(10, 60_000, at_once=100))
            if not batch.deliveries:
                return len(handled) >= expected
            await queues.settle(QUEUE, [outcome(each) for each in batch.deliveries])
            handled.extend(batch.deliveries)

    await until(more, f"{expected} messages come; there were {len(handled)}")
    return handled


def numbered(count: int, since: int = 0) -> list[bytes]:
    return [f"order {number}".encode() for number in range(since, since + count)]
