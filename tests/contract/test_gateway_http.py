"""The gateway behind the real server, on a real socket: sane callers, rude callers, slow callers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import pytest
import uvicorn

from faas.gateway.services import Limits
from faas.model import errors
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply
from faas.model.manifest import Http
from faas.ports import LogLine
from tests.unit.gateway_fakes import Bench, FakeInvoker, echo, make_bench, make_record, make_version

pytestmark = pytest.mark.anyio

PUBLIC = make_version(http=Http(public=True))
KEY = {"authorization": "Bearer faas_admin"}
DIRECT = "/v1/functions/hello/invocations"


@dataclass
class Served:
    bench: Bench
    server: uvicorn.Server
    task: asyncio.Task[None]
    port: int
    client: httpx.AsyncClient

    async def raw(self, data: bytes) -> bytes:
        """Send bytes, read until the server closes or the answer to the last request is there."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(20):
                return await _response(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _response(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line.split(b":")[1]))
    return head


def _status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def _json(response: bytes) -> Any:
    return json.loads(response.partition(b"\r\n\r\n")[2])


@asynccontextmanager
async def serving(
    invoker: FakeInvoker | None = None, *versions: FunctionVersion, **changes: Any
) -> AsyncIterator[Served]:
    bench = make_bench(*(versions or (PUBLIC,)), invoker=invoker, **changes)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = uvicorn.Config(
        bench.gateway,
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]
    task = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.005)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield Served(bench, server, task, port, client)
    finally:
        bench.gateway.begin_drain()
        server.should_exit = True
        await task
        listener.close()


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


# -- sane callers ---------------------------------------------------------------------------------------------------


async def test_calls_of_both_kinds_many_on_a_connection() -> None:
    async with serving() as at:
        for n in range(5):
            direct = await at.client.post(DIRECT, json={"n": n}, headers=KEY)
            assert (direct.status_code, direct.json()) == (200, {"n": n})
            assert direct.headers["faas-start"] == "warm"
            web = await at.client.put("/fn/hello/a/b?c=d", content=b"x" * 100_000)
            assert (web.status_code, len(web.content)) == (200, 100_000)
        assert at.bench.gateway.in_flight == 0


async def test_every_method_reaches_the_function() -> None:
    async with serving() as at:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "REPORT"):
            answer = await at.client.request(method, "/fn/hello")
            assert answer.status_code == 200, method
        assert [c.http.method for _, c in at.bench.invoker.calls if c.http] == [
            "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "REPORT",
        ]  # fmt: skip


async def test_head_has_the_headers_and_no_body() -> None:
    async with serving() as at:
        for path in ("/fn/hello", "/healthz", "/v1/functions"):
            answer = await at.client.head(path, headers=KEY)
            assert (answer.status_code, answer.content) == (200, b"")
            assert int(answer.headers["content-length"]) > 0


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        request = b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
        writer.write(b"".join(request % n for n in range(8)))
        got = [(await _response(reader))[-1:] for _ in range(8)]
        assert got == [b"%d" % n for n in range(8)]
        writer.close()


async def test_chunked_bodies_and_expect_continue() -> None:
    async with serving() as at:
        answer = await at.raw(
            b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        assert answer.endswith(b"abcde")
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"hi")
        assert (await _response(reader)).endswith(b"hi")
        writer.close()


async def test_a_refused_call_is_not_asked_for_its_body() -> None:
    async with serving(limits=Limits(body_bytes_max=1000)) as at:
        for head in (b"POST /fn/nope HTTP/1.1", b"POST " + DIRECT.encode() + b" HTTP/1.1"):
            request = head + b"\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            assert _status(await at.raw(request)) == 401


async def test_streams_arrive_as_they_are_made() -> None:
    go = asyncio.Event()

    async def answer(version: FunctionVersion, call: Call) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            await go.wait()
            yield b"second"

        return Reply(make_record(version, call), headers=((b"content-type", b"text/plain"),), stream=chunks())

    async with serving(FakeInvoker(answer)) as at, at.client.stream("GET", "/fn/hello") as got:
        pieces = got.aiter_raw()
        assert await anext(pieces) == b"first"
        go.set()
        assert await anext(pieces) == b"second"


