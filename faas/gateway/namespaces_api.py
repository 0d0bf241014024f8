"""Namespaces over HTTP, and their limits on this node.

A namespace need not be created: what is deployed into one that nobody spoke of works, under the limits that the node
has for all. Only a key for every namespace changes limits: those of a tenant are not the tenant's to raise.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response

from faas.gateway import params
from faas.gateway.catalog import EVERYTHING, NAME
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import InvokerPort, Services
from faas.model.errors import Forbidden, InvalidRequest, NotFound
from faas.model.namespace import Namespace
from faas.packaging import sizes
from faas.ports import NamespaceStore

DEFAULT: Final = "default"
_NS_PER_MS: Final = 1_000_000
_SETTINGS: Final = ("max_concurrency", "memory")


class NamespaceLimits:
    """Keeps the invoker told of the limits in the store."""

    def __init__(self, store: NamespaceStore, invoker: InvokerPort) -> None:
        self._store = store
        self._limit = invoker.limit
        self._told: set[str] = set()
        self._lock = asyncio.Lock()  # what was read first is told first

    async def reload(self) -> None:
        """Raises ``StoreUnavailable``; what was told before holds then."""
        async with self._lock:
            found = await self._store.list()
            for name in self._told.difference(namespace.name for namespace in found):
                self._limit(name, None, None)
            for namespace in found:
                self._limit(namespace.name, namespace.max_concurrency, namespace.memory_mb)
            self._told = {namespace.name for namespace in found}

    def following(self, others: Callable[[str, str], Awaitable[None]]) -> Callable[[str, str], Awaitable[None]]:
        """What to do about a change in the registry: its own are read again, the others are for ``others``."""

        async def changed(namespace: str, name: str) -> None:
            if name and name != EVERYTHING:
                await others(namespace, name)
            else:
                await self.reload()

        return changed


class NamespacesApi:
    def __init__(self, services: Services, limits: NamespaceLimits) -> None:
        self._services = services
        self._store = services.namespaces
        self._limits = limits

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/namespaces", "read", self.list),
            Operation("POST", "/v1/namespaces", "admin", self.create),
            Operation("GET", "/v1/namespaces/{name}", "read", self.read),
            Operation("PUT", "/v1/namespaces/{name}", "admin", self.put),
            Operation("DELETE", "/v1/namespaces/{name}", "admin", self.delete),
        ]

    async def list(self, context: Context) -> Response:
        """Those that were created and those that have functions, as far as the key may know of them."""
        bound = context.grant.namespace
        found = await self._known()
        return Json({"namespaces": [found[name] for name in sorted(found) if not bound or name == bound]})

    async def read(self, context: Context) -> Response:
        name = context.request.path_params["name"]
        context.grant.check_namespace(name)
        document = (await self._known()).get(name)
        if document is None:
            raise NotFound(f"There is no namespace '{name[:80]}'.")
        return Json(document)

    async def create(self, context: Context) -> Response:
        asked = await context.json()
        return await self._put(context, asked.pop("name", None), asked, new=True)

    async def put(self, context: Context) -> Response:
        """Set all its limits: one that is not named is the node's."""
        asked = await context.json()
        name = context.request.path_params["name"]
        if asked.pop("name", name) != name:
            raise InvalidRequest("'name' is not the one in the path.")
        return await self._put(context, name, asked, new=False)

    async def delete(self, context: Context) -> Response:
        _check_every(context)
        await self._store.delete(context.request.path_params["name"])
        await self._limits.reload()
        return Response(status_code=204)

    async def _put(self, context: Context, name: object, asked: dict[str, Any], *, new: bool) -> Response:
        _check_every(context)
        if not isinstance(name, str) or not NAME.match(name):
            raise InvalidRequest("'name' must be a namespace's name: a lower-case letter, then a-z, 0-9 and '-'.")
        unknown = sorted(asked.keys() - set(_SETTINGS))
        if unknown:
            raise InvalidRequest(f"'{unknown[0][:60]}' is no setting of a namespace; there is {', '.join(_SETTINGS)}.")
        known = await self._store.get(name)
        now_ms = self._services.clock.unix_ns() // _NS_PER_MS
        namespace = Namespace(
            name=name,
            max_concurrency=_count(asked.get("max_concurrency")),
            memory_mb=_memory_mb(asked.get("memory")),
            created_at_ms=known.created_at_ms if known is not None else now_ms,
        )
        first = await self._store.put(namespace, new=new)
        await self._limits.reload()
        return Json((await self._known())[name], 201 if first else 200)

    async def _known(self) -> dict[str, dict[str, Any]]:
        functions = Counter(version.namespace for version in await self._services.registry.functions(None))
        known = {namespace.name: namespace for namespace in await self._store.list()}
        here: dict[str, dict[str, int]] = self._services.invoker.stats().get("namespaces", {})
        return {
            name: _document(known.get(name, Namespace(name=name)), functions[name], here.get(name, {}))
            for name in {DEFAULT, *functions, *known}
        }


def _document(namespace: Namespace, functions: int, here: dict[str, int]) -> dict[str, Any]:
    """``null`` limits are the node's. ``calls`` and ``memory_used`` are this node's, now."""
    memory_mb = namespace.memory_mb
    return {
        "name": namespace.name,
        "max_concurrency": namespace.max_concurrency,
        "memory": None if memory_mb is None else sizes.format_memory_mb(memory_mb),
        "functions": functions,
        "calls": here.get("calls", 0),
        "memory_used": sizes.format_memory_mb(here.get("memory_mb", 0)),
        "created_at": params.rfc3339_ms(namespace.created_at_ms) if namespace.created_at_ms else None,
    }


def _check_every(context: Context) -> None:
    if context.grant.namespace:
        raise Forbidden("This key belongs to one namespace; limits are set with a key for all of them.")


def _count(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**9):
        return value
    raise InvalidRequest("'max_concurrency' must be a whole number of calls of at least 1, or null.")


def _memory_mb(value: object) -> int | None:
    if value is None:
        return None
    try:
        memory_mb = sizes.parse_size_bytes(value) // sizes.MIB
    except ValueError as error:
        raise InvalidRequest(f"'memory': {error}.") from error
    if memory_mb < 1:
        raise InvalidRequest("'memory' must be at least 1MB, or null.")
    return memory_mb
