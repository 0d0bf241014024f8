"""The ASGI application of a node: invocations on a plain path in front, everything else through Starlette's router.

Theory of operation. ``Gateway.__call__`` looks at the raw path: calls go straight to ``Invocations``, the rest to the
router. The lifespan (``serving``) runs what works beside the requests: following registry changes and refreshing keys.

Going down, in order: ``begin_drain`` (new calls get 503 and a closed connection, ``/readyz`` says no, log followers
end), the server stops accepting and waits for what is in flight, the lifespan ends, then the invoker is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

from prometheus_client.core import CounterMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from faas.gateway import body
from faas.gateway.admin_api import AdminApi
from faas.gateway.async_api import InvocationsApi
from faas.gateway.auth import Authenticator
from faas.gateway.bills_api import BillsApi
from faas.gateway.budget_metrics import budget_metrics
from faas.gateway.budgets import BudgetWatch
from faas.gateway.budgets_api import BudgetsApi
from faas.gateway.catalog import Catalog
from faas.gateway.deploy import Deployer
from faas.gateway.express import protocol_for
from faas.gateway.functions_api import FunctionsApi
from faas.gateway.invocations import Invocations
from faas.gateway.logs_api import LogsApi
from faas.gateway.metrics import Metrics
from faas.gateway.namespaces_api import NamespaceLimits, NamespacesApi
from faas.gateway.openapi.document import document
from faas.gateway.prices_api import PricesApi
from faas.gateway.problems import log, problem
from faas.gateway.queues_api import QueuesApi
from faas.gateway.reconcile_api import ReconcileApi
from faas.gateway.resources import Context, Json, Operation, routes
from faas.gateway.services import Services
from faas.gateway.triggers_api import TriggersApi
from faas.gateway.usage_api import UsageApi
from faas.model.errors import FaasError, MethodNotAllowed, NotFound
from faas.model.function import FunctionVersion
from faas.model.usage import UsageRecord

READY_S: Final = 2.0
_FN: Final = b"/fn/"
_FUNCTIONS: Final = b"/v1/functions/"
_INVOCATIONS: Final = b"/invocations"
_OPEN: Final = ("/healthz", "/readyz")


class Gateway:
    """The app. ``observe`` takes every finished usage record; ``begin_drain`` starts going down."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._auth = Authenticator(services.keys, services.clock, services.key_prefix)
        self._catalog = Catalog(services.registry)
        self._deployer = Deployer(services, self._catalog)
        self.limits = NamespaceLimits(services.namespaces, services.invoker)
        self.budgets = BudgetWatch(services)
        self._calls = Invocations(services, self._auth, self._catalog)
        self.protocol = protocol_for(self._calls)  # to serve this app with; any other works, only more slowly
        self._draining = asyncio.Event()
        self._records = InvocationsApi(services, self._draining.is_set)
        self.metrics = Metrics(services.invoker.stats, services.journal_pending, services.export, self._more_metrics)
        self.operations = self._operations()
        self._router = Router(
            routes(self.operations, self._auth, services.limits), redirect_slashes=False, default=_no_route
        )

    def _more_metrics(self) -> Iterator[Metric]:
        yield from budget_metrics(self.budgets)
        replayed = CounterMetricFamily(
            "faas_replayed", "Answers given again for an Idempotency-Key, by this node.", labels=("namespace",)
        )
        for namespace, count in (self._calls.once.replayed if self._calls.once is not None else {}).items():
            replayed.add_metric((namespace,), count)
        yield replayed

    def _operations(self) -> list[Operation]:
        draining = self._draining
        return [
            *QueuesApi(self._services).operations(),  # first: paths are tried in order, and sending is frequent
            *FunctionsApi(self._services, self._catalog, self._deployer).operations(),
            *self._records.operations(),
            Operation("POST", "/v1/functions/{name}/invocations", "invoke", self._invoke_slowly),
            *TriggersApi(self._services).operations(),
            *LogsApi(self._services, self._catalog, draining).operations(),
            *NamespacesApi(self._services, self.limits).operations(),
            *BillsApi(self._services).operations(),
            *PricesApi(self._services).operations(),
            *ReconcileApi(self._services).operations(),
            *BudgetsApi(self._services, self.budgets).operations(),
            *AdminApi(self._services, self._auth, draining.is_set).operations(),
            *UsageApi(self._services).operations(),
            Operation("GET", "/metrics", "read", self._metrics),
            Operation("GET", "/openapi.json", "read", self._openapi),
        ]

    # -- what the node's composition root uses ----------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Invocations that are being served."""
        return len(self._calls.watch) + len(self._calls.express)

    async def latest(self, namespace: str, name: str, qualifier: str = "") -> FunctionVersion:
        """The version that answers for a function now. Raises ``NotFound``, ``StoreUnavailable``."""
        return (await self._catalog.find(namespace, name, qualifier)).version

    def known(self, namespace: str, name: str) -> FunctionVersion | None:
        """As ``latest``, if it can be said without asking anybody."""
        target = self._catalog.peek(namespace, name, "")
        return target.version if target is not None else None

    def observe(self, record: UsageRecord, sequence: int) -> None:
        """``sequence`` is the record's in the journal; 0 when it is not there."""
        self.metrics.observe(record)
        if self.budgets.some:
            self.budgets.ended(record, sequence)

    def begin_drain(self) -> None:
        """From now on new calls are refused; those in flight go on. Idempotent."""
        self._calls.draining = True
        self._draining.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """What works beside the requests. The server enters it through the ASGI lifespan."""
        async with asyncio.TaskGroup() as group:

            def refresh(header: bytes) -> None:
                group.create_task(self._auth.refresh(header))

            self._auth.spawn = refresh
            changed = self.budgets.following(self.limits.following(self._deployer.changed_elsewhere))
            beside = [
                group.create_task(self._catalog.watch(changed)),
                group.create_task(self.budgets.run()),
                group.create_task(self._records.run()),
            ]
            try:
                yield
            finally:
                self._auth.spawn = _nowhere
                for task in beside:
                    task.cancel()
                if self._calls.once is not None:
                    await self._calls.once.close()

    # -- ASGI -------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raw: bytes = scope.get("raw_path") or b""
            if raw.startswith(_FN):
                await self._calls(scope, receive, send, None)
                return
            if raw.endswith(_INVOCATIONS) and raw.startswith(_FUNCTIONS) and scope["method"] == "POST":
                await self._calls(scope, receive, send, raw[14:-12])
                return
        await self._other(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1003, "reason": "this server does not speak WebSocket"})
        elif "raw_path" not in scope:  # optional in ASGI; routing of calls needs it
            scope["raw_path"] = quote(scope["path"]).encode("ascii")
            await self(scope, receive, send)
        elif scope["path"] in _OPEN:
            await self._probe(scope, receive, send)
        else:
            await self._router(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self.serving():
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.begin_drain()
        await send({"type": "lifespan.shutdown.complete"})

    async def _probe(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``/healthz``: the process answers. ``/readyz``: it should be sent calls; if not, why."""
        if scope["method"] not in ("GET", "HEAD"):
            made = problem(MethodNotAllowed("This route takes GET and HEAD only.", ("GET", "HEAD")))
            await body.refuse(made, scope, receive, send, unread=True)
            return
        response = Json({"status": "ok"})
        if scope["path"] == "/readyz":
            reasons = await self._not_ready()
            status = "not ready" if reasons else "ready"
            response = Json({"status": status, "reasons": reasons}, 503 if reasons else 200)
        response.headers["cache-control"] = "no-store"
        await response(scope, receive, send)

    async def _not_ready(self) -> list[str]:
        reasons = ["draining"] if self._draining.is_set() else []
        try:
            async with asyncio.timeout(READY_S):
                reasons += await self._services.ready()
        except FaasError as error:
            reasons.append(error.code)
        except TimeoutError:
            reasons.append("the store did not answer in time")
        except Exception:  # noqa: BLE001 - the boundary: a probe answers whatever happens
            log.exception("the readiness probe failed")
            reasons.append("the readiness probe failed")
        return reasons

    # -- operations of no other home --------------------------------------------------------------------------------

    async def _metrics(self, _: Context) -> Response:
        await self.metrics.look()
        text, content_type = self.metrics.render()
        return Response(text, media_type=None, headers={"content-type": content_type})

    async def _openapi(self, context: Context) -> Response:
        return Json(document(str(context.request.base_url).rstrip("/")))

    async def _invoke_slowly(self, context: Context) -> Response:
        """A direct call whose path was written in an unusual way (``/v1/functions/hello/invocation%73``)."""
        return _Forward(self._calls, context.request)


class _Forward(Response):
    """Hands a request on to the hot path."""

    def __init__(self, calls: Invocations, request: Request) -> None:
        super().__init__()
        self._calls = calls
        self._name = quote(request.path_params["name"], safe="").encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._calls(scope, receive, send, self._name)


def build_app(services: Services) -> Gateway:
    """The gateway of one node. Serve it with any ASGI server; its lifespan must run."""
    return Gateway(services)


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    made = problem(NotFound(f"There is nothing at {scope['path'][:200]}; /openapi.json lists what there is."))
    await body.refuse(made, scope, receive, send, unread=True)


def _nowhere(_: bytes) -> None:
    return None
