"""How invocations end when there are several at once in one instance; streams and apps of several at once."""

from __future__ import annotations

import pytest

from faas.wire import Cancel, Chunk, Drain, Error, Invoke, Result, Stream
from tests.contract.runtime_node import FAR_NS, REQUEST, Gone, Node, new_id, serving
from tests.contract.runtime_scripted import FORMS, both, finish, start

# -- ends -----------------------------------------------------------------------------------------------------------


def test_cancelling_one_of_two_tasks() -> None:
    with serving(FORMS["tasks"], concurrency=2) as peer:
        one = start(peer, ("wait", "never"))
        two = start(peer, ("print", "both in"), ("wait", "go"))
        while not peer.lines_of(two):
            peer.pump()
        peer.send(Cancel(one))
        frame = peer.end_of(one)
        assert isinstance(frame, Error)
        assert frame.error_type == "CancelledError"
        assert finish(peer, start(peer, ("open", "go"))) == finish(peer, two) == []


@pytest.mark.parametrize("concurrency", [1, 2])
def test_cancelling_an_invocation_that_has_not_begun(concurrency: int) -> None:
    with serving(
        "import asyncio\nasync def handler(event, context): await asyncio.sleep(event)", concurrency=concurrency
    ) as peer:
        invocation_id = new_id()
        frames = (Invoke(invocation_id, FAR_NS, "direct", 1, "", "", None, b"1000"), Cancel(invocation_id))
        peer.send(*frames)
        frame = peer.end_of(invocation_id)
        assert isinstance(frame, Error)
        assert frame.error_type == "CancelledError"


def test_cancelling_a_thread_does_nothing() -> None:
    with serving(FORMS["threads"], concurrency=2) as peer:
        waiting = start(peer, ("print", "in"), ("wait", "go"), ("id", 0))
        while not peer.lines_of(waiting):
            peer.pump()
        peer.send(Cancel(waiting))
        assert finish(peer, start(peer, ("open", "go"))) == []
        assert finish(peer, waiting) == [waiting]


def test_awaitables_of_plain_handlers_share_a_loop() -> None:
    source = """
        import asyncio
        gates = {}
        async def work(event):
            gate = gates.setdefault(event, asyncio.Event())
            loop = asyncio.get_running_loop()
            print("waits for", event)
            if event == "open": [each.set() for each in gates.values()]
            else: await gate.wait()
            return id(loop)
        async def chunks():
            yield "a"
            yield "b"
        def handler(event, context):
            return chunks() if event == "chunks" else work(event) if event else "plain"
        """
    with serving(source, concurrency=3) as peer:
        assert peer.call(0) == "plain"
        one, two = peer.invoke(b'"x"'), peer.invoke(b'"y"')
        while not (peer.lines_of(one) and peer.lines_of(two)):
            peer.pump()
        peer.send(Cancel(one))
        frame = peer.end_of(one)
        assert isinstance(frame, Error)
        assert frame.error_type == "CancelledError"
        loop = finish(peer, peer.invoke(b'"open"'))
        assert finish(peer, two) == loop
        assert peer.lines_of(two) == [("stdout", "waits for y")]
        peer.invoke(b'"chunks"')
        assert [peer.expect(Chunk).payload for _ in range(2)] == [b"a", b"b"]
        peer.expect(Result)


@both
def test_draining_waits_for_all(form: str) -> None:
    with Node() as node:
        node.bind(FORMS[form], concurrency=3)
        peer = node.fork()
        first = start(peer, ("wait", "a"), ("print", "first"))
        second = start(peer, ("wait", "b"), ("open", "a"))
        third = start(peer, ("print", "in"), ("burn", 50), ("open", "b"))
        peer.send(Drain())
        assert finish(peer, third) == finish(peer, second) == finish(peer, first) == []
        assert peer.closed()
        assert peer.lines_of(first) == [("stdout", "first")]
        assert peer.lines_of("") == [("stdout", "bye")]
        assert node.exited().exit_code == 0


