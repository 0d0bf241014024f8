"""The control API of functions: deploy, list, read, change, delete, versions, instances."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import Response, StreamingResponse

from faas.gateway import body, params
from faas.gateway.catalog import NAME, Catalog
from faas.gateway.deploy import Deployed, Deployer
from faas.gateway.problems import problem
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Progress, Services
from faas.model.errors import FaasError, InvalidRequest, NotFound
from faas.model.function import FunctionVersion
from faas.packaging.manifest import to_settings

NDJSON: Final = "application/x-ndjson"
SETTINGS_BYTES_MAX: Final = 1_000_000
MULTIPART_SLACK_BYTES: Final = SETTINGS_BYTES_MAX + 100_000
VERSIONS_SHOWN_MAX: Final = 100
DEPLOY_UPLOAD_S: Final = 600.0
_NS_PER_MS: Final = 1_000_000


class FunctionsApi:
    def __init__(self, services: Services, catalog: Catalog, deployer: Deployer) -> None:
        self._registry = services.registry
        self._invoker = services.invoker
        self._public_url = services.public_url.rstrip("/")
        self._catalog = catalog
        self._deployer = deployer

    def operations(self) -> list[Operation]:
        one = "/v1/functions/{name}"
        return [
            Operation("GET", "/v1/functions", "read", self.list),
            Operation("GET", one, "read", self.read),
            Operation("PUT", one, "deploy", self.deploy),
            Operation("PATCH", one, "deploy", self.change),
            Operation("DELETE", one, "deploy", self.delete),
            Operation("GET", f"{one}/versions", "read", self.versions),
            Operation("GET", f"{one}/instances", "read", self.instances),
        ]

    # -- reading --------------------------------------------------------------------------------------------------

    async def list(self, context: Context) -> Response:
        namespace = None if context.namespace == "*" else context.namespace
        found = await self._registry.functions(namespace)
        counts = self._instance_counts(namespace)
        listed = [
            {**self.document(version, context), "instances": counts.get((version.namespace, version.name), {})}
            for version in found
        ]
        return Json({"functions": listed})

    def _instance_counts(self, namespace: str | None) -> dict[tuple[str, str], Counter[str]]:
        """How many instances of each function this node has, by state."""
        counts: dict[tuple[str, str], Counter[str]] = {}
        for sandbox in self._invoker.describe(namespace, None):
            states = counts.setdefault((sandbox["namespace"], sandbox["function"]), Counter())
            states.update(instance["state"] for instance in sandbox["instances"])
        return counts

    async def read(self, context: Context) -> Response:
        return Json(self.document(await self._latest(context), context))

    async def versions(self, context: Context) -> Response:
        """Newest first, at most ``VERSIONS_SHOWN_MAX``. Numbers have no gaps within one life of a function."""
        latest = await self._latest(context)
        found = [latest]
        for number in range(latest.version - 1, max(0, latest.version - VERSIONS_SHOWN_MAX), -1):
            try:
                found.append(await self._registry.version(latest.namespace, latest.name, number))
            except NotFound:
                break
        return Json({"versions": [self.document(version, context) for version in found]})

    async def instances(self, context: Context) -> Response:
        latest = await self._latest(context)
        sandboxes = self._invoker.describe(latest.namespace, latest.name)
        return Json({"sandboxes": sandboxes, "generic": self._invoker.describe_generics(latest)})

    async def _latest(self, context: Context) -> FunctionVersion:
        latest = await self._registry.latest(context.namespace, context.name)
        if latest is None:
            hint = await self._catalog.hint(context.namespace, context.name)
            where = "" if context.namespace == "default" else f" in the namespace '{context.namespace}'"
            raise NotFound(f"There is no function '{context.name}'{where}.{hint}")
        return latest

    def document(self, version: FunctionVersion, context: Context) -> dict[str, Any]:
        """A version as callers see it: ``settings`` as one writes them, ``manifest`` with every default spelt out."""
        base = self._public_url or str(context.request.base_url).rstrip("/")
        suffix = "" if version.namespace == "default" else f".{version.namespace}"
        return {
            "name": version.name,
            "namespace": version.namespace,
            "version": version.version,
            "url": f"{base}/fn/{version.name}{suffix}",
            "public": version.manifest.http.public,
            "settings": to_settings(version.manifest),
            "manifest": version.manifest.model_dump(mode="json"),
            "bundle": version.bundle,
            "lock": version.lock,
            "created_at": params.rfc3339_ms(version.created_at_ms),
        }

    # -- writing --------------------------------------------------------------------------------------------------

    async def deploy(self, context: Context) -> Response:
        name = context.request.path_params["name"]
        if not NAME.match(name):
            raise InvalidRequest(
                f"'{name[:80]}' is not a name: a lower-case letter, then up to 62 of a-z, 0-9 and '-'."
            )
        settings, archive = await read_upload(context)

        async def work(progress: Progress) -> Deployed:
            return await self._deployer.deploy(context.namespace, name, settings, archive, progress)

        return await self._answer(context, work)

    async def change(self, context: Context) -> Response:
        name = context.name
        settings = await context.json()

        async def work(progress: Progress) -> Deployed:
            return await self._deployer.revise(context.namespace, name, settings, progress)

        return await self._answer(context, work)

    async def delete(self, context: Context) -> Response:
        try:
            await self._deployer.delete(context.namespace, context.name)
        except NotFound:
            await self._latest(context)  # says so with a hint
            raise
        return Response(status_code=204)

    async def _answer(self, context: Context, work: Callable[[Progress], Awaitable[Deployed]]) -> Response:
        if NDJSON in context.request.headers.get("accept", ""):
            return StreamingResponse(self._narrate(context, work), media_type=NDJSON)
        deployed = await work(lambda _text: None)
        return Json(self._deployed(deployed, context), 201 if deployed.new else 200)

    def _deployed(self, deployed: Deployed, context: Context) -> dict[str, Any]:
        document = self.document(deployed.version, context)
        init_ms = round(deployed.init_ns / _NS_PER_MS, 3)
        return {**document, "new": deployed.new, "init_ms": init_ms, "warnings": [*deployed.warnings]}

    async def _narrate(
        self, context: Context, work: Callable[[Progress], Awaitable[Deployed]]
    ) -> AsyncGenerator[bytes, None]:
        """The deploy as JSON lines: progress while it runs, then its result or problem. A caller who leaves ends it."""
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def run() -> None:
            try:
                deployed = await work(lambda text: lines.put_nowait({"progress": text}))
                lines.put_nowait({"result": self._deployed(deployed, context)})
            except FaasError as error:
                lines.put_nowait(_failed(error))
            except Exception as error:  # noqa: BLE001 - the boundary: the status line is gone, the problem goes in-line
                lines.put_nowait(_failed(error))
            finally:
                lines.put_nowait(None)

        task = asyncio.ensure_future(run())
        try:
            while (line := await lines.get()) is not None:
                yield json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _failed(error: Exception) -> dict[str, Any]:
    made = problem(error, internals=True)  # who may deploy a function may see why it fails
    return {"error": made.document, "status": made.status}


class _InMemory(MultiPartParser):
    """Keeps files in memory: their size is capped before they get here, and bundles stay off the disk."""

    spool_max_size = 1 << 62


async def read_upload(context: Context) -> tuple[dict[str, Any], bytes]:
    """``manifest`` (a JSON object, may be missing) and ``bundle`` of a multipart request.

    Raises ``InvalidRequest``, ``PayloadTooLarge``.
    """
    request = context.request
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise InvalidRequest(
            "A deploy is multipart/form-data with the parts 'manifest' (JSON) and 'bundle' (zip, tar.gz)."
        )
    bytes_max = context.limits.bundle_bytes_max + MULTIPART_SLACK_BYTES
    declared = request.headers.get("content-length")
    body.check_declared(declared.encode("latin-1") if declared is not None else None, bytes_max)
    stream = body.chunks(request.receive, bytes_max)
    parser = _InMemory(request.headers, stream, max_files=2, max_fields=2, max_part_size=SETTINGS_BYTES_MAX)
    try:
        async with asyncio.timeout(DEPLOY_UPLOAD_S):
            form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The multipart body cannot be read: {error.message}") from error
    except TimeoutError as error:
        raise InvalidRequest("The bundle did not arrive in time.") from error
    try:
        unknown = sorted(set(form) - {"manifest", "bundle"})
        if unknown:
            raise InvalidRequest(f"A deploy has the parts 'manifest' and 'bundle', not '{unknown[0][:60]}'.")
        archive = await _part(form.get("bundle"))
        if not archive:
            raise InvalidRequest("The part 'bundle' (a zip or tar.gz of the function) is missing or empty.")
        if len(archive) > context.limits.bundle_bytes_max:
            raise body.too_large(context.limits.bundle_bytes_max)
        return _settings(await _part(form.get("manifest"))), archive
    finally:
        await form.close()


async def _part(part: UploadFile | str | None) -> bytes:
    if part is None:
        return b""
    return part.encode("utf-8", "surrogateescape") if isinstance(part, str) else await part.read()


def _settings(raw: bytes) -> dict[str, Any]:
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The part 'manifest' is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidRequest("The part 'manifest' must be a JSON object of settings.")
    return value
