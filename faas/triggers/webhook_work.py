"""Delivers to https destinations: one POST per message, signed, from the queue ``@webhooks`` of a namespace.

A URL is what a tenant wrote, so where it leads is checked: its name is resolved here, every address must be allowed,
and the request goes to the address that was checked (a name that resolves differently a moment later gains nothing).
Redirects are not followed. A receiver that answers 2xx has it; 410 wants no more of it; anything else is tried again,
with growing pauses, until the message is a day old.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from faas.events.destinations import INVOCATION, URL
from faas.events.retry import decide
from faas.model.errors import NoCapacity, StoreUnavailable
from faas.model.manifest import Retry
from faas.model.message import WEBHOOKS, Ack, Again, Bury, Delivery, Outcome, QueueName
from faas.model.webhook import GONE, signed_headers
from faas.ports.events import CallStore, Done, WebhookSecrets
from faas.triggers.consumer import Source

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("faas.triggers")

RETRY: Final = Retry(attempts=1000, max_age_ms=24 * 3_600_000)
ATTEMPT_S: Final = 15.0
LEAVE_S: Final = 0.5  # what an attempt under way still gets when the node stops
LEASE_MS: Final = 30_000
AT_ONCE: Final = 16
HTTPS: Final = 443
TROUBLE_CHARS_MAX: Final = 300
RETRY_AFTER_S_MAX: Final = 3600
_NS_PER_MS: Final = 1_000_000
_TUNNELS: Final = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))  # v4 addresses within


class Trouble(Exception):
    """Why an attempt failed. ``final``: there is no use in another. ``wait_s``: what the receiver asks for."""

    def __init__(self, words: str, *, final: bool = False, wait_s: int = 0) -> None:
        super().__init__(words)
        self.words = " ".join(words.split())[:TROUBLE_CHARS_MAX]
        self.final = final
        self.wait_s = wait_s


class UnixTime(Protocol):
    def unix_ns(self) -> int: ...


class Webhooks:
    """``Work`` of all namespaces. ``anywhere``: private addresses are allowed, too; link-local ones never are."""

    def __init__(
        self,
        secrets: WebhookSecrets,
        calls: CallStore,
        clock: UnixTime,
        *,
        anywhere: bool = False,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._secrets = secrets
        self._calls = calls
        self._clock = clock
        self._anywhere = anywhere
        self._jitter = jitter
        self._client: httpx2.AsyncClient | None = None
        self._limits: set[asyncio.Timeout] = set()  # of the attempts under way
        self._leaving = False

    def for_queue(self, queue: QueueName) -> tuple[Source, _Work] | None:
        """Source and work of a namespace's deliveries; None for any other queue."""
        if queue.name != WEBHOOKS:
            return None
        return Source(queue, WEBHOOKS, 1, 0, AT_ONCE, _lease_ms), _Work(queue.namespace, self)

    def leave(self) -> None:
        """The node stops: whose receiver is slow is given up in a moment, and delivered again later or elsewhere."""
        self._leaving = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time() + LEAVE_S)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def deliver(self, namespace: str, delivery: Delivery) -> Outcome:
        """One attempt, and what is to become of the message. Raises ``StoreUnavailable``, ``NoCapacity`` on leaving."""
        message = delivery.message
        url, invocation = message.attributes.get(URL, ""), message.attributes.get(INVOCATION, "")
        secret = await self._secrets.secret(namespace)
        try:
            await self._attempt(url, message.id, message.body, secret)
        except Trouble as trouble:
            return await self._again(namespace, invocation, url, delivery, trouble)
        await self._note(namespace, invocation, url, "delivered")
        return Ack(delivery.receipt)

    async def _again(self, namespace: str, invocation: str, url: str, delivery: Delivery, trouble: Trouble) -> Outcome:
        age_ms = max(0, self._clock.unix_ns() // _NS_PER_MS - delivery.sent_at_ms)
        verdict: int | str = trouble.words
        if not trouble.final:
            verdict = decide(RETRY, attempt=delivery.attempt, age_ms=age_ms, jitter=self._jitter())
        if isinstance(verdict, int):
            await self._note(namespace, invocation, url, f"attempt {delivery.attempt} failed: {trouble.words}")
            return Again(delivery.receipt, max(verdict, 1000 * trouble.wait_s), trouble.words)
        reason = verdict if verdict == trouble.words else f"{verdict}: {trouble.words}"
        log.error("the webhook %s of invocation %s was given up: %s", delivery.message.id, invocation, reason)
        await self._note(namespace, invocation, url, f"given up: {reason}")
        return Bury(delivery.receipt, reason)

    async def _note(self, namespace: str, invocation: str, url: str, outcome: str) -> None:
        """For people; a delivery is no worse without."""
        with contextlib.suppress(StoreUnavailable):
            await self._calls.delivered(namespace, invocation, url, outcome)

    # -- one POST ---------------------------------------------------------------------------------------------------

    async def _attempt(self, url: str, webhook_id: str, body: bytes, secret: str) -> None:
        """Raises ``Trouble``."""
        import httpx2  # 60 ms and 10 MB that most nodes never need

        if self._client is None:
            trust = httpx2.create_ssl_context(trust_env=True)
            self._client = httpx2.AsyncClient(verify=trust, timeout=ATTEMPT_S, follow_redirects=False, trust_env=False)
        headers = signed_headers(webhook_id, body, secret, self._clock.unix_ns() // 1_000_000_000)
        try:
            async with self._limit():
                target, host, name = await self._resolved(url)
                request = self._client.build_request(
                    "POST",
                    target,
                    content=body,
                    headers={**headers, "host": host, "user-agent": "faas-webhook"},
                    extensions={"sni_hostname": name},
                )
                answer = await self._client.send(request, stream=True)  # its body is nobody's business
                await answer.aclose()
        except TimeoutError:
            if self._leaving:
                raise NoCapacity("this node is going down") from None
            raise Trouble(f"no answer within {ATTEMPT_S:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise Trouble(f"{type(error).__name__}: {error}") from error
        if not answer.is_success:
            after = answer.headers.get("retry-after", "")
            wait_s = min(int(after), RETRY_AFTER_S_MAX) if after.isascii() and after.isdigit() else 0
            gone = answer.status_code == GONE
            raise Trouble(f"the receiver answered {answer.status_code}", final=gone, wait_s=wait_s)

    @asynccontextmanager
    async def _limit(self) -> AsyncIterator[None]:
        async with asyncio.timeout(LEAVE_S if self._leaving else ATTEMPT_S) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    async def _resolved(self, url: str) -> tuple[str, str, str]:
        """The URL with an allowed address in place of the name, the Host header, and the name. Raises ``Trouble``."""
        parts = urlsplit(url)
        name = parts.hostname or ""
        if parts.scheme != "https" or not name:
            raise Trouble("a destination is an https URL", final=True)
        port = parts.port or HTTPS
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Trouble(f"the name '{name}' cannot be resolved: {error}") from error
        addresses = [str(each[4][0]) for each in found]
        for address in addresses:
            if not allowed(address, anywhere=self._anywhere):
                words = f"'{name}' leads to {address}, which is not on the public Internet"
                raise Trouble(f"{words}; the node's FAAS_WEBHOOK_ADDRESSES says what may be reached", final=True)
        address = addresses[0]
        shown = f"[{address}]" if ":" in address else address
        target = f"https://{shown}:{port}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")
        host = f"[{name}]" if ":" in name else name
        return target, host if port == HTTPS else f"{host}:{port}", name


class _Work:
    def __init__(self, namespace: str, webhooks: Webhooks) -> None:
        self._namespace = namespace
        self._webhooks = webhooks

    async def perform(self, batch: Sequence[Delivery]) -> Done:
        return Done([await self._webhooks.deliver(self._namespace, delivery) for delivery in batch])


def allowed(address: str, *, anywhere: bool) -> bool:
    """Whether deliveries may go to an address.

    >>> allowed("93.184.215.14", anywhere=False), allowed("127.0.0.1", anywhere=False)
    (True, False)
    >>> allowed("10.0.0.7", anywhere=False), allowed("10.0.0.7", anywhere=True)
    (False, True)
    >>> allowed("169.254.169.254", anywhere=True), allowed("::ffff:169.254.169.254", anywhere=True)
    (False, False)
    """
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6 and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_link_local or found.is_multicast or found.is_unspecified:
        return False
    if anywhere:
        return True
    tunnel = found.version == 6 and any(found in network for network in _TUNNELS)
    return bool(found.is_global) and not tunnel


async def _lease_ms() -> int:
    return LEASE_MS
