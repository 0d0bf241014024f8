"""The short way of plain direct calls: what it takes, what it leaves to the long way, and that nobody can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from faas.gateway.express import HEADS_MAX, ExpressProtocol
from faas.gateway.services import Limits
from faas.model import errors
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply
from faas.model.manifest import Http
from tests.unit.gateway_fakes import ADMIN, Bench, FakeInvoker, make_bench, make_record, make_version

pytestmark = pytest.mark.anyio

HELLO = make_version()
BODY = b'{"name": "world"}'


class FakeTransport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after the end"
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 4711) if name in ("peername", "sockname") else default


class Caller:
    """One connection to a gateway, without a socket."""

    def __init__(self, bench: Bench, keep_alive_s: int = 5) -> None:
        config = Config(
            bench.gateway, loop="none", http=bench.gateway.protocol, ws="none", lifespan="off", access_log=False,
            log_config=None, server_header=False, proxy_headers=False, timeout_keep_alive=keep_alive_s,
        )  # fmt: skip
        config.load()
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"Mon, 23 Nov 2026 13:00:00 GMT")]
        made = cast("Any", config.http_protocol_class)(
            config=config, server_state=self.state, app_state={}, _loop=asyncio.get_running_loop()
        )
        self.protocol = cast("ExpressProtocol", made)
        self.transport = FakeTransport()
        self.protocol.connection_made(cast("asyncio.Transport", self.transport))

    def send(self, data: bytes) -> None:
        self.protocol.data_received(data)

    async def answer(self) -> Answered:
        """The next whole answer."""
        for _ in range(2000):
            found = _parse(b"".join(self.transport.writes))
            if found is not None:
                answered, rest = found
                self.transport.writes[:] = [rest] if rest else []
                return answered
            await asyncio.sleep(0)
        raise AssertionError(f"no answer: {self.transport.writes}")

    async def ask(self, data: bytes) -> Answered:
        self.send(data)
        return await self.answer()


class Answered:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def header(self, name: str) -> str:
        return ",".join(value for each, value in self.headers if each == name)


def _parse(data: bytes) -> tuple[Answered, bytes] | None:
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    answered = Answered(int(first.split()[1]), headers, b"")
    if answered.header("transfer-encoding") == "chunked":
        body = b""
        while True:
            size, found, rest = rest.partition(b"\r\n")
            if not found or len(rest) < int(size, 16) + 2:
                return None
            chunk, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
            if not chunk:
                break
            body += chunk
    else:
        length = int(answered.header("content-length") or 0)
        if len(rest) < length:
            return None
        body, rest = rest[:length], rest[length:]
    answered.body = body
    return answered, rest


def request(
    body: bytes = BODY, *more: str, path: str = "/v1/functions/hello/invocations", method: str = "POST",
    key: str = ADMIN, version: str = "1.1",
) -> bytes:  # fmt: skip
    lines = [
        f"{method} {path} HTTP/{version}",
        "Host: localhost",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        *([f"Authorization: Bearer {key}"] if key else []),
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def warm(bench: Bench) -> Caller:
    """A caller whose key and function the gateway has looked up before."""
    caller = Caller(bench)
    assert (await caller.ask(request())).status == 200
    bench.invoker.calls.clear()
    return caller


def short_calls(bench: Bench) -> list[str]:
    """Ids of the calls that took the short way."""
    return bench.invoker.submitted


# -- what takes the short way -----------------------------------------------------------------------------------------


async def test_a_plain_call_takes_it_once_key_and_function_are_known() -> None:
    bench = make_bench(HELLO)
    caller = Caller(bench)
    await caller.ask(request())
    assert short_calls(bench) == []
    answer = await caller.ask(request())
    assert (answer.status, answer.body) == (200, BODY)
    assert short_calls(bench) == [answer.header("faas-invocation-id")]


async def test_both_ways_give_the_same_answer() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    short = await caller.ask(request())
    long = await caller.ask(request(BODY, "Prefer: wait"))
    assert len(short_calls(bench)) == 1

    def told(answer: Answered) -> set[tuple[str, str]]:
        own = ("faas-invocation-id", "traceparent")
        return {(name, value if name not in own else "") for name, value in answer.headers}

    assert (short.status, short.body, told(short)) == (long.status, long.body, told(long))


async def test_both_ways_hand_on_the_same_call() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await caller.ask(request(BODY, trace))
    await caller.ask(request(BODY, trace, "Prefer: wait"))
    (_, short), (_, long) = bench.invoker.calls
    assert short.trace_parent[:36] == long.trace_parent[:36] == "00-4bf92f3577b34da6a3ce929d0e0e4736-"
    for name in ("trigger", "payload", "content_type", "key_id", "attempt", "http"):
        assert getattr(short, name) == getattr(long, name)


async def test_a_head_that_comes_again_is_served_without_being_parsed() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    first = await caller.ask(request(b'{"n": 1}'))
    cast("Any", caller.protocol).parser = None  # from here on parsing would fail
    again = await caller.ask(request(b'{"n": 2}'))
    assert (first.body, again.body) == (b'{"n": 1}', b'{"n": 2}')
    assert len(short_calls(bench)) == 2


async def test_heads_are_shared_by_connections_and_bounded() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    for number in range(HEADS_MAX + 20):
        caller.send(request(BODY, f"X-Number: {number}"))
        await caller.answer()
    assert len(caller.protocol.heads) <= HEADS_MAX
    other = Caller(bench)
    cast("Any", other.protocol).parser = None
    assert (await other.ask(request(BODY, f"X-Number: {HEADS_MAX + 19}"))).status == 200


# -- what a remembered head must not remember -------------------------------------------------------------------------


async def test_a_revoked_key_is_refused_although_its_head_is_known() -> None:
    bench = make_bench(HELLO)
    bench.keys.put("faas_other", "*", "invoke")
    caller = Caller(bench)
    for _ in range(3):
        assert (await caller.ask(request(key="faas_other"))).status == 200
    await caller.ask(request(path="/v1/keys/k2", method="DELETE"))
    assert (await caller.ask(request(key="faas_other"))).status == 401


async def test_a_new_version_serves_the_next_call_although_the_head_is_known() -> None:
    bench = make_bench(HELLO)
    async with bench.gateway.serving():
        await asyncio.sleep(0.01)
        caller = await warm(bench)
        assert (await caller.ask(request())).header("faas-version") == "1"
        await bench.registry.commit(make_version(version=2))
        await asyncio.sleep(0.01)
        assert (await caller.ask(request())).header("faas-version") == "2"


async def test_a_known_head_whose_body_is_cut_or_followed_by_more_is_parsed() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    await caller.ask(request())
    whole = request()
    caller.send(whole[:-3])
    caller.send(whole[-3:])
    assert (await caller.answer()).body == BODY
    caller.send(whole + whole)
    assert [(await caller.answer()).body, (await caller.answer()).body] == [BODY, BODY]


@pytest.mark.parametrize("cut", [1, 2, 20, 60])
async def test_a_known_head_that_comes_in_two_pieces_is_parsed(cut: int) -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    await caller.ask(request())
    whole = request()
    caller.send(whole[:cut])
    caller.send(whole[cut:])
    assert (await caller.answer()).body == BODY
    caller.send(whole[:cut])
    caller.send(whole[cut:] + whole)
    assert [(await caller.answer()).body, (await caller.answer()).body] == [BODY, BODY]
    assert (await caller.ask(whole)).body == BODY


async def test_empty_lines_before_a_known_request_do_no_harm() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    await caller.ask(request())
    for before in (b"\r\n", b"\r\n\r\n"):
        assert (await caller.ask(before + request())).body == BODY
    caller.send(b"\r\n\r\n")
    assert (await caller.ask(request())).body == BODY


async def test_a_request_inside_a_body_is_a_body() -> None:
    """Bytes that look like a known request, in the middle of another's body, must not become a call."""
    bench = make_bench(HELLO)
    caller = await warm(bench)
    await caller.ask(request())
    inner = request()
    outer = request(inner + b"-", "X-Outer: 1")
    head = outer.index(b"\r\n\r\n") + 4
    caller.send(outer[:head])
    bench.invoker.calls.clear()
    caller.send(inner)  # the body's first piece looks like a known request of its own
    await asyncio.sleep(0.01)
    assert bench.invoker.calls == []
    caller.send(b"-")
    assert (await caller.answer()).body == inner + b"-"
    assert len(bench.invoker.calls) == 1


