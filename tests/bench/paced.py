"""The second load generator: an open loop, which asks on time whether or not the answers come, and notes every call.

Theory of operation. Call number n is due n / rate after the begin, and leaves then on a connection that waits for
nothing, a new one if need be. Its latency counts from when it was due, so a server that makes its callers wait can't
thereby slow the questions down ("coordinated omission"). Without a rate it is a closed loop that notes as much. Runs as
`python -m tests.bench.paced` in a process of its own, with a higher priority than what it measures if it may: callers
usually have a machine to themselves. A JSON `Pace` on stdin, a JSON `Sheet` on stdout.

Contract. Answers must have a Content-Length. A call whose connection broke is noted with the status ``BROKEN``, one for
which none could be made with ``NOT_SENT``; a closed loop ends when nobody listens any more. Times are of
CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.bench.load import READ_BYTES, STALL_S, LoadError, _answer_length, _header

LATE_S = 15.0  # after the last question: how long answers may take
PRIORITY = -10
BROKEN, NOT_SENT = 0, -1  # in place of a status


@dataclass(frozen=True, slots=True)
class Pace:
    """``per_second`` 0: each of ``connections`` asks again as soon as it has its answer. Else they are a maximum."""

    host: str
    port: int
    request: str  # the whole request as text
    connections: int
    seconds: float
    per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Sheet:
    """What became of each call, in the order of the answers: lists of equal length.

    ``began_ns`` is when it was sent; ``took_ns`` from when it was due to its answer; ``statuses`` may be `BROKEN` or
    `NOT_SENT`; ``versions`` are of the header Faas-Version, 0 = none. ``late_ns`` is the longest a question left after
    it was due.
    """

    began_ns: list[int] = field(default_factory=list)
    took_ns: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    late_ns: int = 0
    elapsed_ns: int = 0
    first_refusal: str = ""

    def took(self, *statuses: int) -> list[int]:
        """Latencies of the calls that ended in one of these."""
        return [took for took, status in zip(self.took_ns, self.statuses, strict=True) if status in statuses]

    @property
    def failed(self) -> int:
        return sum(status != 200 for status in self.statuses)


def start(pace: Pace, priority: int = PRIORITY) -> subprocess.Popen[str]:
    """Drive ``pace`` in a fresh process, which `finish` waits for; ``priority`` is its nice value, if it may."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.paced", str(priority)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(pace)))
    process.stdin.close()
    process.stdin = None  # or communicate would flush it
    return process


