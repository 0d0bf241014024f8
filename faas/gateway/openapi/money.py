"""Usage, prices, estimates and bills, as OpenAPI has them."""

from __future__ import annotations

from typing import Any

from faas.billing.present import focus
from faas.gateway import bills_api
from faas.gateway.openapi.words import (
    FREE,
    NAME,
    NAMESPACES,
    TEXT,
    TIME,
    WHOLE,
    json,
    list_of,
    operation,
    parameter,
    record,
    ref,
    tables,
)
from faas.gateway.usage_api import FILTERS, FORMATS
from faas.metering.sums import DIMENSIONS
from faas.model.budget import Scope, Unit


def paths() -> dict[str, Any]:
    return {**_usage(), **_bills(), **_prices(), **_budgets()}


def schemas() -> dict[str, Any]:
    bill = {
        "month": TEXT, "status": {"enum": ["open", "closed"]}, "from": TIME, "to": TIME, "made_at": TIME,
        "currency": {"type": ["string", "null"]}, "total": {"type": ["string", "null"]}, "totals": FREE,
        "bills": list_of(FREE), "lines": list_of(FREE),
    }  # fmt: skip
    credit = {**dict.fromkeys(("id", "month", "namespace", "amount", "currency", "reason"), TEXT), "made_at": TIME}
    return {
        "Bill": record(bill),
        "Credit": record(credit),
        "Usage": record(
            {
                "from": TIME,
                "to": TIME,
                "by": list_of(TEXT),
                "rows": list_of(FREE),
                "totals": FREE,
                "partial": {
                    **list_of(TIME),
                    "description": "Hours that the range cuts and whose records are no longer all kept: one counts "
                    "whole where it begins in the range, else as far as its records are there. Absent where there are "
                    "none, and then the sums are exact.",
                },
                "held": {
                    **record({"rows": list_of(FREE), "totals": FREE}),
                    "description": "MB times ms held without serving: idle_mb_ms, parked_mb_ms, and of what "
                    "min_instances keeps provisioned_mb_ms; of generic sandboxes, in the totals, generic_mb_ms. "
                    "Not for labels that only calls have. With a key for every namespace each has `cost`, what holding "
                    "the idle, parked and generic of it cost by `rate`: never part of a bill.",
                },
            },
            ("from", "to", "by", "rows", "totals"),
        ),
        "Prices": {
            **record(
                {
                    "namespace": TEXT,
                    "month": TEXT,
                    "in_force": FREE,
                    "set": {"type": "boolean"},
                    "set_at": {"type": ["string", "null"]},
                    "books": list_of(FREE),
                    "set_by": {"type": ["string", "null"]},
                    "toml": {"type": ["string", "null"]},
                },
                ("namespace", "month", "in_force", "set", "set_at", "books"),
            )
        },
        "Estimate": record(
            {
                "function": TEXT,
                "namespace": TEXT,
                "month": TEXT,
                "book": TEXT,
                "currency": TEXT,
                "requests": WHOLE,
                "lines": list_of(FREE),
                "total": TEXT,
                "notes": list_of(TEXT),
                "compare": list_of(FREE),
            }
        ),
        **_reconciliation(),
        "Budgets": {
            **record({"namespace": TEXT, "month": TEXT, "renews_at": TIME, "budgets": list_of(FREE)}),
            "additionalProperties": True,
            "description": "Each budget with `used_gb_seconds`, `used_amount` and `state`: ok, warning or exhausted.",
        },
    }


