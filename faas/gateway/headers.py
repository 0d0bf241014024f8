"""Headers on the way out and the W3C trace context: small, checked, cached where it pays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from faas.model.errors import FunctionFailed
from faas.model.hops import RANDOM_BITS, hops_of, span_with

Headers = tuple[tuple[bytes, bytes], ...]

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}\Z")
_BAD_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DROPPED: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-connection",
        b"server-timing",
        b"te",
        b"trailer",
        b"traceparent",
        b"transfer-encoding",
        b"upgrade",
    }
)
_CACHE_MAX: Final = 1_024
_CACHED_HEADERS_MAX: Final = 4
_TRACE: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_ZERO_TRACE: Final = "0" * 32
_ZERO_SPAN: Final = "0" * 16
_HOPS_DIGITS_MAX: Final = 3


def clean(headers: Headers) -> Headers:
    """A function's response headers as they may go out: lower-case names; hop-by-hop and ``faas-*`` ones dropped.

    Raises ``FunctionFailed`` on a name that is no token or a value with a control character (header injection).
    """
    kept: list[tuple[bytes, bytes]] = []
    for raw, value in headers:
        name = raw.lower()
        if not _NAME.match(name) or _BAD_VALUE.search(value):
            shown = name[:80].decode("latin-1").encode("unicode_escape").decode()
            raise FunctionFailed("InvalidResponse", f"The response header '{shown}' holds characters HTTP forbids.")
        if name not in _DROPPED and not name.startswith(b"faas-"):
            kept.append((name, value))
    return tuple(kept)


class Cleaned(NamedTuple):
    """Headers that may go out, also as lines of HTTP/1.1."""

    headers: Headers
    lines: bytes


class Cleaner:
    """``clean`` behind a bounded cache: most functions send the same one or two headers for ever."""

    def __init__(self) -> None:
        self._known: dict[Headers, Cleaned] = {}

    def __call__(self, headers: Headers) -> Cleaned:
        known = self._known.get(headers)
        if known is not None:
            return known
        kept = clean(headers)
        cleaned = Cleaned(kept, as_lines(kept))
        if len(headers) <= _CACHED_HEADERS_MAX and sum(len(n) + len(v) for n, v in headers) < _CACHE_MAX:
            if len(self._known) >= _CACHE_MAX:
                self._known.clear()
            self._known[headers] = cleaned
        return cleaned


def as_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def trace_parent(
    incoming: bytes | None, invocation_id: str, random_bits: Callable[[int], int], hops: int = 0
) -> tuple[str, int]:
    """The invocation's own ``traceparent`` and its hops: the caller's trace goes on with a new span, else one begins.

    A new trace takes the invocation id for its trace id, so that one id finds both. Follows W3C Trace Context,
    level 1: an invalid header is ignored, a version above 00 is read by its first four fields. ``hops`` is the least
    number; a parent span of ours says it better (``faas.model.hops``).

    >>> trace_parent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "ab" * 16, lambda _: 1)
    ('00-4bf92f3577b34da6a3ce929d0e0e4736-c6ef372800000020-01', 0)
    >>> trace_parent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-c6ef372800000020-01", "ab" * 16, lambda _: 1)[1]
    1
    """
    if incoming is not None:
        match = _TRACE.match(incoming.decode("latin-1"))
        if match is not None:
            version, trace, parent, flags, rest = match.groups()
            known = version != "ff" and trace != _ZERO_TRACE and parent != _ZERO_SPAN
            if known and (rest is None or version != "00"):
                before = hops_of(int(parent, 16))
                if before is not None and before >= hops:
                    hops = before + 1
                return f"00-{trace}-{span_with(hops, random_bits(RANDOM_BITS) or 1):016x}-{flags}", hops
    return f"00-{invocation_id}-{span_with(hops, random_bits(RANDOM_BITS) or 1):016x}-01", hops


def said_hops(header: bytes | None) -> int:
    """``Faas-Hops`` of a request: the hops of the call that makes it. 0 without one that is a number.

    >>> said_hops(None), said_hops(b"0"), said_hops(b"15"), said_hops(b"many")
    (0, 1, 16, 0)
    """
    if header is None or not header.isdigit() or len(header) > _HOPS_DIGITS_MAX:
        return 0
    return int(header) + 1
