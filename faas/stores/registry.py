"""Functions, versions, bundles and locks in Redis. The Lua files name every key."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Final

from faas.model.errors import Conflict, NotFound, PayloadTooLarge, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.stores.redis_client import Client, ask, edge, script, subscription

CHANGES: Final = "faas:changes"
ANY: Final = ("*", "*")  # every function may have changed
BLOB_BYTES_MAX: Final = 64 * 2**20
BLOB_UNNAMED_MS: Final = 24 * 3_600_000  # a blob that no version names is kept this long: time for a deploy


class RedisRegistry:
    """``Registry``. ``blob_bytes_max`` bounds one bundle or lock."""

    def __init__(self, client: Client, *, blob_bytes_max: int = BLOB_BYTES_MAX) -> None:
        self._client = client
        self._blob_bytes_max = blob_bytes_max
        self._commit = script(client, "commit_function")
        self._delete = script(client, "delete_function")

    async def commit(self, version: FunctionVersion) -> bool:
        """See the port. A ``Conflict`` carries ``next_version``."""
        name = f"{version.namespace}/{version.name}"
        blob, lock = f"faas:blob:{version.bundle}", f"faas:blob:{version.lock or version.bundle}"
        with edge():
            answer, number = await self._commit(
                keys=["faas:functions", f"faas:versions:{name}", "faas:counters", "faas:blobrefs", blob, lock],
                args=[name, version.version, version.model_dump_json(), version.bundle, version.lock, CHANGES],
            )
        if answer < 0:
            raise not_next(version, number)
        return bool(answer)

    async def next_version(self, namespace: str, name: str) -> int:
        used = await ask(self._client.hget("faas:counters", f"{namespace}/{name}"))
        return int(used or 0) + 1

    async def latest(self, namespace: str, name: str) -> FunctionVersion | None:
        found = await ask(self._client.hget("faas:functions", f"{namespace}/{name}"))
        return FunctionVersion.model_validate_json(found) if found is not None else None

    async def version(self, namespace: str, name: str, version: int) -> FunctionVersion:
        found = await ask(self._client.hget(f"faas:versions:{namespace}/{name}", str(version)))
        if found is None:
            raise no_version(namespace, name, version)
        return FunctionVersion.model_validate_json(found)

    async def functions(self, namespace: str | None) -> list[FunctionVersion]:
        found = await ask(self._client.hgetall("faas:functions"))
        prefix = b"" if namespace is None else f"{namespace}/".encode()
        versions = [FunctionVersion.model_validate_json(text) for key, text in found.items() if key.startswith(prefix)]
        return sorted(versions, key=lambda version: (version.namespace, version.name))

    async def delete(self, namespace: str, name: str) -> None:
        """Raises ``NotFound``."""
        function = f"{namespace}/{name}"
        with edge():
            deleted = await self._delete(
                keys=["faas:functions", f"faas:versions:{function}", "faas:blobrefs", f"faas:triggers:{function}"],
                args=[function, BLOB_UNNAMED_MS, CHANGES],
            )
        if not deleted:
            raise no_function(namespace, name)

    async def put_blob(self, data: bytes) -> str:
        """Raises ``PayloadTooLarge``. A blob that no version comes to name within a day is dropped."""
        check_blob_size(data, self._blob_bytes_max)
        digest = hashlib.sha256(data).hexdigest()
        key = f"faas:blob:{digest}"
        if not await ask(self._client.set(key, data, nx=True, px=BLOB_UNNAMED_MS)):
            await ask(self._client.pexpire(key, BLOB_UNNAMED_MS, xx=True))  # only if it would expire at all
        return digest

    async def blob(self, digest: str) -> bytes:
        """Raises ``NotFound``, and ``StoreUnavailable`` when what is stored is not what the digest says."""
        data: bytes | None = await ask(self._client.get(f"faas:blob:{digest}"))
        if data is None:
            raise no_blob(digest)
        if hashlib.sha256(data).hexdigest() != digest:
            raise StoreUnavailable(f"The blob {digest} in Redis is damaged. Deploy the function again.")
        return data

    async def changes(self) -> AsyncIterator[tuple[str, str]]:
        """First ``("*", "*")`` once the subscription stands: what changed before it was not seen.

        Raises ``StoreUnavailable`` when the connection is lost; iterate anew, and again all may have changed.
        """
        async with aclosing(subscription(self._client, CHANGES)) as changes:
            async for change in changes:
                namespace, _, name = change.decode().partition("/")
                yield (namespace, name) if change else ANY


def not_next(version: FunctionVersion, next_version: int) -> Conflict:
    return Conflict(
        f"Version {version.version} of '{version.name}' cannot be made: the next one is {next_version}. "
        f"Somebody else deployed at the same time; deploy again.",
        next_version=next_version,
    )


def no_function(namespace: str, name: str) -> NotFound:
    return NotFound(f"There is no function '{name}' in the namespace '{namespace}'.")


def no_version(namespace: str, name: str, version: int) -> NotFound:
    return NotFound(f"The function '{name}' in the namespace '{namespace}' has no version {version}.")


def no_blob(digest: str) -> NotFound:
    return NotFound(f"There is no blob {digest}. Deploy the function again.")


def check_blob_size(data: bytes, blob_bytes_max: int) -> None:
    if len(data) > blob_bytes_max:
        raise PayloadTooLarge(f"A bundle may have {blob_bytes_max} bytes, this one has {len(data)}.")
