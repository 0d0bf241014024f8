"""An HTTP server that says what a test told it to: the CLI's other end, where a real node is not what is tested."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Faas = Callable[..., tuple[int, str, str]]  # a command line; its exit code, stdout and stderr


@dataclass(slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Answer:
    status: int = 200
    body: bytes | list[bytes] = b""  # a list: sent piece by piece until the connection closes
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeNode:
    """``answers`` by ``"METHOD /path"``: an ``Answer``, a JSON value, or a function of the request giving either."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Asked] = []
        self.url = ""

    def problem(self, route: str, status: int, code: str, detail: str, **more: Any) -> None:
        document = {"type": f"urn:faas:problem:{code}", "title": "A title", "status": status, "detail": detail}
        body = json.dumps({**document, "code": code, **more}).encode()
        self.answers[route] = Answer(status, body, {"content-type": "application/problem+json"})

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.path}")
        if callable(found):
            found = found(asked)
        if found is None:
            return Answer(404, b"nothing here", {"content-type": "text/plain"})
        if isinstance(found, Answer):
            return found
        return Answer(200, json.dumps(found).encode(), {"content-type": "application/json"})


@contextmanager
def fake_node() -> Iterator[FakeNode]:
    fake = FakeNode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # the end of the body is the end of the connection

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65_537)
            if not self.raw_requestline or not self.parse_request():
                return
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = fake.answer(Asked(self.command, parts.path, query, headers, body))
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for piece in [answer.body] if isinstance(answer.body, bytes) else answer.body:
                self.wfile.write(piece)
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
