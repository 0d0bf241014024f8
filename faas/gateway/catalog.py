"""Which version answers a name: the registry, cached in memory and told of changes.

A name or version that was looked up once is answered without a wait from then on. ``watch`` follows
``registry.changes()`` and drops what changed; when that stream breaks, everything is dropped and looked up afresh
after the reconnect, since changes may have been missed. A look-up that a change overtook is answered but not cached.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Final

from faas.model.errors import NotFound, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.ports import Registry

log = logging.getLogger("faas.gateway")

TARGETS_MAX: Final = 10_000
EVERYTHING: Final = "*"  # in place of a namespace: anything may have changed (a subscription begins to stand)
RETRY_S: Final = 1.0
NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}\Z")
_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}\Z")


class Target:
    """A version and what the hot path needs of it, worked out once."""

    __slots__ = ("allow", "any_method", "any_origin", "methods", "origins", "public", "version")

    def __init__(self, version: FunctionVersion) -> None:
        http = version.manifest.http
        self.version = version
        self.public = http.public
        self.any_method = not http.methods
        methods = {m.upper() for m in http.methods}
        if "GET" in methods:
            methods.add("HEAD")
        self.methods = frozenset(methods)
        self.allow = tuple(sorted(methods))
        self.origins = frozenset(o.encode("latin-1", "replace") for o in http.cors_origins)
        self.any_origin = b"*" in self.origins


class Catalog:
    """``(namespace, name, "" or version)`` to ``Target``."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._targets: dict[tuple[str, str, str], Target] = {}
        self._generation = 0

    def peek(self, namespace: str, name: str, qualifier: str) -> Target | None:
        return self._targets.get((namespace, name, qualifier))

    async def find(self, namespace: str, name: str, qualifier: str) -> Target:
        """Raises ``NotFound``, ``StoreUnavailable``. ``qualifier`` is "" or "latest" or a version number."""
        known = self._targets.get((namespace, name, qualifier))
        if known is not None:
            return known
        if not NAME.match(name) or not NAME.match(namespace):
            raise _no_function(namespace, name)
        generation = self._generation
        if qualifier in ("", "latest"):
            latest = await self._registry.latest(namespace, name)
            if latest is None:
                raise _no_function(namespace, name)
            target = Target(latest)
        elif _VERSION.match(qualifier):
            target = Target(await self._registry.version(namespace, name, int(qualifier)))
        else:
            raise NotFound(f"The function '{name}' has no alias '{qualifier}'; name a version number or 'latest'.")
        if generation == self._generation:
            if len(self._targets) >= TARGETS_MAX:
                self._targets.clear()
            self._targets[namespace, name, qualifier] = target
        return target

    async def hint(self, namespace: str, name: str) -> str:
        """ " Did you mean 'hello'?" or "": the nearest function name, for callers who may know the names."""
        try:
            names = [v.name for v in await self._registry.functions(namespace) if v.name != name]
        except StoreUnavailable:
            return ""
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        return f" Did you mean '{close[0]}'?" if close else ""

    def changed(self, namespace: str, name: str) -> None:
        """Forget what is known of a function: it was committed to or deleted, here or elsewhere."""
        self._generation += 1
        for key in [k for k in self._targets if k[0] == namespace and k[1] == name]:
            del self._targets[key]

    def forget(self) -> None:
        self._generation += 1
        self._targets.clear()

    async def watch(self, on_change: Callable[[str, str], Awaitable[None]]) -> None:
        """Runs for as long as the node serves. ``on_change`` is awaited after the cache has dropped the function.

        It hears of everything and of namespaces as well: see ``Registry.changes``. While the store is away, what is
        known stays so, and is called; once it can be listened to again all is asked anew.
        """
        while True:
            try:
                async for namespace, name in self._registry.changes():
                    if namespace == EVERYTHING:
                        self.forget()
                        await on_change(namespace, name)
                        continue
                    self.changed(namespace, name)
                    await on_change(namespace, name)
            except StoreUnavailable as error:
                log.warning("the stream of registry changes broke, will reconnect: %s", error.message)
            except Exception:
                log.exception("following registry changes failed, will begin again")
            await asyncio.sleep(RETRY_S)


def _no_function(namespace: str, name: str) -> NotFound:
    where = "" if namespace == "default" else f" in the namespace '{namespace}'"
    return NotFound(f"There is no function '{name[:80]}'{where}.")