def _usage() -> dict[str, Any]:
    labels = ", ".join(DIMENSIONS)
    ranges = [
        parameter("from", "query", "From when; by default the start of this month."),
        parameter("to", "query", "Until when; by default now."),
        *(parameter(name, "query", f"Only this {name}.") for name in FILTERS),
        *NAMESPACES,
    ]
    period = record(
        {
            "from": {**TEXT, "description": "From when; by default the start of this month."},
            "to": {**TEXT, "description": "Until when; by default now."},
        },
        (),
    )
    return {
        "/v1/usage": {
            "get": operation(
                "readUsage",
                "Exact sums of what was used. `mb_ms` is the unit of all money: 1 GB-second is 1,024,000 of it.",
                {"200": tables(json(ref("Usage"), "The report. As CSV and NDJSON its rows come in order of time."))},
                parameters=[
                    parameter("by", "query", f"Comma-separated: {labels}. By default function."),
                    parameter("format", "query", "By default json.", {"enum": list(FORMATS)}),
                    *ranges,
                ],
            )
        },
        "/v1/usage/records": {
            "get": operation(
                "listUsageRecords",
                "The usage records themselves, as long as they are kept: by hour, then by function, then as they came.",
                {"200": tables({"description": "A line for each."})},
                parameters=[
                    parameter("format", "query", "By default ndjson.", {"enum": ["ndjson", "csv"]}),
                    *ranges,
                ],
            )
        },
        "/v1/usage/reconcile": {
            "post": operation(
                "reconcileUsage",
                "Add the raw records up again and answer every sum that is not theirs: per hour, function and the rest "
                "of its labels. Whole hours; those whose records are not kept any more cannot be checked and are "
                "listed. `differences` has the first 1000.",
                {"200": json(ref("Reconciliation"))},
                parameters=NAMESPACES,
                body={"required": False, "content": {"application/json": {"schema": period}}},
                codes=("400", "401", "403", "413", "503"),
            )
        },
    }


def _bills() -> dict[str, Any]:
    month = parameter(
        "month", "path", "A month of UTC, like 2026-11.", {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}
    )
    credit = {"amount": TEXT, "currency": TEXT, "reason": TEXT, "namespace": TEXT}
    asked = record(credit, ("amount", "reason"))
    files = {kind: {"schema": TEXT} for kind in ("text/csv", "text/html")}
    once = parameter("Idempotency-Key", "header", "Asked again with the same key, there is still one credit note.")
    return {
        "/v1/bills/{month}": {
            "get": operation(
                "readBill",
                "What a month costs, line by line; the lines sum to the total exactly. Of an open month, as of now.",
                {"200": {"description": "The bill.", "content": {**json(ref("Bill"))["content"], **files}}},
                parameters=[
                    month,
                    parameter("format", "query", "json by default.", {"enum": list(bills_api.FORMATS)}),
                    parameter("focus_version", "query", "Columns of which FOCUS.", {"enum": list(focus.COLUMNS)}),
                    *NAMESPACES,
                ],
            )
        },
        "/v1/bills/{month}/close": {
            "post": operation(
                "closeBill",
                "Freeze a month for all namespaces. One that is closed already stays as it is.",
                {"200": json(ref("Bill"))},
                parameters=[month],
                body={
                    "required": False,
                    "content": {"application/json": {"schema": record({"force": {"type": "boolean"}}, ())}},
                },
                codes=("400", "401", "403", "409", "413", "503"),
            )
        },
        "/v1/bills/{month}/credits": {
            "parameters": [month, *NAMESPACES],
            "get": operation(
                "listCredits",
                "Credit notes on a closed month's bill.",
                {"200": json(record({"credits": list_of(ref("Credit"))}))},
            ),
            "post": operation(
                "giveCredit",
                "Take an amount off what a namespace owes for a closed month: a line on the bill of the next open one.",
                {"201": json(ref("Credit"))},
                parameters=[once],
                body={"required": True, "content": {"application/json": {"schema": asked}}},
                codes=("400", "401", "403", "404", "409", "413", "503"),
            ),
        },
    }


