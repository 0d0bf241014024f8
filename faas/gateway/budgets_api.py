"""Budgets over HTTP. Only a key for every namespace sets them: a tenant's budget is not the tenant's to raise."""

from __future__ import annotations

import re
import secrets
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.responses import Response

from faas.billing.budget_words import describe
from faas.billing.budgets import THRESHOLDS, BudgetBooks
from faas.billing.money import text
from faas.billing.notices import notice_id
from faas.gateway.budgets import BudgetWatch
from faas.gateway.catalog import NAME
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.model.budget import Budget, Budgets, Scope, Unit, Webhook
from faas.model.errors import Forbidden, InvalidRequest
from faas.model.webhook import secret_bytes, secret_of

BUDGETS_MAX: Final = 1_000
SECRET_BYTES: Final = 32
_FIELDS: Final = ("scope", "name", *Unit)
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")
_NUMBER: Final = re.compile(r"\d{1,15}(\.\d{1,12})?\Z")


class BudgetsApi:
    def __init__(self, services: Services, watch: BudgetWatch) -> None:
        self._services = services
        self._watch = watch

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/budgets/{namespace}", "read", self.read),
            Operation("PUT", "/v1/budgets/{namespace}", "admin", self.put),
        ]

    async def read(self, context: Context) -> Response:
        """What may be used, what was used this month, and which warnings were sent."""
        namespace = _namespace(context)
        context.grant.check_namespace(namespace)
        return Json(await self._document(await self._stored(namespace)))

    async def put(self, context: Context) -> Response:
        """Replace all budgets of a namespace; they hold at once. A secret made here is in this answer alone."""
        namespace = _namespace(context)
        if context.grant.namespace:
            raise Forbidden("This key belongs to one namespace; budgets are set with a key for all of them.")
        asked = await context.json()
        known = await self._stored(namespace)
        budgets, new_secret = parse(namespace, asked, known)
        in_money = any(each.amount is not None for each in budgets.budgets)
        if in_money and not (await self._services.prices.current()).text:
            raise InvalidRequest("A budget in money needs a price book: set one with `faas price set FILE`.")
        await self._services.budgets.put(budgets)
        await self._watch.reload()
        document = await self._document(budgets)
        if new_secret:
            document["webhook"]["secret"] = new_secret
        return Json(document, headers={"cache-control": "no-store"})

    async def _stored(self, namespace: str) -> Budgets:
        found = await self._services.budgets.list()
        return next((each for each in found if each.namespace == namespace), Budgets(namespace=namespace))

    async def _document(self, budgets: Budgets) -> dict[str, Any]:
        month, books = self._watch.month, self._watch.books(budgets.namespace)
        return {
            "namespace": budgets.namespace,
            "month": month.name,
            "renews_at": month.renews_at,
            "currency": self._watch.currency(budgets.namespace),
            "webhook": None if budgets.webhook is None else {"url": budgets.webhook.url},
            "budgets": [
                {
                    "scope": each.scope.value,
                    "name": each.name,
                    **{unit.value: _text(getattr(each, unit)) for unit in Unit},
                    **_used(each, books),
                }
                for each in budgets.budgets
            ],
            "warnings": await self._warnings(books),
        }

    async def _warnings(self, books: BudgetBooks | None) -> list[dict[str, Any]]:
        """Of this month, those that were posted: what became of each."""
        if books is None:
            return []
        ids = {
            notice_id(account, self._watch.month, threshold): (account.limit, threshold)
            for account in books.accounts
            for threshold in THRESHOLDS
            if threshold <= account.reached()
        }
        states = await self._services.notices.states(list(ids)) if ids else {}
        return [
            {
                "id": key,
                "scope": limit.scope.value,
                "name": limit.name,
                "unit": limit.unit.value,
                "threshold_percent": threshold,
                "state": states[key],
            }
            for key, (limit, threshold) in ids.items()
            if key in states
        ]


def _used(budget: Budget, books: BudgetBooks | None) -> dict[str, Any]:
    """``used_*`` for each unit that is limited, and the worse of their states."""
    states, used = ["ok"], dict[str, str | None](dict.fromkeys((f"used_{unit}" for unit in Unit), None))
    for account in books.accounts if books is not None else ():
        if (account.limit.scope, account.limit.name) == (budget.scope, budget.name):
            said = describe(account)
            used[f"used_{account.limit.unit}"] = said["used"]
            states.append(said["state"])
    return {**used, "state": max(states, key=("ok", "warning", "exhausted").index)}