# -- what is left to the long way -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(path="/v1/functions/hello/invocations?namespace=default"), 200),
        (request(BODY, "Faas-Namespace: default"), 200),
        (request(BODY, "Prefer: respond-async"), 202),
        (request(BODY, "Idempotency-Key: 1"), 400),
        (request(BODY, "Content-Type: text/plain"), 400),
        (request(key=""), 401),
        (request(key="nonsense"), 401),
        (request(path="/v1/functions/nobody/invocations"), 404),
        (request(b"", method="GET"), 200),
        (request(method="PUT"), 405),
        (request(b"x" * 101), 413),
    ],
)
async def test_the_unusual_is_served_the_long_way(data: bytes, status: int) -> None:
    bench = make_bench(HELLO, limits=Limits(body_bytes_max=100))
    caller = await warm(bench)
    assert (await caller.ask(data)).status == status
    assert short_calls(bench) == []


async def test_http_1_0_and_connection_close_are_left_to_the_long_way() -> None:
    for data in (request(version="1.0"), request(BODY, "Connection: close")):
        bench = make_bench(HELLO)
        caller = await warm(bench)
        assert (await caller.ask(data)).status == 200
        assert caller.transport.closed
        assert short_calls(bench) == []


async def test_a_draining_node_refuses() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)
    await caller.ask(request())
    bench.gateway.begin_drain()
    answer = await caller.ask(request())
    assert (answer.status, answer.header("connection")) == (503, "close")


