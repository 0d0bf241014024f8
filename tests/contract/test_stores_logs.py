"""Log lines: the contract of the sink, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from faas.ports import LogLine
from faas.stores.logs import LINE_CHARS_MAX, RedisLogSink
from faas.stores.memory import MemoryLogSink
from faas.stores.redis_client import Client, connect
from tests.contract.valkeys import closing
from tests.usage_samples import NOON_MS, FixedClock

pytestmark = pytest.mark.anyio

Sink = MemoryLogSink | RedisLogSink


@asynccontextmanager
async def running(sink: Sink) -> AsyncIterator[Sink]:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(sink.run())
        yield sink
        await sink.close()


@pytest.fixture(params=["memory", "valkey"])
async def sink(request: pytest.FixtureRequest, client: Client) -> AsyncIterator[Sink]:
    made = MemoryLogSink() if request.param == "memory" else RedisLogSink(client, FixedClock())
    task = asyncio.create_task(made.run())
    yield made
    await made.close()
    await task


async def now_ms(client: Client) -> int:
    """The server's time, which is when lines arrive."""
    seconds, microseconds = await client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def line(text: str, time_ms: int, invocation: str = "i1", function: str = "hello", stream: str = "stdout") -> LogLine:
    return LogLine(time_ms * 1_000_000, "default", function, 3, invocation, stream, text)


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def settled(sink: Sink, count: int, function: str = "hello") -> list[LogLine]:
    async with asyncio.timeout(20):
        while len(found := await sink.read("default", function, 0, limit=100_000)) < count:
            await asyncio.sleep(0.01)
    return found


