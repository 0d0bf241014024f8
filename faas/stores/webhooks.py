"""The secrets that deliveries to destinations are signed with, in Redis.

Keys: ``faas:webhooks:secrets``, a hash of namespace -> secret.
"""

from __future__ import annotations

import secrets
from typing import Final

from faas.model.webhook import secret_of
from faas.stores.redis_client import Client, ask

BYTES: Final = 32
_KEY: Final = "faas:webhooks:secrets"


class RedisWebhookSecrets:
    """``WebhookSecrets``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def secret(self, namespace: str) -> str:
        found = await ask(self._client.hget(_KEY, namespace))
        if found is None:
            await ask(self._client.hsetnx(_KEY, namespace, secret_of(secrets.token_bytes(BYTES))))
            found = await ask(self._client.hget(_KEY, namespace))
        return str(found.decode())
