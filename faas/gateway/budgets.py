"""Budgets on this node: the one owner of the books of namespaces that have any.

Theory of operation. Who has no budget pays nothing: while there is none at all the invoker asks nobody, and else a
call costs its namespace's look-up in a dict. ``faas.billing.budgets`` does the sums. Here they are fed: every
``REFRESH_S`` with what the ledger has of the last hours, every ``FULL_S`` and after every change with the whole month
(records may come late, from a node that was down); with each call that ends here; and with the month, when it turns.

While the store is away the books go on with what they know: calls are stopped by what this node has spent itself.
What other nodes spend meanwhile is seen when the store is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from faas.billing.budget_words import Month, exhausted, month_of
from faas.billing.budgets import THRESHOLDS, Account, BudgetBooks, Reading, limits_of
from faas.billing.notices import notice, notice_id
from faas.gateway import params
from faas.gateway.catalog import EVERYTHING
from faas.gateway.notifier import Notifier
from faas.gateway.services import Services
from faas.model.budget import Budgets
from faas.model.errors import FaasError, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.invocation import Call
from faas.model.usage import UsageRecord
from faas.ports import Prices

log = logging.getLogger("faas.gateway.budgets")

REFRESH_S: Final = 1.0
FULL_S: Final = 300.0
RECENT_HOURS: Final = 2  # before this one: a call may take an hour
NS_PER_S: Final = 1_000_000_000

Changed = Callable[[str, str], Awaitable[None]]


class BudgetWatch:
    """``admit`` and ``ended`` are on the way of every call; ``run`` is the task beside them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._clock = services.clock
        self._store = services.budgets
        self._books: dict[str, BudgetBooks] = {}  # by namespace; changed in place
        self._stored: tuple[Budgets, ...] = ()
        self._month = month_of(self._now_s())
        self._prices = Prices()
        self._recent_first = 0  # of the readings that the books have
        self._full_ns = 0  # when the whole month was read last
        self._noticed: set[str] = set()  # ids of warnings that need no second look
        self._lock = asyncio.Lock()
        self.some = False  # budgets there are
        self._any = asyncio.Event()  # the same, to wait for
        self._away = False  # the store, as the log was told
        self.refused: dict[str, int] = {}  # calls, by namespace
        self.notifier = Notifier(services.notices, services.clock)

    @property
    def month(self) -> Month:
        return self._month

    def books(self, namespace: str) -> BudgetBooks | None:
        return self._books.get(namespace)

    def accounts(self) -> list[Account]:
        return [account for books in self._books.values() for account in books.accounts]

    def currency(self, namespace: str) -> str:
        return self._prices.books.at(self._month.name, namespace).currency

    # -- calls ------------------------------------------------------------------------------------------------------

    def admit(self, version: FunctionVersion, call: Call) -> None:
        """Raises ``BudgetExhausted``."""
        books = self._books.get(version.namespace)
        if books is not None:
            refused = books.admit(f"{call.id}-{call.attempt}", version.name, call.key_id)
            if refused is not None:
                self.refused[version.namespace] = self.refused.get(version.namespace, 0) + 1
                raise exhausted(refused, self._month, self.currency(version.namespace))

    def ended(self, record: UsageRecord, sequence: int) -> None:
        """A call has ended, and is journalled under ``sequence``; what is not (0) is billed to nobody."""
        books = self._books.get(record.namespace)
        if books is not None:
            books.release(record.id)
            if sequence:
                books.book(sequence, record)

    # -- what is said of them ---------------------------------------------------------------------------------------

    async def reload(self) -> None:
        """Raises ``StoreUnavailable``; what held before holds then."""
        async with self._lock:
            stored = tuple(await self._store.list())
            if stored == self._stored and set(self._books) == {each.namespace for each in stored}:
                return
            self._month = month_of(self._now_s())
            await self._open({each.namespace: each for each in stored})
            self._stored = stored
            self.notifier.webhooks = {each.namespace: each.webhook for each in stored if each.webhook is not None}
            self._services.invoker.guard(self.admit if stored else None)
            self.some = bool(stored)
            if stored:
                self._any.set()
            else:
                self._any.clear()
        await self._warn()

    def following(self, others: Changed) -> Changed:
        """What to do about a change in the registry: its own are read again, all are for ``others``."""

        async def changed(namespace: str, name: str) -> None:
            if not name or name == EVERYTHING:
                await self.reload()
            await others(namespace, name)

        return changed

    async def _open(self, stored: Mapping[str, Budgets]) -> None:
        """Open the books of this month anew, from those that there are."""
        month = self._month
        self._prices = await self._services.prices.current()
        first = max(month.first, self._now_s() // 3600 - RECENT_HOURS)
        old, recent = await self._read(list(stored), month.first, first), await self._read(list(stored), first)
        made: dict[str, BudgetBooks] = {}
        for namespace, budgets in stored.items():
            book = self._prices.books.at(month.name, namespace)
            books = BudgetBooks(limits_of(budgets), month.first, month.end, book)
            known = self._books.get(namespace)
            if known is not None:
                books.take_over(known)
            books.read(recent[namespace], old[namespace])
            made[namespace] = books
        self._books.clear()
        self._books.update(made)
        self._recent_first, self._full_ns = first, self._clock.monotonic_ns()

    async def _read(self, namespaces: list[str], first: int, end: int | None = None) -> dict[str, Reading]:
        if not namespaces:
            return {}
        until = self._month.end if end is None else end
        return await self._store.spent(namespaces, first, until, self._services.journal_id())

    # -- beside the calls -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the books up to date, and send warnings, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.notifier.run())
            while True:
                await self._any.wait()
                await asyncio.sleep(REFRESH_S)
                try:
                    await self.refresh()
                except StoreUnavailable as error:
                    if not self._away:
                        log.warning("budgets go by what this node knows until the store is back: %s", error.message)
                    self._away = True
                except FaasError as error:
                    log.warning("budgets could not be brought up to date: %s", error.message)
                else:
                    self._away = False

    async def refresh(self) -> None:
        """Read the ledger once. Raises ``StoreUnavailable``."""
        async with self._lock:
            month = month_of(self._now_s())
            due = self._clock.monotonic_ns() - self._full_ns >= FULL_S * NS_PER_S
            due = due or await self._repriced()
            if month != self._month or due:
                self._month = month
                await self._open({each.namespace: each for each in self._stored})
            else:
                recent = await self._read(list(self._books), self._recent_first)
                for namespace, reading in recent.items():
                    self._books[namespace].read(reading)
        await self._warn()

    async def _repriced(self) -> bool:
        """Whether budgets in money have to be worked out anew."""
        in_money = any(each.amount is not None for budgets in self._stored for each in budgets.budgets)
        return in_money and await self._services.prices.current() != self._prices

    async def _warn(self) -> None:
        """Post warnings of thresholds that have been reached; who posts one twice is told so by the store."""
        now_s = self._now_s()
        for namespace, books in list(self._books.items()):
            for account in books.accounts:
                for threshold in [each for each in THRESHOLDS if each <= account.reached()]:
                    known = notice_id(account, self._month, threshold)
                    told = f"{known} told" if namespace in self.notifier.webhooks else known
                    if told in self._noticed:
                        continue
                    made = notice(account, self._month, threshold, params.rfc3339_ms(now_s * 1000))
                    log.warning("budget: %d %% reached: %s", threshold, made.body)
                    if namespace in self.notifier.webhooks:
                        await self.notifier.post(made)
                    self._noticed.add(told)

    def _now_s(self) -> int:
        return self._clock.unix_ns() // NS_PER_S