async def test_other_routes_of_the_same_connection_work() -> None:
    bench = make_bench(HELLO, make_version("open", http=Http(public=True)))
    caller = await warm(bench)
    for _ in range(3):
        assert (await caller.ask(request())).body == BODY
        assert (await caller.ask(request(b"", path="/healthz", method="GET"))).body == b'{"status":"ok"}'
        assert (await caller.ask(request(b"{}", path="/fn/open/x"))).status == 200


# -- the HTTP trigger -------------------------------------------------------------------------------------------------

OPEN = make_version("open", http=Http(public=True))


async def warm_open(*versions: FunctionVersion) -> tuple[Bench, Caller]:
    bench = make_bench(*(versions or (OPEN,)))
    caller = Caller(bench)
    for version in versions or (OPEN,):
        assert (await caller.ask(request(b"{}", path=f"/fn/{version.name}"))).status == 200
    bench.invoker.calls.clear()
    return bench, caller


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/fn/open", "/fn/open/", "/fn/open/a/b?x=1&y=2", "/fn/open.default@1/%C3%A4?q=%20"])
async def test_a_public_function_hears_the_same_either_way(method: str, path: str) -> None:
    bench, caller = await warm_open()
    body = b"" if method in ("GET", "DELETE") else BODY
    for more in ("", "", "Prefer: wait"):
        head = ["Cookie: a=1; b=2", *([more] if more else [])]
        await caller.ask(request(body, *head, path=path, method=method, key=""))
    calls = [call for _, call in bench.invoker.calls]
    assert len(short_calls(bench)) == (1 if "@" in path else 2), "the first look-up of a version is on the long way"
    short, long = calls[-2].http, calls[-1].http
    assert short is not None
    assert long is not None
    assert [pair for pair in long.headers if pair[0] != "prefer"] == list(short.headers)
    for name in ("method", "path", "raw_path", "query", "source_ip", "protocol"):
        assert getattr(short, name) == getattr(long, name)
    assert (calls[-2].trigger, calls[-2].key_id, calls[-2].payload) == ("http", "", body)


