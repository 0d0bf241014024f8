"""A statement as one JSON-ready document. Money and quantities are decimals in strings: no double can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faas.billing import money
from faas.billing.bill import Bill, Line
from faas.billing.statement import Statement, invoice_id, next_month
from faas.metering.present import rfc3339_ns

NS_PER_MS = 1_000_000


def line_document(line: Line) -> dict[str, Any]:
    return {
        "namespace": line.namespace,
        "function": line.function or None,
        "kind": line.kind,
        "metric": line.metric,
        "description": line.description,
        "quantity": money.text(line.quantity),
        "unit": line.unit or None,
        "unit_price": money.text(line.unit_price),
        "amount": money.text(line.amount),
        "list_price": money.text(line.list_price),
        "tier": line.tier or None,
        "month": line.month or None,
        "reference": line.reference or None,
    }


def bill_document(bill: Bill) -> dict[str, Any]:
    """Without its lines: those of all bills stand together in the statement."""
    return {
        "id": invoice_id(bill) or None,
        "namespace": bill.namespace,
        "currency": bill.currency,
        "total": f"{bill.total:f}",
        "book": bill.book,
        "notes": list(bill.notes),
    }


def document(statement: Statement) -> dict[str, Any]:
    """``lines`` sum to ``total`` exactly. ``currency`` and ``total`` are null where namespaces pay in several
    currencies; ``totals`` has one for each."""
    totals: Mapping[str, Any] = {currency: f"{total:f}" for currency, total in statement.totals.items()}
    currency = next(iter(totals)) if len(totals) == 1 else None
    return {
        "month": statement.month,
        "status": statement.status,
        "from": f"{statement.month}-01T00:00:00Z",
        "to": f"{next_month(statement.month)}-01T00:00:00Z",
        "made_at": rfc3339_ns(statement.made_at_ms * NS_PER_MS),
        "currency": currency,
        "total": totals[currency] if currency else None if totals else "0",
        "totals": totals,
        "bills": [bill_document(bill) for bill in statement.bills],
        "lines": [
            {**line_document(line), "currency": bill.currency} for bill in statement.bills for line in bill.lines
        ],
    }
