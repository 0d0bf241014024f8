"""A statement as one HTML page to read and to print: no script, nothing loaded, all that people chose escaped."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from itertools import groupby
from typing import Final

from faas.billing import money
from faas.billing.bill import ALLOWANCE, CREDIT, Bill, Line
from faas.billing.statement import Statement, invoice_id

# What a browser is told beside the page (Content-Security-Policy): style from the page itself, nothing else.
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE: Final = """
:root { color-scheme: light; --line: #d5d9de; --dim: #5b6570; }
* { box-sizing: border-box; }
body { margin: 2rem auto; padding: 0 1rem; max-width: 60rem; background: #fff; color: #14181d;
  font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .2rem 0; }
.dim { color: var(--dim); font-size: .88rem; }
.status { display: inline-block; margin-left: .6rem; padding: .1rem .6rem; border: 1px solid currentColor;
  border-radius: 1rem; font-size: .85rem; font-weight: 600; vertical-align: middle; text-transform: uppercase; }
.open { color: #8a5a00; } .closed { color: #1b6b3a; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #14181d; font-size: .82rem; }
.number { text-align: right; white-space: nowrap; }
tbody th { padding-top: .9rem; font-weight: 600; }
tr.allowance td { color: var(--dim); }
tr.total td { border-bottom: 3px double #14181d; border-top: 2px solid #14181d; font-weight: 700; }
.tag { padding: 0 .4rem; border-radius: .2rem; background: #fdf0d5; font-size: .8rem; white-space: nowrap; }
@page { size: A4; margin: 16mm 14mm; }
@media print {
  body { margin: 0; padding: 0; max-width: none; font-size: 10pt; }
  section + section { break-before: page; }
  thead { display: table-header-group; }
  tr, .keep { break-inside: avoid; }
  h2 { break-after: avoid; }
  .tag { border: 1px solid var(--line); background: none; }
}
"""

_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>Bill {month}{whose}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>Bill for {month}<span class="status {status}">{status}</span></h1>
<p class="dim">{period}</p>
<p class="dim">{made}</p>
</header>
<main>
{bills}
</main>
</body>
</html>
"""


def text(statement: Statement) -> str:
    """The whole page. Each namespace's bill begins on a sheet of its own when printed."""
    moment = datetime.fromtimestamp(statement.made_at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    closed = statement.status == "closed"
    namespaces = {bill.namespace for bill in statement.bills}
    return _PAGE.format(
        policy=escape(POLICY),
        style=_STYLE,
        month=escape(statement.month),
        whose=f": {escape(next(iter(namespaces)))}" if len(namespaces) == 1 else "",
        status="closed" if closed else "open",
        period=f"Use from the first to the last moment of {escape(statement.month)}, UTC.",
        made=f"Closed on {moment}; it does not change any more."
        if closed
        else f"As of {moment}. The month is open: this may still change.",
        bills="\n".join(_bill(bill) for bill in statement.bills) or "<p>Nothing was used in this month.</p>",
    )


def _bill(bill: Bill) -> str:
    lines = sorted(bill.lines, key=lambda line: line.function or "\U0010ffff")  # what is of no function, last
    parts = groupby(lines, key=lambda line: line.function)
    body = "\n".join(_function(function, part) for function, part in parts)
    number = invoice_id(bill)
    notes = "".join(f'<p class="dim">{escape(note)}</p>\n' for note in bill.notes)
    return f"""<section>
<h2>Namespace {escape(bill.namespace)}</h2>
<p class="dim">{f"Bill {escape(number)}. " if number else ""}Prices: {escape(bill.book)}.</p>
<table>
<thead><tr><th scope="col">What</th><th scope="col" class="number">Quantity</th><th scope="col">Unit</th>
<th scope="col" class="number">Price per unit</th><th scope="col" class="number">{escape(bill.currency)}</th>
</tr></thead>
{body}
<tbody class="keep"><tr class="total"><td colspan="4">Total</td>
<td class="number">{bill.total:f} {escape(bill.currency)}</td></tr></tbody>
</table>
{notes}</section>"""


def _function(function: str, lines: Iterable[Line]) -> str:
    """The lines of one function with their heading."""
    found = list(lines)
    sums = money.ZERO
    for line in found:
        sums = money.plus(sums, line.amount)
    heading = (
        f'<tr><th scope="rowgroup" colspan="4">{escape(function)}</th><td class="number">{_amount(sums)}</td></tr>\n'
        if function
        else ""
    )
    return f"<tbody>\n{heading}{''.join(map(_line, found))}</tbody>"


def _line(line: Line) -> str:
    tag = ""
    if line.month:
        what = "credit for" if line.kind == CREDIT else "late, of"
        tag = f' <span class="tag">{what} {escape(line.month)}</span>'
    if line.reference:
        tag += f' <span class="dim">{escape(line.reference)}</span>'
    measured = line.function != ""
    row = ' class="allowance"' if line.kind == ALLOWANCE else ""
    return (
        f"<tr{row}><td>{escape(line.description)}{tag}</td>"
        f'<td class="number">{money.text(line.quantity) if measured else ""}</td>'
        f"<td>{escape(line.unit) if measured else ''}</td>"
        f'<td class="number">{money.text(line.unit_price) if measured else ""}</td>'
        f'<td class="number">{_amount(line.amount)}</td></tr>\n'
    )


def _amount(amount: Decimal) -> str:
    """Exact, and with the cents that people look for.

    >>> _amount(Decimal("2.5")), _amount(Decimal("-3")), _amount(Decimal("0.0000166667"))
    ('2.50', '-3.00', '0.0000166667')
    """
    digits = money.text(amount)
    whole, _, fraction = digits.partition(".")
    return f"{whole}.{fraction.ljust(2, '0')}"
