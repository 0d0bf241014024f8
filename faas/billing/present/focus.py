"""A statement in FOCUS, the FinOps Open Cost and Usage Specification (https://focus.finops.org), as CSV.

``1.4`` (ratified on 4 June 2026, the newest) has all of its mandatory columns, the conditional and recommended ones
that apply to a platform like this, and every column of 1.0, so that tools of either age read the same file: those that
apply to nothing here are empty, and ``ProviderName`` and ``PublisherName``, which 1.4 no longer has, come after its
own. ``1.2`` and ``1.0`` have columns of those versions alone, for tools that refuse what they do not know.

What FOCUS calls things here: the *billing account* is a namespace (it is who gets a bill), so is the *sub account*; a
function is the *resource*; a metric of the price book the *SKU*; a tier of it the *SKU price*. A line of use is
``Usage``; a credit note ``Credit``, and as it changes an issued bill, a ``Correction``; rounding is an ``Adjustment``.
Use that was recorded late is ``Usage`` whose charge period is the month it was used in, before the billing period.

Custom columns (``x_``) carry what FOCUS has no place for, so that nothing of a bill is lost in it.

Decimals have a point always: a reader that guesses types must not take a column for one of integers. Text is ASCII, as
the public validator wants it; other characters are written as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from faas.billing import money
from faas.billing.bill import ALLOWANCE, CREDIT, USAGE, Bill, Line
from faas.billing.metrics import CPU_SECONDS, GB_OUT, GB_SECONDS, METRICS, PROVISIONED, REQUESTS
from faas.billing.present.csv import harmless, table
from faas.billing.statement import Statement, invoice_id, next_month

PROVIDER: Final = "faas"
# Units as the specification writes them ("Unit Format"): counts and times are plural and capital.
UNITS: Final = {
    REQUESTS: "Requests",
    GB_SECONDS: "GB-Seconds",
    CPU_SECONDS: "CPU-Seconds",
    GB_OUT: "GB",
    PROVISIONED: "GB-Seconds",
}

_MANDATORY: Final = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
    "PricingUnit", "ServiceCategory", "ServiceName",
)  # fmt: skip
_SINCE_1_3: Final = ("HostProviderName", "ServiceProviderName")
_UNTIL_1_2: Final = ("ProviderName", "PublisherName")
_APPLY: Final = (
    "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory",
    "ResourceId", "ResourceName", "ResourceType", "SkuId", "SkuPriceId", "SubAccountId", "SubAccountName",
)  # fmt: skip
_SINCE_1_1: Final = ("ServiceSubcategory", "SkuMeter", "SkuPriceDetails")
_EMPTY: Final = (
    "AvailabilityZone", "CommitmentDiscountCategory", "CommitmentDiscountId", "CommitmentDiscountName",
    "CommitmentDiscountStatus", "CommitmentDiscountType", "RegionId", "RegionName", "Tags",
)  # fmt: skip
_CUSTOM: Final = ("x_Kind", "x_Metric", "x_Tier", "x_PriceBook", "x_BillStatus", "x_Reference")

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "1.4": (
        *sorted((*_MANDATORY, *_SINCE_1_3, *_APPLY, *_SINCE_1_1, *_EMPTY, "InvoiceId", "InvoiceDetailId")),
        *_UNTIL_1_2,
        *_CUSTOM,
    ),
    "1.2": (*sorted((*_MANDATORY, *_UNTIL_1_2, *_APPLY, *_SINCE_1_1, *_EMPTY, "InvoiceId")), *_CUSTOM),
    "1.0": (*sorted((*_MANDATORY, *_UNTIL_1_2, *_APPLY, *_EMPTY)), *_CUSTOM),
}
NEWEST: Final = "1.4"


def text(statement: Statement, version: str = NEWEST) -> str:
    """CSV in the columns of a version of ``COLUMNS``. Null is an empty cell."""
    columns = COLUMNS[version]
    rows = (row(bill, line, number) for bill in statement.bills for number, line in enumerate(bill.lines, start=1))
    return table(columns, ([_cell(found.get(column)) for column in columns] for found in rows))


def row(bill: Bill, line: Line, number: int) -> dict[str, Decimal | str | None]:
    """One line's columns, of every version; those that are missing are null."""
    invoice = invoice_id(bill) or None
    return {
        **_whose(bill, line),
        **_costs(line),
        "ChargeDescription": line.description,
        "InvoiceId": invoice,
        "InvoiceDetailId": invoice and f"{invoice}/{number}",
        "x_Kind": line.kind,
        "x_Metric": line.metric,
        "x_Tier": str(line.tier) if line.tier else None,
        "x_PriceBook": bill.book,
        "x_BillStatus": bill.status,
        "x_Reference": line.reference or None,
        **(_usage(bill, line) if line.kind in (USAGE, ALLOWANCE) else _other(line)),
    }


