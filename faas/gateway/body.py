"""Reading a request's body within its cap, and letting a caller who sends too much hear the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from typing import Final

from starlette.types import Message, Receive, Scope, Send

from faas.gateway.headers import Headers
from faas.gateway.problems import Problem
from faas.model.errors import InvalidRequest, PayloadTooLarge

LINGER_S: Final = 2.0
LINGER_BYTES_MAX: Final = 64 * 1024 * 1024


class CallerGone(Exception):
    """The caller hung up before its request was complete: there is nobody to answer."""


def too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than the {bytes_max} bytes this route takes.", bytes_max=bytes_max)


def check_declared(content_length: bytes | None, bytes_max: int) -> None:
    """Refuse by the declared length alone, before a byte is read. Raises ``PayloadTooLarge``, ``InvalidRequest``."""
    if content_length is None:
        return
    if not content_length.isdigit() or len(content_length) > 18:
        raise InvalidRequest("The Content-Length header is not a number.")
    if int(content_length) > bytes_max:
        raise too_large(bytes_max)


async def chunks(receive: Receive, bytes_max: int) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. Raises ``PayloadTooLarge`` as soon as it passes the cap, ``CallerGone``."""
    total = 0
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise CallerGone
        chunk: bytes = message.get("body", b"")
        total += len(chunk)
        if total > bytes_max:
            raise too_large(bytes_max)
        more = message.get("more_body", False)
        if chunk:
            yield chunk


async def read(receive: Receive, bytes_max: int) -> bytes:
    """The whole body; raises as ``chunks`` does."""
    message = await receive()
    if message["type"] != "http.request":
        raise CallerGone
    first: bytes = message.get("body", b"")
    if len(first) > bytes_max:
        raise too_large(bytes_max)
    if not message.get("more_body", False):
        return first
    return first + b"".join([chunk async for chunk in chunks(receive, bytes_max - len(first))])


class Incoming:
    """``receive`` that remembers whether the whole body has come."""

    __slots__ = ("_receive", "complete")

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.complete = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.complete = True
        return message


async def refuse(
    made: Problem, scope: Scope, receive: Receive, send: Send, *, unread: bool, extra: Headers = (), close: bool = False
) -> None:
    """Send a problem, also to a caller that may still be sending.

    The server swallows a small unread body by itself. A large one would hold the connection, and a connection closed
    while its caller sends is reset by the kernel, the answer on its way being lost (RFC 9112, section 9.6): so the
    answer goes out whole, then the body is swallowed for a moment, bounded in time and bytes, and then it is closed.
    """
    large = unread and _large(scope["headers"])
    headers = [*made.headers, *extra]
    if large or close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": made.status, "headers": headers})
    if large:
        await send({"type": "http.response.body", "body": made.body, "more_body": True})
        await _swallow(receive)
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.body", "body": made.body})


def _large(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any((n == b"content-length" and len(v) > 6) or n == b"transfer-encoding" for n, v in headers)


async def _swallow(receive: Receive) -> None:
    total = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while total < LINGER_BYTES_MAX:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                total += len(message.get("body", b""))
