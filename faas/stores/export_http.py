"""Usage events by HTTP: a POST per batch, as OpenMeter and every CloudEvents webhook take them."""

from __future__ import annotations

import asyncio
from typing import Final

import httpx2

from faas.metering.events import BATCH_CONTENT_TYPE
from faas.stores.export import Refused, Undelivered

TIMEOUT_S: Final = 30.0  # for an answer, from when the batch is begun
RETRY_AFTER_MAX_S: Final = 600
ANSWER_BYTES_MAX: Final = 64 * 1024  # read of an answer; then the connection is given up
SHOWN_BYTES_MAX: Final = 300  # of it in the log
_REFUSALS: Final = frozenset({400, 413, 422})


class HttpDestination:
    """``url`` is that of the collection itself (``https://openmeter.example/api/v1/events``). Redirects are not
    followed: they would take the token somewhere else.
    """

    def __init__(self, url: str, token: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        parts = httpx2.URL(url)
        self.name = str(parts.copy_with(username=None, password=None, query=None))
        self._url = url
        self._timeout_s = timeout_s
        headers = {"Content-Type": BATCH_CONTENT_TYPE, "Accept": "application/json", "User-Agent": "faas-export"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout_s, follow_redirects=False)

    async def send(self, events: bytes) -> None:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream("POST", self._url, content=events) as response,
            ):
                said = b""
                async for part in response.aiter_bytes():
                    said += part
                    if len(said) > ANSWER_BYTES_MAX:
                        break
        except TimeoutError:
            raise Undelivered(f"{self.name} did not answer within {self._timeout_s:g} s") from None
        except httpx2.HTTPError as error:
            raise Undelivered(f"{self.name} cannot be reached: {error or type(error).__name__}") from error
        if response.is_success:
            return
        words = " ".join(said[:SHOWN_BYTES_MAX].decode("utf-8", "replace").split())
        message = f"{self.name} answered {response.status_code}" + (f": {words}" if words else "")
        wait_s = _retry_after_s(response.headers.get("retry-after", ""))
        raise (Refused if response.status_code in _REFUSALS else Undelivered)(message, wait_s)

    async def close(self) -> None:
        await self._client.aclose()


def _retry_after_s(value: str) -> float:
    """Seconds; 0 where there are none, or a date."""
    return float(min(int(value), RETRY_AFTER_MAX_S)) if value.isascii() and value.isdigit() else 0.0