def finish(process: subprocess.Popen[str], seconds: float) -> Sheet:
    """What it found. Raises `LoadError` when it could not be driven to its end."""
    try:
        out, err = process.communicate(timeout=seconds + LATE_S + 2 * STALL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LoadError("the load generator hung") from None
    if process.returncode != 0:
        raise LoadError(err.strip().splitlines()[-1] if err.strip() else "the load generator died")
    return Sheet(**json.loads(out))


def stop(process: subprocess.Popen[str]) -> Sheet:
    """End a pace before its time: no more questions. Raises `LoadError`."""
    process.terminate()
    return finish(process, 0)


def run(pace: Pace) -> Sheet:
    return finish(start(pace), pace.seconds)


# -- the process that makes the load ----------------------------------------------------------------------------------


class _Call:
    __slots__ = ("began_ns", "buffer", "due_ns", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.due_ns = self.began_ns = 0
        self.buffer = b""


class _Drive:
    """One run of a pace."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.request = pace.request.encode()
        self.epoll = select.epoll()
        self.free: list[_Call] = []
        self.busy: dict[int, _Call] = {}
        self.sheet = Sheet()
        self.late_ns = 0
        self.first_refusal = ""
        self.gone = False  # nobody listens any more
        self.stopped = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, _number: int, _frame: object) -> None:
        self.stopped = True

    def _connection(self) -> _Call | None:
        if self.free:
            return self.free.pop()
        if len(self.busy) >= self.pace.connections:
            return None
        try:
            sock = socket.create_connection((self.pace.host, self.pace.port), timeout=STALL_S)
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ECONNRESET):
                raise
            self.gone = True
            return None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        return _Call(sock)

    def _ask(self, call: _Call, due_ns: int) -> None:
        call.began_ns = time.perf_counter_ns()
        call.due_ns = due_ns or call.began_ns
        call.buffer = b""
        self.busy[call.sock.fileno()] = call
        try:
            if call.sock.send(self.request) != len(self.request):
                raise LoadError("the server does not take requests as fast as they are sent; use a smaller body")
        except (BrokenPipeError, ConnectionResetError):
            self._broken(call)

    def _note(self, began_ns: int, took_ns: int, status: int, version: int) -> None:
        self.sheet.began_ns.append(began_ns)
        self.sheet.took_ns.append(took_ns)
        self.sheet.statuses.append(status)
        self.sheet.versions.append(version)

    def _broken(self, call: _Call) -> None:
        self._drop(call)
        self._note(call.began_ns, time.perf_counter_ns() - call.due_ns, BROKEN, 0)

    def _drop(self, call: _Call) -> None:
        self.busy.pop(call.sock.fileno(), None)
        self.epoll.unregister(call.sock.fileno())
        call.sock.close()

    def _read(self, call: _Call) -> bool:
        """Take what has come; True when the call is over and its connection free again."""
        try:
            data = call.sock.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if call.sock.fileno() not in self.busy:  # closed while idle, as a server may
            self._drop(call)
            self.free.remove(call)
            return False
        if not data:
            self._broken(call)
            return False
        call.buffer += data
        whole = _answer_length(call.buffer)
        if not whole or len(call.buffer) < whole:
            return False
        status = int(call.buffer[9:12])
        version = _header(call.buffer, b"faas-version")
        self._note(call.began_ns, time.perf_counter_ns() - call.due_ns, status, int(version or 0))
        if status != 200 and not self.first_refusal:
            self.first_refusal = call.buffer[:600].decode("utf-8", "replace")
        if _header(call.buffer, b"connection") == "close":
            self._drop(call)
            return False
        del self.busy[call.sock.fileno()]
        self.free.append(call)
        return True

    def _serve(self, wait_s: float) -> None:
        by_descriptor = {call.sock.fileno(): call for call in self.free}
        for descriptor, _ in self.epoll.poll(wait_s):
            call = self.busy.get(descriptor) or by_descriptor.get(descriptor)
            if call is not None:
                self._read(call)

    def open_loop(self) -> Sheet:
        gap_ns = round(1e9 / self.pace.per_second)
        begin_ns = time.perf_counter_ns() + 50_000_000
        count = round(self.pace.seconds * self.pace.per_second)
        for number in range(count):
            if self.stopped:
                break
            due_ns = begin_ns + number * gap_ns
            while (left_ns := due_ns - time.perf_counter_ns()) > 0:
                self._serve(left_ns / 1e9)
            if not self.free and self.busy:
                self._serve(0)
            call = self._connection()
            while call is None and self.busy:  # as many as there may be are under way: it leaves late, which counts
                self._serve(STALL_S)
                call = self._connection()
            self.late_ns = max(self.late_ns, time.perf_counter_ns() - due_ns)
            if call is not None:
                self._ask(call, due_ns)
            else:
                self._note(due_ns, 0, NOT_SENT, 0)
        return self._end(begin_ns)

    def closed_loop(self) -> Sheet:
        begin_ns = time.perf_counter_ns()
        end_ns = begin_ns + round(self.pace.seconds * 1e9)
        while time.perf_counter_ns() < end_ns and not self.stopped and (self.busy or not self.gone):
            while not self.gone and (call := self._connection()) is not None:
                self._ask(call, 0)
            if self.busy:
                self._serve(STALL_S)
        return self._end(begin_ns)

    def _end(self, begin_ns: int) -> Sheet:
        """Wait for the answers that are under way."""
        limit = time.perf_counter_ns() + round(LATE_S * 1e9)
        asked_ns = time.perf_counter_ns() - begin_ns
        while self.busy and time.perf_counter_ns() < limit:
            self._serve(1.0)
        for call in list(self.busy.values()):
            self._broken(call)
        for call in self.free:
            call.sock.close()
        found = asdict(self.sheet) | {"late_ns": self.late_ns, "elapsed_ns": asked_ns}
        return Sheet(**found | {"first_refusal": self.first_refusal})


def drive(pace: Pace) -> Sheet:
    """Run ``pace`` in this process. Raises `LoadError`."""
    loop = _Drive(pace)
    try:
        return loop.open_loop() if pace.per_second > 0 else loop.closed_loop()
    except OSError as error:
        raise LoadError(f"{pace.host}:{pace.port}: {error}") from error


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    gc.disable()
    with contextlib.suppress(PermissionError):  # without it, it competes like everybody else
        os.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[1]))
    print(json.dumps(asdict(drive(Pace(**given)))))


if __name__ == "__main__":
    main()
