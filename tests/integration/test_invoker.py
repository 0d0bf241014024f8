"""The invoker on real sockets, with sandboxes that say exactly what each test wants said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from faas.invoker.clock import SystemClock
from faas.invoker.config import InvokerConfig
from faas.invoker.ids import new_id
from faas.invoker.invoker import Invoker
from faas.model.errors import EngineUnavailable, FunctionFailed
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply, Trigger
from faas.model.manifest import Manifest
from faas.pool.entities import PoolConfig
from faas.ports import Entry, LogLine
from faas.testing.sandbox import Answer, FakeEngine, FakeInstance, FakeSandbox, Peer, answer_to, echo
from faas.wire import Chunk, Error, Exited, Frame, Hello, Log, Result, Stream, encode

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Attached:
    code: str
    layers: tuple[str, ...] = ("layer",)


class Content:
    async def attach(self, version: FunctionVersion) -> Attached:
        return Attached(version.name)


class Kept:
    """Journal and log sink that keep what they get."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.writes: list[int] = []  # how many entries each
        self.lines: list[LogLine] = []
        self.full = False

    def record(self, *entries: Entry) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.entries.extend(entries)
        self.writes.append(len(entries))

    def write(self, line: LogLine) -> None:
        self.lines.append(line)

    async def read(self, *_: object, **__: object) -> list[LogLine]:
        return self.lines

    async def follow(self, *_: object, **__: object) -> AsyncIterator[LogLine]:
        for line in self.lines:
            yield line


@dataclass
class Node:
    invoker: Invoker
    engine: FakeEngine
    kept: Kept

    async def call(self, payload: bytes = b"{}", **settings: object) -> Reply:
        return await self.invoker.invoke(version(**settings), Call(new_id(), Trigger.DIRECT, payload))

    def only_sandbox(self) -> FakeSandbox:
        """The sandbox that is bound."""
        (found,) = [s for s in self.engine.sandboxes.values() if s.init]
        return found


VERSIONS: dict[str, FunctionVersion] = {}


def version(**settings: object) -> FunctionVersion:
    known = VERSIONS.get(repr(settings))
    if known is None:
        manifest = Manifest.model_validate({"name": "hello", "entry": "hello", "timeout_ms": 5000, **settings})
        known = VERSIONS[repr(settings)] = FunctionVersion(
            namespace="default", name="hello", version=len(VERSIONS) + 1, manifest=manifest, bundle="b"
        )
    return known


@asynccontextmanager
async def node(tmp_path: Path, answer: Answer = echo, dial_limit_s: float = 5.0, **pool: Any) -> AsyncIterator[Node]:
    kept, engine = Kept(), FakeEngine(answer)
    config = InvokerConfig("n1", tmp_path / "run", PoolConfig(**{"memory_budget_mb": 4000, **pool}))
    config = replace(config, dial_limit_s=dial_limit_s)
    invoker = Invoker(config, engine, Content(), kept, kept, SystemClock())
    await invoker.start()
    try:
        yield Node(invoker, engine, kept)
    finally:
        await invoker.close()
    assert not engine.sandboxes, "close() left sandboxes"
    assert not list((tmp_path / "run").iterdir()), "close() left sockets"


