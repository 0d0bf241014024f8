"""Calls sent ahead, on real sockets: served once each, whatever happens to the call in front of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faas.model.invocation import Reply
from faas.testing.sandbox import FakeInstance, echo
from faas.wire import Ready, Result
from tests.integration.test_invoker import Node, node, version

pytestmark = pytest.mark.anyio
ONE = {"max_instances": 1}


class Function:
    """Answers at once; or, called with ``wait``, once the gate opens; or, with ``die``, ends then."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.begun: Counter[bytes] = Counter()

    async def __call__(self, instance: FakeInstance, call: str, payload: bytes) -> None:
        self.begun[payload] += 1
        if payload in (b"wait", b"die"):
            await self.gate.wait()
        if payload == b"die":
            instance.peer.close()
            return
        await echo(instance, call, payload)


@asynccontextmanager
async def busy(tmp_path: Path, first: bytes) -> AsyncIterator[tuple[Node, Function, asyncio.Future[Reply]]]:
    """A node whose only instance serves ``first``, of a function whose calls are known to be short."""
    function = Function()
    async with node(tmp_path, function) as n:
        n.engine.prepare = lambda sandbox: setattr(
            sandbox, "on_init", lambda _: Ready(1_000_000, {"kind": "sync", "recall": "1"})
        )
        key = version(**ONE).key
        await n.call(b"warm", **ONE)
        await until(lambda: n.invoker.pool.functions[key].ahead)
        running = asyncio.ensure_future(n.call(first, **ONE))
        await until(lambda: function.begun[first] == 1)
        yield n, function, running


async def until(what: object) -> None:
    async with asyncio.timeout(10):
        while not what():  # type: ignore[operator]
            await asyncio.sleep(0.002)


def send(n: Node, *payloads: bytes) -> list[asyncio.Future[Reply]]:
    return [asyncio.ensure_future(n.call(payload, **ONE)) for payload in payloads]


async def test_they_are_in_the_instance_before_it_has_answered(tmp_path: Path) -> None:
    async with busy(tmp_path, b"wait") as (n, function, running):
        calls = send(n, b"1", b"2", b"3", b"4")
        await asyncio.sleep(0)
        assert (n.invoker.pool.ahead, n.invoker.pool.queued) == (3, 1)
        function.gate.set()
        replies = [await running, *[await call for call in calls]]
        assert [reply.payload for reply in replies] == [b"wait", b"1", b"2", b"3", b"4"]
        records = [reply.record for reply in replies]
        assert [record.start for record in records] == ["warm"] * 5
        ends = [record.started_at_ns + record.queue_ns + record.run_ns for record in records]
        begins = [end - record.run_ns for end, record in zip(ends, records, strict=True)]
        assert all(begin >= end - 2_000_000 for begin, end in zip(begins[1:], ends, strict=False)), "billed one by one"


async def test_behind_a_long_call_they_are_taken_back_and_served_once(tmp_path: Path) -> None:
    async with busy(tmp_path, b"wait") as (n, function, running):
        calls = send(n, b"1", b"2", b"3")
        await until(lambda: n.invoker.pool.queued == 3)
        assert n.invoker.pool.ahead == 0
        function.gate.set()
        assert [(await call).payload for call in [running, *calls]] == [b"wait", b"1", b"2", b"3"]
        assert set(function.begun.values()) == {1}


async def test_an_instance_that_dies_fails_the_call_it_had_and_no_other(tmp_path: Path) -> None:
    async with busy(tmp_path, b"die") as (n, function, running):
        calls = send(n, b"1", b"2")
        await asyncio.sleep(0)
        assert n.invoker.pool.ahead == 2
        sandbox = n.only_sandbox()
        (identity,) = sandbox.instances
        function.gate.set()
        await asyncio.sleep(0.01)
        sandbox.exit(identity, signal=11)
        assert (await running).record.status == "crashed"
        assert [(await call).payload for call in calls] == [b"1", b"2"]
        assert [e.record.status for e in n.kept.entries] == ["ok", "crashed", "ok", "ok"]


async def test_a_deadline_ends_the_call_it_is_about_and_no_other(tmp_path: Path) -> None:
    limited = {**ONE, "timeout_ms": 300}
    function = Function()
    async with node(tmp_path, function) as n:
        n.engine.prepare = lambda sandbox: setattr(
            sandbox, "on_init", lambda _: Ready(1_000_000, {"kind": "sync", "recall": "1"})
        )
        await n.call(b"warm", **limited)
        await until(lambda: n.invoker.pool.functions[version(**limited).key].ahead)
        calls = [asyncio.ensure_future(n.call(payload, **limited)) for payload in (b"wait", b"1", b"2")]
        replies = [await call for call in calls]
        assert [reply.record.status for reply in replies] == ["timeout", "ok", "ok"]
        assert function.begun[b"1"] == function.begun[b"2"] == 1


async def test_a_caller_who_leaves_is_metered_all_the_same(tmp_path: Path) -> None:
    async with busy(tmp_path, b"wait") as (n, function, running):
        (call,) = send(n, b"1")
        await asyncio.sleep(0)
        assert n.invoker.pool.ahead == 1
        call.cancel()
        await asyncio.sleep(0)
        function.gate.set()
        await running
        await until(lambda: len(n.kept.entries) == 3)
        assert [e.record.status for e in n.kept.entries] == ["ok", "ok", "ok"]


async def test_an_answer_out_of_turn_is_not_believed(tmp_path: Path) -> None:
    async with busy(tmp_path, b"wait") as (n, function, running):
        calls = send(n, b"1")
        await asyncio.sleep(0)
        (ahead,) = [run.call.id for run in n.invoker.runs.values() if run.call.payload == b"1"]
        (instance,) = n.only_sandbox().instances.values()
        instance.send(Result(ahead, 200, (), 0, 0, 0, b"made up"))
        await asyncio.sleep(0.02)
        assert not calls[0].done()
        function.gate.set()
        await running
        assert (await asyncio.wait_for(calls[0], 10)).payload != b"made up"
