"""Hears of asynchronous calls that were cancelled while they run here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from faas.model.call import CallStatus
from faas.model.errors import StoreUnavailable
from faas.ports.events import CallStore

log = logging.getLogger("faas.triggers")

LOOK_S: Final = 5.0  # for what the bells did not say
RETRY_S: Final = 1.0

Key = tuple[str, str]  # namespace and id


class Cancels:
    """One for a node; ``run`` it as long as calls do. Bells say it at once, a look at the store when they are lost."""

    def __init__(self, calls: CallStore) -> None:
        self._calls = calls
        self._running: dict[Key, Callable[[], None] | None] = {}  # None: it was told

    @contextmanager
    def watching(self, namespace: str, call_id: str, cancel: Callable[[], None]) -> Iterator[None]:
        """``cancel`` is called, once at most, when somebody cancels the call meanwhile."""
        self._running[namespace, call_id] = cancel
        try:
            yield
        finally:
            self._running.pop((namespace, call_id), None)

    def runs(self, namespace: str, call_id: str) -> bool:
        """Whether it is being watched now."""
        return (namespace, call_id) in self._running

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._look_again())

    async def _listen(self) -> None:
        while True:
            try:
                async for key in self._calls.bells("cancelled"):
                    self._cancelled(key)
                    if key == ("*", "*"):
                        await self._look()
            except StoreUnavailable:
                pass  # said by those who cannot do without it
            except Exception:
                log.exception("listening to cancelled calls failed, will begin again")
            await asyncio.sleep(RETRY_S)

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            with contextlib.suppress(StoreUnavailable):
                await self._look()

    async def _look(self) -> None:
        for key in list(self._running):
            record = await self._calls.get(*key)
            if record is not None and record.status is CallStatus.CANCELLED:
                self._cancelled(key)

    def _cancelled(self, key: Key) -> None:
        cancel = self._running.get(key)
        if cancel is not None:
            self._running[key] = None
            cancel()
