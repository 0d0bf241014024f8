"""A receiver of usage events, as a billing system is one: checks with the CloudEvents SDK, counts each event once.

What it answers is what a test says: 204, another status, nothing at all (``HANG``), or the connection cut (``DROP``).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat

HANG, DROP = -1, -2
Answer = Callable[[list[dict[str, Any]]], int]  # events -> status, HANG or DROP


class Receiver:
    """``answer`` may be exchanged at any time. ``port`` 0 = any; give one to come back at the same address."""

    def __init__(self, port: int = 0) -> None:
        self.answer: Answer = lambda _: 204
        self.events: dict[tuple[str, str], dict[str, Any]] = {}  # (source, id) -> event: as CloudEvents counts
        self.order: list[str] = []  # ids as they came first
        self.deliveries = 0  # doubles too
        self.statuses: list[int] = []
        self.headers: dict[str, str] = {}
        self.retry_after = ""
        self.go_on = threading.Event()  # ends hanging
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/events"

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """What is answered; what is answered with 204 is counted."""
        events = json.loads(body)
        assert headers["content-type"] == "application/cloudevents-batch+json"
        with self._lock:
            status = self.answer(events)
            self.statuses.append(status)
            self.headers = headers
            if status == 204:
                for event in events:
                    self._count(event)
        return status

    def _count(self, event: dict[str, Any]) -> None:
        message = HTTPMessage({"content-type": "application/cloudevents+json"}, json.dumps(event).encode())
        parsed = from_http(message, JSONFormat())  # raises on what is no CloudEvent
        key = parsed.get_source(), parsed.get_id()
        self.deliveries += 1
        if key in self.events:
            assert self.events[key] == event  # the same id is the same event
        else:
            self.events[key] = event
            self.order.append(parsed.get_id())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.take({k.lower(): v for k, v in self.headers.items()}, body)
                if status == HANG:
                    receiver.go_on.wait(60)
                if status in (HANG, DROP):
                    self.close_connection = True
                    return
                answer = b"" if status == 204 else b'{"detail": "said so by the test"}'
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                if receiver.retry_after:
                    self.send_header("Retry-After", receiver.retry_after)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(port)
    try:
        yield receiver
    finally:
        receiver.close()
