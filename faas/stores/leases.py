"""Leases in Redis: a key that expires. See ``faas.ports.leases``."""

from __future__ import annotations

from faas.stores.redis_client import Client, edge, script


class RedisLeases:
    """``Leases``."""

    def __init__(self, client: Client) -> None:
        self._hold = script(client, "hold_lease")
        self._release = script(client, "release_lease")

    async def hold(self, name: str, owner: str, ttl_ms: int) -> bool:
        with edge():
            return bool(await self._hold(keys=[_key(name)], args=[owner, ttl_ms]))

    async def release(self, name: str, owner: str) -> None:
        with edge():
            await self._release(keys=[_key(name)], args=[owner])


def _key(name: str) -> str:
    return f"faas:lease:{name}"