@both
def test_an_instance_that_wants_to_end_lets_the_others_finish(form: str) -> None:
    with Node() as node:
        node.bind(FORMS[form], concurrency=3)
        peer = node.fork()
        waiting = start(peer, ("wait", "go"), ("burn", 20), ("print", "last"), ("id", 0))
        opening = start(peer, ("wait", "exit"), ("burn", 20), ("open", "go"))
        frame = peer.end_of(start(peer, ("open", "exit"), ("exit", 3)))
        assert isinstance(frame, Error)
        assert frame.kind == "exit"
        assert finish(peer, opening) == []
        assert finish(peer, waiting) == [waiting]
        assert peer.closed()
        assert node.exited().exit_code == 3


@both
@pytest.mark.parametrize("way", ["python", "c"])
def test_a_child_that_comes_back_from_the_handler_says_nothing(form: str, way: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        waiting = start(peer, ("wait", "go"))
        for _ in range(2):
            assert finish(peer, start(peer, ("half", "x"), ("fork", way))) == []
        assert finish(peer, start(peer, ("open", "go"))) == finish(peer, waiting) == []
        assert [each for each in peer.frames if isinstance(each, (Result, Error))] == []


def test_a_crash_fails_all_that_are_open() -> None:
    source = """
        import os, threading
        def handler(event, context):
            print("in")
            os.abort() if event else threading.Event().wait()
        """
    with Node() as node:
        node.bind(source, concurrency=2)
        peer = node.fork()
        peer.invoke(b"0")
        while not peer.logs():
            peer.pump()
        peer.invoke(b"1")
        with pytest.raises(Gone):
            peer.expect(Result)
        assert len(peer.connection.close()) == 2
        assert node.exited().signal == 6


def test_a_restore_hook_that_fails() -> None:
    source = """
        from snapshot_restore_py import register_after_restore
        register_after_restore(lambda: 1 / 0)
        def handler(event, context): return 1
        """
    with Node() as node:
        node.bind(source, concurrency=2)
        peer = node.fork()
        assert peer.error().kind == "exit"
        assert peer.closed()
        assert node.exited().exit_code == 1


# -- streams and apps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["async ", ""])
def test_streams_side_by_side(form: str) -> None:
    gate = "asyncio.Event()" if form else "threading.Event()"
    wait = "await gate.wait()" if form else "gate.wait()"
    source = f"""
        import asyncio, threading
        gate = {gate}
        {form}def handler(event, context):
            yield event + "1"
            if event == "a": {wait}
            else: gate.set()
            yield event + "2"
        """
    with serving(source, concurrency=2) as peer:
        one = peer.invoke(b'"a"')
        assert peer.expect(Stream).invocation_id == one
        two = peer.invoke(b'"b"')
        peer.end_of(one)
        peer.end_of(two)
        for invocation_id, name in ((one, "a"), (two, "b")):
            chunks = [each.payload for each in peer.frames if isinstance(each, Chunk) and each[0] == invocation_id]
            assert chunks == [f"{name}1".encode(), f"{name}2".encode()]


def test_an_asgi_app_starts_up_once() -> None:
    source = """
        import asyncio
        starts = 0
        gate = asyncio.Event()
        async def app(scope, receive, send):
            global starts
            if scope["type"] == "lifespan":
                await receive()
                starts += 1
                await asyncio.sleep(0.05)
                scope["state"]["ready"] = starts
                await send({"type": "lifespan.startup.complete"})
                await receive()
                await send({"type": "lifespan.shutdown.complete"})
                return
            if scope["path"] == "/wait": await gate.wait()
            else: gate.set()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"%d" % scope["state"]["ready"]})
        """
    with serving(source, concurrency=2) as peer:
        paths = [REQUEST._replace(path=path, raw_path="/fn/fn" + path) for path in ("/wait", "/go")]
        ids = [peer.invoke(b"", "", path) for path in paths]
        for invocation_id in ids:
            frame = peer.end_of(invocation_id)
            assert isinstance(frame, Result)
            assert frame.payload == b"1"


def test_a_wsgi_app_in_threads() -> None:
    source = """
        import threading
        barrier = threading.Barrier(2)
        def app(environ, start_response):
            barrier.wait(20)
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"%d" % environ["wsgi.multithread"]]
        """
    with serving(source, concurrency=2) as peer:
        ids = [peer.invoke(b"", "", REQUEST) for _ in range(2)]
        for invocation_id in ids:
            frame = peer.end_of(invocation_id)
            assert isinstance(frame, Result)
            assert frame.payload == b"1"
