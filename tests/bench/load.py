"""The load generator: a closed loop over HTTP/1.1 keep-alive connections, in a process of its own.

Theory of operation. One thread, one epoll, blocking-free sockets: each connection has one request under way; the
moment its answer is whole, its latency is noted and the next request leaves. There is no framework between the clock
and the socket, so the generator takes a fraction of what the servers take (`python -m tests.bench --wrk` compares it
with wrk). Run as `python -m tests.bench.load`: a JSON `Job` on stdin, a JSON `Outcome` on stdout.

Contract. Answers must have a Content-Length. An answer with another status is counted in ``refused`` and the first
such body is kept; a connection that breaks, or an answer this can't read, ends the run with `LoadError`.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import subprocess
import sys
import time
from array import array
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.stats import percentile

READ_BYTES = 65_536
STALL_S = 30.0


class LoadError(Exception):
    """The load could not be driven to its end."""


@dataclass(frozen=True, slots=True)
class Job:
    """``seconds`` > 0: closed loop for that long after ``warm_up_s``. Else every connection asks once ("burst")."""

    host: str
    port: int
    request: str  # the whole request as text
    connections: int
    seconds: float = 0.0
    warm_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """``elapsed_ns`` is the time measured; in a burst from before the first connect to the last answer."""

    answered: int
    refused: int
    elapsed_ns: int
    p50_ns: float
    p99_ns: float
    max_ns: float
    starts: dict[str, int] = field(default_factory=dict)  # Faas-Start header -> answers (burst only)
    first_refusal: str = ""

    @property
    def per_second(self) -> float:
        return self.answered * 1e9 / self.elapsed_ns


def request_text(method: str, path: str, host: str, headers: dict[str, str], body: str) -> str:
    """An HTTP/1.1 request with its length."""
    head = {"Host": host, "Content-Length": str(len(body.encode())), **headers}
    return f"{method} {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in head.items()) + "\r\n" + body


def run(job: Job) -> Outcome:
    """Drive ``job`` in a fresh process. Raises `LoadError`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load"],
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        timeout=job.seconds + job.warm_up_s + 2 * STALL_S,
        check=False,
    )
    if done.returncode != 0:
        raise LoadError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the load generator died")
    return Outcome(**json.loads(done.stdout))


# -- the process that makes the load ----------------------------------------------------------------------------------


class _Connection:
    __slots__ = ("buffer", "sent_ns", "sock", "whole")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent_ns = 0
        self.buffer = b""
        self.whole = 0  # length of the answer under way, 0 = not known yet


