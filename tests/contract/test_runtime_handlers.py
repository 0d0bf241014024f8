"""What a handler gets, what may come back, and what each way of failing looks like."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import pytest

from faas.wire import Cancel, Chunk, Error, Http, Result, Stream
from tests.contract.runtime_node import Gone, Node, Peer, serving

REQUEST = Http(
    "POST",
    "/a b/c",
    "/fn/fn/a%20b/c",
    "x=1&x=2&y=%C3%A9+z",
    (
        ("host", "h.example:81"),
        ("cookie", "a=1; b=2"),
        ("accept", "text/html"),
        ("accept", "*/*"),
        ("user-agent", "curl"),
        ("content-type", "application/json"),
    ),
    "203.0.113.9",
    "HTTP/1.1",
)


def answer(source: str, payload: bytes = b"{}", content_type: str = "", http: Http | None = None) -> Result | Error:
    with serving(source) as peer:
        frame: Result | Error = peer.answer(payload, content_type, http)
        return frame


@pytest.mark.parametrize(
    ("content_type", "payload", "event"),
    [
        ("", b'{"a": [1, 2.5, null, "\xc3\xa9"]}', {"a": [1, 2.5, None, "é"]}),
        ("application/json", b"7", 7),
        ("Application/JSON; charset=utf-8", b'"x"', "x"),
        ("application/cloudevents+json", b"[]", []),
        ("application/json", b"", {}),
        ("", b"\xef\xbb\xbf{}", {}),
        ("text/plain", b"raw", "bytes:raw"),
        ("application/octet-stream", b"", "bytes:"),
    ],
)
def test_the_event_of_a_direct_call(content_type: str, payload: bytes, event: Any) -> None:
    source = """
        def handler(event, context):
            return "bytes:" + event.decode() if isinstance(event, bytes) else event
        """
    frame = answer(source, payload, content_type)
    assert isinstance(frame, Result)
    assert json.loads(frame.payload) == event


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"NaN", b"[1,]", b"[" * 100_000, b" ", b"1" * 5000])
def test_a_body_that_is_not_json(payload: bytes) -> None:
    with serving("def handler(event, context): return event") as peer:
        frame = peer.answer(payload)
        assert isinstance(frame, Error)
        assert frame.kind == "bad_event"
        assert "JSON" in frame.message
        assert peer.call(1) == 1


@pytest.mark.parametrize(
    ("expression", "content_type", "payload"),
    [
        ("{'a': (1, 2), 3: None}", b"application/json", b'{"a":[1,2],"3":null}'),
        ("None", b"application/json", b"null"),
        ("'text \\u00e9'", b"application/json", '"text é"'.encode()),
        ("'\\ud800'", b"application/json", b'"\\ud800"'),
        ("b'raw\\x00'", b"application/octet-stream", b"raw\x00"),
        ("bytearray(b'x')", b"application/octet-stream", b"x"),
        ("__import__('decimal').Decimal('1.5')", b"application/json", b"1.5"),
    ],
)
def test_the_result_of_a_direct_call(expression: str, content_type: bytes, payload: bytes) -> None:
    frame = answer(f"def handler(event, context): return {expression}")
    assert isinstance(frame, Result)
    assert (frame.status, frame.headers, frame.payload) == (200, ((b"content-type", content_type),), payload)
    assert frame.cpu_ns > 0
    assert frame.peak_bytes > 1_000_000


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{'a': [1, {2}]}", "result['a'][1] is of type set"),
        ("object()", "result is of type object"),
        ("[float('nan')]", "result[0] is nan"),
        ("{'x': float('inf')}", "result['x'] is inf"),
        ("{(1, 2): 3}", "a key of result is of type tuple"),
        ("(l := [], l.append(l), l)[2]", "nested too deeply or contains itself"),
        ("{'d': b'bytes'}", "result['d'] is of type bytes"),
    ],
)
def test_a_result_that_is_not_json(expression: str, said: str) -> None:
    with serving(f"def handler(event, context): return {expression} if event else 'fine'") as peer:
        frame = peer.error(1)
        assert frame.kind == "not_serialisable"
        assert said in frame.message
        assert peer.call() == "fine"


def test_a_result_beyond_the_cap() -> None:
    with serving("def handler(event, context): return bytes(event)", result_bytes_max=1000) as peer:
        assert len(peer.answer(b"1000").payload) == 1000
        frame = peer.error(1001)
        assert (frame.kind, frame.error_type) == ("too_large", "ResultTooLarge")
        assert "1001" in frame.message
        assert "1000" in frame.message


def test_large_payloads_both_ways() -> None:
    with serving("def handler(event, context): return event") as peer:
        payload = os.urandom(6 * 1024 * 1024)
        frame = peer.answer(payload, "application/octet-stream")
        assert frame.payload == payload


def test_the_context() -> None:
    source = """
        def handler(event, context):
            return {n: getattr(context, n) for n in dir(context) if not n.startswith("_")
                    and n not in ("identity", "get_remaining_time_in_millis")} | {
                "left": context.get_remaining_time_in_millis(), "who": context.identity.cognito_identity_id}
        """
    with Node() as node:
        node.bind(source, namespace="team", function="shop", version=7, arn="arn:x", memory_mb=128, log_group="/l")
        peer = node.fork()
        deadline_ns = time.time_ns() + 60_000_000_000
        frame = peer.answer(deadline_ns=deadline_ns, trigger="cron", attempt=2, trace_parent="00-1-2-03")
        seen = json.loads(frame.payload)
        assert 0 < seen.pop("left") <= 60_000
        assert seen == {
            "aws_request_id": frame.invocation_id,
            "invocation_id": frame.invocation_id,
            "function_name": "shop",
            "function_version": "7",
            "memory_limit_in_mb": 128,
            "invoked_function_arn": "arn:x",
            "log_group_name": "/l",
            "log_stream_name": "[7]s1-1",
            "namespace": "team",
            "client_context": None,
            "who": None,
            "trigger": "cron",
            "attempt": 2,
            "trace_parent": "00-1-2-03",
            "deadline": deadline_ns / 1e9,
        }


# -- the HTTP trigger -----------------------------------------------------------------------------------------------


def test_the_event_of_an_http_request() -> None:
    with serving("def handler(event, context): return event") as peer:
        frame = peer.answer(b'{"q": 1}', "application/json", REQUEST)
        event = json.loads(frame.payload)
        assert event.pop("requestContext").items() >= {
            "accountId": "default",
            "apiId": "fn",
            "domainName": "h.example:81",
            "requestId": frame.invocation_id,
            "stage": "$default",
            "http": {
                "method": "POST",
                "path": "/a b/c",
                "protocol": "HTTP/1.1",
                "sourceIp": "203.0.113.9",
                "userAgent": "curl",
            },
        }.items()
        assert event == {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/fn/fn/a%20b/c",
            "rawQueryString": "x=1&x=2&y=%C3%A9+z",
            "cookies": ["a=1", "b=2"],
            "headers": {
                "host": "h.example:81",
                "accept": "text/html,*/*",
                "user-agent": "curl",
                "content-type": "application/json",
            },
            "queryStringParameters": {"x": "1,2", "y": "é z"},
            "body": '{"q": 1}',
            "isBase64Encoded": False,
        }


@pytest.mark.parametrize(
    ("content_type", "payload", "encoded"),
    [("image/png", b"\x89PNG", True), ("text/plain", b"\xff", True), ("text/plain; charset=utf-8", b"hi", False)],
)
def test_binary_request_bodies_come_in_base64(content_type: str, payload: bytes, encoded: bool) -> None:
    request = REQUEST._replace(headers=(("content-type", content_type),), query="")
    frame = answer("def handler(event, context): return event", payload, content_type, request)
    assert isinstance(frame, Result)
    event = json.loads(frame.payload)
    assert event["isBase64Encoded"] is encoded
    assert (base64.b64decode(event["body"]) if encoded else event["body"].encode()) == payload
    assert "queryStringParameters" not in event
    assert "cookies" not in event


@pytest.mark.parametrize(
    ("expression", "status", "headers", "payload"),
    [
        ("{'a': 1}", 200, {"content-type": "application/json"}, b'{"a":1}'),
        ("'hé'", 200, {"content-type": "text/plain; charset=utf-8"}, "hé".encode()),
        ("b'x'", 200, {"content-type": "application/octet-stream"}, b"x"),
        ("{'statusCode': 204}", 204, {"content-type": "application/json"}, b""),
        ("{'statusCode': '404', 'body': 'no'}", 404, {"content-type": "application/json"}, b"no"),
        ("{'statusCode': 200, 'body': {'a': 1}}", 200, {"content-type": "application/json"}, b'{"a":1}'),
        (
            "{'statusCode': 200, 'headers': {'Content-Type': 'image/gif', 'X-N': 5, 'Content-Length': '9'},"
            " 'body': 'R0lG', 'isBase64Encoded': True}",
            200,
            {"content-type": "image/gif", "x-n": "5"},
            b"GIF",
        ),
        (
            "{'statusCode': 302, 'headers': {'location': '/x'}, 'cookies': ['a=1; Secure']}",
            302,
            {"location": "/x", "set-cookie": "a=1; Secure", "content-type": "application/json"},
            b"",
        ),
    ],
)
def test_the_response_of_an_http_request(expression: str, status: int, headers: dict[str, str], payload: bytes) -> None:
    frame = answer(f"def handler(event, context): return {expression}", b"", "", REQUEST)
    assert isinstance(frame, Result)
    assert frame.status == status
    assert {name.decode(): value.decode() for name, value in frame.headers} == headers
    assert frame.payload == payload


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{'statusCode': 99}", "statusCode"),
        ("{'statusCode': True}", "statusCode"),
        ("{'statusCode': 'ok'}", "statusCode"),
        ("{'statusCode': 200, 'headers': {'x': 'a\\r\\nb: c'}}", "control character"),
        ("{'statusCode': 200, 'headers': {'x y': '1'}}", "not the name of a header"),
        ("{'statusCode': 200, 'headers': {f'h{i}': '1' for i in range(200)}}", "headers"),
        ("{'statusCode': 200, 'headers': [1]}", "headers must be a dict"),
        ("{'statusCode': 200, 'body': 'abcde', 'isBase64Encoded': True}", "base64"),
    ],
)
def test_a_response_that_can_not_be_sent(expression: str, said: str) -> None:
    frame = answer(f"def handler(event, context): return {expression}", b"", "", REQUEST)
    assert isinstance(frame, Error)
    assert (frame.kind, frame.error_type) == ("not_serialisable", "InvalidResponse")
    assert said in frame.message


# -- failures -------------------------------------------------------------------------------------------------------


def test_a_handler_that_raises() -> None:
    source = """
        def inner(x):
            raise ValueError("no " + x)

        def handler(event, context):
            try:
                inner("luck")
            except ValueError as error:
                raise RuntimeError("wrapped") from error
        """
    with serving(source) as peer:
        frame = peer.error()
        assert (frame.kind, frame.error_type, frame.message) == ("function", "RuntimeError", "wrapped")
        lines = frame.traceback.splitlines()
        assert [line.strip() for line in lines if line.lstrip().startswith("File")] == [
            'File "fn.py", line 7, in handler',
            'File "fn.py", line 3, in inner',
            'File "fn.py", line 9, in handler',
        ]
        assert "ValueError: no luck" in lines
        assert lines[-1] == "RuntimeError: wrapped"
        assert peer.error().error_type == "RuntimeError"  # and goes on serving


@pytest.mark.parametrize(
    ("statement", "error_type", "message"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise BaseException('b')", "BaseException", "b"),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("raise ExceptionGroup('g', [ValueError('1'), TypeError('2')])", "ExceptionGroup", "g (2 sub-exceptions)"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()", "Odd", "whose __str__ raised"),
        ("raise ValueError('\\ud800')", "ValueError", "\\ud800"),
        ("raise ValueError('x' * 1_000_000)", "ValueError", "cut"),
        ("f = lambda: f(); f()", "RecursionError", "maximum recursion depth"),
        ("import nope.really", "ModuleNotFoundError", "dependencies"),
    ],
)
def test_other_ways_to_raise(statement: str, error_type: str, message: str) -> None:
    with serving(f"def handler(event, context):\n    if event: return 1\n    {statement}") as peer:
        frame = peer.error()
        assert (frame.kind, frame.error_type) == ("function", error_type)
        assert message in frame.message
        assert "_faas_runtime" not in frame.traceback
        assert "runtimes/python" not in frame.traceback
        assert peer.call(1) == 1


@pytest.mark.parametrize(("argument", "code"), [("3", 3), ("", 0), ("'bye'", 1)])
def test_sys_exit_ends_the_invocation_and_the_instance(argument: str, code: int) -> None:
    with Node() as node:
        node.bind(f"import sys\ndef handler(event, context): sys.exit({argument})")
        peer = node.fork()
        frame = peer.error()
        assert (frame.kind, frame.error_type) == ("exit", "SystemExit")
        assert frame.message == f"the function called sys.exit({argument})"
        assert peer.closed()
        assert node.exited().exit_code == code
        assert node.fork().error().kind == "exit"


def test_running_out_of_memory_is_told_and_ends_the_instance() -> None:
    source = """
        def handler(event, context):
            try:
                held = bytearray(event)
            except MemoryError:
                if event > 1 << 30:
                    return "caught"
                raise
            return len(held)
        """
    with Node() as node:
        node.bind(source, memory_mb=64)
        peer = node.fork()
        assert peer.call(32 << 20) == 32 << 20
        assert peer.call(2 << 30) == "caught"
        frame = peer.error(512 << 20)
        assert (frame.kind, frame.error_type) == ("oom", "MemoryError")
        assert peer.closed()
        assert node.exited().exit_code == 1
        assert node.fork().call(1) == 1


def test_many_small_allocations_run_out_of_memory_too() -> None:
    with Node() as node:
        node.bind("def handler(event, context):\n    held = []\n    while True: held.append(bytes(100))", memory_mb=64)
        assert node.fork().error().kind == "oom"


# -- asynchronous handlers, generators ------------------------------------------------------------------------------


def test_async_handlers_keep_their_loop() -> None:
    source = """
        import asyncio
        seen = []
        background = None
        async def handler(event, context):
            global background
            seen.append(asyncio.get_running_loop())
            if background is None:
                background = asyncio.create_task(asyncio.sleep(0, "done"))
            await asyncio.sleep(0)
            if event == "raise":
                raise LookupError("x")
            return {"same": len(set(seen)) == 1, "calls": len(seen)}
        """
    with Node() as node:
        assert node.bind(source).info["kind"] == "async"
        peer = node.fork()
        assert [peer.call() for _ in range(3)][-1] == {"same": True, "calls": 3}
        assert peer.error("raise").error_type == "LookupError"
        assert peer.call() == {"same": True, "calls": 5}


def test_a_plain_handler_that_returns_an_awaitable() -> None:
    source = """
        async def work(n): return n + 1
        def handler(event, context): return work(event) if event else "plain"
        """
    with serving(source) as peer:
        assert [peer.call(0), peer.call(1), peer.call(0), peer.call(2)] == ["plain", 2, "plain", 3]


def test_cancelling_an_async_handler() -> None:
    source = """
        import asyncio
        async def handler(event, context):
            if event == "sleep":
                print("asleep")
                await asyncio.sleep(1000)
            return "awake"
        """
    with serving(source) as peer:
        invocation_id = peer.invoke(b'"sleep"')
        while not peer.logs():
            peer.pump()
        peer.send(Cancel(invocation_id))
        frame = peer.expect(Error)
        assert (frame.invocation_id, frame.error_type) == (invocation_id, "CancelledError")
        assert peer.call() == "awake"


GENERATORS = {
    "sync": "def handler(event, context):\n    yield from {chunks}\n    {then}",
    "async": "async def handler(event, context):\n    for each in {chunks}: yield each\n    {then}",
    "returned": "def more():\n    yield from {chunks}\n    {then}\ndef handler(event, context): return more()",
}


def streamed(peer: Peer, http: Http | None = None) -> tuple[Stream, list[bytes], Result | Error]:
    peer.invoke(b"{}", "", http)
    stream, chunks = peer.expect(Stream), []
    while True:
        peer_frames = [frame for frame in peer.frames if isinstance(frame, (Chunk, Result, Error))]
        for frame in peer_frames:
            peer.frames.remove(frame)
            if not isinstance(frame, Chunk):
                return stream, chunks, frame
            chunks.append(frame.payload)
        peer.pump()


@pytest.mark.parametrize("form", GENERATORS)
def test_generators_are_streamed(form: str) -> None:
    with serving(GENERATORS[form].format(chunks="['a', b'b', 'é']", then="print('end')")) as peer:
        for http in (None, REQUEST):
            stream, chunks, end = streamed(peer, http)
            assert stream.headers == ((b"content-type", b"text/plain; charset=utf-8"),)
            assert chunks == [b"a", b"b", "é".encode()]
            assert isinstance(end, Result)
            assert end.payload == b""


@pytest.mark.parametrize("form", GENERATORS)
def test_a_generator_may_begin_with_status_and_headers(form: str) -> None:
    head = "{'statusCode': 201, 'headers': {'Content-Type': 'text/event-stream'}}"
    with serving(GENERATORS[form].format(chunks=f"[{head}, 'x' * 600_000]", then="pass")) as peer:
        stream, chunks, _ = streamed(peer, REQUEST)
        assert (stream.status, stream.headers) == (201, ((b"content-type", b"text/event-stream"),))
        assert len(chunks) == 3
        assert b"".join(chunks) == b"x" * 600_000


@pytest.mark.parametrize("form", GENERATORS)
def test_a_generator_that_raises(form: str) -> None:
    with serving(GENERATORS[form].format(chunks="['a']", then="raise ValueError('late')")) as peer:
        _, chunks, end = streamed(peer)
        assert chunks == [b"a"]
        assert isinstance(end, Error)
        assert end.message == "late"
    with serving(GENERATORS[form].format(chunks="[]", then="raise ValueError('early')")) as peer:
        assert peer.error().message == "early"
    with serving(GENERATORS[form].format(chunks="[7]", then="pass")) as peer:
        assert peer.error().kind == "not_serialisable"


def test_an_empty_generator() -> None:
    with serving("def handler(event, context):\n    yield from ()") as peer:
        _, chunks, end = streamed(peer)
        assert chunks == []
        assert isinstance(end, Result)


# -- apps -----------------------------------------------------------------------------------------------------------

ASGI = """
    started = []
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            started.append(1)
            scope["state"]["db"] = "open"
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            print("closing")
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = (await receive())["body"]
        path = scope["path"]
        if path == "/raise":
            raise ValueError("in app")
        headers = [(b"Content-Type", b"text/plain"), (b"x-root", scope["root_path"].encode())]
        if path == "/items":
            headers.append((b"location", b"http://h.example:81/items/?a=1"))
        await send({"type": "http.response.start", "status": 207, "headers": headers})
        if path == "/stream":
            for i in range(3):
                await send({"type": "http.response.body", "body": b"%d" % i, "more_body": True})
        await send({"type": "http.response.body", "body": body + scope["state"]["db"].encode() + b"%d" % len(started)})
    """


def to(path: str) -> Http:
    return REQUEST._replace(path=path, raw_path="/fn/fn" + path)


def test_an_asgi_app() -> None:
    with Node() as node:
        assert node.bind(ASGI).info["kind"] == "asgi"
        peer = node.fork()
        for _ in range(2):
            frame = peer.answer(b"hey ", "text/plain", to("/x"))
            assert (frame.status, frame.payload) == (207, b"hey open1")
            assert dict(frame.headers) == {b"content-type": b"text/plain", b"x-root": b"/fn/fn"}
        assert dict(peer.answer(b"", "", to("/items")).headers)[b"location"] == b"http://h.example:81/fn/fn/items/?a=1"
        assert peer.answer(b"", "", to("/raise")).message == "in app"
        peer.invoke(b"", "", to("/stream"))
        assert peer.expect(Stream).status == 207
        assert b"".join(peer.expect(Chunk).payload for _ in range(4)) == b"012open1"
        peer.expect(Result)
        peer.send(__import__("faas.wire", fromlist=["Drain"]).Drain())
        assert peer.closed()
        assert ("stdout", "closing") in peer.logs()
        assert node.exited().exit_code == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("async def app(scope, receive, send): assert scope['type'] == 'http'", "before its response was complete"),
        (
            "async def app(scope, receive, send):\n"
            "    await receive()\n"
            "    if scope['type'] == 'lifespan':\n"
            "        await send({'type': 'lifespan.startup.failed', 'message': 'no db'})",
            "no db",
        ),
    ],
)
def test_an_asgi_app_that_fails(source: str, said: str) -> None:
    with serving(source) as peer:
        frame = peer.answer(b"", "", to("/"))
        assert isinstance(frame, Error)
        assert said in frame.message


WSGI = """
    def app(environ, start_response):
        kind = environ["PATH_INFO"]
        if kind == "/silent":
            return []
        write = start_response("203 Fine", [("Content-Type", "text/plain"), ("X-Root", environ["SCRIPT_NAME"])])
        if kind == "/write":
            write(b"early ")
        body = environ["wsgi.input"].read()
        assert environ["HTTP_ACCEPT"] == "text/html,*/*" and environ["SERVER_PORT"] == "81"
        if kind == "/stream":
            return (piece for piece in (b"", b"1", b"2", body))
        return [body, b"!"]
    """


def test_a_wsgi_app() -> None:
    with Node() as node:
        assert node.bind(WSGI).info["kind"] == "wsgi"
        peer = node.fork()
        frame = peer.answer(b"hey", "text/plain", to("/x"))
        assert (frame.status, frame.payload) == (203, b"hey!")
        assert dict(frame.headers) == {b"content-type": b"text/plain", b"x-root": b"/fn/fn"}
        assert peer.answer(b"x", "text/plain", to("/write")).payload == b"early x!"
        assert "start_response" in peer.answer(b"", "", to("/silent")).message
        peer.invoke(b"3", "text/plain", to("/stream"))
        assert peer.expect(Stream).status == 203
        assert b"".join(peer.expect(Chunk).payload for _ in range(3)) == b"123"
        peer.expect(Result)


# -- hostile handlers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "exit_code", "signal"),
    [
        ("os._exit(7)", 7, None),
        ("os.kill(os.getpid(), 11)", None, 11),
        ("os.abort()", None, 6),
        ("os.closerange(0, 4096)", 1, None),
    ],
)
def test_a_handler_that_ends_its_process(statement: str, exit_code: int | None, signal: int | None) -> None:
    with Node() as node:
        node.bind(f"import os\ndef handler(event, context):\n    {statement}")
        peer = node.fork()
        peer.invoke()
        with pytest.raises(Gone):
            peer.expect(Result)
        frame = node.exited()
        assert (frame.instance_id, frame.exit_code, frame.signal) == (peer.hello.instance_id, exit_code, signal)
        assert frame.peak_bytes > 1_000_000
        assert frame.cpu_ns > 0


@pytest.mark.parametrize("way", ["os.fork()", "libc.fork()"])
@pytest.mark.parametrize("then", ["return event", "raise ValueError", "sys.exit(3)", "os._exit(0)", "print('child')"])
def test_a_handler_that_forks_answers_once(way: str, then: str) -> None:
    source = f"""
        import ctypes, os, sys
        libc = ctypes.CDLL(None)
        def handler(event, context):
            pid = {way}
            if pid == 0:
                {then}
                return "from the child"
            os.waitpid(pid, 0)
            return "parent"
        """
    with serving(source) as peer:
        assert [peer.call() for _ in range(3)] == ["parent"] * 3


def test_multiprocessing_works() -> None:
    source = """
        import multiprocessing
        def square(queue, n): print("working"); queue.put(n * n)
        def handler(event, context):
            method = multiprocessing.get_context("fork")
            queue = method.SimpleQueue()
            workers = [method.Process(target=square, args=(queue, n)) for n in range(3)]
            for worker in workers: worker.start()
            for worker in workers: worker.join()
            return sorted(queue.get() for _ in workers)
        """
    with serving(source) as peer:
        assert peer.call() == [0, 1, 4]


@pytest.mark.parametrize(
    "garbage",
    [b"\xff" * 64, b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x05hello", b"\x00\x00\x00\x02\x91\x0b"],
)
def test_an_instance_that_writes_garbage_hurts_itself_only(garbage: bytes) -> None:
    source = f"""
        import os, socket
        def handler(event, context):
            if event:
                for fd in range(3, 64):
                    try:
                        s = socket.socket(fileno=os.dup(fd))
                        if s.family == socket.AF_UNIX: s.sendall({garbage!r})
                    except OSError: pass
            return 1
        """
    from faas.wire import Kill, RemoteProtocolError

    with Node() as node:
        node.bind(source)
        hostile, neighbour = node.fork(), node.fork()
        hostile.invoke(b"1")
        with pytest.raises(RemoteProtocolError):
            hostile.expect(Result)
        node.zygote.send(Kill(hostile.hello.instance_id))
        assert node.exited().signal == 9
        assert neighbour.call(0) == 1
        assert node.fork().call(0) == 1
