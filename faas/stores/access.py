"""How the user of a node gets in: the admin key they hold, and another where theirs opens nothing.

The store keeps only the digest of a key, so the key itself is in one place, the user's file. It is there, on disk,
before the store has its digest: at whatever moment the node is killed, the next start finds either a key that the
store knows or no key that it knows, and makes one. A key that was revoked is never taken up again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from faas.ports import ApiKey
from faas.stores.keys import ADMIN, EVERY_NAMESPACE, new_secret

NOT_YOURS = (
    "you have no key here: this store's admin key is in the client.toml of whoever made it; "
    "put it into yours, or start once with: faas up --new-admin-key"
)
ANOTHER = "made another admin key, now in client.toml; to end the one before: faas key ls, faas key revoke ID"


@dataclass(frozen=True, slots=True)
class Access:
    """What the user holds. ``kept`` is their key ("" for none); ``keep`` puts another in its place and returns when it
    is on disk; ``anew`` asks for another although the store has an admin key.
    """

    kept: str
    keep: Callable[[str], None]
    anew: bool = False


class AdminKeys(Protocol):
    """What is asked of the key store."""

    async def find(self, secret: str) -> ApiKey | None: ...

    async def list(self) -> list[ApiKey]: ...

    async def create(self, namespace: str, scopes: Sequence[str], secret: str) -> tuple[ApiKey, str]: ...

    async def first(self, secret: str) -> tuple[ApiKey, str] | None: ...


async def admin_key(keys: AdminKeys, access: Access, *, ours: bool, say: Callable[[str], None]) -> str:
    """The key this node's user gets in with; "" when they have none and the store's admin key is somebody else's.

    ``ours``: the store belongs to this node alone, so whoever runs the node may have a key to it. A key that the store
    knows stays, whatever it may do: its user chose it.
    """
    if access.kept and not access.anew and await keys.find(access.kept) is not None:
        return access.kept
    there = any(ADMIN in key.scopes for key in await keys.list())
    if there and not (ours or access.anew):
        say(NOT_YOURS)
        return ""
    secret = new_secret()
    access.keep(secret)
    if there:
        await keys.create(EVERY_NAMESPACE, (ADMIN,), secret)
        say(ANOTHER)
    elif await keys.first(secret) is None:  # another node on this store was quicker
        access.keep(access.kept)
        return await admin_key(keys, access, ours=ours, say=say)
    return secret