def _answer_length(data: bytes) -> int:
    """How long the whole answer that begins with ``data`` is; 0 while its head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    at = data.lower().find(b"\r\ncontent-length:", 0, end)
    if at < 0:
        raise LoadError(f"an answer without Content-Length: {data[:end].decode('latin-1')!r}")
    return end + 4 + int(data[at + 17 : data.index(b"\r\n", at + 17)])


def _header(data: bytes, name: bytes) -> str:
    head = data.partition(b"\r\n\r\n")[0]
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip().decode("latin-1")
    return ""


class _Loop:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = job.request.encode()
        self.epoll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.latencies_ns = array("q")
        self.starts: Counter[str] = Counter()
        self.refused = 0
        self.first_refusal = ""
        self.ended_ns = 0

    def connect(self) -> None:
        for _ in range(self.job.connections):
            sock = socket.create_connection((self.job.host, self.job.port), timeout=STALL_S)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            self.connections[sock.fileno()] = _Connection(sock)
            self.epoll.register(sock.fileno(), select.EPOLLIN)

    def send(self, connection: _Connection) -> None:
        connection.sent_ns = time.perf_counter_ns()
        if connection.sock.send(self.request) != len(self.request):
            raise LoadError("the server does not take requests as fast as they are sent; use a smaller body")

    def read(self, connection: _Connection) -> bytes:
        """The whole answer, or b"" while more is to come."""
        try:
            data = connection.sock.recv(READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise LoadError("the server closed a connection it should have kept")
        if connection.buffer:
            data = connection.buffer + data
        whole = connection.whole or _answer_length(data)
        if not whole or len(data) < whole:
            connection.buffer, connection.whole = data, whole
            return b""
        connection.buffer, connection.whole = b"", 0
        return data

    def refuse(self, data: bytes) -> None:
        self.refused += 1
        if not self.first_refusal:
            self.first_refusal = data[:600].decode("utf-8", "replace")

    def events(self) -> list[tuple[int, int]]:
        found = self.epoll.poll(STALL_S)
        if not found:
            raise LoadError(f"no answer for {STALL_S:.0f} s")
        return found

    def closed_loop(self) -> Outcome:
        """Ask, wait, ask again, on every connection; latencies count from when the warm-up is over."""
        self.connect()
        begin_ns = time.perf_counter_ns() + int(self.job.warm_up_s * 1e9)
        end_ns = begin_ns + int(self.job.seconds * 1e9)
        connections, latencies, send, read = self.connections, self.latencies_ns, self.send, self.read
        for connection in connections.values():
            send(connection)
        now = 0
        while now < end_ns:
            for descriptor, _ in self.events():
                connection = connections[descriptor]
                data = read(connection)
                if not data:
                    continue
                now = time.perf_counter_ns()
                if not data.startswith(b"HTTP/1.1 200 "):
                    self.refuse(data)
                elif now >= begin_ns:
                    latencies.append(now - connection.sent_ns)
                send(connection)
        return self.outcome(now - begin_ns)

    def one_at_a_time(self) -> Outcome:
        """The closed loop for one connection, with a blocking socket: nothing but two system calls per request."""
        sock = socket.create_connection((self.job.host, self.job.port), timeout=STALL_S)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(sock)
        begin_ns = time.perf_counter_ns() + int(self.job.warm_up_s * 1e9)
        end_ns = begin_ns + int(self.job.seconds * 1e9)
        now = 0
        while now < end_ns:
            self.send(connection)
            data = b""
            while not data:
                data = self.read(connection)
            now = time.perf_counter_ns()
            if not data.startswith(b"HTTP/1.1 200 "):
                self.refuse(data)
            elif now >= begin_ns:
                self.latencies_ns.append(now - connection.sent_ns)
        return self.outcome(now - begin_ns)

    def burst(self) -> Outcome:
        """Connect, ask once on every connection at once, wait for the last answer."""
        begin_ns = time.perf_counter_ns()
        self.connect()
        for connection in self.connections.values():
            self.send(connection)
        left = len(self.connections)
        while left:
            for descriptor, _ in self.events():
                connection = self.connections[descriptor]
                data = self.read(connection)
                if not data:
                    continue
                left -= 1
                self.epoll.unregister(descriptor)
                if data.startswith(b"HTTP/1.1 200 "):
                    self.latencies_ns.append(time.perf_counter_ns() - connection.sent_ns)
                    self.starts[_header(data, b"faas-start")] += 1
                else:
                    self.refuse(data)
        return self.outcome(time.perf_counter_ns() - begin_ns)

    def outcome(self, elapsed_ns: int) -> Outcome:
        for connection in self.connections.values():
            connection.sock.close()
        found = self.latencies_ns or array("q", [0])
        return Outcome(
            answered=len(self.latencies_ns),
            refused=self.refused,
            elapsed_ns=elapsed_ns,
            p50_ns=percentile(found, 0.5),
            p99_ns=percentile(found, 0.99),
            max_ns=max(found),
            starts=dict(self.starts),
            first_refusal=self.first_refusal,
        )


def drive(job: Job) -> Outcome:
    """Run ``job`` in this process. Raises `LoadError`."""
    loop = _Loop(job)
    try:
        if job.seconds <= 0:
            return loop.burst()
        return loop.one_at_a_time() if job.connections == 1 else loop.closed_loop()
    except OSError as error:
        raise LoadError(f"{job.host}:{job.port}: {error}") from error


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    gc.disable()
    print(json.dumps(asdict(drive(Job(**given)))))


if __name__ == "__main__":
    main()
