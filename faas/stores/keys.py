"""API keys in Redis. The secret is shown once; only its SHA-256 is stored, which for 256 random bits is enough."""

from __future__ import annotations

import builtins
import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Final

from faas.model.errors import NotFound
from faas.model.usage import NS_PER_MS
from faas.ports import ApiKey, Clock
from faas.stores.redis_client import Client, ask, edge, script

ADMIN: Final = "admin"
EVERY_NAMESPACE: Final = "*"
SECRET_CHARS_MAX: Final = 200


def new_secret() -> str:
    """256 bits of randomness: ``faas_`` and 43 characters."""
    return "faas_" + secrets.token_urlsafe(32)


def new_key(namespace: str, scopes: Sequence[str], clock: Clock) -> ApiKey:
    return ApiKey("k" + secrets.token_hex(8), namespace, tuple(scopes), clock.unix_ns() // NS_PER_MS)


def digest_of(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class RedisKeyStore:
    """``KeyStore``, and the first admin key."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._create = script(client, "create_key")
        self._revoke = script(client, "revoke_key")

    async def first(self, secret: str = "") -> tuple[ApiKey, str] | None:
        """An admin key for every namespace, if no admin key exists; of nodes that start at once one gets it.

        ``secret``, here and in ``create``: one from ``new_secret`` that is written down already.
        """
        return await self._store(EVERY_NAMESPACE, (ADMIN,), secret, only_first=True)

    async def create(self, namespace: str, scopes: Sequence[str], secret: str = "") -> tuple[ApiKey, str]:
        made = await self._store(namespace, scopes, secret, only_first=False)
        assert made is not None
        return made

    async def _store(
        self, namespace: str, scopes: Sequence[str], secret: str, *, only_first: bool
    ) -> tuple[ApiKey, str] | None:
        key, secret = new_key(namespace, scopes, self._clock), secret or new_secret()
        with edge():
            stored = await self._create(
                keys=["faas:keys", "faas:keyids"],
                args=[digest_of(secret), _dump(key), key.id, "1" if only_first else "0"],
            )
        return (key, secret) if stored else None

    async def find(self, secret: str) -> ApiKey | None:
        if len(secret) > SECRET_CHARS_MAX:
            return None
        found = await ask(self._client.hget("faas:keys", digest_of(secret)))
        return _load(found) if found is not None else None

    async def list(self) -> builtins.list[ApiKey]:
        """Oldest first."""
        found = await ask(self._client.hvals("faas:keys"))
        return sorted(map(_load, found), key=lambda key: (key.created_at_ms, key.id))

    async def revoke(self, key_id: str) -> None:
        """Raises ``NotFound``."""
        with edge():
            revoked = await self._revoke(keys=["faas:keys", "faas:keyids"], args=[key_id])
        if not revoked:
            raise no_key(key_id)


def no_key(key_id: str) -> NotFound:
    return NotFound(f"There is no key '{key_id[:80]}'. `faas key ls` lists them.")


def _dump(key: ApiKey) -> str:
    return json.dumps(
        {"id": key.id, "namespace": key.namespace, "scopes": list(key.scopes), "created_at_ms": key.created_at_ms}
    )


def _load(text: bytes) -> ApiKey:
    stored = json.loads(text)
    return ApiKey(stored["id"], stored["namespace"], tuple(stored["scopes"]), stored["created_at_ms"])
