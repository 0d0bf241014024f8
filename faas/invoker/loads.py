"""Those who wait for a version to be loaded: a deploy, above all."""

from __future__ import annotations

import asyncio

from faas.model.errors import FaasError, NoCapacity
from faas.pool.pool import Pool


class Loads:
    """Futures by the key of the version; each is told how long its load took (ns) or why it failed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[str, list[asyncio.Future[int]]] = {}

    def wait_for(self, key: str) -> asyncio.Future[int]:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        return future

    def loaded(self, key: str, took_ns: int) -> None:
        for future in self._pending(key):
            future.set_result(took_ns)

    def failed(self, key: str) -> None:
        """The pool knows why, unless the sandbox just ended."""
        function = self._pool.functions.get(key)
        error: FaasError | None = function.init.error if function is not None else None
        for future in self._pending(key):
            future.set_exception(error or NoCapacity("the sandbox that was to load the function ended"))

    def settle(self) -> None:
        """Time has passed: fail those whose load the pool has given up."""
        for key in list(self._waiting):
            function = self._pool.functions.get(key)
            if function is not None and function.init.error is not None:
                self.failed(key)

    def _pending(self, key: str) -> list[asyncio.Future[int]]:
        return [future for future in self._waiting.pop(key, ()) if not future.done()]
