"""Which triggers there are: derived from the latest version of every function, and what is stored beside them.

Theory of operation. Nothing is written when a function is deployed: its triggers follow from its manifest. Whoever asks
(``list``, ``get``) gets what the store says at that moment. Whoever follows (``watch``) is called from ``run``, which
keeps a view in memory: all of it is read once the subscription to changes stands, and again after it was lost, since
changes may have been missed; after that, one function at a time, as its changes are announced. While the store is
away the followers keep what they know.

Contract. Followers are called in the order of the changes, in the node's own loop, and only with something new. What
one of them raises is logged and keeps nobody else from hearing.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from faas.events.derive import triggers_of
from faas.model.errors import Conflict, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.trigger import TriggerSpec
from faas.ports import Registry
from faas.ports.events import Overlay, TriggerStore
from faas.stores.registry import no_function
from faas.stores.triggers import has_it_already, no_trigger

log = logging.getLogger("faas.triggers")

ALL: Final = "*"  # in place of a namespace: anything may have changed
RETRY_S: Final = 1.0

Changed = Callable[[Sequence[TriggerSpec]], None]


class Directory:
    """``Triggers``. ``run`` must run for ``watch`` to tell anything."""

    def __init__(self, registry: Registry, store: TriggerStore) -> None:
        self._registry = registry
        self._store = store
        self._view: dict[tuple[str, str], builtins.list[TriggerSpec]] | None = None
        self._followers: builtins.list[Changed] = []
        self._refreshing = asyncio.Lock()  # what was read first is applied first

    # -- asking ---------------------------------------------------------------------------------------------------

    async def list(self, namespace: str | None) -> builtins.list[TriggerSpec]:
        found = await self._read(await self._registry.functions(namespace))
        return _in_order(found)

    async def get(self, namespace: str, trigger_id: str) -> TriggerSpec:
        latest = await self._registry.latest(namespace, trigger_id.partition(".")[0])
        found = [] if latest is None else (await self._read([latest]))[namespace, latest.name]
        for trigger in found:
            if trigger.id == trigger_id:
                return trigger
        raise no_trigger(trigger_id)

    async def _read(self, versions: Sequence[FunctionVersion]) -> dict[tuple[str, str], builtins.list[TriggerSpec]]:
        keys = [(version.namespace, version.name) for version in versions]
        overlays: Sequence[Overlay] = await self._store.read(keys)
        return {
            key: triggers_of(version, *overlay) for key, version, overlay in zip(keys, versions, overlays, strict=True)
        }

    # -- changing -------------------------------------------------------------------------------------------------

    async def add(self, trigger: TriggerSpec) -> TriggerSpec:
        latest = await self._registry.latest(trigger.namespace, trigger.function)
        if latest is None:
            raise no_function(trigger.namespace, trigger.function)
        found = (await self._read([latest]))[trigger.namespace, trigger.function]
        if any(each.id == trigger.id for each in found):
            raise has_it_already(trigger.id, trigger.function)
        await self._store.add(trigger)
        await self._changed_here(trigger.namespace, trigger.function)
        return await self.get(trigger.namespace, trigger.id)

    async def set_enabled(self, namespace: str, trigger_id: str, enabled: bool) -> TriggerSpec:
        found = await self.get(namespace, trigger_id)
        if found.enabled != enabled:
            await self._store.set_enabled(namespace, found.function, trigger_id, enabled)
            await self._changed_here(namespace, found.function)
        return found.model_copy(update={"enabled": enabled})

    async def delete(self, namespace: str, trigger_id: str) -> None:
        found = await self.get(namespace, trigger_id)
        if found.source == "manifest":
            raise Conflict(
                f"The trigger '{trigger_id}' stands in the manifest of '{found.function}': take it out there and "
                f"deploy again, or pause it: `faas trigger pause {trigger_id}`."
            )
        if not await self._store.delete(namespace, found.function, trigger_id):
            raise no_trigger(trigger_id)
        await self._changed_here(namespace, found.function)

    async def _changed_here(self, namespace: str, name: str) -> None:
        """So that this node's followers have heard of it when the caller is answered."""
        with contextlib.suppress(StoreUnavailable):  # it is done; ``run`` tries until it knows
            await self._one_changed(namespace, name)

    # -- following ------------------------------------------------------------------------------------------------

    def watch(self, changed: Changed) -> None:
        self._followers.append(changed)
        if self._view is not None:
            _call(changed, _in_order(self._view))

    async def run(self) -> None:
        """Runs for as long as the node serves."""
        while True:
            try:
                async for namespace, name in self._registry.changes():
                    if namespace == ALL:
                        await self._all_changed()
                    elif name:
                        await self._one_changed(namespace, name)
            except StoreUnavailable as error:
                log.warning("triggers cannot be followed, will try again: %s", error.message)
            except Exception:
                log.exception("following triggers failed, will begin again")
            await asyncio.sleep(RETRY_S)

    async def _all_changed(self) -> None:
        async with self._refreshing:
            found = await self._read(await self._registry.functions(None))
            view = {key: triggers for key, triggers in found.items() if triggers}
            if view != self._view:
                self._view = view
                self._tell()

    async def _one_changed(self, namespace: str, name: str) -> None:
        async with self._refreshing:
            view, key = self._view, (namespace, name)
            if view is None:
                return  # all of it will be read
            latest = await self._registry.latest(namespace, name)
            found = [] if latest is None else (await self._read([latest]))[key]
            if found == view.get(key, []):
                return
            view[key] = found
            if not found:
                del view[key]
            self._tell()

    def _tell(self) -> None:
        found = _in_order(self._view or {})
        for follower in self._followers:
            _call(follower, found)


def _in_order(view: dict[tuple[str, str], list[TriggerSpec]]) -> list[TriggerSpec]:
    found = [trigger for triggers in view.values() for trigger in triggers]
    return sorted(found, key=lambda trigger: (trigger.namespace, trigger.id))


def _call(follower: Changed, found: Sequence[TriggerSpec]) -> None:
    try:
        follower(found)
    except Exception:
        log.exception("a follower of triggers failed")
