"""The frame of the control API: operations grouped by path, each with its scope; errors become problems in one place.

Plain ASGI around Starlette's router, request and response classes; no middleware. An operation gets a ``Context`` and
returns a ``Response`` or raises an error of the tree.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from faas.gateway import body
from faas.gateway.auth import Authenticator, Grant
from faas.gateway.catalog import NAME
from faas.gateway.invocations import named_namespace
from faas.gateway.problems import log, problem
from faas.gateway.services import Limits
from faas.model.errors import FaasError, InvalidRequest, MethodNotAllowed, NotFound

JSON_TYPE: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Context:
    """One authenticated control request. ``namespace`` is checked against the key already."""

    request: Request
    grant: Grant
    namespace: str
    named: bool  # the caller named the namespace; else it is the key's, or "default"
    limits: Limits

    @property
    def name(self) -> str:
        """The function's name in the path; raises ``NotFound`` when it cannot be one."""
        name: str = self.request.path_params["name"]
        if not NAME.match(name):
            raise NotFound(f"There is no function '{name[:80]}'.")
        return name

    def query(self, name: str) -> str | None:
        """A query parameter; an empty one counts as absent."""
        return self.request.query_params.get(name) or None

    async def json(self, *, optional: bool = False) -> dict[str, Any]:
        """The body as a JSON object; raises ``InvalidRequest``, ``PayloadTooLarge``. ``optional``: no body is {}."""
        content_type = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type and content_type != JSON_TYPE and not content_type.endswith("+json"):
            raise InvalidRequest(f"This route takes {JSON_TYPE}, not {content_type[:60]}.")
        raw = await self.body(self.limits.json_bytes_max)
        if optional and not raw:
            return {}
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"The body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidRequest("The body must be a JSON object.")
        return value

    async def body(self, bytes_max: int) -> bytes:
        """The whole body. Raises ``PayloadTooLarge`` by its declared length or as soon as it passes the cap."""
        declared = self.request.headers.get("content-length")
        body.check_declared(declared.encode("latin-1") if declared is not None else None, bytes_max)
        try:
            async with asyncio.timeout(self.limits.body_wait_s):
                return await body.read(self.request.receive, bytes_max)
        except TimeoutError as error:
            raise InvalidRequest("The body did not arrive in time.") from error


Handler = Callable[[Context], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """What one method of one path does, and the scope a key needs for it."""

    method: str
    path: str
    scope: str
    handler: Handler


class Json(Response):
    """Compact JSON with its own content type."""

    media_type = JSON_TYPE

    def __init__(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        super().__init__(
            json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"), status, headers
        )


class _Started:
    """``send`` that remembers whether the answer has begun."""

    __slots__ = ("send", "yes")

    def __init__(self, send: Send) -> None:
        self.send = send
        self.yes = False

    async def __call__(self, message: Message) -> None:
        self.yes = True
        await self.send(message)


class Resource:
    """All operations of one path as an ASGI app."""

    def __init__(self, operations: Sequence[Operation], auth: Authenticator, limits: Limits) -> None:
        self._operations = {o.method: o for o in operations}
        if "GET" in self._operations:
            self._operations.setdefault("HEAD", self._operations["GET"])
        self._auth = auth
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming, started = body.Incoming(receive), _Started(send)
        grant: Grant | None = None
        try:
            operation = self._operations.get(scope["method"])
            if operation is None:
                allow = tuple(sorted(self._operations))
                raise MethodNotAllowed(f"This route takes {', '.join(allow)} only.", allow)
            headers: dict[bytes, bytes] = dict(scope["headers"])
            grant = await self._auth.find(headers.get(b"authorization"))
            grant.check_scope(operation.scope)
            named = named_namespace(scope["query_string"], headers.get(b"faas-namespace"))
            namespace = self._namespace(grant, named)
            context = Context(Request(scope, incoming), grant, namespace, named is not None, self._limits)
            response = await operation.handler(context)
            await response(scope, incoming, started)
        except body.CallerGone:
            return
        except FaasError as error:
            await self._refuse(error, grant, scope, incoming, started)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is becomes a clean 500 and a log line
            await self._refuse(error, grant, scope, incoming, started)

    @staticmethod
    def _namespace(grant: Grant, named: str | None) -> str:
        if named is None:
            return grant.namespace or "default"
        if named == "*" and not grant.namespace:
            return "*"
        grant.check_namespace(named)
        if not NAME.match(named):
            raise InvalidRequest(f"'{named[:80]}' is not a namespace: a lower-case letter, then a-z, 0-9 and '-'.")
        return named

    async def _refuse(
        self, error: Exception, grant: Grant | None, scope: Scope, incoming: body.Incoming, started: _Started
    ) -> None:
        if started.yes:
            log.warning("a response ended early", exc_info=error)
            return
        made = problem(error, internals=grant is not None and grant.may_read)
        await body.refuse(made, scope, incoming, started, unread=not incoming.complete)


def routes(operations: Sequence[Operation], auth: Authenticator, limits: Limits) -> list[Route]:
    """One Starlette route per path, in the order the paths first appear."""
    by_path: dict[str, list[Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, []).append(operation)
    return [Route(path, Resource(found, auth, limits)) for path, found in by_path.items()]
