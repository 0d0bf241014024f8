"""A node reduced to one sandbox: boots the Python runtime as a plain child and speaks to it, blocking.

``Node`` listens, starts ``zygote.py``, and hands out ``Peer``s (one per connection, each with a real
``faas.wire.Connection``, so that every byte the runtime sends is also checked for legality).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgpack  # type: ignore[import-untyped]

import runtimes
from faas.wire import (
    Connection,
    Drain,
    Error,
    Exited,
    Fork,
    Frame,
    Hello,
    Http,
    Init,
    Invoke,
    Log,
    Ready,
    RemoteProtocolError,
    Result,
)

ZYGOTE = Path(runtimes.__file__).parent / "python" / "zygote.py"
VENDOR = Path(msgpack.__file__).parents[1]
WAIT_S = 20.0
FAR_NS = 2**62
F = TypeVar("F")
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
_ids = itertools.count(1)


class Gone(Exception):
    """The other end has closed the connection."""


def new_id() -> str:
    return f"{next(_ids):032x}"


class Peer:
    """One process of the sandbox. ``frames`` are those received and not yet asked for."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.connection = Connection()
        self.frames: list[Frame] = []
        sock.settimeout(WAIT_S)

    @property
    def hello(self) -> Hello:
        assert self.connection.hello is not None
        return self.connection.hello

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(b"".join(self.connection.send(frame) for frame in frames))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def pump(self) -> None:
        """Receive once."""
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            raise Gone
        self.frames += self.connection.receive_data(data)

    def expect(self, kind: type[F]) -> F:
        """The next frame of this kind; those before it stay in ``frames``."""
        while True:
            for index, frame in enumerate(self.frames):
                if isinstance(frame, kind):
                    del self.frames[index]
                    return frame
            self.pump()

    def closed(self) -> bool:
        """Wait until the other end closes."""
        with contextlib.suppress(Gone):
            while True:
                self.pump()
        return True

    def logs(self) -> list[tuple[str, str]]:
        """Take the log lines received so far, as (stream, text)."""
        lines = [(frame.stream, frame.text) for frame in self.frames if isinstance(frame, Log)]
        self.frames = [frame for frame in self.frames if not isinstance(frame, Log)]
        return lines

    def invoke(self, payload: bytes = b"{}", content_type: str = "", http: Http | None = None, **more: Any) -> str:
        invocation_id = new_id()
        fields = {"deadline_ns": FAR_NS, "trigger": "http" if http else "direct", "attempt": 1, "trace_parent": ""}
        fields |= more
        self.send(Invoke(invocation_id, content_type=content_type, http=http, payload=payload, **fields))  # type: ignore[arg-type]
        return invocation_id

    def answer(self, payload: bytes = b"{}", content_type: str = "", http: Http | None = None, **more: Any) -> Any:
        """Invoke, and wait for the RESULT or ERROR."""
        invocation_id = self.invoke(payload, content_type, http, **more)
        frame = self.expect(Result | Error)  # type: ignore[arg-type]
        assert frame.invocation_id == invocation_id
        return frame

    def end_of(self, invocation_id: str) -> Result | Error:
        """The RESULT or ERROR of this invocation, whatever comes before; all else stays in ``frames``."""
        while True:
            for index, frame in enumerate(self.frames):
                if isinstance(frame, (Result, Error)) and frame.invocation_id == invocation_id:
                    del self.frames[index]
                    return frame
            self.pump()

    def lines_of(self, invocation_id: str) -> list[tuple[str, str]]:
        """The log lines of this invocation received so far, as (stream, text)."""
        lines = [frame for frame in self.frames if isinstance(frame, Log) and frame.invocation_id == invocation_id]
        return [(line.stream, line.text) for line in lines]

    def call(self, event: Any = None) -> Any:
        """Invoke with JSON and return the JSON of the RESULT."""
        frame = self.answer(json.dumps(event).encode())
        assert isinstance(frame, Result), frame
        return json.loads(frame.payload)

    def error(self, event: Any = None, **more: Any) -> Error:
        frame = self.answer(json.dumps(event).encode(), **more)
        assert isinstance(frame, Error), frame
        return frame


class Node:
    """Use as a context manager: everything it started is gone afterwards."""

    def __init__(self, python: str = sys.executable, **env: str) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="faas-rt-"))
        self.code = self.home / "code"
        self.tmp = self.home / "tmp"
        self.code.mkdir()
        self.tmp.mkdir()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.home / "node.sock"))
        self._listener.listen(256)
        self._listener.settimeout(WAIT_S)
        self._peers: list[Peer] = []
        self._serial = itertools.count(1)
        environment = {
            "PATH": os.environ["PATH"],
            "FAAS_SOCKET": str(self.home / "node.sock"),
            "FAAS_VENDOR": str(VENDOR),
            "TMPDIR": str(self.tmp),
            **env,
        }
        self.process = subprocess.Popen(
            [python, "-I", "-S", str(ZYGOTE)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.zygote = self.accept()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for peer in self._peers:
            peer.socket.close()
        self._listener.close()
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.output = self.process.stdout.read().decode()
            self.process.stdout.close()
            shutil.rmtree(self.home, ignore_errors=True)

    def accept(self) -> Peer:
        """The next process that dials, after its HELLO."""
        peer = Peer(self._listener.accept()[0])
        self._peers.append(peer)
        peer.expect(Hello)
        return peer

    def write(self, name: str, source: str) -> None:
        path = self.code / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))

    def config(self, **changes: Any) -> dict[str, Any]:
        return {
            "namespace": "default",
            "function": "fn",
            "version": 3,
            "arn": "arn:faas:default:function:fn:3",
            "entry": "fn",
            "handler": "",
            "code": str(self.code),
            "layers": [],
            "env": {},
            "memory_mb": 256,
            "timeout_ms": 30_000,
            "concurrency": 1,
            "log_group": "/faas/default/fn",
        } | changes

    def init(self, source: str | None = None, **changes: Any) -> Ready | Error:
        """Write ``source`` as the entry module, bind the zygote to it, wait for the outcome."""
        config = self.config(**changes)
        if source is not None:
            self.write(f"{config['entry']}.py", source)
        self.zygote.send(Init(config))
        frame: Ready | Error = self.zygote.expect(Ready | Error)  # type: ignore[arg-type]
        return frame

    def bind(self, source: str | None = None, **changes: Any) -> Ready:
        frame = self.init(source, **changes)
        assert isinstance(frame, Ready), frame
        return frame

    def fork(self) -> Peer:
        instance_id = f"s1-{next(self._serial)}"
        self.zygote.send(Fork((instance_id,)))
        peer = self.accept()
        assert peer.hello.instance_id == instance_id
        return peer

    def exited(self) -> Exited:
        return self.zygote.expect(Exited)

    def end(self) -> int:
        """Drain the zygote; its exit code."""
        self.zygote.send(Drain())
        return self.process.wait(WAIT_S)

    def log_lines(self, count: int) -> list[Log]:
        """The next ``count`` LOG frames of the zygote's own connection."""
        return [self.zygote.expect(Log) for _ in range(count)]


@contextlib.contextmanager
def serving(source: str, **changes: Any) -> Iterator[Peer]:
    """One instance of a function, ready to be called."""
    with Node() as node:
        node.bind(source, **changes)
        yield node.fork()


def below(node: Node) -> list[int]:
    """The zygote's children, dead ones too."""
    pid = node.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Any) -> None:
    """Poll until ``condition()`` holds; fail after a long while."""
    until = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.005)


__all__ = ["Gone", "Node", "Peer", "RemoteProtocolError", "below", "new_id", "serving", "wait_for"]
