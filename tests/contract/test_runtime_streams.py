"""Asynchronous handlers, streamed responses, ASGI and WSGI apps."""

from __future__ import annotations

import pytest

from faas.wire import Cancel, Chunk, Drain, Error, Http, Result, Stream
from tests.contract.runtime_node import REQUEST, Node, Peer, serving


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


def test_asyncio_is_loaded_once_for_all_instances() -> None:
    source = """
        import sys
        loaded = "asyncio" in sys.modules
        def late(): return "asyncio" in sys.modules
        from snapshot_restore_py import register_after_restore
        register_after_restore(lambda: seen.append(late()))
        seen = [loaded]
        async def handler(event, context): return seen
        """
    with serving(source) as peer:
        assert peer.call() == [False, True]


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
    stream = peer.expect(Stream)
    chunks: list[bytes] = []
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
        peer.send(Drain())
        assert peer.closed()
        assert ("stdout", "closing") in peer.logs()
        assert node.exited().exit_code == 0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("async def app(scope, receive, send): assert scope['type'] == 'http'", "before its response was complete"),
        (
            (
                "async def app(scope, receive, send):\n"
                "    await receive()\n"
                "    if scope['type'] == 'lifespan':\n"
                "        await send({'type': 'lifespan.startup.failed', 'message': 'no db'})"
            ),
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
