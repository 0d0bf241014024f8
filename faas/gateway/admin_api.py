"""The control API beside functions: usage, nodes, runtimes, keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from starlette.responses import Response

from faas.gateway import params
from faas.gateway.auth import SCOPES, Authenticator
from faas.gateway.catalog import NAME
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.metering.sums import DIMENSIONS, METRICS
from faas.model.errors import InvalidRequest, NotFound
from faas.model.usage import MB_MS_PER_GB_SECOND
from faas.ports import ApiKey

_FILTERS: Final = ("function", "version", "key", "trigger", "status", "start")
_NS_PER_MS: Final = 1_000_000


class AdminApi:
    def __init__(self, services: Services, auth: Authenticator, draining: Callable[[], bool]) -> None:
        self._services = services
        self._auth = auth
        self._draining = draining

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/usage", "read", self.usage),
            Operation("GET", "/v1/nodes", "read", self.nodes),
            Operation("GET", "/v1/runtimes", "read", self.runtimes),
            Operation("GET", "/v1/keys", "admin", self.keys),
            Operation("POST", "/v1/keys", "admin", self.create_key),
            Operation("DELETE", "/v1/keys/{id}", "admin", self.revoke_key),
        ]

    # -- money ----------------------------------------------------------------------------------------------------

    async def usage(self, context: Context) -> Response:
        """Exact sums by label. ``from`` defaults to the start of this month, ``to`` to now."""
        now_ms = self._services.clock.unix_ns() // _NS_PER_MS
        start, end = context.query("from"), context.query("to")
        start_ms = params.time_ms(start, "from", now_ms) if start else params.month_start_ms(now_ms)
        end_ms = params.time_ms(end, "to", now_ms) if end else now_ms + 1
        if end_ms <= start_ms:
            raise InvalidRequest("'to' must be later than 'from'.")
        by = _labels(context.query("by"))
        where = {name: value for name in _FILTERS if (value := context.query(name)) is not None}
        every = context.namespace == "*" or (not context.named and not context.grant.namespace)
        if not every:
            where["namespace"] = context.namespace
        rows = await self._services.ledger.usage(start_ms, end_ms, by, where)
        totals = Counter(dict.fromkeys(("invocations", "errors", *METRICS[1:]), 0))
        for row in rows:
            totals.update(dict(row.sums))
        return Json(
            {
                "from": params.rfc3339_ms(start_ms),
                "to": params.rfc3339_ms(end_ms),
                "by": by,
                "rows": [{**row.labels, **with_gb_seconds(row.sums)} for row in rows],
                "totals": with_gb_seconds(totals),
            }
        )

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


def with_gb_seconds(sums: Mapping[str, int]) -> dict[str, int | str]:
    """The integer sums and, as an exact decimal in a string, the GB-seconds that ``mb_ms`` is.

    >>> with_gb_seconds({"mb_ms": 128})
    {'mb_ms': 128, 'gb_seconds': '0.000125'}
    """
    gb_seconds = Decimal(sums.get("mb_ms", 0)) / MB_MS_PER_GB_SECOND
    text = f"{gb_seconds:f}"
    return {**sums, "gb_seconds": text.rstrip("0").rstrip(".") if "." in text else text}


def _labels(by: str | None) -> list[str]:
    labels = list(dict.fromkeys(label.strip() for label in (by or "function").split(",") if label.strip()))
    for label in labels:
        if label not in DIMENSIONS:
            raise InvalidRequest(f"by={label[:60]!r}: usage is grouped by any of {', '.join(DIMENSIONS)}.")
    return labels