async def test_a_private_function_needs_its_key_and_never_sees_it() -> None:
    bench, caller = await warm_open(HELLO)
    assert (await caller.ask(request(path="/fn/hello"))).status == 200
    (_, call) = bench.invoker.calls[-1]
    assert short_calls(bench) == [call.id]
    assert call.http is not None
    assert "authorization" not in dict(call.http.headers)
    assert call.key_id == "k1"
    assert (await caller.ask(request(path="/fn/hello", key=""))).status == 401
    bench.keys.put("faas_elsewhere", "elsewhere", "invoke")
    for _ in range(2):
        assert (await caller.ask(request(path="/fn/hello", key="faas_elsewhere"))).status == 403


@pytest.mark.parametrize(
    "data",
    [
        request(path="/fn/open"),  # a key where none is needed
        request(path="/fn/open", key="", method="HEAD", body=b""),
        request(path="/fn/open", key="", method="OPTIONS", body=b""),
        request(BODY, "Origin: https://example.org", path="/fn/open", key=""),
    ],
)
async def test_what_has_rules_of_its_own_goes_the_long_way(data: bytes) -> None:
    bench, caller = await warm_open()
    caller.send(data)
    await asyncio.sleep(0.01)
    assert len(bench.invoker.calls) == 1
    assert short_calls(bench) == []


async def test_a_method_that_is_not_allowed_is_refused() -> None:
    bench, caller = await warm_open(make_version("open", http=Http(public=True, methods=("POST",))))
    assert (await caller.ask(request(b"", path="/fn/open", method="GET", key=""))).status == 405
    assert (await caller.ask(request(path="/fn/open", key=""))).status == 200
    assert len(short_calls(bench)) == 1


async def test_callers_at_two_addresses_are_told_apart_although_their_heads_are_alike() -> None:
    bench, caller = await warm_open()
    other = Caller(bench)
    other.protocol._address = "192.0.2.7"
    for each in (caller, other, caller, other):
        await each.ask(request(path="/fn/open", key=""))
    found = [call.http.source_ip for _, call in bench.invoker.calls if call.http is not None]
    assert found == ["127.0.0.1", "192.0.2.7"] * 2


# -- answers of every kind --------------------------------------------------------------------------------------------


def replying(reply: Callable[[FunctionVersion, Call], Reply]) -> FakeInvoker:
    """Echoes the first call, answers the others so."""
    calls = 0

    async def answer(version: FunctionVersion, call: Call) -> Reply:
        nonlocal calls
        calls += 1
        if calls == 1:
            return Reply(make_record(version, call), None, 200, (), b"{}")
        return reply(version, call)

    return FakeInvoker(answer)


async def test_a_failure_is_the_same_problem_either_way() -> None:
    def fail(version: FunctionVersion, call: Call) -> Reply:
        record = make_record(version, call, status="function_error")
        return Reply(record, errors.FunctionFailed("ValueError", "no", "Traceback ..."))

    bench = make_bench(HELLO, invoker=replying(fail))
    caller = await warm(bench)
    short, long = await caller.ask(request()), await caller.ask(request(BODY, "Prefer: wait"))
    assert len(short_calls(bench)) == 1
    assert short.status == long.status == 500
    assert short.header("content-type") == long.header("content-type") == "application/problem+json"
    assert {name for name, _ in short.headers} == {name for name, _ in long.headers}
    assert b'"error_type": "ValueError"' in short.body
    assert not caller.transport.closed


async def test_a_response_that_http_cannot_carry_is_the_functions_failure() -> None:
    bad = ((b"x-bad", b"a\r\nb: c"),)
    bench = make_bench(HELLO, invoker=replying(lambda v, c: Reply(make_record(v, c), None, 200, bad, b"{}")))
    caller = await warm(bench)
    answer = await caller.ask(request())
    assert (answer.status, len(short_calls(bench))) == (500, 1)


