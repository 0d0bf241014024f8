"""Who is calling: bearer keys, cached so that a call never waits for the store.

Theory of operation. The cache is keyed by the bytes of the presented ``Authorization`` header. An answer younger than
``FRESH_NS`` is used as it is. An older one is used *and* looked up again beside the call, so a revoked key dies within
seconds and no call pays for the look-up; past ``STALE_NS`` the caller waits for the store, unless the store is
unreachable: then keys that were good go on working until ``OUTAGE_NS`` after it last vouched for them, because a store
that is restarting must not stop calls. Refusals are cached too, briefly and few, so that nonsense keys cannot hammer
the store.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from faas.model.errors import FaasError, Forbidden, StoreUnavailable, Unauthenticated
from faas.ports import ApiKey, Clock, KeyStore

log = logging.getLogger("faas.gateway")

FRESH_NS: Final = 1_500_000_000
STALE_NS: Final = 5_000_000_000
OUTAGE_NS: Final = 300_000_000_000
LOOK_UP_S: Final = 2.0
GOOD_MAX: Final = 10_000
BAD_MAX: Final = 1_000

SCOPES: Final = ("admin", "deploy", "invoke", "read")
_BEARER: Final = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/=-]{1,512}) *\Z")


@dataclass(slots=True)
class Grant:
    """What a key may do, worked out once per look-up."""

    key: ApiKey
    namespace: str  # "" = every namespace
    may_invoke: bool
    may_read: bool
    vouched_ns: int  # when the store last said yes
    asked_ns: int  # when it was last asked, whether it answered or not
    refreshing: bool = False

    def check_namespace(self, namespace: str) -> None:
        """Raises ``Forbidden`` when the key is bound to another namespace."""
        if self.namespace and self.namespace != namespace:
            raise Forbidden(
                f"This key belongs to the namespace '{self.namespace}' and may not touch '{namespace}'; "
                "use a key of that namespace."
            )

    def check_scope(self, scope: str) -> None:
        """Raises ``Forbidden`` unless the key has ``scope`` or is an admin key."""
        if scope not in self.key.scopes and "admin" not in self.key.scopes:
            raise Forbidden(
                f"This key has no '{scope}' scope (it has: {', '.join(self.key.scopes) or 'none'}); use one that has."
            )


def bearer(header: bytes) -> str:
    """The secret in an ``Authorization`` header; raises ``Unauthenticated`` on any other scheme or form."""
    match = _BEARER.match(header)
    if match is None:
        raise Unauthenticated("The Authorization header must read: Bearer KEY")
    return match[1].decode("ascii")


class Authenticator:
    """Header bytes in, ``Grant`` out. ``spawn`` runs a refresh beside the call and owns it."""

    def __init__(self, keys: KeyStore, clock: Clock, key_prefix: str = "") -> None:
        self._prefix = key_prefix
        self._keys = keys
        self._clock = clock
        self._good: dict[bytes, Grant] = {}
        self._bad: dict[bytes, int] = {}
        self.spawn: Callable[[bytes], None] = lambda _header: None

    def peek(self, header: bytes) -> Grant | None:
        """The grant if it is known well enough to go on without waiting, else None. The hot path's first question."""
        grant = self._good.get(header)
        if grant is None:
            return None
        age_ns = self._clock.monotonic_ns() - grant.asked_ns
        if age_ns < FRESH_NS:
            return grant
        if age_ns < STALE_NS:
            if not grant.refreshing:
                grant.refreshing = True
                self.spawn(header)
            return grant
        return None

    async def find(self, header: bytes | None) -> Grant:
        """The grant of this header; raises ``Unauthenticated``, or ``StoreUnavailable`` when nothing is known."""
        if header is None:
            raise Unauthenticated("This route needs an API key: send the header Authorization: Bearer KEY")
        grant = self.peek(header)
        if grant is not None:
            return grant
        refused_ns = self._bad.get(header)
        if refused_ns is not None and self._clock.monotonic_ns() - refused_ns < FRESH_NS:
            raise Unauthenticated("The API key is not known here, or was revoked.")
        return await self._look_up(header)

    async def find_ours(self, header: bytes) -> Grant | None:
        """The grant of this header if it is a key of this platform, else None; what cannot be one is not looked up."""
        match = _BEARER.match(header)
        if match is None or not match[1].startswith(self._prefix.encode()):
            return None
        try:
            return await self.find(header)
        except Unauthenticated:
            return None

    async def _look_up(self, header: bytes) -> Grant:
        secret = bearer(header)
        try:
            async with asyncio.timeout(LOOK_UP_S):
                key = await self._keys.find(secret)
        except (StoreUnavailable, TimeoutError) as error:
            known = self._good.get(header)
            now_ns = self._clock.monotonic_ns()
            if known is not None and now_ns - known.vouched_ns < OUTAGE_NS:
                known.asked_ns = now_ns
                return known
            raise StoreUnavailable(f"looking up an API key failed: {error or 'no answer in time'}") from error
        now_ns = self._clock.monotonic_ns()
        if key is None:
            self._good.pop(header, None)
            if len(self._bad) >= BAD_MAX:
                self._bad.clear()
            self._bad[header] = now_ns
            raise Unauthenticated("The API key is not known here, or was revoked.")
        if len(self._good) >= GOOD_MAX:
            self._good.clear()
        admin = "admin" in key.scopes
        grant = Grant(
            key,
            "" if key.namespace == "*" else key.namespace,
            may_invoke=admin or "invoke" in key.scopes,
            may_read=admin or "read" in key.scopes,
            vouched_ns=now_ns,
            asked_ns=now_ns,
        )
        self._good[header] = grant
        return grant

    async def refresh(self, header: bytes) -> None:
        """Ask the store again; a key that is gone is forgotten, a store that is gone changes nothing."""
        try:
            await self._look_up(header)
        except FaasError as error:
            log.debug("refreshing a key: %s", error.message)
        except Exception:
            log.exception("refreshing a key failed")
        finally:
            grant = self._good.get(header)
            if grant is not None:
                grant.refreshing = False

    def forget(self) -> None:
        """Drop everything: a key was made or revoked here, and must count at once."""
        self._good.clear()
        self._bad.clear()
