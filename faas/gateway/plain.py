"""Plain calls: requests with nothing unusual about them, for which everything is known but the body.

Theory of operation. What a request asks for is read off its head once (``ask``) and can be kept: the same head asks for
the same thing. Whether it may have it is looked up anew for every call (``plain``), in the caches that the long way
uses. Either answers None when a request needs more: something to wait for, a header that changes its meaning, an error
to explain. None is never a refusal; the long way decides then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from faas.events import cloudevents
from faas.gateway.auth import Authenticator, Grant
from faas.gateway.catalog import Catalog, Target
from faas.gateway.headers import trace_parent
from faas.model.invocation import Call, HttpRequest, Trigger

SEGMENTS_MAX: Final = 10_000
_SEGMENT_BYTES_MAX: Final = 200
_FN: Final = b"/fn/"
_FUNCTIONS: Final = b"/v1/functions/"
_INVOCATIONS: Final = b"/invocations"
_METHODS: Final = frozenset({b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"})  # HEAD and OPTIONS have rules of their own
_UNUSUAL: Final = frozenset(
    {
        b"expect",
        b"faas-hops",
        b"faas-namespace",
        b"idempotency-key",
        b"origin",
        b"prefer",
        b"transfer-encoding",
        b"upgrade",
        *cloudevents.MARKS,
    }
)

Pairs = Sequence[tuple[bytes, bytes]]


class Names:
    """The function that a path segment names; remembered, since callers repeat themselves."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, str, str]] = {}

    def __call__(self, segment: bytes) -> tuple[str, str, str]:
        """``hello.tenant@3`` to ``("tenant", "hello", "3")``; ``latest`` and nothing are ""."""
        known = self._known.get(segment)
        if known is not None:
            return known
        left, _, qualifier = unquote(segment.decode("latin-1")).partition("@")
        name, _, namespace = left.partition(".")
        parts = (namespace or "default", name, "" if qualifier == "latest" else qualifier)
        if len(segment) <= _SEGMENT_BYTES_MAX:
            if len(self._known) >= SEGMENTS_MAX:
                self._known.clear()
            self._known[segment] = parts
        return parts


class Asked(NamedTuple):
    """What the head of a plain request says. ``http`` is None for a direct call."""

    namespace: str  # of an HTTP trigger; a direct call's is its key's
    name: str
    qualifier: str
    presented: bytes | None  # the Authorization header
    content_type: str
    trace_parent: bytes | None
    body_bytes: int
    headers: tuple[tuple[bytes, bytes], ...]
    http: HttpRequest | None


class Plain(NamedTuple):
    """A plain call that may be made. ``grant`` is None for the caller of a public function."""

    asked: Asked
    target: Target
    grant: Grant | None


class PlainCalls:
    """See the module's docstring."""

    def __init__(
        self, auth: Authenticator, catalog: Catalog, names: Names, bytes_max: int, new_id: Callable[[], str]
    ) -> None:
        self._auth = auth
        self._catalog = catalog
        self._names = names
        self._bytes_max = bytes_max
        self._new_id = new_id
        self._random_bits = random.getrandbits

    def ask(self, method: bytes, url: bytes, pairs: Pairs, client: str) -> Asked | None:
        """What an HTTP/1.1 request asks for. ``client`` is the caller's address."""
        headers = dict(pairs)
        length, content_type = headers.get(b"content-length", b"0"), headers.get(b"content-type", b"")
        if len(headers) != len(pairs) or not _UNUSUAL.isdisjoint(headers) or method not in _METHODS:
            return None
        if len(length) > 9 or not length.isdigit() or int(length) > self._bytes_max:
            return None
        if content_type[: len(cloudevents.MEDIA_TYPE)].lower() == cloudevents.MEDIA_TYPE:
            return None
        http = None
        if url.startswith(_FN):
            path, _, query = url.partition(b"?")
            segment, _, rest = path[len(_FN) :].partition(b"/")
            if b"#" in url or not url.isascii():
                return None
            http = http_request(method.decode(), rest, path, query, pairs, client, "1.1", own=False)
        elif url.startswith(_FUNCTIONS) and url.endswith(_INVOCATIONS) and method == b"POST":
            segment = url[len(_FUNCTIONS) : -len(_INVOCATIONS)]
        else:
            return None
        return Asked(
            *self._names(segment),
            headers.get(b"authorization"),
            content_type.decode("latin-1"),
            headers.get(b"traceparent"),
            int(length),
            tuple(pairs),
            http,
        )

    def plain(self, asked: Asked) -> Plain | None:
        """The call that is asked for, if it is allowed, its function known, and nothing has to be waited for."""
        presented = asked.presented
        grant = self._auth.peek(presented) if presented is not None else None
        http = asked.http
        if http is None:
            if grant is None or not grant.may_invoke:
                return None
            target = self._catalog.peek(grant.namespace or "default", asked.name, asked.qualifier)
            return Plain(asked, target, grant) if target is not None else None
        target = self._catalog.peek(asked.namespace, asked.name, asked.qualifier)
        if target is None or not (target.any_method or http.method in target.methods):
            return None
        if target.public:
            return Plain(asked, target, None) if presented is None else None
        if grant is None or not grant.may_invoke or grant.namespace not in ("", asked.namespace):
            return None
        return Plain(asked, target, grant)

    def call(self, plain: Plain, payload: bytes) -> Call:
        asked, _, grant = plain
        call_id = self._new_id()
        trace, hops = trace_parent(asked.trace_parent, call_id, self._random_bits)
        return Call(
            call_id,
            Trigger.DIRECT if asked.http is None else Trigger.HTTP,
            payload,
            asked.content_type,
            "" if grant is None else grant.key.id,
            1,
            trace,
            asked.http,
            hops,
        )


def http_request(
    method: str, rest: bytes, path: bytes, query: bytes, pairs: Pairs, client: str, version: str, *, own: bool
) -> HttpRequest:
    """The HTTP trigger's request. ``rest`` is the path behind the function's name and its slash.

    ``own``: the Authorization header is the function's to see.
    """
    text = rest.decode("latin-1")
    return HttpRequest(
        method,
        "/" + (unquote(text) if "%" in text else text),
        path.decode("latin-1"),
        query.decode("latin-1"),
        tuple([(n.decode("latin-1"), v.decode("latin-1")) for n, v in pairs if own or n != b"authorization"]),
        client,
        f"HTTP/{version}",
    )
