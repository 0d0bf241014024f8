"""Prices over HTTP: the books in force, estimates, and what each invocation on record cost.

Books are for the whole platform, so a key for every namespace sets them, and it alone sees them as they were written:
they may say what other namespaces pay. A key of one namespace sees the prices of that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from starlette.responses import Response

from faas.billing import money, shipped
from faas.billing.bill import Bill, Line
from faas.billing.book import FLAGS, MONTH, PriceBook, month_of
from faas.billing.estimate import Workload, estimate, requests
from faas.billing.metrics import METRICS
from faas.billing.rating import shown_cost
from faas.gateway import params
from faas.gateway.catalog import NAME
from faas.gateway.resources import JSON_TYPE, Context, Json, Operation
from faas.gateway.services import Services
from faas.model.errors import Forbidden, InvalidRequest
from faas.packaging import checks, sizes
from faas.ports import Prices, PriceStore

TOML_TYPE: Final = "application/toml"
RPS_MAX: Final = Decimal(10) ** 9
DURATION_MS_MAX: Final = Decimal(checks.TIMEOUT_MS_MAX)
BYTES_OUT_MAX: Final = 10**12
NUMBER_CHARS_MAX: Final = 40
_NS_PER_MS: Final = 1_000_000
_ASKED: Final = ("function", "memory", "min_instances", "rps", "duration", "cpu", "bytes_out", "month")


async def with_cost(prices: PriceStore, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Invocation records with ``cost``, a decimal as text, and ``currency``: at the list prices in force when each
    began (``faas.billing.rating.record_cost``).
    """
    books = (await prices.current()).books
    shown = []
    for record in records:
        book = books.at(record["started_at"], record["namespace"])
        shown.append({**record, "cost": money.text(shown_cost(book, record)), "currency": book.currency})
    return shown


class PricesApi:
    def __init__(self, services: Services) -> None:
        self._services = services
        self._store = services.prices

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/prices", "read", self.read),
            Operation("PUT", "/v1/prices", "admin", self.put),
            Operation("POST", "/v1/estimates", "read", self.estimate),
        ]

    async def read(self, context: Context) -> Response:
        return Json(self._document(await self._store.current(), context))

    async def put(self, context: Context) -> Response:
        """TOML, plain or as ``{"toml": TEXT}``."""
        if context.grant.namespace:
            raise Forbidden("This key belongs to one namespace; prices are set with a key for all of them.")
        text = await _toml(context)
        prices = await self._store.set(text, self._services.clock.unix_ns() // _NS_PER_MS, context.grant.key.id)
        return Json(self._document(prices, context))

    async def estimate(self, context: Context) -> Response:
        """A month of a steady load, under the book in force and, to compare, under those that are shipped."""
        asked = await context.json()
        month, namespace, load = self._month(asked.get("month")), _one_namespace(context), workload(asked)
        now_ms = self._services.clock.unix_ns() // _NS_PER_MS
        books = (await self._store.current()).books
        bill = estimate(books.at(month, namespace), month, namespace, load, now_ms)
        others = [estimate(shipped.books_of(name).at(month), month, namespace, load, now_ms) for name in shipped.NAMES]
        return Json(
            {
                "function": load.function,
                "namespace": namespace,
                "month": month,
                "book": bill.book,
                "currency": bill.currency,
                "requests": requests(load),
                "lines": [line_document(line) for line in bill.lines],
                "total": _total(bill),
                "notes": list(bill.notes),
                "compare": [{"book": o.book, "currency": o.currency, "total": _total(o)} for o in others],
            }
        )

    def _month(self, value: object) -> str:
        if value is None:
            return month_of(self._services.clock.unix_ns())
        if not isinstance(value, str) or not MONTH.fullmatch(value):
            raise InvalidRequest("'month' must be a month, like 2026-01.")
        return value

    def _document(self, prices: Prices, context: Context) -> dict[str, Any]:
        month, namespace = self._month(context.query("month")), _one_namespace(context)
        document: dict[str, Any] = {
            "namespace": namespace,
            "month": month,
            "in_force": book_document(prices.books.at(month, namespace)),
            "set": bool(prices.text),
            "set_at": params.rfc3339_ms(prices.set_at_ms) if prices.text else None,
            "books": [{"name": each.book.name, "from": each.book.month or None} for each in prices.books.dated],
        }
        if not context.grant.namespace:
            document |= {"set_by": prices.set_by or None, "toml": prices.text or None}
        return document


def _one_namespace(context: Context) -> str:
    return "default" if context.namespace == "*" else context.namespace


async def _toml(context: Context) -> str:
    raw = await context.body(context.limits.json_bytes_max)
    content_type = context.request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type != JSON_TYPE:
            return raw.decode()
        found = json.loads(raw)
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"The body is not what it says to be ({content_type or TOML_TYPE}): {error}") from error
    if not isinstance(found, dict) or list(found) != ["toml"] or not isinstance(found["toml"], str):
        raise InvalidRequest(f'Send the price book as {TOML_TYPE}, or as JSON: {{"toml": TEXT}}.')
    return str(found["toml"])


