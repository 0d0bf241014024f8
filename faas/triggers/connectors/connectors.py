"""Runs a pump for each source that an enabled trigger names, and stops those that none names any more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from faas.model.connection import System, described, misfit, systems_of, wanted
from faas.model.manifest import QueueSource
from faas.model.message import QueueName
from faas.model.trigger import TriggerSpec
from faas.ports.events import MessageQueue, Triggers
from faas.ports.leases import Leases
from faas.triggers.connectors.pump import OwnLease, Pump, PumpState
from faas.triggers.connectors.source import Source, digest

log = logging.getLogger("faas.triggers.connectors")


class Place(NamedTuple):
    """What one pump joins. Triggers of several functions may name the same."""

    queue: QueueName
    source: QueueSource


class ConnectorState(NamedTuple):
    """How it goes on this node, for people."""

    queue: QueueName
    source: str  # such as "rabbit, queue orders"
    state: str  # connecting, running, full, standby, failing, stopped, unknown (no such connection here)
    error: str
    moved: int
    refused: int


class Connectors:
    """All pumps of a node. ``connections`` are URLs by name, from the settings."""

    def __init__(
        self, triggers: Triggers, queues: MessageQueue, leases: Leases, connections: Mapping[str, str], node: str
    ) -> None:
        self._triggers = triggers
        self._queues = queues
        self._leases = leases
        self._urls = connections
        self._systems = systems_of(connections)
        self._node = node
        self._wanted: frozenset[Place] = frozenset()
        self._pumps: dict[Place, Pump] = {}
        self._unserved: dict[Place, str] = {}
        self._changed = asyncio.Event()
        self._closing = False
        self._done = asyncio.Event()
        self._done.set()

    async def run(self) -> None:
        """Until ``close``."""
        self._done.clear()
        self._triggers.watch(self._look)
        try:
            while not self._closing:
                await self._changed.wait()
                self._changed.clear()
                await self._apply()
        finally:
            self._done.set()

    async def close(self) -> None:
        """Stop all pumps; batches under way get a moment to be sent and acknowledged."""
        self._closing = True
        self._changed.set()
        await self._done.wait()
        await self._stop(list(self._pumps))

    def states(self, namespace: str | None = None) -> list[ConnectorState]:
        """By queue and source; None = of all namespaces."""
        found = [self._state(place) for place in (*self._pumps, *self._unserved)]
        return sorted(state for state in found if namespace in (None, state.queue.namespace))

    def shown(self, queue: QueueName, source: QueueSource) -> dict[str, Any]:
        """How this one goes, as the API shows it."""
        _, *state = self._state(Place(queue, source))
        return dict(zip(ConnectorState._fields[1:], state, strict=True))

    def _state(self, place: Place) -> ConnectorState:
        queue, source = place
        pump = self._pumps.get(place)
        if pump is not None:
            return ConnectorState(queue, described(source), pump.state.value, pump.error, pump.moved, pump.refused)
        if place in self._unserved:
            return ConnectorState(queue, described(source), "unknown", self._unserved[place], 0, 0)
        return ConnectorState(queue, described(source), PumpState.STOPPED.value, "", 0, 0)

    # -- which --------------------------------------------------------------------------------------------------------

    def _look(self, triggers: Sequence[TriggerSpec]) -> None:
        self._wanted = frozenset(
            Place(queue, spec.queue.source)
            for spec in triggers
            if spec.enabled and spec.queue is not None and spec.queue.source and (queue := spec.queue_name)
        )
        self._changed.set()

    async def _apply(self) -> None:
        wanted_now = self._wanted if not self._closing else frozenset()
        await self._stop([place for place in self._pumps if place not in wanted_now])
        unserved = {place: why for place in wanted_now if (why := misfit(place.source, self._systems))}
        for place, why in unserved.items():
            if place not in self._unserved:
                log.warning("nothing comes into queue %s from %s: %s", place.queue, described(place.source), why)
        self._unserved = unserved
        for place in wanted_now - self._pumps.keys() - unserved.keys():
            self._pumps[place] = pump = self._pump(place)
            pump.start()

    async def _stop(self, places: Sequence[Place]) -> None:
        await asyncio.gather(*(self._pumps[place].stop() for place in places))
        for place in places:  # and not before: until then it may still move something
            del self._pumps[place]

    def _pump(self, place: Place) -> Pump:
        queue, source = place
        lease = None
        if source.channel or source.group_by:
            lease = OwnLease(self._leases, f"connector:{queue}:{digest(source.model_dump_json())}", self._node)
        label = f"{queue} from {described(source)}"
        return Pump(queue, self._source(place), self._queues, label=label, lease=lease)

    def _source(self, place: Place) -> Source:
        """The libraries are loaded here: each costs a node some 10 MB and a tenth of a second or more."""
        queue, source = place
        url = self._urls[source.connection]
        match wanted(source):
            case System.RABBITMQ:
                from faas.triggers.connectors.rabbitmq import RabbitMQSource

                return RabbitMQSource(url, source, f"faas {queue} on {self._node}")
            case System.NATS:
                from faas.triggers.connectors.nats import NatsSource

                return NatsSource(url, source, queue)
            case System.REDIS:
                if source.channel:
                    from faas.triggers.connectors.redis_pubsub import RedisPubSubSource

                    return RedisPubSubSource(url, source)
                from faas.triggers.connectors.redis_lists import RedisListSource

                return RedisListSource(url, source, queue, self._node)
