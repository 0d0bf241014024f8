# /// script
# requires-python = ">=3.11"
#
# [tool.faas]
# name = "report"
# memory = "256MB"
# timeout = "30s"
#
# [tool.faas.http]
# methods = ["POST"]
# ///
"""CSV in, report out: the type of each column, count, total, min, max and mean of the numbers, and totals by group.

    curl --data-binary @sales.csv -H 'content-type: text/csv' 'URL/fn/report?group=country'

Also as a direct call: with a content type of text/csv the event is the file; as JSON, {"csv": "...", "group": "..."}.
Separators , ; tab and | are recognised. Sums are exact (decimal), so money adds up.
"""

import base64
import csv
import io
from decimal import Decimal, InvalidOperation

ROWS_MAX = 500_000
GROUPS_MAX = 1_000


def handler(event, context):
    if isinstance(event, bytes):
        return report(decode(event), None)
    if not isinstance(event, dict):
        raise TypeError('send a CSV file, or {"csv": "...", "group": "a column"}')
    if "requestContext" not in event:
        return report(event.get("csv", ""), event.get("group"))
    body = event.get("body") or ""
    try:
        text = decode(base64.b64decode(body)) if event.get("isBase64Encoded") else body
        return report(text, (event.get("queryStringParameters") or {}).get("group"))
    except ValueError as error:
        return {"statusCode": 400, "headers": {"content-type": "text/plain"}, "body": f"{error}\n"}


def report(text, group):
    """The report on a CSV text whose first row names the columns; ``ValueError`` says what is wrong with it."""
    columns, rows = read(text)
    if group is not None and group not in columns:
        raise ValueError(f"there is no column {group!r} to group by; there are {', '.join(columns)}")
    result = {"rows": len(rows), "columns": {}}
    numbers = {}
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows if row[index]]
        found = [number(cell) for cell in cells]
        facts = {"type": "text", "empty": len(rows) - len(cells)}
        if cells and None not in found:
            facts["type"] = "integer" if all(value == value.to_integral_value() for value in found) else "number"
            facts |= summary(found)
            numbers[column] = index
        elif cells:
            facts["distinct"] = len(set(cells))
        result["columns"][column] = facts
    if group is not None:
        result["groups"] = grouped(rows, columns.index(group), {c: i for c, i in numbers.items() if c != group})
    return result


def read(text):
    """The names of the columns and the rows, each as long as the head."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError("the CSV is empty")
    head = text.lstrip("\ufeff\r\n")
    separator = max(",;\t|", key=head.split("\n", 1)[0].count)
    columns, rows = None, []
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator, strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if columns is None:
                columns = cells
                if "" in columns or len(set(columns)) < len(columns):
                    raise ValueError("line 1: every column needs a name of its own")
                continue
            if len(cells) != len(columns):
                raise ValueError(f"line {reader.line_num}: {len(cells)} values, but there are {len(columns)} columns")
            if len(rows) == ROWS_MAX:
                raise ValueError(f"more than {ROWS_MAX} rows")
            rows.append(cells)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if columns is None:
        raise ValueError("the CSV is empty")
    return columns, rows


def number(cell):
    """The cell as a number, or None. Leading zeros mean a code (a postcode, a phone number), not a number."""
    digits = cell.lstrip("+-")
    if len(cell) > 40 or (digits[:1] == "0" and digits[1:2].isdigit()):
        return None
    try:
        value = Decimal(cell)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value.adjusted()) < 40 and "_" not in cell else None


def summary(values):
    total = sum(values, Decimal(0))
    figures = {"total": total, "min": min(values), "max": max(values), "mean": total / len(values)}
    return {"count": len(values)} | {name: plain(value) for name, value in figures.items()}


def grouped(rows, by, numbers):
    """For each value of the column ``by``: how many rows, and the total of every column of numbers."""
    groups = {}
    for row in rows:
        entry = groups.setdefault(row[by], [0, dict.fromkeys(numbers, Decimal(0))])
        if len(groups) > GROUPS_MAX:
            raise ValueError(f"more than {GROUPS_MAX} groups")
        entry[0] += 1
        for column, index in numbers.items():
            entry[1][column] += Decimal(row[index] or 0)
    return {
        key: {"rows": count, "totals": {column: plain(total) for column, total in totals.items()}}
        for key, (count, totals) in sorted(groups.items())
    }


def plain(value):
    """The number as JSON has it: whole ones as they are, others with at most 10 decimals."""
    return int(value) if value == value.to_integral_value() else float(round(value, 10))


def decode(data):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")  # what spreadsheets on Windows write
