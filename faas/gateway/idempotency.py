"""``Idempotency-Key``: however often a request is sent, its function runs once and everybody gets that answer.

Theory of operation. The first request of a key claims it in the store, runs, and its answer is collected on its way
out; it is stored before its last byte is sent, so whoever has the whole answer gets the same again. Others of the same
key wait until the claim ends, then get what is stored, or take the claim over when nothing was: what the function did
not answer itself (an exception, a timeout, a crash, no room) is not stored, so that a retry runs again.

A claim ends soon after its node has died, because only a living one prolongs it. The work goes on when its caller has
hung up, for that is who comes back with the same key; unless ``on_disconnect`` says ``cancel``.

The header is that of draft-ietf-httpapi-idempotency-key-header; what is kept follows Stripe's API.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol, cast

from starlette.types import Message, Send

from faas.gateway import cors
from faas.gateway.answers import NO_BODY
from faas.gateway.headers import Headers
from faas.model.errors import FaasError, InvalidRequest, KeyReused, NoCapacity, StillRunning
from faas.model.function import FunctionVersion
from faas.model.invocation import TIMEOUT_SYNC_MS_MAX
from faas.ports.events import Answered, Claim, IdempotencyStore

log = logging.getLogger("faas.gateway")

HEADER: Final = b"idempotency-key"
METHODS: Final = frozenset({"POST", "PATCH", "PUT", "DELETE"})  # the others are safe or nobody's business
KEY_CHARS_MAX: Final = 255
CLAIM_MS: Final = 6_000
PROLONG_S: Final = CLAIM_MS / 1000 / 3
WAITING_MAX: Final = 200  # requests that wait on this node for another's answer; each holds a connection to the store
WAITING_PER_NAMESPACE_MAX: Final = 50
RETRY_AFTER_S: Final = 2
SETTLE_TRIES: Final = 30  # of an answer that the store could not take, a second apart
CLOSE_S: Final = 2.0
_PRINTABLE: Final = bytes(range(0x20, 0x7F))


class Exchange(Protocol):
    """A request that is being answered. While its answer is collected, ``send`` is the collector's."""

    send: Send
    cors: Headers
    started: bool


class Asked(NamedTuple):
    """What is asked under a key. ``key`` and ``request`` are the store's, digests."""

    key: str
    request: str
    version: FunctionVersion

    @property
    def dedup_id(self) -> str:
        """Of a message that stands for the request: sent again by whoever takes the claim over, there is still one."""
        return sha256(f"{self.key} {self.request}".encode()).hexdigest()


def asked(version: FunctionVersion, key_id: str, header: bytes, parts: Iterable[bytes]) -> Asked:
    """``parts`` are what makes the request another one. Raises ``InvalidRequest`` on a key that is none.

    A key holds for one function and one API key (or everybody without one).
    """
    key = header.strip()
    if not key or len(key) > KEY_CHARS_MAX or key.translate(None, _PRINTABLE):
        raise InvalidRequest(f"An Idempotency-Key has 1 to {KEY_CHARS_MAX} printable ASCII characters.")
    scope = sha256(key_id.encode() + b"\0" + key).hexdigest()
    request = sha256(b"".join([b"%d:%b" % (len(part), part) for part in parts])).hexdigest()
    return Asked(f"{version.namespace}/{version.name}:{scope}", request, version)


