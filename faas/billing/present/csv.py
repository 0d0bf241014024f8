"""A statement as CSV (RFC 4180), one row per line; the amounts of a currency sum to its total.

A spreadsheet takes a cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line's end for a formula and may run
it. Text that people chose (names, reasons) gets an apostrophe before such a beginning (OWASP, "CSV Injection"); numbers
are numbers, also below 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Final

from faas.billing import money
from faas.billing.statement import Statement, invoice_id

COLUMNS: Final = (
    "bill", "month", "status", "namespace", "function", "kind", "metric", "description", "quantity", "unit",
    "unit_price", "amount", "currency", "of_month", "reference",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


def harmless(text: str) -> str:
    """A cell's text that no spreadsheet runs.

    >>> harmless("=cmd|'/C calc'!A0"), harmless("  @SUM(A1)"), harmless("thumb-1")
    ("'=cmd|'/C calc'!A0", "'  @SUM(A1)", 'thumb-1')
    """
    text = text.replace("\0", "")
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) else text


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells that are harmless already; lines end in CR LF."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def text(statement: Statement) -> str:
    return table(
        COLUMNS,
        (
            [
                invoice_id(bill),
                bill.month,
                bill.status,
                harmless(line.namespace),
                harmless(line.function),
                line.kind,
                line.metric,
                harmless(line.description),
                money.text(line.quantity),
                line.unit,
                money.text(line.unit_price),
                money.text(line.amount),
                bill.currency,
                line.month,
                harmless(line.reference),
            ]
            for bill in statement.bills
            for line in bill.lines
        ),
    )
