"""Handlers that do what they should not: each hurts its own invocation and nobody else."""

from __future__ import annotations

import ctypes
import importlib
import os

import pytest

from faas.wire import Kill, RemoteProtocolError, Result
from runtimes.python import zygote
from tests.contract.runtime_node import VENDOR, Gone, Node, serving


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


@pytest.mark.parametrize("advice", [18, 9999], ids=["a kernel that wipes pages", "a kernel that does not"])
def test_a_forked_process_is_known_for_one(advice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    zygote.load(str(VENDOR))
    channel = importlib.import_module(f"{zygote.PACKAGE}.channel")
    monkeypatch.setattr(channel, "_MADV_WIPEONFORK", advice)
    own = channel._own_page()
    assert isinstance(own, channel._OwnPid) == (advice == 9999)
    for fork in (os.fork, ctypes.CDLL(None).fork):
        child = fork()
        if child == 0:
            os._exit(1 if own[0] else 0)
        assert os.waitpid(child, 0)[1] == 0
    assert own[0]
    own[0] = 0
    assert not own[0]


def test_a_child_of_c_code_that_prints_does_not_speak_on_the_channel() -> None:
    source = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        def handler(event, context):
            pid = libc.fork()
            if pid == 0:
                print("child")
                os._exit(0)
            os.waitpid(pid, 0)
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        invocation_id = peer.invoke()
        peer.expect(Result)
        assert peer.logs() == []
        (line,) = node.log_lines(1)
        assert (line.invocation_id, line.stream, line.text) == (invocation_id, "stdout", "child")


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
