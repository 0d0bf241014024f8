"""Deploy: from an uploaded bundle to a version that is known to load.

Theory of operation. prepare (settings and archive, in a thread) -> lock the dependencies (in a thread) -> store both
by content -> take the next version number -> load it in a sandbox -> commit. Only the commit makes anything visible, so
whatever fails before leaves nothing behind but unreferenced blobs. Deploys of one function are one after another on
this node; against other nodes the registry's compare-and-set decides, and the loser tries again with the next number.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakValueDictionary

from faas.gateway.catalog import Catalog
from faas.gateway.services import Progress, Services
from faas.model.connection import misfits
from faas.model.errors import (
    Conflict,
    DeadlineExceeded,
    FunctionFailed,
    InstanceCrashed,
    InvalidManifest,
    ManifestProblem,
    NotFound,
)
from faas.model.function import FunctionVersion
from faas.model.manifest import Manifest

log = logging.getLogger("faas.gateway")

COMMIT_TRIES: Final = 4
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Deployed:
    version: FunctionVersion
    new: bool
    init_ns: int
    warnings: tuple[str, ...]


class Deployer:
    """Makes, changes and deletes functions. The only writer of the registry on this node."""

    def __init__(self, services: Services, catalog: Catalog) -> None:
        self._registry = services.registry
        self._invoker = services.invoker
        self._prepare = services.prepare
        self._revise = services.revise
        self._lock = services.lock
        self._clock = services.clock
        self._connections = services.connections
        self._catalog = catalog
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def deploy(
        self, namespace: str, name: str, settings: Mapping[str, Any], archive: bytes, progress: Progress
    ) -> Deployed:
        """A new version from an archive. Raises ``InvalidManifest``, ``Conflict``, ``NoCapacity``, platform errors."""
        async with self._one_at_a_time(namespace, name):
            progress("reading the bundle")
            prepared = await asyncio.to_thread(self._prepare, archive, settings, name)
            self._check_sources(prepared.manifest)
            lock = ""
            if prepared.dependencies:
                progress("resolving the dependencies")
                locked = await self._lock(prepared.dependencies, progress=progress)
                lock = await self._registry.put_blob(locked) if locked else ""
            bundle = await self._registry.put_blob(prepared.archive)
            draft = functools.partial(self._version, namespace, prepared.manifest, bundle, lock)
            return await self._release(namespace, name, draft, prepared.warnings, progress)

    async def revise(self, namespace: str, name: str, settings: Mapping[str, Any], progress: Progress) -> Deployed:
        """A new version with the same code and changed settings. Raises ``NotFound`` and as ``deploy`` does."""
        async with self._one_at_a_time(namespace, name):
            current = await self._registry.latest(namespace, name)
            if current is None:
                raise NotFound(f"There is no function '{name}'.")
            manifest = await asyncio.to_thread(self._revise, current.manifest, settings)
            self._check_sources(manifest)
            draft = functools.partial(self._version, namespace, manifest, current.bundle, current.lock)
            return await self._release(namespace, name, draft, (), progress)

    async def delete(self, namespace: str, name: str) -> None:
        """Forget the function; calls in flight end, its sandboxes are drained. Raises ``NotFound``."""
        async with self._one_at_a_time(namespace, name):
            await self._registry.delete(namespace, name)
            self._catalog.changed(namespace, name)
            await self._invoker.forget(namespace, name)

    async def changed_elsewhere(self, namespace: str, name: str) -> None:
        """A commit or delete was announced, perhaps by another node: let go of sandboxes of versions past."""
        if (namespace, name) in self._locks:
            return  # it is our own, and a new version may be loading
        latest = await self._registry.latest(namespace, name)
        await self._invoker.forget(namespace, name, keep=latest.version if latest is not None else None)

    def _check_sources(self, manifest: Manifest) -> None:
        """This node speaks for all: what it could not serve, nobody is to be left waiting for."""
        problems = [ManifestProblem(key, sentence) for key, sentence in misfits(manifest, self._connections)]
        if problems:
            raise InvalidManifest(problems)

    def _version(self, namespace: str, manifest: Manifest, bundle: str, lock: str, number: int) -> FunctionVersion:
        return FunctionVersion(
            namespace=namespace,
            name=manifest.name,
            version=number,
            manifest=manifest,
            bundle=bundle,
            lock=lock,
            created_at_ms=self._clock.unix_ns() // _NS_PER_MS,
        )

    async def _release(
        self,
        namespace: str,
        name: str,
        draft: Callable[[int], FunctionVersion],
        warnings: tuple[str, ...],
        progress: Progress,
    ) -> Deployed:
        """Number the draft, load it, commit it. What does not get that far leaves no sandbox behind."""
        serving = await self._registry.latest(namespace, name)
        keep = serving.version if serving is not None else None
        for tries_left in reversed(range(COMMIT_TRIES)):
            number = await self._registry.next_version(namespace, name)
            version = draft(number)
            progress(f"loading version {number}")
            try:
                init_ns = await self._load(version)
                new = await self._registry.commit(version)
                keep = number
                self._catalog.changed(namespace, name)
            except Conflict:
                if not tries_left:
                    raise
                log.info("%s was taken by another deploy, trying the next number", version.label)
                continue
            finally:
                await self._invoker.forget(namespace, name, keep=keep)
            return Deployed(version, new, init_ns, warnings)
        raise AssertionError("the last try returns or raises")

    async def _load(self, version: FunctionVersion) -> int:
        try:
            return await self._invoker.load(version)
        except FunctionFailed as error:
            what = f"{error.error_type}: {error.message}" if error.error_type else error.message
            details = {"error_type": error.error_type, "message": error.message, "traceback": error.traceback}
            raise _does_not_load(version, what, details) from error
        except InstanceCrashed as error:
            raise _does_not_load(version, error.message, {"exit": error.exit}) from error
        except DeadlineExceeded as error:
            raise _does_not_load(version, error.message, {}) from error

    @asynccontextmanager
    async def _one_at_a_time(self, namespace: str, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault((namespace, name), asyncio.Lock())
        async with lock:
            yield


def _does_not_load(version: FunctionVersion, what: str, details: dict[str, str]) -> InvalidManifest:
    text = f"the module '{version.manifest.entry or version.name}' does not load: {what}"
    error = InvalidManifest([ManifestProblem("handler", text)], text)
    error.details.update(details)
    return error
