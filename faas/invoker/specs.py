"""The function versions that are in use here, and what the pool has to know of each."""

from __future__ import annotations

from collections.abc import Container

from faas.model.function import FunctionVersion
from faas.pool.messages import Flavour, FunctionSpec

NS_PER_MS = 1_000_000
SURPLUS_MAX = 64  # versions beyond twice those that the pool knows, before they are looked through


class Specs:
    """``versions`` by key. A version is known from the first time its spec is asked for until it is dropped."""

    def __init__(self, warm_ns: int) -> None:
        self.versions: dict[str, FunctionVersion] = {}
        self._warm_ns = warm_ns
        self._known: dict[str, FunctionSpec] = {}

    def of(self, version: FunctionVersion) -> FunctionSpec:
        return self._known.get(version.key) or self._add(version)

    def _add(self, version: FunctionVersion) -> FunctionSpec:
        manifest = version.manifest
        keep_ns = None if manifest.keep_alive_ms is None else manifest.keep_alive_ms * NS_PER_MS
        spec = FunctionSpec(
            key=version.key,
            label=version.label,
            namespace=version.namespace,
            flavour=Flavour(manifest.runtime, manifest.network),
            memory_mb=manifest.memory_mb,
            max_instances=manifest.max_instances,
            min_instances=manifest.min_instances,
            concurrency=manifest.concurrency,
            keep_alive_ns=keep_ns,
            warm_ns=self._warm_ns if keep_ns is None else keep_ns,
            stops=manifest.on_disconnect == "cancel",
        )
        self._known[version.key] = spec
        self.versions[version.key] = version
        return spec

    def too_many(self, used: int) -> bool:
        """Whether it is worth looking through them, when so many are in use."""
        return len(self.versions) > 2 * used + SURPLUS_MAX

    def keep_only(self, used: Container[str], held: Container[str]) -> list[str]:
        """Forget versions that are in neither; which they were."""
        dropped = [key for key in self.versions if key not in used and key not in held]
        for key in dropped:
            del self.versions[key], self._known[key]
        return dropped
