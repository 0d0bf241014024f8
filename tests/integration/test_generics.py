"""How many generic sandboxes stand ready, on real sandboxes of processes: demand raises the number, quiet lowers it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from faas.engines.process import ProcessEngine
from faas.invoker.clock import SystemClock
from faas.invoker.config import InvokerConfig
from faas.invoker.ids import new_id
from faas.invoker.invoker import Invoker
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply, Trigger
from faas.model.manifest import Manifest
from faas.pool.entities import PoolConfig
from faas.ports import Entry, LogLine

pytestmark = pytest.mark.anyio

HELLO = "def handler(event, context):\n    return context.function_name\n"
MINUTE_NS = 60_000_000_000


@dataclass(frozen=True)
class Attached:
    code: str
    layers: tuple[str, ...] = ()


class Content:
    """One file for every function."""

    def __init__(self, store: Path) -> None:
        store.mkdir(parents=True, mode=0o711)
        (store / "c0de").mkdir(mode=0o755)
        (store / "c0de" / "hello.py").write_text(HELLO)

    async def attach(self, _version: FunctionVersion) -> Attached:
        return Attached("c0de")


class Nowhere:
    """Journal and log sink."""

    def record(self, *entries: Entry) -> None:
        pass

    def write(self, line: LogLine) -> None:
        pass

    async def read(self, *_: object, **__: object) -> list[LogLine]:
        return []

    async def follow(self, *_: object, **__: object) -> AsyncIterator[LogLine]:
        return
        yield


class Ahead(SystemClock):
    """The machine's clock, ahead by as much as the test has let pass at once."""

    by_ns = 0

    def monotonic_ns(self) -> int:
        return SystemClock.monotonic_ns() + self.by_ns


def version(name: str) -> FunctionVersion:
    manifest = Manifest.model_validate({"name": name, "entry": "hello", "keep_alive_ms": 600_000})
    return FunctionVersion(namespace="default", name=name, version=1, manifest=manifest, bundle=name)


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not there():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("least", [1, 0])
async def test_a_burst_of_different_functions_makes_more_sandboxes_stand_ready_and_quiet_brings_them_back(
    least: int,
) -> None:
    home = Path(tempfile.mkdtemp(prefix="faas-"))
    clock, kept = Ahead(), Nowhere()
    engine = ProcessEngine("n1", home, home / "store")
    pool = PoolConfig(memory_budget_mb=4000, generic_sandboxes=least)
    config = InvokerConfig("n1", home / "run", pool, dial_limit_s=30)
    invoker = Invoker(config, engine, Content(home / "store"), kept, kept, clock)

    async def call(name: str) -> Reply:
        return await invoker.invoke(version(name), Call(new_id(), Trigger.DIRECT, b"{}"))

    def ready() -> dict[str, Any]:
        return invoker.describe_generics(version("any"))

    await invoker.start()
    try:
        await until(lambda: ready()["ready"] == least)
        replies = await asyncio.gather(*(call(f"fn{number}") for number in range(8)))
        assert [reply.payload for reply in replies] == [b'"fn%d"' % number for number in range(8)]
        assert ("prewarmed" in [reply.record.start for reply in replies]) == bool(least)
        if least:
            assert "calls lately found none ready" in ready()["why"]
            await until(lambda: ready()["ready"] >= 2)  # they stay for a minute though they are wanted for less
            replies = await asyncio.gather(*(call(f"more{number}") for number in range(2)))
            assert [reply.record.start for reply in replies] == ["prewarmed"] * 2
        # The minute of one that is still booting begins when it stands, which would be after the leap.
        await until(lambda: not ready()["starting"] and ready()["ready"] >= ready()["kept"])
        clock.by_ns += 5 * MINUTE_NS
        await until(lambda: (ready()["ready"], ready()["starting"]) == (least, 0))
        assert ready()["kept"] == least
        assert "the number set" in ready()["why"]
    finally:
        await invoker.close()
        shutil.rmtree(home)
