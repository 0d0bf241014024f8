"""Limits that the engine is asked for: as seldom as can be, and never while a sandbox is stopped or let go on."""

from __future__ import annotations

import asyncio

import pytest

from faas.engines.asked_limits import AskedLimits, Wanted
from faas.model.errors import EngineUnavailable

pytestmark = pytest.mark.anyio


class Asked:
    """An engine that takes its time; ``quiet`` is set while no freezer is at work."""

    def __init__(self) -> None:
        self.heard: list[Wanted] = []
        self.failing = False
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.limits = AskedLimits(self.update, self.settled)

    async def update(self, *limits: float) -> None:
        self.heard.append(Wanted(*limits))  # type: ignore[arg-type]
        await asyncio.sleep(0.001)
        if self.failing:
            raise EngineUnavailable("not today")

    async def settled(self) -> None:
        await self.quiet.wait()


def wanted(memory_bytes: int, pids: int = 0) -> Wanted:
    return Wanted(memory_bytes, 0.0, 1.0, pids)


async def test_what_is_set_is_not_asked_for_again() -> None:
    asked = Asked()
    await asked.limits.set(wanted(1, pids=7))
    await asked.limits.set(wanted(1, pids=7))
    await asked.limits.set(wanted(1))  # 0 = as many as now
    assert asked.heard == [wanted(1, pids=7)]
    asked.limits.forget()
    await asked.limits.set(wanted(1))
    assert asked.heard == [wanted(1, pids=7)] * 2


async def test_one_at_a_time_and_the_newest_alone() -> None:
    asked = Asked()
    setting = [asyncio.create_task(asked.limits.set(wanted(size, pids=size))) for size in (1, 2)]
    while not asked.heard:
        await asyncio.sleep(0)
    setting += [asyncio.create_task(asked.limits.set(wanted(size))) for size in (3, 4)]
    await asyncio.gather(*setting)
    assert asked.heard == [wanted(2, pids=2), wanted(4, pids=2)]


async def test_a_sandbox_that_thaws_comes_first() -> None:
    asked = Asked()
    asked.quiet.clear()
    setting = asyncio.create_task(asked.limits.set(wanted(1)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert asked.heard == []
    asked.quiet.set()
    await setting
    assert asked.heard == [wanted(1)]


async def test_what_failed_is_said_and_asked_for_the_next_time() -> None:
    asked = Asked()
    asked.failing = True
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="not today"):
            await asked.limits.set(wanted(1))
    asked.failing = False
    await asked.limits.set(wanted(1))
    assert asked.heard == [wanted(1)] * 3
