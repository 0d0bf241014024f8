"""From a reply to an HTTP answer: what is the same however the request came in.

Everything is here twice, as pairs for ASGI and as lines of HTTP/1.1 for ``express``; a test holds them together.
"""

from __future__ import annotations

from typing import Final

from faas.gateway.headers import Cleaner, Headers
from faas.model.errors import FunctionFailed
from faas.model.invocation import Call, Reply, StartKind
from faas.model.usage import UsageRecord

NO_BODY: Final = frozenset({204, 304})
_START: Final = {kind.value: (b"faas-start", kind.value.encode()) for kind in StartKind}


class Answers:
    """Makes answers of replies. Kept for its cache of headers that were checked before."""

    def __init__(self) -> None:
        self._clean = Cleaner()

    def pairs(self, reply: Reply) -> tuple[int, Headers, bytes]:
        """Status, the function's own headers as they may go out, and the body (empty for a stream).

        Raises ``FunctionFailed`` when the function's response is none that HTTP can carry.
        """
        status = _checked(reply.status)
        headers = self._clean(reply.headers).headers
        if reply.stream is not None or status in NO_BODY:
            return status, headers, b""
        return status, (*headers, (b"content-length", b"%d" % len(reply.payload))), reply.payload

    def lines(self, reply: Reply) -> tuple[int, bytes, bytes]:
        """As ``pairs``, for a reply that does not stream."""
        status = _checked(reply.status)
        lines = self._clean(reply.headers).lines
        if status in NO_BODY:
            return status, lines, b""
        return status, b"%bcontent-length: %d\r\n" % (lines, len(reply.payload)), reply.payload


def _checked(status: int) -> int:
    if not 200 <= status <= 599:
        raise FunctionFailed("InvalidResponse", f"The response's status {status} is not between 200 and 599.")
    return status


def facts(version: int, call: Call, record: UsageRecord | None, *, complete: bool) -> Headers:
    """The headers that say what happened: id, version, start, cost, timing, trace. Streams know no cost yet."""
    about: Headers = (
        (b"faas-invocation-id", call.id.encode()),
        (b"faas-version", b"%d" % version),
        (b"traceparent", call.trace_parent.encode()),
    )
    if record is None:
        return about
    start = _START.get(record.start)
    if start is not None:
        about = (*about, start)
    queue, init = record.queue_ns / 1e6, record.init_ns / 1e6
    if not complete:
        return (*about, (b"server-timing", b"queue;dur=%.3f, init;dur=%.3f" % (queue, init)))
    return (
        *about,
        (b"faas-billed-ms", b"%d" % record.billed_ms),
        (b"server-timing", b"queue;dur=%.3f, init;dur=%.3f, run;dur=%.3f" % (queue, init, record.run_ns / 1e6)),
    )


def fact_lines(call: Call, record: UsageRecord) -> bytes:
    """``facts`` of a complete answer."""
    start = f"faas-start: {record.start}\r\n" if record.start in _START else ""
    return (
        f"faas-invocation-id: {call.id}\r\nfaas-version: {record.version}\r\ntraceparent: {call.trace_parent}\r\n"
        f"{start}faas-billed-ms: {record.billed_ms}\r\nserver-timing: queue;dur={record.queue_ns / 1e6:.3f}, "
        f"init;dur={record.init_ns / 1e6:.3f}, run;dur={record.run_ns / 1e6:.3f}\r\n"
    ).encode()
