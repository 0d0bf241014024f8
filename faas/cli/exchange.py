"""One HTTP/1.1 exchange (RFC 9112): a request out, its answer in as it arrives.

`http.client` would do, but loading it (it reads headers with the email package, and loads TLS for any address) takes
as long as the rest of a verb. The parser is httptools, as under the node's own server; by hand are a request's head,
and the difference between an answer that ended and one that broke off: without it, half a result would pass for one.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import httptools

HEAD_BYTES_MAX = 64 * 1024
READ_BYTES = 64 * 1024


class BrokenAnswer(Exception):
    """The answer is not HTTP, or ended before it was whole."""


class Unsendable(Exception):
    """The request holds what HTTP cannot carry."""


class TlsFailed(OSError):
    """No safe connection: the certificate is not to be trusted, or TLS is not spoken there."""


def dial(host: str, port: int, *, tls: bool, timeout_s: float) -> socket.socket:
    """A connection, with TLS if asked for. Raises ``TlsFailed``, ``OSError``."""
    try:
        # An ASCII name as bytes: for text, Python loads its tables of international names.
        name: Any = host.encode() if host.isascii() else host
        connection = socket.create_connection((name, port), timeout_s)
    except UnicodeError as error:  # a label of the name is empty, or too long
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not tls:
        return connection
    import ssl

    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except ssl.SSLError as error:
        connection.close()
        why = getattr(error, "verify_message", "") or error.reason or str(error)
        raise TlsFailed("it does not speak TLS; is it http://?" if why == "WRONG_VERSION_NUMBER" else why) from error
    except BaseException:
        connection.close()
        raise


class Exchange:
    """For one request: `send` it, then `receive_head`, then `pieces` of the body. ``status`` and ``headers`` (names in
    lower case, values of a repeated one joined by commas) are those of the final answer, not of a 100 before it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._in_body = False
        self._ended = False
        self.status = 0
        self.headers: dict[str, str] = {}

    def send(self, method: str, target: str, host: str, headers: Mapping[str, str], body: bytes) -> None:
        """Raises ``Unsendable``, ``OSError``."""
        head = request_head(method, target, host, headers, len(body))
        # A server that refuses a body may answer and close before it has read it: then its answer is what counts.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.sendall(head + body)

    def receive_head(self) -> None:
        """Until ``status`` and ``headers`` are there. Raises ``BrokenAnswer``, ``OSError``."""
        while not self._in_body:
            self._receive()

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises ``BrokenAnswer`` when it ends too soon, ``OSError``."""
        while True:
            arrived, self._body = self._body, []
            yield from arrived
            if self._ended:
                return
            self._receive()

    def _receive(self) -> None:
        data = self._connection.recv(READ_BYTES)
        if not data:
            self._at_end()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise BrokenAnswer("it switched to another protocol, which nobody asked for") from error
        except httptools.HttpParserError as error:
            if not self._ended:  # bytes behind the end are none of ours
                raise BrokenAnswer(f"this is not HTTP: {error}") from error
        if not self._in_body:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                raise BrokenAnswer("its headers do not end")

    def _at_end(self) -> None:
        """The connection ended: as it should where nothing else tells the body's end (RFC 9112, section 6.3)."""
        if not self._in_body:
            raise BrokenAnswer("the connection was closed without an answer")
        if "content-length" in self.headers or "transfer-encoding" in self.headers:
            raise BrokenAnswer("the answer ended too soon")
        self._ended = True

    # -- what the parser calls ------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        found, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[found] = f"{self.headers[found]}, {text}" if found in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._in_body = self.status >= 200

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self.status < 200:  # "100 Continue" and the like: the answer is still to come
            self.headers.clear()
        else:
            self._ended = True


def request_head(method: str, target: str, host: str, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """Raises ``Unsendable`` for anything that would not arrive as it was meant.

    >>> request_head("GET", "/healthz", "node:8080", {"Accept": "*/*"}, 0)
    b'GET /healthz HTTP/1.1\\r\\nHost: node:8080\\r\\nConnection: close\\r\\nAccept: */*\\r\\n\\r\\n'
    """
    framing = {"Content-Length": str(body_bytes)} if body_bytes or method not in {"GET", "DELETE"} else {}
    if not _printable(target) or " " in target:
        raise Unsendable(f"{target!r} is no path of a URL")
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in {"Host": host, "Connection": "close", **headers, **framing}.items():
        if not _printable(value):  # the value is not shown: it may be a key
            raise Unsendable(f"the header {name} cannot hold line breaks or anything but ASCII")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _printable(text: str) -> bool:
    return text.isascii() and text.isprintable()