async def test_lines_come_back_in_order_and_whole(sink: Sink, client: Client) -> None:
    now = await now_ms(client)
    written = [line(f"line {n} ö", now + n // 10, f"i{n % 3}", stream=["stdout", "ERROR"][n % 2]) for n in range(1500)]
    for each in written:
        sink.write(each)
    sink.write(line("elsewhere", now, function="other"))
    assert await settled(sink, 1500) == written
    assert await sink.read("default", "hello", 0) == written[-1000:]
    assert await sink.read("default", "hello", 0, "i1", limit=7) == [w for w in written if w.invocation_id == "i1"][-7:]
    assert await sink.read("default", "hello", now + 140) == written[1400:]
    assert await sink.read("default", "hello", now + 1000) == []
    assert [found.text for found in await settled(sink, 1, "other")] == ["elsewhere"]
    assert await sink.read("acme", "hello", 0) == []
    assert await sink.read("default", "hello", 0, limit=0) == []


async def test_following_begins_with_what_is_there_and_goes_on(sink: Sink, client: Client) -> None:
    now = await now_ms(client)
    for n in range(5):
        sink.write(line(f"past {n}", now + n))
    await settled(sink, 5)
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        everything = await stack.enter_async_context(closing(sink.follow("default", "hello", now + 2)))
        one = await stack.enter_async_context(closing(sink.follow("default", "hello", now, "i2")))
        assert [(await anext(everything)).text for _ in range(3)] == ["past 2", "past 3", "past 4"]
        waiting = asyncio.ensure_future(anext(everything))
        await asyncio.sleep(0.05)
        sink.write(line("new", now + 9))
        sink.write(line("too old", now + 1))
        sink.write(line("other invocation", now + 10, "i2"))
        assert (await waiting).text == "new"
        assert (await anext(everything)).text == "other invocation"
        assert (await anext(one)).text == "other invocation"


async def test_a_follower_that_leaves_while_waiting_leaves_nothing_behind(sink: Sink, client: Client) -> None:
    for _ in range(3):
        waiting = asyncio.ensure_future(anext(sink.follow("default", "hello", 0)))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    sink.write(line("still works", await now_ms(client)))
    assert [found.text for found in await settled(sink, 1)] == ["still works"]


# -- the real one alone -----------------------------------------------------------------------------------------------


async def test_streams_are_capped_and_expire(client: Client) -> None:
    async with running(RedisLogSink(client, FixedClock(), stream_lines_max=500)) as sink:
        now = await now_ms(client)
        for n in range(3000):
            sink.write(line(f"{n}", now))
        await soon(lambda: not sink._buffer)  # type: ignore[union-attr]
    kept = await client.xlen("faas:logs:default:hello")
    assert 500 <= kept < 800
    assert (await RedisLogSink(client, FixedClock()).read("default", "hello", 0))[-1].text == "2999"
    assert await client.pttl("faas:logs:default:hello") > 0


async def test_what_does_not_fit_is_counted_and_said(client: Client) -> None:
    sink = RedisLogSink(client, FixedClock(), buffer_lines_max=100, buffer_bytes_max=10_000)
    for n in range(150):
        sink.write(line(f"{n}", NOON_MS))
    for _ in range(7):
        sink.write(line("x", NOON_MS, function="other"))
    async with running(sink):
        found = await settled(sink, 101)
        (said,) = await settled(sink, 1, "other")
        for _ in range(3):
            sink.write(line("y" * 9000, NOON_MS))
        assert len(await settled(sink, 104)) == 104
    assert [each.text for each in found[:100]] == [str(n) for n in range(100)]
    assert (found[100].stream, found[100].text) == (
        "platform",
        "50 log lines were dropped here: the log store could not keep up.",
    )
    assert (said.stream, said.invocation_id, said.time_ns // 10**6) == ("platform", "", NOON_MS)
    assert said.text.startswith("7 log lines were dropped")


async def test_a_line_too_long_is_cut(client: Client) -> None:
    async with running(RedisLogSink(client, FixedClock())) as sink:
        sink.write(line("z" * (LINE_CHARS_MAX + 5) + "\ud800", NOON_MS))
        sink.write(line("lone \ud800", NOON_MS))
        cut, odd = await settled(sink, 2)
    assert cut.text == "z" * LINE_CHARS_MAX + "..."
    assert odd.text == "lone ?"


async def test_a_store_that_goes_away_gets_each_line_once_when_it_is_back(
    client: Client, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faas.stores.logs.RETRY_S", 0.02)
    sink = RedisLogSink(client, FixedClock())
    real = sink._append
    lost = 0

    async def answer_lost(keys: list[str], args: list[str | int | bytes]) -> int:
        """The server did it; the answer did not arrive."""
        nonlocal lost
        done = await real(keys=keys, args=args)
        if lost < 3:
            lost += 1
            raise ConnectionError("gone")
        return int(done)

    monkeypatch.setattr(sink, "_append", answer_lost)
    async with running(sink):
        for n in range(50):
            sink.write(line(f"{n}", NOON_MS))
        await soon(lambda: lost == 3 and sink._unsent is None and not sink._buffer)
    assert [each.text for each in await sink.read("default", "hello", 0)] == [str(n) for n in range(50)]


async def test_following_survives_the_loss_of_its_connection(
    client: Client, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faas.stores.logs.RETRY_S", 0.02)
    async with running(RedisLogSink(client, FixedClock())) as sink, connect(valkey_url) as other, asyncio.timeout(20):
        follower = RedisLogSink(other, FixedClock()).follow("default", "hello", 0)
        async with closing(follower) as lines:
            sink.write(line("one", NOON_MS))
            assert (await anext(lines)).text == "one"
            waiting = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0.05)
            await client.client_kill_filter(_type="normal", skipme=True)
            sink.write(line("two", NOON_MS))
            assert (await waiting).text == "two"


async def test_closing_without_a_store_ends_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    async with connect("unix:///nowhere/valkey.sock") as client, running(RedisLogSink(client, FixedClock())) as sink:
        sink.write(line("lost", NOON_MS))
        await soon(lambda: "wait in memory" in caplog.text)
    assert "log lines of functions are lost" in caplog.text