async def test_a_call_is_answered_metered_and_journalled_first(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        reply = await n.call(b'{"a": 1}')
        assert (reply.error, reply.status, reply.payload) == (None, 200, b'{"a": 1}')
        record = reply.record
        assert (record.status, record.start, record.bytes_in, record.bytes_out) == ("ok", record.start, 8, 8)
        assert record.billed_ms >= 1
        assert record.run_ns > 0
        assert [e.record for e in n.kept.entries] == [record]
        assert (await n.call()).record.start == "warm"


async def test_answers_that_come_together_are_journalled_together(tmp_path: Path) -> None:
    waiting: list[tuple[str, bytes]] = []

    async def in_fours(instance: FakeInstance, call: str, payload: bytes) -> None:
        waiting.append((call, payload))
        if len(waiting) == 4:
            instance.peer.send_bytes(b"".join(encode(answer_to(*each)) for each in waiting))
            waiting.clear()

    async with node(tmp_path, in_fours) as n, asyncio.TaskGroup() as group:
        calls = [group.create_task(n.call(b"%d" % i, concurrency=4, max_instances=1)) for i in range(8)]
        replies = await asyncio.gather(*calls)
        assert [reply.payload for reply in replies] == [b"%d" % i for i in range(8)]
        assert n.kept.writes == [4, 4]
        assert {e.record.invocation_id for e in n.kept.entries} == {r.record.invocation_id for r in replies}


async def test_the_zygote_is_told_whose_it_is(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        await n.call(env={"SIZE": "1"}, memory_mb=256)
        init = n.only_sandbox().init
        assert init["code"] == "/store/hello"
        assert init["layers"] == ["/store/layer"]
        assert (init["env"], init["memory_mb"], init["entry"]) == ({"SIZE": "1"}, 256, "hello")
        assert n.engine.sizes[n.only_sandbox().spec.id] > 256_000_000


async def test_limits_follow_the_number_of_instances_and_the_weight_is_the_namespaces(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def wait(instance: FakeInstance, call: str, payload: bytes) -> None:
        await go.wait()
        await echo(instance, call, payload)

    async with node(tmp_path, wait) as n, asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(n.call(cpus=0.5, memory_mb=256, concurrency=1))
        while sum(len(each.instances) for each in n.engine.sandboxes.values()) < 3:
            await asyncio.sleep(0.005)
        sandbox = n.only_sandbox().spec.id
        assert n.engine.cpus[sandbox] == 1.5
        assert n.engine.shares[sandbox] == 1.0, "the only one of its namespace"
        assert n.engine.pids[sandbox] == 512 + 3 * (1 + 2)
        go.set()
    async with node(tmp_path) as n:
        await n.call()
        assert set(n.engine.cpus.values()) == {0.0}  # no limit of its own


async def test_an_answer_withheld_when_it_cannot_be_recorded(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        n.kept.full = True
        assert (await n.call()).error.code == "store-unavailable"  # type: ignore[union-attr]
        n.kept.full = False
        assert (await n.call()).error is None


@pytest.mark.parametrize("order", ["channel first", "word first"])
@pytest.mark.parametrize(
    ("code", "signal", "ooms", "status", "exit_text"),
    [(3, None, 0, "crashed", "code:3"), (None, 11, 0, "crashed", "signal:SIGSEGV"), (None, 9, 1, "oom", "oom")],
)
async def test_how_an_instance_died_is_told_whichever_way_the_news_comes(
    tmp_path: Path, order: str, code: int | None, signal: int | None, ooms: int, status: str, exit_text: str
) -> None:
    async def dying(instance: FakeInstance, call: str, payload: bytes) -> None:
        if payload != b"die":
            await echo(instance, call, payload)
            return
        sandbox = n.only_sandbox()
        n.engine.ooms[sandbox.spec.id] = ooms
        assert sandbox.control is not None
        del sandbox.instances[instance.id]
        word = Exited(instance.id, code, signal, 0, 0)
        if order == "word first":
            sandbox.control.send(word)
            await sandbox.control.writer.drain()
            await asyncio.sleep(0.02)
            instance.peer.close()
        else:
            instance.peer.close()
            await asyncio.sleep(0.02)
            sandbox.control.send(word)

    async with node(tmp_path, dying) as n:
        reply = await n.call(b"die")
        assert reply.error is not None
        assert (reply.record.status, reply.error.exit) == (status, exit_text)  # type: ignore[attr-defined]
        assert (await n.call(b"1")).error is None


async def test_a_call_given_to_an_instance_that_had_just_ended_runs_elsewhere(tmp_path: Path) -> None:
    """It was never sent, so it can't have run: the caller need not hear of it."""
    async with node(tmp_path) as n:
        await n.call()
        sandbox = n.only_sandbox()
        assert sandbox.control is not None
        (instance,) = sandbox.instances.values()
        del sandbox.instances[instance.id]
        instance.peer.close()
        await asyncio.sleep(0.05)
        call = asyncio.ensure_future(n.call())
        await asyncio.sleep(0.05)
        sandbox.control.send(Exited(instance.id, None, 9, 0, 0))
        assert (await call).error is None
        assert [e.record.status for e in n.kept.entries] == ["ok", "ok"]


async def test_what_an_instance_wrote_before_it_died_counts(tmp_path: Path) -> None:
    """The zygote's word overtakes the answer: they come over different sockets."""

    async def answers_then_exits(instance: FakeInstance, call: str, payload: bytes) -> None:
        sandbox = n.only_sandbox()
        assert sandbox.control is not None
        del sandbox.instances[instance.id]
        sandbox.control.send(Exited(instance.id, 0, None, 0, 0))
        await sandbox.control.writer.drain()
        await asyncio.sleep(0.02)
        await echo(instance, call, payload)
        instance.peer.close()

    async with node(tmp_path, answers_then_exits) as n:
        assert (await n.call(b"1")).payload == b"1"
        assert (await n.call(b"2")).payload == b"2"


async def test_past_the_deadline_only_that_instance_is_killed(tmp_path: Path) -> None:
    async def sleeps(instance: FakeInstance, call: str, payload: bytes) -> None:
        if payload == b"sleep":
            await asyncio.sleep(60)
        await echo(instance, call, payload)

    async with node(tmp_path, sleeps) as n:
        other = asyncio.ensure_future(n.call(b"1", timeout_ms=200))
        reply = await n.call(b"sleep", timeout_ms=200)
        assert (reply.record.status, reply.error.code) == ("timeout", "timeout")  # type: ignore[union-attr]
        assert reply.record.run_ns >= 200_000_000
        assert (await other).error is None
        sandbox = n.only_sandbox()
        assert (await n.call(b"2", timeout_ms=200)).error is None
        assert n.only_sandbox() is sandbox


async def test_a_module_that_does_not_load_fails_load_and_calls(tmp_path: Path) -> None:
    def refuse(_: FakeSandbox) -> Frame:
        return Error("", "function", "ImportError", "no module named x", "Traceback ...", 0, 0)

    async with node(tmp_path) as n:
        n.engine.prepare = lambda sandbox: setattr(sandbox, "on_init", refuse)
        for sandbox in n.engine.sandboxes.values():
            sandbox.on_init = refuse
        with pytest.raises(FunctionFailed) as caught:
            await n.invoker.load(version())
        assert (caught.value.error_type, caught.value.traceback) == ("ImportError", "Traceback ...")
        reply = await n.call()
        assert isinstance(reply.error, FunctionFailed)
        assert reply.record.status == "function_error"


async def test_after_a_version_that_did_not_load_the_next_attempt_gets_its_number_and_its_own_code(
    tmp_path: Path,
) -> None:
    def refuse(_: FakeSandbox) -> Frame:
        return Error("", "function", "SyntaxError", "bad", "", 0, 0)

    first = version().model_copy(update={"version": 77, "bundle": "1" * 64})
    second = FunctionVersion(**{**first.model_dump(), "bundle": "2" * 64, "manifest": {"name": "hello", "entry": "e2"}})
    async with node(tmp_path, generic_sandboxes=0) as n:
        n.engine.prepare = lambda sandbox: setattr(sandbox, "on_init", refuse)
        with pytest.raises(FunctionFailed):
            await n.invoker.load(first)
        n.engine.prepare = lambda _sandbox: None
        await n.invoker.load(second)
        assert n.only_sandbox().init["entry"] == "e2"


async def test_load_imports_without_an_instance(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        assert await n.invoker.load(version()) > 0
        assert n.invoker.stats()["instances"] == {}
        assert (await n.call()).record.start == "warm"


async def test_a_broken_frame_costs_the_instance_its_life_and_nobody_else(tmp_path: Path) -> None:
    async def hostile(instance: FakeInstance, call: str, payload: bytes) -> None:
        if payload == b"break":
            instance.peer.send_bytes(b"\xff\xff\xff\xff garbage")
        elif payload == b"foreign":
            instance.send(Result("f" * 32, 200, (), 0, 0, 0, b"stolen"))
        else:
            await echo(instance, call, payload)

    async with node(tmp_path, hostile) as n:
        neighbour = asyncio.ensure_future(n.call(b"1", max_instances=50))
        for nonsense in (b"break", b"foreign"):
            reply = await n.call(nonsense)
            assert reply.error is not None
            assert reply.record.status == "crashed"
        assert (await neighbour).error is None
        assert (await n.call(b"2")).error is None


async def test_who_was_not_asked_for_is_turned_away(tmp_path: Path) -> None:
    async with node(tmp_path) as n:
        await n.call()
        sandbox = n.only_sandbox()
        for hello in (Hello(1, "zygote", "", 7, {}), Hello(1, "instance", f"{sandbox.spec.id}-999", 7, {})):
            peer = await Peer.dial(sandbox.spec.socket_dir)
            peer.send(hello)
            assert await asyncio.wait_for(peer.receive(), 5) is None
            peer.close()
        assert (await n.call()).error is None


async def test_a_sandbox_that_ends_fails_its_calls_and_is_cleared_away(tmp_path: Path) -> None:
    async def takes_all_down(instance: FakeInstance, call: str, payload: bytes) -> None:
        if payload == b"die":
            sandbox = n.only_sandbox()
            assert sandbox.control is not None
            sandbox.control.close()
        else:
            await echo(instance, call, payload)

    async with node(tmp_path, takes_all_down) as n:
        reply = await n.call(b"die")
        assert reply.record.status == "crashed"
        assert (await n.call(b"1")).error is None
        assert len(n.engine.removed) == 1


async def test_an_engine_that_fails_is_tried_again_and_callers_hear_its_words(tmp_path: Path) -> None:
    async with node(tmp_path, generic_sandboxes=0, queue_wait_ns=300_000_000) as n:
        n.engine.boot_error = EngineUnavailable("no space left on device")
        reply = await n.call()
        assert reply.error is not None
        assert reply.error.code == "no-capacity"
        assert "no space left" in reply.error.message
        n.engine.boot_error = None
        async with asyncio.timeout(30):
            while (await n.call()).error is not None:
                await asyncio.sleep(0.1)


async def test_a_sandbox_that_ends_before_it_dials_is_replaced(tmp_path: Path) -> None:
    async def never(_: FakeSandbox) -> None:
        return None

    stillborn: list[FakeSandbox] = []

    def first_dies(sandbox: FakeSandbox) -> None:
        if not stillborn:
            stillborn.append(sandbox)
            sandbox.run = never.__get__(sandbox)  # type: ignore[method-assign]

    async with node(tmp_path, dial_limit_s=0.2, generic_sandboxes=0) as n:
        n.engine.prepare = first_dies
        assert (await n.call()).error is None
        assert n.engine.removed == [stillborn[0].spec.id]


async def test_a_caller_who_leaves_while_waiting_takes_the_call_along(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def waits(instance: FakeInstance, call: str, payload: bytes) -> None:
        await gate.wait()
        await echo(instance, call, payload)

    async with node(tmp_path, waits) as n:
        first = asyncio.ensure_future(n.call(b"1", max_instances=1))
        async with asyncio.timeout(5):
            while n.invoker.pool.instances == {} or not next(iter(n.invoker.pool.instances.values())).calls:
                await asyncio.sleep(0.01)
        second = asyncio.ensure_future(n.call(b"2", max_instances=1))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert (await first).payload == b"1"
        assert [e.record.status for e in n.kept.entries] == ["rejected", "ok"]


async def test_who_leaves_a_running_call_lets_it_finish_or_has_it_stopped(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def waits(instance: FakeInstance, call: str, payload: bytes) -> None:
        await gate.wait()
        await echo(instance, call, payload)

    async with node(tmp_path, waits) as n:
        calls = [asyncio.ensure_future(n.call(on_disconnect=each)) for each in ("finish", "cancel")]
        while any(not run.dispatched_ns for run in n.invoker.runs.values()) or len(n.invoker.runs) < 2:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.03)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        (stopped,) = n.kept.entries
        assert (stopped.record.status, stopped.detail["error"]["code"]) == ("timeout", "cancelled")
        assert stopped.record.run_ns >= 30_000_000
        assert stopped.record.billed_ms >= 30
        gate.set()
        while n.invoker.runs:
            await asyncio.sleep(0.005)
        assert n.kept.entries[1].record.status == "ok"
        assert (await n.call(b"1", on_disconnect="cancel")).payload == b"1"


@pytest.mark.parametrize(("wanted", "status"), [("finish", "ok"), ("cancel", "timeout")])
@pytest.mark.parametrize("when", ["before it began", "at its first byte"])
async def test_a_stream_whose_reader_left(tmp_path: Path, wanted: str, status: str, when: str) -> None:
    """With nobody to read it, it is not held up by what piles up, either."""
    gate = asyncio.Event()

    async def floods(instance: FakeInstance, call: str, payload: bytes) -> None:
        if when == "before it began":
            await gate.wait()
        instance.send(Stream(call, 200, ()))
        instance.send(Chunk(call, b"x"))
        await gate.wait()
        for _ in range(30):
            instance.send(Chunk(call, b"x" * 100_000))
            await instance.peer.writer.drain()
        instance.send(Result(call, 200, (), 0, 0, 0, b""))

    async with node(tmp_path, floods) as n:
        call = asyncio.ensure_future(n.call(on_disconnect=wanted))
        if when == "before it began":
            while not any(run.dispatched_ns for run in n.invoker.runs.values()):
                await asyncio.sleep(0.005)
            call.cancel()
            await asyncio.wait([call])
        else:
            stream = (await call).stream
            assert stream is not None
            assert await anext(stream) == b"x"
            await stream.aclose()  # type: ignore[attr-defined]
        gate.set()
        while n.invoker.runs:
            await asyncio.sleep(0.005)
        assert [e.record.status for e in n.kept.entries] == [status]


async def test_streams_come_in_pieces_and_are_metered_at_their_end(tmp_path: Path) -> None:
    async def streams(instance: FakeInstance, call: str, payload: bytes) -> None:
        instance.send(Stream(call, 201, ((b"content-type", b"text/plain"),)))
        for _ in range(3):
            instance.send(Chunk(call, b"x" * 10))
        if payload == b"fail":
            instance.send(Error(call, "function", "ValueError", "half-way", "", 0, 0))
        else:
            instance.send(Result(call, 201, (), 4, 5, 6, b""))

    async with node(tmp_path, streams) as n:
        reply = await n.call()
        assert reply.stream is not None
        assert b"".join([chunk async for chunk in reply.stream]) == b"x" * 30
        assert (reply.status, reply.record.bytes_out, reply.record.status) == (201, 30, "ok")
        assert [e.record for e in n.kept.entries] == [reply.record]
        broken = await n.call(b"fail")
        assert broken.stream is not None
        with pytest.raises(FunctionFailed, match="half-way"):
            async for _ in broken.stream:
                pass
        assert broken.record.status == "function_error"


async def test_a_reader_who_is_slow_slows_the_instance_down(tmp_path: Path) -> None:
    sent = 0

    async def floods(instance: FakeInstance, call: str, payload: bytes) -> None:
        nonlocal sent
        instance.send(Stream(call, 200, ()))
        for _ in range(200):
            instance.send(Chunk(call, b"x" * 100_000))
            await instance.peer.writer.drain()
            sent += 1
        instance.send(Result(call, 200, (), 0, 0, 0, b""))

    async with node(tmp_path, floods) as n:
        reply = await n.call(timeout_ms=30_000)
        await asyncio.sleep(0.3)
        assert sent < 100, "twenty megabytes went into the node's memory"
        assert reply.stream is not None
        assert sum([len(chunk) async for chunk in reply.stream]) == 20_000_000


async def test_log_lines_carry_where_they_come_from(tmp_path: Path) -> None:
    async def logs(instance: FakeInstance, call: str, payload: bytes) -> None:
        instance.send(Log(call, "stdout", 1_700_000_000_000_000_000, "hi"))
        await echo(instance, call, payload)

    async with node(tmp_path, logs) as n:
        reply = await n.call()
        (line,) = n.kept.lines
        assert (line.function, line.stream, line.text) == ("hello", "stdout", "hi")
        assert line.invocation_id == reply.record.invocation_id


async def test_closing_lets_running_calls_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    async def slow(instance: FakeInstance, call: str, payload: bytes) -> None:
        await asyncio.sleep(0.3)
        await echo(instance, call, payload)

    async with node(tmp_path, slow) as n:
        running = asyncio.ensure_future(n.call(b"1"))
        async with asyncio.timeout(5):
            while not n.invoker.runs or not next(iter(n.invoker.runs.values())).dispatched_ns:
                await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(n.invoker.drain(5))
        await asyncio.sleep(0.01)
        assert (await n.call(b"2")).error.code == "no-capacity"  # type: ignore[union-attr]
        assert (await running).payload == b"1"
        await closing