def _prices() -> dict[str, Any]:
    number = {"type": ["number", "string"]}
    asked = {
        "function": TEXT, "memory": {"type": ["string", "integer"]}, "min_instances": WHOLE, "bytes_out": WHOLE,
        "rps": {**number, "description": "Calls per second."},
        "duration": {**number, "description": "Of a call: milliseconds, or text such as `1.5s`."},
        "cpu": {**number, "description": "Processor time of a call, likewise; without it, all of its duration."},
        "month": {**TEXT, "description": "Whose prices: `2026-01`; without it, this month's."},
    }  # fmt: skip
    toml = {"toml": {**TEXT, "description": "The books as a file would have them."}}
    body = {"application/toml": {"schema": TEXT}, "application/json": {"schema": record(toml)}}
    return {
        "/v1/prices": {
            "get": operation(
                "readPrices",
                "The prices in force for a namespace; with a key for every namespace also the books as they were set.",
                {"200": json(ref("Prices"))},
                parameters=[parameter("month", "query", "In this month; by default now."), *NAMESPACES],
            ),
            "put": operation(
                "setPrices",
                "Set the price books, all at once. Needs a key for every namespace.",
                {"200": json(ref("Prices"))},
                body={"required": True, "content": body},
                codes=("400", "401", "403", "413", "422", "503"),
            ),
        },
        "/v1/estimates": {
            "post": operation(
                "estimate",
                "What a steady load would cost in a month of 730 hours; decimals are text.",
                {"200": json(ref("Estimate"))},
                parameters=NAMESPACES,
                body={
                    "required": True,
                    "content": {"application/json": {"schema": record(asked, ("rps", "duration"))}},
                },
                codes=("400", "401", "403", "413", "503"),
            )
        },
    }


def _budgets() -> dict[str, Any]:
    number = {"type": ["string", "null"], "description": "A decimal; null is no such limit."}
    budget = record(
        {
            "scope": {"enum": list(Scope)},
            "name": {"type": "string", "description": "The function's name or the key's id; of a namespace empty."},
            **{unit.value: number for unit in Unit},
        },
        ("scope",),
    )
    webhook = {
        "description": "Where warnings go at 75, 90 and 100 %: POST, signed after Standard Webhooks. Without a secret "
        "one is made, and shown in this answer alone.",
        "oneOf": [record({"url": TEXT, "secret": TEXT}, ("url",)), TEXT, {"type": "null"}],
    }
    asked = record({"budgets": list_of(budget), "webhook": webhook}, ("budgets",))
    one = json(ref("Budgets"))
    return {
        "/v1/budgets/{namespace}": {
            "parameters": [parameter("namespace", "path", "The namespace's name.", NAME["schema"])],
            "get": operation("readBudgets", "What may be used in a month, and what was used of it.", {"200": one}),
            "put": operation(
                "setBudgets",
                "Replace all budgets of a namespace; they hold at once. Needs a key for every namespace.",
                {"200": one},
                body={"required": True, "content": {"application/json": {"schema": asked}}},
                codes=("400", "401", "403", "413", "503"),
            ),
        },
    }


def _reconciliation() -> dict[str, Any]:
    labels = ("namespace", "function", "version", "key", "trigger", "status", "start", "attempt", "metric")
    sums = dict.fromkeys(("ledger", "records", "difference"), WHOLE)
    difference = record({"hour": TIME, **dict.fromkeys(labels, TEXT), **sums})
    why = {"enum": ["expired", "incomplete"]}
    unchecked = record({"first_hour": TIME, "last_hour": TIME, "hours": WHOLE, "why": why})
    hour = {"type": ["string", "null"], "format": "date-time"}
    return {
        "Reconciliation": record(
            {
                "from": TIME,
                "to": TIME,
                "equal": {"type": "boolean"},
                "difference_count": WHOLE,
                "differences": list_of(difference),
                "records": {**WHOLE, "description": "How many were compared."},
                "hours": {**WHOLE, "description": "How many were compared."},
                "first_hour": hour,
                "last_hour": hour,
                "unchecked": list_of(unchecked),
            }
        )
    }
