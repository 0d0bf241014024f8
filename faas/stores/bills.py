"""Closed bills and credit notes in Redis, and the twin in memory. The Lua files name every key.

Neither is ever changed or removed. What has been stored is on the server's disk before its caller hears of it, where
that can be had (``AofSync.sync`` with the embedded server, else WAITAOF): a month that somebody saw closed stays closed
when the server is killed.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable

from redis.exceptions import ResponseError

from faas.billing import frozen
from faas.billing.statement import Closing, CreditNote
from faas.model.errors import Conflict, StoreUnavailable
from faas.stores.redis_client import Client, ask, edge, script

WAIT_AOF_MS = 3000


class RedisBills:
    """``BillStore``."""

    def __init__(self, client: Client, *, synced: Callable[[], Awaitable[None]] | None = None) -> None:
        self._client = client
        self._synced = synced
        self._close = script(client, "close_bill")
        self._add_credit = script(client, "add_credit")

    async def closed(self) -> dict[str, Closing]:
        found = await ask(self._client.hgetall("faas:bills"))
        return {month.decode(): frozen.unpack(packed) for month, packed in sorted(found.items())}

    async def close(self, closing: Closing, after: int) -> bool:
        with edge():
            answer = await self._close(keys=["faas:bills"], args=[closing.month, frozen.pack(closing), after])
        if answer < 0:
            raise closed_meanwhile()
        await self._durable()
        return bool(answer)

    async def credits(self) -> builtins.list[CreditNote]:
        found = await ask(self._client.hvals("faas:credits"))
        return _ordered([frozen.unpack_note(packed) for packed in found])

    async def credit(self, note: CreditNote) -> CreditNote:
        with edge():
            answer = await self._add_credit(
                keys=["faas:bills", "faas:credits"], args=[note.id, note.month, frozen.pack_note(note)]
            )
        if answer < 0:
            raise not_closed(note.month)
        await self._durable()
        return frozen.unpack_note(await ask(self._client.hget("faas:credits", note.id)))

    async def _durable(self) -> None:
        """Wait until all writes so far are on the server's disk. A server that cannot say is taken at its word."""
        if self._synced is not None:
            await self._synced()
            return
        async with self._client.pipeline(transaction=False) as pipe:
            pipe.set("faas:fence", 1)  # a write on this connection: WAITAOF waits for that and all before it
            pipe.execute_command("WAITAOF", 1, 0, WAIT_AOF_MS)
            with edge():
                _, reply = await pipe.execute(raise_on_error=False)
        if isinstance(reply, ResponseError):  # no append-only file, or a server older than the command
            return
        if isinstance(reply, Exception) or not reply[0]:
            raise StoreUnavailable(f"The disk of Redis did not take it within {WAIT_AOF_MS} ms.")


class MemoryBills:
    """``BillStore`` without a server."""

    def __init__(self) -> None:
        self._closed: dict[str, bytes] = {}
        self._credits: dict[str, bytes] = {}

    async def closed(self) -> dict[str, Closing]:
        return {month: frozen.unpack(packed) for month, packed in sorted(self._closed.items())}

    async def close(self, closing: Closing, after: int) -> bool:
        if closing.month in self._closed:
            return False
        if len(self._closed) != after:
            raise closed_meanwhile()
        self._closed[closing.month] = frozen.pack(closing)
        return True

    async def credits(self) -> builtins.list[CreditNote]:
        return _ordered([frozen.unpack_note(packed) for packed in self._credits.values()])

    async def credit(self, note: CreditNote) -> CreditNote:
        if note.month not in self._closed:
            raise not_closed(note.month)
        return frozen.unpack_note(self._credits.setdefault(note.id, frozen.pack_note(note)))


def _ordered(notes: builtins.list[CreditNote]) -> builtins.list[CreditNote]:
    return sorted(notes, key=lambda note: (note.made_at_ms, note.id))


def closed_meanwhile() -> Conflict:
    return Conflict("Another month has been closed since; ask again.")


def not_closed(month: str) -> Conflict:
    return Conflict(f"The bill of {month} is open: it needs no credit. Close it first: `faas bill {month} --close`.")