async def test_an_answer_without_a_body_has_no_length() -> None:
    bench = make_bench(HELLO, invoker=replying(lambda v, c: Reply(make_record(v, c), None, 204, (), b"")))
    caller = await warm(bench)
    answer = await caller.ask(request())
    assert (answer.status, answer.header("content-length"), answer.body) == (204, "", b"")


async def test_a_bug_in_the_invoker_is_a_clean_500() -> None:
    bench = make_bench(HELLO)
    caller = await warm(bench)

    def broken(*_: object) -> object:
        raise RuntimeError("a bug")

    bench.gateway._calls.submit = broken  # type: ignore[assignment]
    answer = await caller.ask(request())
    assert answer.status == 500
    assert b"a bug" not in answer.body
    assert bench.gateway.in_flight == 0


async def test_a_stream_goes_out_in_pieces_and_the_connection_goes_on() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"one "
        await asyncio.sleep(0)
        yield b"two"

    bench = make_bench(
        HELLO, invoker=replying(lambda v, c: Reply(make_record(v, c), None, 200, (), b"", chunks()))
    )  # fmt: skip
    caller = await warm(bench)
    for _ in range(2):
        answer = await caller.ask(request())
        assert (answer.status, answer.body) == (200, b"one two")
        assert answer.header("faas-billed-ms") == ""
    assert len(short_calls(bench)) == 2
    assert bench.gateway.in_flight == 0


# -- connections ------------------------------------------------------------------------------------------------------


class Slow:
    """An invoker that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, version: FunctionVersion, call: Call) -> Reply:
        if call.payload != BODY:
            await self.go.wait()
        return Reply(make_record(version, call), None, 200, (), call.payload)


async def test_a_caller_that_leaves_gives_its_call_up() -> None:
    bench = make_bench(HELLO, invoker=FakeInvoker(Slow()))
    caller = await warm(bench)
    caller.send(request(b"slow"))
    await asyncio.sleep(0)
    assert bench.gateway.in_flight == 1
    caller.protocol.connection_lost(None)
    await asyncio.sleep(0.01)
    assert len(bench.invoker.cancelled) == 1
    assert bench.gateway.in_flight == 0


async def test_a_pipelined_request_waits_its_turn() -> None:
    slow = Slow()
    bench = make_bench(HELLO, invoker=FakeInvoker(slow))
    caller = await warm(bench)
    caller.send(request(b"slow") + request(BODY))
    await asyncio.sleep(0.01)
    assert caller.transport.writes == []
    slow.go.set()
    assert [(await caller.answer()).body, (await caller.answer()).body] == [b"slow", BODY]
    assert caller.transport.reading
    assert (await caller.ask(request())).body == BODY


async def test_a_server_that_stops_lets_the_call_finish_and_closes() -> None:
    slow = Slow()
    bench = make_bench(HELLO, invoker=FakeInvoker(slow))
    caller = await warm(bench)
    caller.send(request(b"slow"))
    caller.protocol.shutdown()
    assert not caller.transport.closed
    slow.go.set()
    answer = await caller.answer()
    assert (answer.body, answer.header("connection")) == (b"slow", "close")
    assert caller.transport.closed


async def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    slow = Slow()
    bench = make_bench(HELLO, invoker=FakeInvoker(slow))
    idle, busy = Caller(bench, keep_alive_s=0), Caller(bench, keep_alive_s=0)
    protocol = cast("Any", busy.protocol)
    await idle.ask(request())
    await asyncio.sleep(0.02)
    assert idle.transport.closed
    protocol.timeout_keep_alive = 1000
    await busy.ask(request())
    await busy.ask(request())
    protocol.timeout_keep_alive = 0
    busy.send(request(b"slow"))
    protocol._keep()
    assert not busy.transport.closed
    slow.go.set()
    await busy.answer()
    await asyncio.sleep(0.02)
    protocol._keep()
    assert busy.transport.closed
