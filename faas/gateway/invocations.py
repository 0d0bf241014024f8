"""The hot path: direct calls and the HTTP trigger as one plain ASGI callable.

Theory of operation. The plainest calls never come here: ``express`` takes them off the wire itself, with the look-ups
of ``plain`` and without ASGI. What does come is served by one coroutine. Nothing waits for the store, the disk or the
engine: keys and versions come from caches (``auth``, ``catalog``) that fill on a miss, the body is collected within
its cap and handed on unread, the invoker answers. No request or response objects, no middleware; leaving callers are
``watch``'s business.

Contract. Exactly one answer per request. An error before the call is a problem document; so is every outcome the
invoker reports as an error. Once the answer has begun (a stream), a failure can only end the connection short.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from faas.events.cloudevents import Mode, mode_of
from faas.gateway import body, cors
from faas.gateway.answers import NO_BODY, Answers, facts
from faas.gateway.async_calls import AsyncCalls, prefers_async
from faas.gateway.auth import Authenticator, Grant
from faas.gateway.catalog import Catalog, Target
from faas.gateway.cloudevents import as_events, taken
from faas.gateway.cut import cut
from faas.gateway.headers import Headers, said_hops, trace_parent
from faas.gateway.idempotency import HEADER, METHODS, Once, asked
from faas.gateway.plain import Names, Plain, PlainCalls, http_request
from faas.gateway.problems import log, problem
from faas.gateway.services import Services
from faas.gateway.turnstile import Turnstile
from faas.gateway.watch import Flight, Watch
from faas.model.errors import (
    FaasError,
    InvalidRequest,
    MethodNotAllowed,
    NoCapacity,
    NotFound,
    Unauthenticated,
)
from faas.model.invocation import Call, HttpRequest, Reply, Trigger
from faas.model.usage import UsageRecord

DRAINING: Final = "This node is going down; another one, or this one in a moment, will take the call."
_ONCE: Final = frozenset({b"authorization", b"content-type", b"faas-namespace", b"idempotency-key", b"host"})
HeaderMap = dict[bytes, bytes]


class _Request(Flight):
    """What is known of a request while it is served: enough to answer it well whatever goes wrong."""

    __slots__ = (
        "call", "cors", "dedup_id", "events", "grant", "qualifier", "record", "scope", "send", "started", "target",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(receive)
        self.scope = scope
        self.send = send
        self.grant: Grant | None = None
        self.target: Target | None = None
        self.call: Call | None = None
        self.record: UsageRecord | None = None
        self.cors: Headers = ()
        self.events: Mode | None = None  # how the request carries CloudEvents
        self.qualifier = ""  # that a call which nobody waits for was made with
        self.dedup_id = ""  # of its message; "" = it has no idempotency key
        self.started = False


class Invocations:
    """Serves ``POST /v1/functions/X/invocations`` (``segment`` = X) and ``/fn/X/...`` (``segment`` = None)."""

    def __init__(self, services: Services, auth: Authenticator, catalog: Catalog) -> None:
        self._invoke = services.invoker.invoke
        self.submit = services.invoker.submit
        self.abandon = services.invoker.abandon
        self.later = AsyncCalls(services)
        self._new_id = services.new_id
        store, self.once = services.idempotency, None
        if store is not None:
            self.once = Once(store, services.new_id, services.limits.body_bytes_max, lambda: self.draining)
        self._bytes_max = services.limits.body_bytes_max
        self._auth = auth
        self._catalog = catalog
        self.answers = Answers()
        self._names = Names()
        self.plain = PlainCalls(auth, catalog, self._names, self._bytes_max, services.new_id)
        self._random_bits = random.getrandbits
        self.watch = Watch(services.limits.body_wait_s)
        self.express: set[object] = set()  # calls in flight that are served without ASGI
        self.turnstile = Turnstile()
        self.draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send, segment: bytes | None) -> None:
        request = _Request(scope, receive, send)
        await self._served(request, self._serve(request, segment))

    async def stream(self, plain: Plain, call: Call, reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer of a call that began on the short way and turned out to stream."""
        request = _Request(scope, receive, send)
        request.target, request.grant, request.call, request.record = plain.target, plain.grant, call, reply.record
        request.reading = False
        await self._served(request, self._answer(request, reply))

    async def _served(self, request: _Request, work: Coroutine[Any, Any, None]) -> None:
        self.watch.enter(request)
        try:
            await work
        except asyncio.CancelledError:
            await self._cancelled(request)
        except body.CallerGone:
            pass
        except FaasError as error:
            await self._refuse(request, error)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is becomes a clean 500 and a log line
            await self._refuse(request, error)
        finally:
            self.watch.leave(request)

    async def _serve(self, request: _Request, segment: bytes | None) -> None:
        if self.draining:
            raise NoCapacity(DRAINING)
        pairs = request.scope["headers"]
        headers: HeaderMap = dict(pairs)
        if len(headers) != len(pairs):
            _check_repeats(pairs)
        if segment is not None:
            await self._direct(request, headers, segment)
        else:
            await self._http(request, headers)

    # -- the two ways in ------------------------------------------------------------------------------------------

    async def _direct(self, request: _Request, headers: HeaderMap, segment: bytes) -> None:
        presented = headers.get(b"authorization")
        grant = self._auth.peek(presented) if presented is not None else None
        if grant is None:
            grant = await self._auth.find(presented)
        request.grant = grant
        _, name, qualifier = self._names(segment)
        if not grant.may_invoke:
            grant.check_scope("invoke")
        namespace = grant.namespace or "default"
        query = request.scope["query_string"]
        if query or b"faas-namespace" in headers:
            namespace = named_namespace(query, headers.get(b"faas-namespace")) or namespace
            grant.check_namespace(namespace)
        target = self._catalog.peek(namespace, name, qualifier)
        if target is None:
            target = await self._find(grant, namespace, name, qualifier)
        request.target = target
        trigger = Trigger.DIRECT
        if b"prefer" in headers and prefers_async(headers[b"prefer"]):
            trigger, request.qualifier = Trigger.ASYNC, qualifier
        await self._run(request, headers, trigger, None)

    async def _http(self, request: _Request, headers: HeaderMap) -> None:
        scope = request.scope
        raw: bytes = scope["raw_path"]
        segment, _, rest = raw[4:].partition(b"/")
        namespace, name, qualifier = self._names(segment)
        target = self._catalog.peek(namespace, name, qualifier)
        presented = headers.get(b"authorization")
        if target is None:
            target = await self._find_http(request, presented, namespace, name, qualifier)
        request.target = target
        method: str = scope["method"]
        if target.origins and b"origin" in headers:
            if method == "OPTIONS" and b"access-control-request-method" in headers:
                await cors.preflight(target, headers, request.send)
                return
            request.cors = cors.response_headers(target, headers[b"origin"])
        own = await self._authorise(request, target, namespace, presented)
        if not target.any_method and method not in target.methods:
            raise MethodNotAllowed(f"The function '{name}' takes {', '.join(target.allow)} only.", target.allow)
        if headers.get(b"upgrade", b"").lower() == b"websocket":
            raise InvalidRequest("Functions do not speak WebSocket; use plain HTTP or a streamed response.")
        client = scope.get("client")
        address = client[0] if client else ""
        pairs, version = scope["headers"], scope["http_version"]
        http = http_request(method, rest, raw, scope["query_string"], pairs, address, version, own=own)
        await self._run(request, headers, Trigger.HTTP, http)

    async def _authorise(self, request: _Request, target: Target, namespace: str, presented: bytes | None) -> bool:
        """Check the key where one is needed. True when the Authorization header is the function's own to see.

        A key of the platform is never shown to function code, not even to a public function that is called with one.
        """
        if target.public:
            if presented is None:
                return True
            with contextlib.suppress(FaasError):
                grant = self._auth.peek(presented) or await self._auth.find_ours(presented)
                if grant is not None and grant.namespace in ("", namespace):
                    request.grant = grant
                return grant is None
            return False
        grant = self._auth.peek(presented) if presented is not None else None
        if grant is None:
            grant = await self._auth.find(presented)
        if grant.namespace and grant.namespace != namespace:
            grant.check_namespace(namespace)
        if not grant.may_invoke:
            grant.check_scope("invoke")
        request.grant = grant
        return False

    async def _find(self, grant: Grant, namespace: str, name: str, qualifier: str) -> Target:
        try:
            return await self._catalog.find(namespace, name, qualifier)
        except NotFound as error:
            hint = await self._catalog.hint(namespace, name) if grant.may_read else ""
            raise NotFound(error.message + hint) from error

    async def _find_http(
        self, request: _Request, presented: bytes | None, namespace: str, name: str, qualifier: str
    ) -> Target:
        """Only callers with a key learn that a name does not exist; others hear that a key is needed."""
        try:
            return await self._catalog.find(namespace, name, qualifier)
        except NotFound as error:
            if presented is None:
                raise Unauthenticated("There is no public function here; any other needs an API key.") from error
            grant = await self._auth.find(presented)
            grant.check_namespace(namespace)
            request.grant = grant
            hint = await self._catalog.hint(namespace, name) if grant.may_read else ""
            raise NotFound(error.message + hint) from error

    # -- the call -------------------------------------------------------------------------------------------------

    async def _run(self, request: _Request, headers: HeaderMap, trigger: Trigger, http: HttpRequest | None) -> None:
        declared = headers.get(b"content-length")
        if declared is not None:
            if len(declared) > 6 or not declared.isdigit() or int(declared) > self._bytes_max:
                body.check_declared(declared, self._bytes_max)
            payload = await body.read(request.receive, self._bytes_max)
        elif b"transfer-encoding" in headers:
            payload = await body.read(request.receive, self._bytes_max)
        else:
            payload = b""
        request.body_done()
        target, grant = request.target, request.grant
        assert target is not None
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        request.events = mode = mode_of(headers)
        if mode is not None:
            payload, content_type, http = taken(mode, request.scope["headers"], payload, http)
        call_id = self._new_id()
        least = said_hops(headers.get(b"faas-hops"))
        trace, hops = trace_parent(headers.get(b"traceparent"), call_id, self._random_bits, least)
        call = Call(
            call_id,
            trigger,
            payload,
            content_type,
            grant.key.id if grant is not None else "",
            1,
            trace,
            http,
            hops,
        )
        if HEADER in headers and (http is None or http.method in METHODS):
            await self._once(request, headers, call, partial(self._complete, request, target, call))
        else:
            await self._complete(request, target, call)

    async def _once(
        self, request: _Request, headers: HeaderMap, call: Call, work: Callable[[], Awaitable[None]]
    ) -> None:
        """By ``work``, unless the request's idempotency key has its answer already."""
        if self.once is None:
            raise InvalidRequest("Idempotency-Key is not supported by this node; send the call without it.")
        assert request.target is not None
        scope, kind = request.scope, call.content_type.encode("latin-1")
        how = f"{call.trigger.value} {scope['method']}".encode()
        own = b"" if request.grant is not None else headers.get(b"authorization", b"")  # whom the function itself knows
        parts = (how, scope["raw_path"], scope["query_string"], kind, call.payload, own, headers.get(b"cookie", b""))
        ask = asked(request.target.version, call.key_id, headers[HEADER], parts)
        request.dedup_id = ask.dedup_id
        await self.once(request, ask, work)

    async def _complete(self, request: _Request, target: Target, call: Call) -> None:
        request.call = call
        if call.trigger is Trigger.ASYNC:
            await self._later(request, target, call)
            return
        reply = await self._invoke(target.version, call)
        request.record = reply.record
        if reply.error is not None:
            raise reply.error
        if request.events is not None:
            reply = as_events(request.events, reply)
        await self._answer(request, reply)

    async def _later(self, request: _Request, target: Target, call: Call) -> None:
        """The answer of a call that nobody waits for: it is accepted."""
        await self.later.accept(target.version, call, request.qualifier, request.dedup_id)
        request.started = True
        payload = json.dumps({"id": call.id, "status": "queued"}).encode()
        headers = [
            (b"location", b"/v1/invocations/" + call.id.encode()),
            (b"preference-applied", b"respond-async"),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(payload)),
            *self._facts(request, complete=False),
        ]
        await request.send({"type": "http.response.start", "status": 202, "headers": headers})
        await request.send({"type": "http.response.body", "body": payload})

    async def _answer(self, request: _Request, reply: Reply) -> None:
        status, own, payload = self.answers.pairs(reply)
        headers = list(own)
        if request.cors:
            headers = [*cors.without_own(own), *request.cors]
        headers += self._facts(request, complete=reply.stream is None)
        if reply.stream is not None:
            await self._stream(request, status, headers, reply)
            return
        request.started = True
        await request.send({"type": "http.response.start", "status": status, "headers": headers})
        await request.send({"type": "http.response.body", "body": payload})

    async def _stream(self, request: _Request, status: int, headers: list[tuple[bytes, bytes]], reply: Reply) -> None:
        assert reply.stream is not None
        send = request.send
        request.started = True
        try:
            await send({"type": "http.response.start", "status": status, "headers": headers})
            async for chunk in reply.stream:
                if chunk and status not in NO_BODY:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            self.watch.leave(request)
            await send({"type": "http.response.body", "body": b""})
        finally:
            close = getattr(reply.stream, "aclose", None)
            if close is not None:
                await close()

    def _facts(self, request: _Request, *, complete: bool) -> Headers:
        assert request.call is not None
        assert request.target is not None
        return facts(request.target.version.version, request.call, request.record, complete=complete)

    # -- when it goes wrong ---------------------------------------------------------------------------------------

    async def _cancelled(self, request: _Request) -> None:
        if not (request.gone or request.late):
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        if request.late:
            await self._refuse(request, InvalidRequest("The body did not arrive in time; send it faster or smaller."))

    async def _refuse(self, request: _Request, error: Exception) -> None:
        """Answer with a problem, or, when the answer has begun, end the connection short and log why."""
        if request.started:
            called = f"{request.target.version.namespace}/{request.target.version.name}" if request.target else "?"
            call_id = request.call.id if request.call else "?"
            log.warning("the streamed response of %s, invocation %s, broke off: %s", called, call_id, error)
            cut(request.send)
            return
        grant = request.grant
        made = problem(
            error,
            internals=grant is not None and grant.may_read,
            invocation_id=request.call.id if request.call is not None else "",
        )
        extra = request.cors if request.call is None else (*request.cors, *self._facts(request, complete=True))
        request.started = True
        await body.refuse(
            made,
            request.scope,
            request.receive,
            request.send,
            unread=request.reading and not request.late,
            extra=extra,
            close=self.draining or request.late,
        )


def named_namespace(query: bytes, header: bytes | None) -> str | None:
    """The namespace a /v1 request names: the query's ``namespace``, else the header ``Faas-Namespace``, else None."""
    if query and b"namespace=" in query:
        values = parse_qs(query.decode("latin-1")).get("namespace")
        if values:
            return values[0]
    return header.decode("latin-1").strip() if header else None


def _check_repeats(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Headers that must come once; a second one is an attempt to be read differently by different parties."""
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and name in _ONCE:
            raise InvalidRequest(f"The header '{name.decode()}' was sent more than once.")
        seen.add(name)