def _total(bill: Bill) -> str:
    return f"{bill.total:f}"


def line_document(line: Line) -> dict[str, Any]:
    """JSON-ready; decimals as text."""
    values = {each.name: getattr(line, each.name) for each in fields(line)}
    return {name: money.text(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def book_document(book: PriceBook) -> dict[str, Any]:
    """Prices by metric, each tier with its upper end in the metric's unit (null: none); all numbers as text."""
    prices = {}
    for name, metric in METRICS.items():
        if name not in book.prices:
            continue
        price = book.prices[name]
        tiers = [
            {
                "up_to": None if tier.up_to is None else money.text(money.over(tier.up_to, metric.per_unit)),
                "price": money.text(tier.price),
            }
            for tier in price.tiers
        ]
        prices[name] = {
            "title": metric.title,
            "unit": metric.unit,
            "tiers": tiers,
            "free": money.text(money.over(price.free, metric.per_unit)),
        }
    return {
        "name": book.name,
        "from": book.month or None,
        "currency": book.currency,
        "decimals": book.decimals,
        **{flag: getattr(book, flag) for flag in FLAGS},
        "prices": prices,
    }


# -- what is to be estimated ----------------------------------------------------------------------------------------


def workload(asked: Mapping[str, Any]) -> Workload:
    """Raises ``InvalidRequest``."""
    unknown = sorted(asked.keys() - set(_ASKED))
    if unknown:
        raise InvalidRequest(f"An estimate has no '{unknown[0][:60]}'; there is {', '.join(_ASKED)}.")
    missing = [name for name in ("rps", "duration") if asked.get(name) is None]
    if missing:
        raise InvalidRequest(f"Say '{missing[0]}' as well: how often it is called, and how long a call takes.")
    function = asked.get("function", "function")
    if not isinstance(function, str) or not NAME.match(function):
        raise InvalidRequest("'function' must be a function's name: a lower-case letter, then a-z, 0-9 and '-'.")
    cpu = asked.get("cpu")
    return Workload(
        function,
        _memory_mb(asked.get("memory", 128)),
        _number(asked["rps"], "rps", RPS_MAX),
        _milliseconds(asked["duration"], "duration"),
        _whole(asked.get("min_instances", 0), "min_instances", checks.INSTANCES_MAX),
        None if cpu is None else _milliseconds(cpu, "cpu"),
        _whole(asked.get("bytes_out", 0), "bytes_out", BYTES_OUT_MAX),
    )


def _memory_mb(value: object) -> int:
    try:
        return checks.memory_mb(value)
    except ValueError as error:
        raise InvalidRequest(f"'memory': {error}.") from error


def _milliseconds(value: object, name: str) -> Decimal:
    """A number of milliseconds, or a duration as people write it."""
    if isinstance(value, str) and value[-1:].isalpha():
        try:
            value = sizes.parse_duration_ms(value)
        except ValueError as error:
            raise InvalidRequest(f"'{name}': {error}.") from error
    return _number(value, name, DURATION_MS_MAX)


def _number(value: object, name: str, most: Decimal) -> Decimal:
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > NUMBER_CHARS_MAX:
            raise ValueError(name)
        number = Decimal(str(value))
        if not number.is_finite() or not 0 <= number <= most or money.decimals(number) > 6:
            raise ValueError(name)
    except (InvalidOperation, ValueError) as error:
        raise InvalidRequest(f"'{name}' must be a number from 0 to {most:f} with at most 6 decimals.") from error
    return number


def _whole(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidRequest(f"'{name}' must be a whole number from 0 to {most}.")
    return value
