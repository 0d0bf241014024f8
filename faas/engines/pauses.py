"""Asking the container engine to pause and resume, for nodes that may not write its containers' freezers.

A start from parked waits for this, so it goes out from the event loop over a connection that stays open: by the SDK,
which blocks and needs a thread, it takes 2.5 ms longer.
"""

from __future__ import annotations

from typing import Any, Final

import httpx2

from faas.engines.freezer import StillRuns
from faas.model.errors import EngineUnavailable

_CONNECTIONS_MAX: Final = 16


class Pauses:
    """``socket`` is the engine's, ``version`` that of its API ("1.41"). Both calls raise ``EngineUnavailable``."""

    def __init__(self, socket: str, version: str, timeout_s: float) -> None:
        limits = httpx2.Limits(max_connections=_CONNECTIONS_MAX, keepalive_expiry=None)
        self._client = httpx2.AsyncClient(
            base_url=f"http://docker/v{version}/containers/",
            transport=httpx2.AsyncHTTPTransport(uds=socket, limits=limits),
            timeout=timeout_s,
        )

    async def pause(self, container: str) -> None:
        """No error for one that is paused. ``StillRuns`` where its processes forked faster than runc looked."""
        refusal = await self._ask(container, "pause")
        if not refusal or (await self._state(container)).get("Paused"):
            return
        if "unable to freeze" in refusal:
            raise StillRuns(f"the container engine could not pause {container}: its processes go on")
        raise EngineUnavailable(f"the container engine could not pause {container}: {refusal}")

    async def resume(self, container: str) -> None:
        """No error for one that is not paused."""
        refusal = await self._ask(container, "unpause")
        if not refusal:
            return
        state = await self._state(container)
        if state.get("Paused") or not state.get("Running"):
            raise EngineUnavailable(f"the container engine could not resume {container}: {refusal}")

    async def close(self) -> None:
        await self._client.aclose()

    async def _ask(self, container: str, action: str) -> str:
        """Why it was refused, "" when it was not."""
        response = await self._request("POST", f"{container}/{action}")
        return "" if response.is_success else _words(response)

    async def _state(self, container: str) -> dict[str, Any]:
        response = await self._request("GET", f"{container}/json")
        if not response.is_success:
            raise EngineUnavailable(f"the container engine does not know {container}: {_words(response)}")
        state: dict[str, Any] = response.json()["State"]
        return state

    async def _request(self, method: str, path: str) -> httpx2.Response:
        try:
            return await self._client.request(method, path)
        except httpx2.TimeoutException as error:
            raise EngineUnavailable(
                f"the container engine took too long for {path}: is the host overloaded?"
            ) from error
        except httpx2.HTTPError as error:
            raise EngineUnavailable(
                f"the container engine does not answer ({error or type(error).__name__}): start it, or set"
                " FAAS_ENGINE=process"
            ) from error


def _words(response: httpx2.Response) -> str:
    """What the engine says, which is ``{"message": ...}`` as a rule."""
    try:
        return str(response.json()["message"]).strip()
    except (ValueError, KeyError, TypeError):
        return response.text.strip() or f"status {response.status_code}"
