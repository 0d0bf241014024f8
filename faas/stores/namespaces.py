"""What is said of namespaces, in Redis. The Lua files name every key."""

from __future__ import annotations

import builtins

from faas.model.errors import Conflict, NotFound
from faas.model.namespace import Namespace
from faas.stores.redis_client import Client, ask, edge, script
from faas.stores.registry import CHANGES


class RedisNamespaces:
    """``NamespaceStore``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._put = script(client, "put_namespace")
        self._delete = script(client, "delete_namespace")

    async def put(self, namespace: Namespace, *, new: bool) -> bool:
        with edge():
            answer = await self._put(
                keys=["faas:namespaces"],
                args=[namespace.name, namespace.model_dump_json(), "1" if new else "0", CHANGES],
            )
        if answer < 0:
            raise known_already(namespace.name)
        return bool(answer)

    async def get(self, name: str) -> Namespace | None:
        found = await ask(self._client.hget("faas:namespaces", name))
        return Namespace.model_validate_json(found) if found is not None else None

    async def list(self) -> builtins.list[Namespace]:
        found = await ask(self._client.hvals("faas:namespaces"))
        return sorted(map(Namespace.model_validate_json, found), key=lambda namespace: namespace.name)

    async def delete(self, name: str) -> None:
        with edge():
            answer = await self._delete(keys=["faas:namespaces", "faas:functions"], args=[name, CHANGES])
        if answer < 0:
            raise has_functions(name)
        if not answer:
            raise no_namespace(name)


def known_already(name: str) -> Conflict:
    return Conflict(f"The namespace '{name}' exists already; `faas namespace set {name}` changes its limits.")


def has_functions(name: str) -> Conflict:
    return Conflict(f"The namespace '{name}' has functions; remove them first: `faas ls -N {name}` lists them.")


def no_namespace(name: str) -> NotFound:
    return NotFound(f"There is no namespace '{name[:80]}'. `faas namespace ls` lists them.")
