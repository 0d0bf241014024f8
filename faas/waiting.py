"""Waiting for a time, unless something happens earlier."""

from __future__ import annotations

import asyncio


async def either(event: asyncio.Event, wait_s: float) -> bool:
    """Return when the event is set, after ``wait_s`` at the latest; whether it is."""
    try:
        async with asyncio.timeout(wait_s):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()
