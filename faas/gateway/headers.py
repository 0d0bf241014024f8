"""Headers on the way out and the W3C trace context: small, checked, cached where it pays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from faas.model.errors import FunctionFailed

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
_TRACE: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})(-.*)?\Z")
_ZERO_TRACE: Final = "0" * 32
_ZERO_SPAN: Final = "-" + "0" * 16 + "-"


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


def trace_parent(incoming: bytes | None, invocation_id: str, random_bits: Callable[[int], int]) -> str:
    """The invocation's own ``traceparent``: the caller's trace goes on with a new span, else a trace begins.

    A new trace takes the invocation id for its trace id, so that one id finds both. Follows W3C Trace Context,
    level 1: an invalid header is ignored, a version above 00 is read by its first four fields.

    >>> trace_parent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "ab" * 16, lambda _: 1)
    '00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-01'
    """
    span = random_bits(64) or 1
    if incoming is not None:
        text = incoming.decode("latin-1")
        match = _TRACE.match(text)
        if match is not None:
            version, trace, flags, rest = match.groups()
            known = version != "ff" and trace != _ZERO_TRACE and _ZERO_SPAN not in text[35:53]
            if known and (rest is None or version != "00"):
                return f"00-{trace}-{span:016x}-{flags}"
    return f"00-{invocation_id}-{span:016x}-01"
