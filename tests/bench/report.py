"""What the benchmark found, as lines while it goes, as a table in README, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

Say = Callable[[str], None]

BEGIN = "<!-- bench:begin -->"
END = "<!-- bench:end -->"


class Verdict(StrEnum):
    PASS = "pass"
    SHORT = "short"  # measured, and worse than the bar
    INFO = "-"  # measured, no bar
    FAILED = "failed"  # could not be measured


@dataclass(frozen=True, slots=True)
class Bar:
    """What we hold ourselves to. ``text`` is how people read it, ``limit`` what a value is compared with."""

    text: str
    limit: float
    at_least: bool = False

    def judge(self, value: float) -> Verdict:
        """Meeting the bar exactly is a pass.

        >>> Bar(">= 0.7 x", 0.7, at_least=True).judge(0.69).value, Bar("<= 2 x", 2).judge(2).value
        ('short', 'pass')
        """
        met = value >= self.limit if self.at_least else value <= self.limit
        return Verdict.PASS if met else Verdict.SHORT


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. Texts are ready to print; ``values`` are the bare numbers, with units in their names."""

    what: str
    measured: str = ""
    floor: str = ""
    ratio: str = ""
    bar: str = ""
    verdict: Verdict = Verdict.INFO
    note: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


HEADINGS = ("what", "measured", "bare echo", "ratio", "bar", "")


def _cells(row: Row) -> tuple[str, ...]:
    return (row.what, row.measured, row.floor, row.ratio, row.bar, row.verdict.value)


def text_table(rows: Sequence[Row]) -> str:
    """Columns padded to their widest cell; notes below, one line each."""
    table = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([*lines, "", *(f"{row.what}: {row.note}" for row in rows if row.note)])


def markdown_table(rows: Sequence[Row]) -> str:
    """The same for README; a ``|`` in a cell is escaped."""
    table = [HEADINGS, *(_cells(row) for row in rows)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table]
    lines.insert(1, "|" + "---|" * len(HEADINGS))
    return "\n".join(lines)


def readme_block(rows: Sequence[Row], machine: str, date: str) -> str:
    """Everything between the two marks, marks included."""
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    head = f"Measured by `make bench` on {date}: {machine}. The load generator runs on the same machine."
    return "\n".join([BEGIN, head, "", markdown_table(rows), "", *notes, *([""] if notes else []), END])


def replace_block(text: str, block: str) -> str:
    """``text`` with its benchmark block replaced. Raises ``ValueError`` unless it has exactly one."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"there must be one {BEGIN} and, after it, one {END}")
    before, _, rest = text.partition(BEGIN)
    return before + block + rest.partition(END)[2]


def write_readme(path: Path, rows: Sequence[Row], machine: str, date: str) -> None:
    """Put the table into the file. Raises ``ValueError`` when it has no place for it."""
    path.write_text(replace_block(path.read_text("utf-8"), readme_block(rows, machine, date)), "utf-8")


def as_json(rows: Sequence[Row], machine: Mapping[str, Any], date: str) -> dict[str, Any]:
    """The whole result for programs."""
    return {
        "date": date,
        "machine": dict(machine),
        "rows": [
            {
                "what": row.what,
                "measured": row.measured,
                "floor": row.floor,
                "ratio": row.ratio,
                "bar": row.bar,
                "verdict": row.verdict.value,
                "note": row.note,
                "values": dict(row.values),
            }
            for row in rows
        ],
    }


# -- numbers as people read them --------------------------------------------------------------------------------------


def duration(ns: float) -> str:
    """Three digits at most, with the unit that fits.

    >>> duration(85_400), duration(1_260_000), duration(310_000_000), duration(1_500_000_000)
    ('85 us', '1.26 ms', '310 ms', '1.50 s')
    """
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if ns >= size * 0.9995:
            return f"{_three(ns / size)} {unit}"
    return f"{_three(ns / 1e3) if ns < 10_000 else round(ns / 1e3)} us"


def megabytes(count_bytes: float) -> str:
    """Decimal megabytes, as the limits are.

    >>> megabytes(812_000), megabytes(12_340_000)
    ('0.81 MB', '12.3 MB')
    """
    return f"{_three(count_bytes / 1e6)} MB"


def rate(per_second: float) -> str:
    """Requests per second.

    >>> rate(12345.6)
    '12,350/s'
    """
    return f"{round(per_second, -1):,.0f}/s"


def _three(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"