def _whose(bill: Bill, line: Line) -> dict[str, Decimal | str | None]:
    used = line.month or bill.month
    return {
        "BillingAccountId": line.namespace,
        "BillingAccountName": line.namespace,
        "SubAccountId": line.namespace,
        "SubAccountName": line.namespace,
        "ResourceId": f"{line.namespace}/{line.function}" if line.function else None,
        "ResourceName": line.function or None,
        "ResourceType": "Function" if line.function else None,
        "BillingCurrency": bill.currency,
        "BillingPeriodStart": _begin(bill.month),
        "BillingPeriodEnd": _begin(next_month(bill.month)),
        "ChargePeriodStart": _begin(used),
        "ChargePeriodEnd": _begin(next_month(used)),
        "ServiceCategory": "Compute",
        "ServiceSubcategory": "Serverless Compute",
        "ServiceName": "Functions",
        **dict.fromkeys(("InvoiceIssuerName", *_SINCE_1_3, *_UNTIL_1_2), PROVIDER),
    }


def _costs(line: Line) -> dict[str, Decimal | str | None]:
    return {
        "BilledCost": line.amount,
        "EffectiveCost": line.amount,
        "ContractedCost": line.amount,
        "ListCost": money.times(line.quantity, line.list_price),
    }


def _usage(bill: Bill, line: Line) -> dict[str, Decimal | str | None]:
    sku = "faas-" + line.metric.replace("_", "-")
    price = {"Tier": line.tier, "Allowance": line.kind == ALLOWANCE, "UnitPrice": money.text(line.unit_price)}
    return {
        "ChargeCategory": "Usage",
        "ChargeClass": "Correction" if line.quantity < 0 else None,
        "ChargeFrequency": "Usage-Based",
        "PricingCategory": "Standard",
        "PricingQuantity": line.quantity,
        "PricingUnit": UNITS[line.metric],
        "ConsumedQuantity": line.quantity,
        "ConsumedUnit": UNITS[line.metric],
        "ContractedUnitPrice": line.unit_price,
        "ListUnitPrice": line.list_price,
        "SkuId": sku,
        "SkuMeter": METRICS[line.metric].title,
        "SkuPriceId": f"{sku}/{bill.book}/{line.kind}/{line.tier}/{money.text(line.unit_price)}",
        "SkuPriceDetails": json.dumps({f"x_{name}": value for name, value in price.items()}),
    }


def _other(line: Line) -> dict[str, Decimal | str | None]:
    """A credit or rounding: an amount, and nothing that was measured."""
    credit = line.kind == CREDIT
    return {
        "ChargeCategory": "Credit" if credit else "Adjustment",
        "ChargeClass": "Correction" if credit else None,
        "ChargeFrequency": "One-Time",
    }


def _begin(month: str) -> str:
    return f"{month}-01T00:00:00Z"


def _cell(value: Decimal | str | None) -> str:
    """
    >>> _cell(Decimal(5)), _cell(Decimal("1E-7")), _cell(None), _cell("=é")
    ('5.0', '0.0000001', '', "'=\\\\xe9")
    """
    if value is None:
        return ""
    if isinstance(value, Decimal):
        digits = money.text(value)
        return digits if "." in digits else digits + ".0"
    return harmless(value.encode("ascii", "backslashreplace").decode())
