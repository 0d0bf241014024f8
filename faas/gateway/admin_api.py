"""The control API beside functions: nodes, runtimes, keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.responses import Response

from faas.gateway import params
from faas.gateway.auth import SCOPES, Authenticator
from faas.gateway.catalog import NAME
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.model.errors import InvalidRequest, NotFound
from faas.ports import ApiKey


class AdminApi:
    def __init__(self, services: Services, auth: Authenticator, draining: Callable[[], bool]) -> None:
        self._services = services
        self._auth = auth
        self._draining = draining

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/nodes", "read", self.nodes),
            Operation("GET", "/v1/runtimes", "read", self.runtimes),
            Operation("GET", "/v1/keys", "admin", self.keys),
            Operation("POST", "/v1/keys", "admin", self.create_key),
            Operation("DELETE", "/v1/keys/{id}", "admin", self.revoke_key),
        ]

    # -- the platform ---------------------------------------------------------------------------------------------

    async def nodes(self, _: Context) -> Response:
        services = self._services
        stats = services.invoker.stats()
        return Json(
            {
                "nodes": [
                    {
                        "name": services.node,
                        "state": "draining" if self._draining() else "ready",
                        "engine": services.engine,
                        "isolation": services.isolation,
                        "instances": stats.get("instances", {}),
                        "sandboxes": stats.get("sandboxes", {}),
                        "queued": stats.get("queued", 0),
                        "memory_bytes": stats.get("memory_bytes", 0),
                        "journal_pending_records": services.journal_pending(),
                    }
                ]
            }
        )

    async def runtimes(self, _: Context) -> Response:
        return Json({"runtimes": [dict(runtime) for runtime in self._services.runtimes]})

    # -- keys -----------------------------------------------------------------------------------------------------

    async def keys(self, context: Context) -> Response:
        return Json({"keys": [key_document(key) for key in await self._visible(context)]})

    async def create_key(self, context: Context) -> Response:
        """A new key. The secret is in the answer and nowhere else."""
        asked = await context.json()
        unknown = sorted(set(asked) - {"namespace", "scopes"})
        if unknown:
            raise InvalidRequest(f"A key has 'namespace' and 'scopes', not '{unknown[0][:60]}'.")
        namespace = asked.get("namespace", context.namespace)
        scopes = asked.get("scopes", ["invoke", "read"])
        if not isinstance(namespace, str) or not (namespace == "*" or NAME.match(namespace)):
            raise InvalidRequest("'namespace' must be a namespace's name, or '*' for all of them.")
        if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
            raise InvalidRequest(f"'scopes' must be a list of: {', '.join(SCOPES)}.")
        context.grant.check_namespace(namespace)
        key, secret = await self._services.keys.create(namespace, tuple(dict.fromkeys(scopes)))
        return Json({**key_document(key), "secret": secret}, 201, {"cache-control": "no-store"})

    async def revoke_key(self, context: Context) -> Response:
        key_id: str = context.request.path_params["id"]
        if not any(key.id == key_id for key in await self._visible(context)):
            raise NotFound(f"There is no key '{key_id[:64]}'.")
        await self._services.keys.revoke(key_id)
        self._auth.forget()
        return Response(status_code=204)

    async def _visible(self, context: Context) -> list[ApiKey]:
        """The keys a caller may manage: all of them, or those of the namespace its own key is bound to."""
        bound = context.grant.namespace
        return [key for key in await self._services.keys.list() if not bound or key.namespace == bound]


def key_document(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "namespace": key.namespace,
        "scopes": list(key.scopes),
        "created_at": params.rfc3339_ms(key.created_at_ms),
    }