class Once:
    """See the module's docstring. ``new_id`` makes the names of claims; ``draining`` says that the node goes down."""

    def __init__(
        self, store: IdempotencyStore, new_id: Callable[[], str], bytes_max: int, draining: Callable[[], bool]
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._bytes_max = bytes_max
        self._draining = draining
        self.replayed: Counter[str] = Counter()  # by namespace
        self._waiting: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, exchange: Exchange, ask: Asked, work: Callable[[], Awaitable[None]]) -> None:
        """Answer ``exchange`` with what was answered before, else by ``work``, which sends through it.

        Raises what ``work`` raises, ``KeyReused``, ``StillRunning``, ``StoreUnavailable``.
        """
        owner = self._new_id()
        try:
            claim = await self._store.claim(ask.key, ask.request, owner, CLAIM_MS)
            if claim.state == "theirs":
                claim = await self._wait(ask, owner)
        except (asyncio.CancelledError, StillRunning):  # a claim that was on its way may have been granted
            self._spawn(self._let_go(ask, owner))
            raise
        if claim.state == "other":
            raise KeyReused(
                "This Idempotency-Key came with another request before (method, path, query, content type, body or "
                "credentials differ); use a new key for a new request."
            )
        if claim.answer is not None:
            self.replayed[ask.version.namespace] += 1
            await _replay(exchange, claim.answer)
            return
        await self._first(exchange, ask, owner, work)

    async def close(self) -> None:
        """End what is left, once no function runs any more."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait(self, ask: Asked, owner: str) -> Claim:
        namespace = ask.version.namespace
        if self._waiting.total() >= WAITING_MAX or self._waiting[namespace] >= WAITING_PER_NAMESPACE_MAX:
            raise _still_running()
        self._waiting[namespace] += 1
        try:
            ends = cast("AsyncGenerator[None, None]", self._store.ends(ask.key))
            async with (
                asyncio.timeout(min(ask.version.manifest.timeout_ms, TIMEOUT_SYNC_MS_MAX) / 1000),
                aclosing(ends),
            ):
                async for _ in ends:
                    claim = await self._store.claim(ask.key, ask.request, owner, CLAIM_MS)
                    if claim.state != "theirs":
                        return claim
                    if self._draining():
                        raise NoCapacity("This node is going down; send the request again, with the same key.")
        except TimeoutError:
            pass
        finally:
            self._waiting[namespace] -= 1
            self._waiting += Counter()  # drops what is 0
        raise _still_running()

    async def _first(self, exchange: Exchange, ask: Asked, owner: str, work: Callable[[], Awaitable[None]]) -> None:
        send = exchange.send
        first = _First(self._store, ask, owner, send, self._bytes_max)
        exchange.send = first.send
        task = self._spawn(first.run(work))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            first.left = True
            if ask.version.manifest.on_disconnect == "cancel":
                task.cancel()
            raise
        finally:
            if task.done():
                exchange.send = send
                if first.unsettled is not None:
                    self._spawn(self._settle_late(ask, owner, first.unsettled))

    async def _let_go(self, ask: Asked, owner: str) -> None:
        try:
            await self._store.settle(ask.key, ask.request, owner, None, 0)
        except FaasError as error:
            log.info("a claim of an idempotency key ends by itself: %s", error)

    async def _settle_late(self, ask: Asked, owner: str, answer: Answered) -> None:
        for _ in range(SETTLE_TRIES):
            await asyncio.sleep(1)
            try:
                await self._store.settle(ask.key, ask.request, owner, answer, ask.version.manifest.idempotency_ms)
            except FaasError:
                continue
            return
        log.error("an answer of %s could not be kept for its idempotency key", ask.version.label)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller has heard of it, or has gone


class _First:
    """The request that runs. What goes out is collected on its way; ``left``: nobody listens any more."""

    def __init__(self, store: IdempotencyStore, ask: Asked, owner: str, send: Send, bytes_max: int) -> None:
        self._store = store
        self._ask = ask
        self._owner = owner
        self._send = send
        self._bytes_max = bytes_max
        self._start: Message = {}
        self._held = False
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._keeper: asyncio.Task[None] | None = None
        self._kept = False
        self.left = False
        self.unsettled: Answered | None = None

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        self._keeper = asyncio.get_running_loop().create_task(self._prolong())
        try:
            await work()
        finally:
            await self._stop_keeping()
            if not self._kept:
                await self._settle(None)

    async def send(self, message: Message) -> None:
        """Pass on; but an answer in one piece, and the end of any other, only when it is stored."""
        if message["type"] == "http.response.start":
            self._start = message
            self._held = message["status"] in NO_BODY or any(n == b"content-length" for n, _ in message["headers"])
            if not self._held:
                await self._pass(message)
            return
        chunk: bytes = message.get("body", b"")
        self._bytes += len(chunk)
        if self._bytes > self._bytes_max:
            self._chunks.clear()
        else:
            self._chunks.append(chunk)
        if not message.get("more_body", False) and self._bytes <= self._bytes_max:
            headers = tuple([(name, value) for name, value in self._start["headers"]])
            self._kept = True
            await self._stop_keeping()
            await self._settle(Answered(self._start["status"], headers, b"".join(self._chunks)))
        if self._held:
            self._held = False
            await self._pass(self._start)
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if not self.left:
            await self._send(message)

    async def _settle(self, answer: Answered | None) -> None:
        """The caller has the answer whatever the store says."""
        ask, keep_ms = self._ask, self._ask.version.manifest.idempotency_ms
        try:
            if not await self._store.settle(ask.key, ask.request, self._owner, answer, keep_ms):
                log.warning("a call of %s lost the claim of its idempotency key while it ran", ask.version.label)
        except FaasError as error:
            log.warning("the answer for an idempotency key of %s is not stored yet: %s", ask.version.label, error)
            self.unsettled = answer

    async def _prolong(self) -> None:
        ask = self._ask
        while True:
            await asyncio.sleep(PROLONG_S)
            try:
                await self._store.claim(ask.key, ask.request, self._owner, CLAIM_MS)
            except FaasError as error:
                log.warning("the claim of an idempotency key could not be prolonged: %s", error)

    async def _stop_keeping(self) -> None:
        assert self._keeper is not None
        self._keeper.cancel()
        await asyncio.wait([self._keeper])


async def _replay(exchange: Exchange, answer: Answered) -> None:
    headers: Sequence[tuple[bytes, bytes]] = answer.headers
    if exchange.cors:
        headers = [*(h for h in cors.without_own(headers) if h not in exchange.cors), *exchange.cors]
    sent = [(n, b"0" if n == b"faas-billed-ms" else v) for n, v in headers]
    exchange.started = True
    await exchange.send(
        {"type": "http.response.start", "status": answer.status, "headers": [*sent, (b"idempotency-replayed", b"true")]}
    )
    await exchange.send({"type": "http.response.body", "body": answer.payload})


def _still_running() -> StillRunning:
    return StillRunning(
        "The first request with this Idempotency-Key has not been answered yet; send it again, with the same key.",
        RETRY_AFTER_S,
    )
