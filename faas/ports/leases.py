"""The right to do something that only one node may do at a time."""

from __future__ import annotations

from typing import Protocol


class Leases(Protocol):
    """Leases by name, in the store and by its clock. Raises ``StoreUnavailable``."""

    async def hold(self, name: str, owner: str, ttl_ms: int) -> bool:
        """Take or renew it: it is ``owner``'s for so long from now. False: it is somebody else's."""

    async def release(self, name: str, owner: str) -> None:
        """Let go of it, if it is ``owner``'s."""