async def test_a_stream_that_breaks_is_seen_to_be_broken() -> None:
    async def answer(version: FunctionVersion, call: Call) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"first"
            raise errors.InstanceCrashed("gone", "oom")

        return Reply(make_record(version, call), stream=chunks())

    async with serving(FakeInvoker(answer)) as at:
        with pytest.raises(httpx.RemoteProtocolError):
            await at.client.get("/fn/hello")


async def test_logs_are_followed_and_a_draining_node_lets_go() -> None:
    async with serving() as at:
        at.bench.logs.write(LogLine(1, "default", "hello", 1, "ab", "stdout", "one"))
        async with at.client.stream("GET", "/v1/functions/hello/logs?follow=1", headers=KEY) as got:
            assert got.headers["content-type"].startswith("text/event-stream")
            lines = got.aiter_lines()
            async for line in lines:
                if line.startswith("data:"):
                    break
            assert json.loads(line[5:])["text"] == "one"
            at.bench.gateway.begin_drain()
            assert any([line.startswith("event: end") async for line in lines])


# -- rude callers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/fn/../v1/functions", 401), ("/fn/hello/../../v1/keys", 200), ("/v1/functions/../../etc/passwd", 404),
        ("/v1/functions/%2e%2e", 404), ("/v1/functions/..%2f", 404), ("/fn/%2e%2e/x", 401), ("/fn/", 401),
        ("/fn/hello%2Fx", 401), ("/fn/hello%00", 401), ("/fn/h%65llo", 200), ("/fn/%FF", 401), ("//", 404),
        ("/fn/hello?%zz&&==", 200), ("/fn/" + "a" * 5000, 401), ("/v1/functions/" + "a" * 5000, 404),
    ],
)  # fmt: skip
async def test_paths(path: str, status: int) -> None:
    async with serving() as at:
        key = b"Authorization: Bearer faas_admin\r\n" if path.startswith("/v1/") else b""
        answer = await at.raw(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: x\r\n" + key + b"\r\n")
        assert _status(answer) == status
        if status != 200:
            assert _json(answer)["code"] in ("not-found", "unauthenticated")


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET /fn/hello HTTP/9.9\r\n\r\n",
        b"GET /fn/hello HTTP/1.1\r\nHost: x\r\nX Y: 1\r\n\r\n",
        b"GET /fn/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_no_http_is_a_400_and_the_node_lives(data: bytes) -> None:
    async with serving() as at:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            assert _status(await at.raw(data)) in (200, 400)
        assert (await at.client.get("/healthz")).status_code == 200


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/fn/hello", DIRECT])
async def test_a_body_over_the_limit_gets_its_answer_while_it_is_sent(path: str, declared: bool) -> None:
    size = 20_000_000

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size // 100_000):
            yield b"x" * 100_000

    async with serving() as at:
        headers = {**KEY, **({"content-length": str(size)} if declared else {})}
        answer = await at.client.post(path, content=pieces(), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload-too-large")
        assert answer.headers["connection"] == "close"
        assert (await at.client.post(DIRECT, content=b"{}", headers=KEY)).status_code == 200
        assert not at.bench.invoker.calls[:-1]


async def test_a_deploy_without_a_key_or_over_the_limit() -> None:
    async with serving(limits=Limits(bundle_bytes_max=1_000_000)) as at:
        files = {"bundle": ("b.zip", b"x" * 8_000_000, "application/zip")}
        answer = await at.client.put("/v1/functions/hello", files=files)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        answer = await at.client.put("/v1/functions/hello", files=files, headers=KEY)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload-too-large")


async def test_bodies_that_are_not_json_where_json_is_wanted() -> None:
    async with serving() as at:
        for content, kind in ((b"{", "application/json"), (b"{}", "text/html"), (b"\x00\xff", "application/json")):
            answer = await at.client.post("/v1/keys", content=content, headers={**KEY, "content-type": kind})
            assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


async def test_websocket_upgrades_are_refused_cleanly() -> None:
    async with serving() as at:
        upgrade = (
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        for path in (b"/fn/hello", b"/v1/functions"):
            answer = await at.raw(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + upgrade)
            assert _status(answer) in (400, 401)


async def test_many_and_large_headers() -> None:
    async with serving() as at:
        many = b"".join(b"X-%d: %s\r\n" % (n, b"v" * 100) for n in range(100))
        assert _status(await at.raw(b"GET /fn/hello HTTP/1.1\r\nHost: x\r\n" + many + b"\r\n")) == 200
        assert (await at.client.get("/healthz")).status_code == 200


async def test_header_injection_by_a_function_reaches_nobody() -> None:
    async def answer(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call), headers=((b"x-a", b"1\r\nset-cookie: stolen=1"),))

    async with serving(FakeInvoker(answer)) as at:
        got = await at.client.get("/fn/hello")
        assert (got.status_code, got.json()["code"]) == (500, "function-error")
        assert "set-cookie" not in got.headers


# -- slow callers, leaving callers, going down ----------------------------------------------------------------------


async def test_a_body_that_stops_half_way_gets_an_answer() -> None:
    async with serving(limits=Limits(body_wait_s=0.3)) as at:
        for length in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
            answer = await at.raw(b"POST /fn/hello HTTP/1.1\r\nHost: x\r\n" + length + b"\r\n\r\n5\r\nab")
            assert (_status(answer), _json(answer)["code"]) == (400, "invalid-request")
        assert at.bench.gateway.in_flight == 0


async def test_a_body_in_drops_arrives() -> None:
    async with serving() as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"POST /fn/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n")
        for n in range(20):
            writer.write(b"%d" % (n % 10))
            await asyncio.sleep(0.01)
        assert (await _response(reader)).endswith(b"01234567890123456789")
        writer.close()


async def test_a_caller_who_leaves_cancels_the_call() -> None:
    async def forever(version: FunctionVersion, call: Call) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(FakeInvoker(forever)) as at:
        _, writer = await asyncio.open_connection("127.0.0.1", at.port)
        writer.write(b"GET /fn/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        await _until(lambda: at.bench.invoker.calls)
        writer.close()
        await _until(lambda: at.bench.invoker.cancelled)
        await _until(lambda: at.bench.gateway.in_flight == 0)


async def test_a_caller_who_leaves_a_stream_ends_it() -> None:
    ended = asyncio.Event()

    async def answer(version: FunctionVersion, call: Call) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"tick"
                    await asyncio.sleep(0.01)
            finally:
                ended.set()

        return Reply(make_record(version, call), stream=chunks())

    async with serving(FakeInvoker(answer)) as at:
        async with at.client.stream("GET", "/fn/hello") as got:
            assert await anext(got.aiter_raw()) == b"tick"
        async with asyncio.timeout(10):
            await ended.wait()
        await _until(lambda: at.bench.gateway.in_flight == 0)


async def test_a_slow_reader_holds_the_stream_back() -> None:
    made = 0

    async def answer(version: FunctionVersion, call: Call) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            nonlocal made
            for _ in range(1000):
                made += 1
                yield b"x" * 65_536

        return Reply(make_record(version, call), stream=chunks())

    async with serving(FakeInvoker(answer)) as at:
        _, writer = await asyncio.open_connection("127.0.0.1", at.port, limit=1)
        writer.write(b"GET /fn/hello HTTP/1.1\r\nHost: x\r\n\r\n")
        await _until(lambda: made)
        seen = -1
        while made != seen:
            seen = made
            await asyncio.sleep(0.1)
        assert made < 1000
        writer.close()
        await _until(lambda: at.bench.gateway.in_flight == 0)


async def test_going_down_finishes_what_is_in_flight() -> None:
    go = asyncio.Event()

    async def wait(version: FunctionVersion, call: Call) -> Reply:
        await go.wait()
        return await echo(version, call)

    async with serving(FakeInvoker(wait)) as at:
        running = asyncio.create_task(at.client.post("/fn/hello", content=b"1"))
        await _until(lambda: at.bench.gateway.in_flight == 1)
        at.bench.gateway.begin_drain()
        refused = await at.client.post("/fn/hello", content=b"2")
        assert (refused.status_code, refused.json()["code"]) == (503, "no-capacity")
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
        assert (await at.client.get("/readyz")).json() == {"status": "not ready", "reasons": ["draining"]}
        at.server.should_exit = True
        go.set()
        answer = await running
        assert (answer.status_code, answer.content) == (200, b"1")
        await at.task
