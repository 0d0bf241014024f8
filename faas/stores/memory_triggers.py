"""The in-memory twin of the store of triggers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from faas.model.trigger import TriggerSpec
from faas.ports import Registry
from faas.ports.events import Overlay
from faas.stores.registry import no_function
from faas.stores.triggers import has_it_already


@dataclass(slots=True)
class _Stored:
    added: dict[str, TriggerSpec] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    since_ms: dict[str, int] = field(default_factory=dict)


class MemoryTriggers:
    """``TriggerStore`` beside a registry in memory; whoever deletes a function there calls ``forget``."""

    def __init__(self, registry: Registry, tell: Callable[[tuple[str, str]], None], now_ms: Callable[[], int]) -> None:
        self._registry = registry
        self._tell = tell
        self._now_ms = now_ms
        self._stored: dict[tuple[str, str], _Stored] = {}

    async def read(self, functions: Sequence[tuple[str, str]]) -> list[Overlay]:
        found = [self._stored.get(key, _Stored()) for key in functions]
        return [
            Overlay([each.added[key] for key in sorted(each.added)], frozenset(each.paused), dict(each.since_ms))
            for each in found
        ]

    async def add(self, trigger: TriggerSpec) -> None:
        stored = await self._of(trigger.namespace, trigger.function)
        kept = trigger.model_copy(update={"enabled": True, "since_ms": 0, "source": "added"})
        known = stored.added.get(trigger.id)
        if known is not None and known != kept:
            raise has_it_already(trigger.id, trigger.function)
        if known is not None:
            return
        stored.added[trigger.id] = kept
        stored.since_ms[trigger.id] = self._now_ms()
        stored.paused -= {trigger.id}
        if not trigger.enabled:
            stored.paused.add(trigger.id)
        self._tell((trigger.namespace, trigger.function))

    async def set_enabled(self, namespace: str, function: str, trigger_id: str, enabled: bool) -> None:
        stored = await self._of(namespace, function)
        if enabled == (trigger_id not in stored.paused):
            return
        if enabled:
            stored.paused.remove(trigger_id)
            stored.since_ms[trigger_id] = self._now_ms()
        else:
            stored.paused.add(trigger_id)
        self._tell((namespace, function))

    async def delete(self, namespace: str, function: str, trigger_id: str) -> bool:
        stored = self._stored.get((namespace, function), _Stored())
        if stored.added.pop(trigger_id, None) is None:
            return False
        stored.paused.discard(trigger_id)
        stored.since_ms.pop(trigger_id, None)
        self._tell((namespace, function))
        return True

    def forget(self, namespace: str, function: str) -> None:
        self._stored.pop((namespace, function), None)

    async def _of(self, namespace: str, function: str) -> _Stored:
        if await self._registry.latest(namespace, function) is None:
            raise no_function(namespace, function)
        return self._stored.setdefault((namespace, function), _Stored())
