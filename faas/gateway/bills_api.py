"""Bills over HTTP: read them in any format, close a month, correct a closed one with a credit note.

A key of one namespace sees the bill of that. Closing and credits are the operator's: they need a key for every
namespace.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from decimal import Decimal
from typing import Any, Final

from starlette.responses import Response

from faas.billing import money
from faas.billing.present import csv, focus, html
from faas.billing.present.json import document
from faas.billing.statement import MONTH, CreditNote, Statement
from faas.gateway import params
from faas.gateway.billing import Billing
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.model.errors import Forbidden, InvalidRequest

FORMATS: Final = ("json", "csv", "html", "focus")
REASON_CHARS_MAX: Final = 500
KEY_CHARS_MAX: Final = 255
_AMOUNT: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,10})?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class BillsApi:
    def __init__(self, services: Services) -> None:
        self._new_id = services.new_id
        self._billing = Billing(services.ledger, services.prices, services.bills, services.clock, services.held)

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/bills/{month}", "read", self.read),
            Operation("POST", "/v1/bills/{month}/close", "admin", self.close),
            Operation("GET", "/v1/bills/{month}/credits", "read", self.credits),
            Operation("POST", "/v1/bills/{month}/credits", "admin", self.credit),
        ]

    async def read(self, context: Context) -> Response:
        month, form = _month(context), context.query("format") or "json"
        version = context.query("focus_version") or focus.NEWEST
        if form not in FORMATS:
            raise InvalidRequest(f"format={form[:60]!r} is none of: {', '.join(FORMATS)}.")
        if version not in focus.COLUMNS:
            raise InvalidRequest(f"focus_version={version[:60]!r} is none of: {', '.join(focus.COLUMNS)}.")
        statement = _visible(context, await self._billing.statement(month))
        return await asyncio.to_thread(_presented, statement, form, version)

    async def close(self, context: Context) -> Response:
        """``{"force": true}`` closes a month that has not settled. A month that is closed already stays as it is."""
        _operator(context, "a month is closed")
        month, asked = _month(context), await _optional(context)
        force = asked.get("force", False)
        if asked.keys() - {"force"} or not isinstance(force, bool):
            raise InvalidRequest("Closing takes 'force', true or false, and nothing else.")
        statement = await self._billing.close(month, context.grant.key.id, force=force)
        return await asyncio.to_thread(_presented, _visible(context, statement), "json", "")

    async def credits(self, context: Context) -> Response:
        notes = await self._billing.credits(_month(context))
        shown = [note for note in notes if _every(context) or note.namespace == context.namespace]
        return Json({"credits": [credit_document(note) for note in shown]})

    async def credit(self, context: Context) -> Response:
        """``amount`` above 0 and ``reason``; with an ``Idempotency-Key``, however often it is asked for."""
        _operator(context, "a credit is given")
        month, asked = _month(context), await context.json()
        unknown = sorted(asked.keys() - {"amount", "reason", "currency", "namespace"})
        if unknown:
            raise InvalidRequest(
                f"A credit has 'amount', 'reason', 'currency' and 'namespace', not '{unknown[0][:60]}'."
            )
        namespace = asked.get("namespace", context.namespace)
        if not isinstance(namespace, str) or namespace == "*" or (context.named and namespace != context.namespace):
            raise InvalidRequest("A credit is for one namespace; name it, once.")
        currency = asked.get("currency")
        if not (currency is None or isinstance(currency, str)):
            raise InvalidRequest("'currency' must be text, like USD.")
        note = await self._billing.credit(
            self._credit_id(context), month, namespace, _amount(asked.get("amount")), currency,
            _reason(asked.get("reason")), context.grant.key.id,
        )  # fmt: skip
        return Json(credit_document(note), 201)

    def _credit_id(self, context: Context) -> str:
        key = context.request.headers.get("idempotency-key")
        if key is None:
            return "credit-" + self._new_id()
        if not 0 < len(key) <= KEY_CHARS_MAX:
            raise InvalidRequest(f"An Idempotency-Key has 1 to {KEY_CHARS_MAX} characters.")
        return "credit-" + hashlib.sha256(key.encode()).hexdigest()[:32]


def _presented(statement: Statement, form: str, version: str) -> Response:
    match form:
        case "html":
            content, media_type = html.text(statement), "text/html; charset=utf-8"
        case "csv":
            content, media_type = csv.text(statement), "text/csv; charset=utf-8"
        case "focus":
            content, media_type = focus.text(statement, version), "text/csv; charset=utf-8"
        case _:
            return Json(document(statement), headers={"cache-control": "no-store"})
    headers = {"cache-control": "no-store", "content-type": media_type, "x-content-type-options": "nosniff"}
    if form == "html":
        headers["content-security-policy"] = html.POLICY
    else:
        headers["content-disposition"] = f'attachment; filename="{form}-{statement.month}.csv"'
    return Response(content.encode("utf-8", "replace"), headers=headers)


def credit_document(note: CreditNote) -> dict[str, Any]:
    return {
        "id": note.id,
        "month": note.month,
        "namespace": note.namespace,
        "amount": money.text(note.amount),
        "currency": note.currency,
        "reason": note.reason,
        "made_at": params.rfc3339_ms(note.made_at_ms),
    }


def _every(context: Context) -> bool:
    return context.namespace == "*" or (not context.named and not context.grant.namespace)


def _visible(context: Context, statement: Statement) -> Statement:
    return statement if _every(context) else statement.only(context.namespace)


def _operator(context: Context, what: str) -> None:
    if context.grant.namespace:
        raise Forbidden(f"This key belongs to one namespace; {what} with a key for all of them.")


def _month(context: Context) -> str:
    month: str = context.request.path_params["month"]
    if not MONTH.fullmatch(month) or month.startswith("9999"):
        raise InvalidRequest(f"'{month[:60]}' is not a month; write it like 2026-11.")
    return month


async def _optional(context: Context) -> dict[str, Any]:
    """The body as a JSON object; no body is an empty one."""
    raw = await context.body(context.limits.json_bytes_max)
    try:
        found = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidRequest("The body must be a JSON object.")
    return found


def _amount(value: object) -> Decimal:
    written = str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if not _AMOUNT.fullmatch(written) or not Decimal(written):
        raise InvalidRequest("'amount' must be a number above 0, like \"12.50\": it is taken off what is owed.")
    return Decimal(written)


def _reason(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > REASON_CHARS_MAX or _CONTROL.search(value):
        raise InvalidRequest(f"'reason' must be one line of text, at most {REASON_CHARS_MAX} characters.")
    return value.strip()
