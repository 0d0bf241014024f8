"""Sends warnings to webhooks: each until it is delivered or given up, over restarts.

Theory of operation. What is to be sent stands in the store. A node claims one for ``CLAIM_MS``, longer than an attempt
may take, sends it and notes what became of it. A node that dies in between leaves a claim that runs out, so the warning
is sent again, with the same id: at least once, by whichever node comes first, and after ``TRIES_MAX`` attempts no more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from faas.billing.notices import TRIES_MAX, Claimed, Notice, backoff_ms, headers
from faas.model.budget import Webhook
from faas.model.errors import FaasError
from faas.ports import Clock, NoticeStore
from faas.waiting import either

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger("faas.gateway.budgets")

LOOK_S: Final = 2.0  # for what other nodes posted, or left behind
ATTEMPT_S: Final = 10.0
CLAIM_MS: Final = 30_000
_NS_PER_MS: Final = 1_000_000
_GONE: Final = 410  # the receiver wants no more of it (Standard Webhooks)


class Notifier:
    """``webhooks`` are the destinations by namespace; who owns it keeps them up to date."""

    def __init__(self, store: NoticeStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._posted = asyncio.Event()
        self._client: httpx2.AsyncClient | None = None
        self.webhooks: dict[str, Webhook] = {}

    async def post(self, notice: Notice) -> None:
        """Have it sent, unless it was already. Raises ``StoreUnavailable``."""
        if await self._store.post(notice, self._now_ms()):
            self._posted.set()

    async def run(self) -> None:
        """Send what is due until cancelled."""
        try:
            while True:
                self._posted.clear()
                try:
                    while self.webhooks and await self.send_one():
                        pass
                except FaasError as error:
                    log.debug("warnings of budgets wait: %s", error.message)
                await either(self._posted, LOOK_S)
        finally:
            await self.close()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def send_one(self) -> bool:
        """Send one that is due; False when none is. Raises ``StoreUnavailable``."""
        now_ms = self._now_ms()
        claimed = await self._store.claim(now_ms, now_ms + CLAIM_MS)
        if claimed is None:
            return False
        webhook = self.webhooks.get(claimed.notice.namespace)
        trouble = "its namespace has no webhook any more" if webhook is None else await self._attempt(claimed, webhook)
        if not trouble:
            await self._store.settle(claimed.notice.id, "sent")
        elif webhook is None or claimed.tries >= TRIES_MAX or trouble == f"it answered {_GONE}":
            log.error("the warning %s of a budget was given up: %s", claimed.notice.id, trouble)
            await self._store.settle(claimed.notice.id, "failed")
        else:
            log.warning("the warning %s of a budget is sent again later: %s", claimed.notice.id, trouble)
            wait_ms = backoff_ms(claimed.tries, random.random())
            await self._store.settle(claimed.notice.id, "due", self._now_ms() + wait_ms)
        return True

    async def _attempt(self, claimed: Claimed, webhook: Webhook) -> str:
        """One POST; "" when it was taken, else what was wrong."""
        import httpx2  # 60 ms and 10 MB that most nodes never need

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=ATTEMPT_S, follow_redirects=False)
        made = headers(claimed.notice, webhook.secret, self._now_ms() // 1000)
        try:
            async with asyncio.timeout(ATTEMPT_S):
                answer = await self._client.post(webhook.url, content=claimed.notice.body, headers=made)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {error}"
        return "" if answer.is_success else f"it answered {answer.status_code}"

    def _now_ms(self) -> int:
        return self._clock.unix_ns() // _NS_PER_MS
