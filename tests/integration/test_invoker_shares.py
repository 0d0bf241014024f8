"""What the invoker tells the engine of processor time, as sandboxes of several namespaces come and go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from faas.invoker.ids import new_id
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Trigger
from tests.integration.test_invoker import Node, node, version

pytestmark = pytest.mark.anyio


def of(namespace: str, number: int, memory_mb: int) -> FunctionVersion:
    made = version(memory_mb=memory_mb, keep_alive_ms=0 if namespace == "brief" else 60_000)
    return made.model_copy(update={"namespace": namespace, "version": number})


async def called(n: Node, *versions: FunctionVersion) -> None:
    replies = await asyncio.gather(
        *(n.invoker.invoke(each, Call(new_id(), Trigger.DIRECT, b"{}")) for each in versions)
    )
    assert [reply.error for reply in replies] == [None] * len(versions)


def told(n: Node) -> dict[tuple[str, int], float]:
    """The weight of each bound sandbox, by namespace and version."""
    bound = {s.spec.id: (s.init["namespace"], s.init["version"]) for s in n.engine.sandboxes.values() if s.init}
    return {whose: round(n.engine.shares[sandbox], 3) for sandbox, whose in bound.items()}


async def until(n: Node, wanted: dict[tuple[str, int], float]) -> None:
    async with asyncio.timeout(20):
        while told(n) != wanted:
            await asyncio.sleep(0.02)


async def test_namespaces_weigh_the_same_and_divide_it_by_memory(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        await called(n, of("quiet", 1, 128))
        await until(n, {("quiet", 1): 1.0})
        await called(n, of("noisy", 1, 1024), of("noisy", 2, 256))
        await until(n, {("quiet", 1): 1.0, ("noisy", 1): 0.8, ("noisy", 2): 0.2})


async def test_who_is_parked_or_gone_leaves_its_part_to_the_others(tmp_path: Path) -> None:
    async with node(tmp_path, park_delay_ns=1) as n:
        await called(n, of("brief", 1, 128), of("brief", 2, 128))
        await until(n, {})
        await called(n, of("quiet", 1, 128))
        await n.invoker.load(of("quiet", 2, 128))
        await until(n, {("quiet", 1): 1.0, ("quiet", 2): 0.5})  # the parked one is not told any more
        await called(n, of("quiet", 2, 128))
        await until(n, {("quiet", 1): 0.5, ("quiet", 2): 0.5})
