"""Cross-origin requests to functions, answered from the manifest (``[tool.faas.http] cors``): the Fetch standard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from starlette.types import Send

from faas.gateway.catalog import Target
from faas.gateway.headers import Headers

MAX_AGE_S: Final = 600
_EXPOSED: Final = (
    b"faas-invocation-id, faas-version, faas-start, faas-billed-ms, idempotency-replayed, server-timing, traceparent"
)
_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_TOKENS: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{0,1000}\Z")


def _allowed_origin(target: Target, origin: bytes) -> bytes | None:
    if target.any_origin:
        return b"*"
    return origin if origin in target.origins else None


def response_headers(target: Target, origin: bytes) -> Headers:
    """What an answer to a cross-origin request carries; only ``Vary`` when the origin is not allowed."""
    allowed = _allowed_origin(target, origin)
    vary = () if target.any_origin else ((b"vary", b"origin"),)
    if allowed is None:
        return vary
    return ((b"access-control-allow-origin", allowed), (b"access-control-expose-headers", _EXPOSED), *vary)


def without_own(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The function's headers less its own CORS ones: where the manifest speaks, it alone does."""
    return [pair for pair in headers if not pair[0].startswith(b"access-control-")]


async def preflight(target: Target, headers: dict[bytes, bytes], send: Send) -> None:
    """Answer an OPTIONS preflight: 204, with the permissions only when the origin has them. Needs no key."""
    answer = [(b"vary", b"origin, access-control-request-method, access-control-request-headers")]
    allowed = _allowed_origin(target, headers[b"origin"])
    if allowed is not None:
        methods = ", ".join(target.allow).encode("latin-1", "replace") if not target.any_method else _METHODS
        answer += [
            (b"access-control-allow-origin", allowed),
            (b"access-control-allow-methods", methods),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
        ]
        wanted = headers.get(b"access-control-request-headers", b"")
        if wanted and _TOKENS.match(wanted):
            answer.append((b"access-control-allow-headers", wanted))
    await send({"type": "http.response.start", "status": 204, "headers": answer})
    await send({"type": "http.response.body", "body": b""})
