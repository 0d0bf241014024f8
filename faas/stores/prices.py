"""The price books in Redis.

Key: ``faas:prices``   string   JSON: text (TOML), set_at_ms, set_by
"""

from __future__ import annotations

import json
from typing import Any

from faas.billing.reading import parse_books
from faas.ports import Prices
from faas.stores.redis_client import Client, ask

KEY = "faas:prices"


class RedisPrices:
    """``PriceStore``. What was read last is kept taken apart: books are read often and change seldom."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stored = b""
        self._prices = Prices()

    async def set(self, text: str, at_ms: int, by: str) -> Prices:
        prices = Prices(text, parse_books(text), at_ms, by)
        await ask(self._client.set(KEY, json.dumps({"text": text, "set_at_ms": at_ms, "set_by": by})))
        return prices

    async def current(self) -> Prices:
        """Raises ``InvalidPrices`` where a version of the platform stored them that allowed more than this one."""
        stored = await ask(self._client.get(KEY)) or b""
        if stored != self._stored:
            self._prices = _unpacked(stored) if stored else Prices()
            self._stored = stored
        return self._prices


def _unpacked(stored: bytes) -> Prices:
    found: dict[str, Any] = json.loads(stored)
    return Prices(found["text"], parse_books(found["text"]), found["set_at_ms"], found["set_by"])
