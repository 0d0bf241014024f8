"""Waiting for the end of asynchronous calls: one subscription for all who wait here, and none while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Final, cast

from faas.model.call import CallRecord
from faas.model.errors import StoreUnavailable
from faas.ports.events import CallStore

log = logging.getLogger("faas.gateway")

LOOK_S: Final = 2.0  # for an end whose bell was lost
RETRY_S: Final = 1.0

Key = tuple[str, str]  # namespace and id


class Awaited:
    """``run`` it as long as the node serves. ``leaving``: whether nobody shall be kept waiting any more."""

    def __init__(self, calls: CallStore, leaving: Callable[[], bool]) -> None:
        self._calls = calls
        self._leaving = leaving
        self._waiting: dict[Key, set[asyncio.Event]] = {}
        self._some = asyncio.Event()

    async def ended(self, namespace: str, call_id: str, seconds: float) -> CallRecord | None:
        """The call's record as soon as it has ended, or as it is after so long; None: there is no such call."""
        record = await self._calls.get(namespace, call_id)
        if record is None or record.status.final or seconds <= 0:
            return record
        key, bell = (namespace, call_id), asyncio.Event()
        ends = asyncio.get_running_loop().time() + seconds
        self._waiting.setdefault(key, set()).add(bell)
        self._some.set()
        try:
            while record is not None and not record.status.final and not self._leaving():
                left = ends - asyncio.get_running_loop().time()
                if left <= 0:
                    break
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, LOOK_S)):
                        await bell.wait()
                bell.clear()
                record = await self._calls.get(namespace, call_id)
            return record
        finally:
            self._waiting[key].discard(bell)
            if not self._waiting[key]:
                del self._waiting[key]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._some.clear()
            if not self._waiting:
                await self._some.wait()
            try:
                await self._listen()
            except StoreUnavailable:
                await asyncio.sleep(RETRY_S)
            except Exception:
                log.exception("listening to the ends of calls failed, will begin again")
                await asyncio.sleep(RETRY_S)

    async def _listen(self) -> None:
        """Until a bell rings that nobody waits for."""
        bells = cast("AsyncGenerator[Key, None]", self._calls.bells("ended"))
        async with contextlib.aclosing(bells):
            async for key in bells:
                everyone = key == ("*", "*")
                for waiting in list(self._waiting.values()) if everyone else [self._waiting.get(key, set())]:
                    for bell in waiting:
                        bell.set()
                if not self._waiting:
                    return