def _text(amount: Decimal | None) -> str | None:
    return None if amount is None else text(amount)


def _namespace(context: Context) -> str:
    name: str = context.request.path_params["namespace"]
    if not NAME.match(name):
        raise InvalidRequest(f"'{name[:80]}' is not a namespace: a lower-case letter, then a-z, 0-9 and '-'.")
    return name


# -- what is asked for ----------------------------------------------------------------------------------------------


def parse(namespace: str, asked: dict[str, Any], known: Budgets) -> tuple[Budgets, str]:
    """A document as callers send it, and the secret that was made for it, "" if none was.

    A webhook without a secret keeps the one that its URL has, else gets a new one. Raises ``InvalidRequest``.
    """
    unknown = sorted(asked.keys() - {"budgets", "webhook"})
    if unknown:
        raise InvalidRequest(f"Budgets have 'budgets' and 'webhook', not '{unknown[0][:60]}'.")
    listed = asked.get("budgets")
    if not isinstance(listed, list) or len(listed) > BUDGETS_MAX:
        raise InvalidRequest(f"'budgets' must be a list of at most {BUDGETS_MAX}.")
    budgets = tuple(_budget(each) for each in listed)
    named = [(each.scope, each.name) for each in budgets]
    if len(set(named)) < len(named):
        raise InvalidRequest("'budgets' names a namespace, function or key twice; give both limits in one of them.")
    webhook, made = _webhook(asked.get("webhook"), known.webhook)
    return Budgets(namespace=namespace, budgets=budgets, webhook=webhook), made


def _budget(asked: Any) -> Budget:
    if not isinstance(asked, dict) or asked.keys() - set(_FIELDS):
        raise InvalidRequest(f"A budget is an object with {', '.join(_FIELDS)}.")
    scope, name = asked.get("scope"), asked.get("name") or ""
    if scope not in list(Scope):
        raise InvalidRequest(f"'scope' must be one of {', '.join(Scope)}.")
    form = {Scope.FUNCTION: NAME, Scope.KEY: _KEY}.get(Scope(scope))
    if not isinstance(name, str) or not (form.match(name) if form else name == ""):
        raise InvalidRequest("'name' must be the function's name or the key's id; a namespace's budget has none.")
    gb_seconds, amount = (_number(unit, asked.get(unit)) for unit in Unit)
    if gb_seconds is None and amount is None:
        raise InvalidRequest(f"A budget needs a limit: {' or '.join(Unit)}.")
    return Budget(scope=Scope(scope), name=name, gb_seconds=gb_seconds, amount=amount)


def _number(unit: str, value: Any) -> Decimal | None:
    """A decimal in a string, or a JSON number; exact as it is written."""
    if value is None:
        return None
    written = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    try:
        plain = f"{Decimal(written):f}"
    except (InvalidOperation, ValueError):
        plain = ""
    if not _NUMBER.match(plain):
        raise InvalidRequest(f"'{unit}' must be a number of at least 0, with up to 15 digits and 12 decimals.")
    return Decimal(plain)


def _webhook(asked: Any, known: Webhook | None) -> tuple[Webhook | None, str]:
    if asked is None:
        return None, ""
    if isinstance(asked, str):
        asked = {"url": asked}
    if not isinstance(asked, dict) or asked.keys() - {"url", "secret"} or not isinstance(asked.get("url"), str):
        raise InvalidRequest("'webhook' must be a URL, or an object with 'url' and 'secret'.")
    url, secret = asked["url"], asked.get("secret")
    if not _is_url(url):
        raise InvalidRequest("'webhook': the URL must begin with https:// or http:// and name a host.")
    if secret is None:
        if known is not None and known.url == url:
            return known, ""
        made = secret_of(secrets.token_bytes(SECRET_BYTES))
        return Webhook(url=url, secret=made), made
    try:
        secret_bytes(str(secret))
    except ValueError as error:
        raise InvalidRequest(f"'webhook': {error}.") from error
    return Webhook(url=url, secret=str(secret)), ""


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        return False
