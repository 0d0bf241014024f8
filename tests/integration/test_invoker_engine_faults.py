"""What the invoker makes of an engine that hangs or fails: its memory stays counted until it has let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faas.model.errors import DeadlineExceeded, EngineUnavailable
from faas.testing.sandbox import FakeSandbox
from tests.integration.test_invoker import Node, node, version

pytestmark = pytest.mark.anyio

MS = 1_000_000
QUICK: dict[str, Any] = {"generic_sandboxes": 0, "remove_limit_ns": 50 * MS}


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not there():
            await asyncio.sleep(0.01)


def counted(n: Node) -> int:
    return n.invoker.pool.memory_mb


async def lose_the_only_one(n: Node) -> str:
    assert (await n.call()).error is None
    sandbox = n.only_sandbox()
    assert sandbox.control is not None
    sandbox.control.close()
    return sandbox.spec.id


async def test_a_sandbox_that_the_engine_cannot_remove_is_counted_and_asked_for_again(tmp_path: Path) -> None:
    async with node(tmp_path, **QUICK) as n:
        n.engine.remove_error = EngineUnavailable("it does not die")
        lost = await lose_the_only_one(n)
        await until(lambda: n.engine.removals >= 3)
        assert lost in n.engine.sandboxes
        assert counted(n) == 24 + 128
        assert (await n.call()).error is None, "another sandbox serves meanwhile"
        n.engine.remove_error = None
        await until(lambda: lost not in n.engine.sandboxes and counted(n) == 24 + 128)


async def test_a_removal_that_hangs_is_not_begun_again(tmp_path: Path) -> None:
    async with node(tmp_path, **QUICK) as n:
        n.engine.may_remove.clear()
        lost = await lose_the_only_one(n)
        await until(lambda: n.engine.removals == 1)
        asked = n.invoker.pool.sandboxes[lost].asked_ns
        await until(lambda: n.invoker.pool.sandboxes[lost].asked_ns > asked)
        assert n.engine.removals == 1
        assert counted(n) == 24 + 128
        n.engine.may_remove.set()
        await until(lambda: counted(n) == 0)


async def test_a_boot_that_outlasts_its_sandbox_leaves_nothing(tmp_path: Path) -> None:
    async with node(tmp_path, boot_limit_ns=100 * MS, queue_wait_ns=100 * MS, **QUICK) as n:
        n.engine.may_boot.clear()
        reply = await n.call()
        assert reply.error is not None
        assert reply.error.code == "no-capacity"
        await until(lambda: n.engine.removals > 0)
        assert counted(n) >= 24
        n.engine.may_boot.set()
        await until(lambda: counted(n) == 0)
        assert not n.engine.sandboxes


async def test_who_waits_for_a_load_that_does_not_end_is_told_so(tmp_path: Path) -> None:
    def never_ready(sandbox: FakeSandbox) -> None:
        sandbox.running.clear()  # it reads and says nothing

    async with node(tmp_path, init_limit_ns=100 * MS, **QUICK) as n:
        n.engine.prepare = never_ready
        with pytest.raises(DeadlineExceeded, match="to load"):
            await n.invoker.load(version())
