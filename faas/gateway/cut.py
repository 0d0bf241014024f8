"""Ending a connection in the middle of an answer, so that the caller sees it is not whole (RFC 9112, section 8)."""

from __future__ import annotations

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def cut(send: Send) -> None:
    """Close the connection that ``send`` writes to; what was sent before arrives.

    Returning early would do as much, but uvicorn then logs an error of the platform, which a function that fails in
    the middle of its answer is not. Of a ``send`` that is not uvicorn's nothing is known, and nothing is done.
    """
    cycle = getattr(send, "__self__", None)
    if isinstance(cycle, RequestResponseCycle) and not cycle.disconnected:
        cycle.disconnected = True
        cycle.transport.close()
