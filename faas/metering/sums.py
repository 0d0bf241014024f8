"""Usage records added up: exact integers, in any order, in any batching.

A *cell* is what the ledger keeps: the sums of one hour and one group (``Group``). A report picks cells by time and
labels and adds them by the dimensions that were asked for. Everything here is addition of integers, therefore
associative and commutative: no result depends on the order in which records arrived or how they were batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Final, NamedTuple

from faas.metering.meter import init_part_ms
from faas.model.errors import InvalidRequest
from faas.model.invocation import Status
from faas.model.usage import UsageRecord

HOUR_MS: Final = 3_600_000
HOUR_NS: Final = HOUR_MS * 1_000_000

# What is summed, in stored order. Append only: a cell written before a metric existed reads as 0 there.
METRICS: Final = (
    "invocations",
    "billed_ms",
    "mb_ms",
    "queue_ns",
    "init_ns",
    "run_ns",
    "cpu_ns",
    "bytes_in",
    "bytes_out",
    "init_mb_ms",  # of mb_ms, what would not be there if starts were not billed
)

# Of what the largest value is kept beside the sums, in stored order.
MAXIMA: Final = ("peak_memory_bytes", "memory_mb")

FIRST: Final = "first"
RETRY: Final = "retry"


class Group(NamedTuple):
    """Whose usage a cell holds. All strings, none holds a NUL.

    ``attempt`` is not stored for a first attempt: cells from before there were others read the same.
    """

    namespace: str
    function: str
    version: str
    key: str
    trigger: str
    status: str
    start: str
    attempt: str = FIRST  # first | retry: any after the first


Cells = dict[tuple[int, Group], list[int]]  # (hour, group) -> sums in the order of METRICS


def hour_of(started_at_ns: int) -> int:
    """Hours since 1970, UTC.

    >>> hour_of(3_600_000_000_000 - 1), hour_of(3_600_000_000_000)
    (0, 1)
    """
    return started_at_ns // HOUR_NS


def group_of(record: UsageRecord) -> Group:
    return Group(
        record.namespace,
        record.function,
        str(record.version),
        record.key_id,
        record.trigger,
        record.status,
        record.start,
        RETRY if record.attempt > 1 else FIRST,
    )


def amounts(record: UsageRecord) -> tuple[int, ...]:
    """What one record adds to its cell, in the order of ``METRICS``."""
    return (
        1,
        record.billed_ms,
        record.memory_mb * record.billed_ms,
        record.queue_ns,
        record.init_ns,
        record.run_ns,
        record.cpu_ns,
        record.bytes_in,
        record.bytes_out,
        record.memory_mb * init_part_ms(record.start, record.init_ns, record.run_ns, record.billed_ms),
    )


def largest(record: UsageRecord) -> tuple[int, ...]:
    """What one record puts up against its cell's maxima, in the order of ``MAXIMA``."""
    return record.peak_memory_bytes, record.memory_mb


def add_to(sums: list[int], amount: Sequence[int]) -> None:
    """Add in place; ``amount`` may be shorter (an older cell), ``sums`` has one place per metric."""
    for index, value in enumerate(amount):
        sums[index] += value


def add(cells: Cells, record: UsageRecord) -> None:
    """Add one record to its cell."""
    key = hour_of(record.started_at_ns), group_of(record)
    sums = cells.get(key)
    if sums is None:
        cells[key] = list(amounts(record))
    else:
        add_to(sums, amounts(record))


def total(records: Iterable[UsageRecord]) -> Cells:
    cells: Cells = {}
    for record in records:
        add(cells, record)
    return cells


def merge(into: Cells, other: Cells) -> None:
    """Add the cells of ``other`` in place."""
    for key, sums in other.items():
        mine = into.get(key)
        if mine is None:
            into[key] = list(sums)
        else:
            add_to(mine, sums)


def _moment(hour: int) -> datetime:
    return datetime.fromtimestamp(hour * 3600, UTC)


# What a report may be grouped and filtered by: labels of the hour (UTC) and labels of the group.
TIMES: Final[Mapping[str, Callable[[int], str]]] = {
    "hour": lambda hour: _moment(hour).strftime("%Y-%m-%dT%H:00:00Z"),
    "day": lambda hour: _moment(hour).strftime("%Y-%m-%d"),
    "month": lambda hour: _moment(hour).strftime("%Y-%m"),
}
DIMENSIONS: Final = (*Group._fields, *TIMES)

_Labels = tuple[str, ...]
_ERRORS: Final = len(METRICS)  # place in a row of a report, after the sums and before the maxima


def check_dimensions(names: Iterable[str]) -> None:
    """Raises ``InvalidRequest`` that lists the dimensions there are."""
    unknown = sorted(set(names) - set(DIMENSIONS))
    if unknown:
        raise InvalidRequest(f"Usage knows no '{unknown[0]}'; group and filter by any of: {', '.join(DIMENSIONS)}.")


def is_in(hour: int, where: Mapping[str, str]) -> bool:
    """Whether an hour has the labels asked for."""
    return all(label(hour) == where[name] for name, label in TIMES.items() if name in where)


def is_of(group: Group, where: Mapping[str, str]) -> bool:
    """Whether a group has the labels asked for.

    >>> is_of(Group("default", "hello", "1", "k1", "http", "ok", "warm"), {"status": "ok", "day": "2025-01-31"})
    True
    """
    return all(getattr(group, name) == wanted for name, wanted in where.items() if name in Group._fields)


class Row(NamedTuple):
    """One line of a report: the labels asked for, exact sums, and maxima (``MAXIMA``; empty where none were seen)."""

    labels: dict[str, str]
    sums: dict[str, int]
    maxima: dict[str, int]


class Report:
    """A report under construction: cells go in, labelled rows come out.

    Worked example: ``by=("function",)`` over two cells of ``hello`` (3 and 4 invocations, the 4 with status
    ``timeout``) gives one row ``({"function": "hello"}, {"invocations": 7, "errors": 4, ...}, {})``.
    """

    def __init__(self, by: Sequence[str], where: Mapping[str, str]) -> None:
        """Raises ``InvalidRequest`` on a dimension that does not exist."""
        check_dimensions([*by, *where])
        self._by = tuple(dict.fromkeys(by))
        self._where = dict(where)
        self._rows: dict[_Labels, dict[_Labels, list[int]]] = {}  # by labels of the hour, then of the group
        # Labels of an hour and of a group are made once; None = filtered out.
        self._hours: dict[int, _Labels | None] = {}
        self._groups: dict[Group, _Labels | None] = {}

    def add(self, hour: int, group: Group, sums: Sequence[int]) -> None:
        """``sums`` in the order of ``METRICS``; shorter when an older writer made them."""
        row = self._row(hour, group)
        if row is not None:
            add_to(row, sums)
            if group.status != Status.OK:
                row[_ERRORS] += sums[0]

    def saw(self, hour: int, group: Group, maxima: Sequence[int]) -> None:
        """The largest values of a cell, in the order of ``MAXIMA``."""
        row = self._row(hour, group)
        if row is not None:
            for index, value in enumerate(maxima, _ERRORS + 1):
                if value > row[index]:
                    row[index] = value

    def _row(self, hour: int, group: Group) -> list[int] | None:
        """Sums in the order of ``METRICS``, errors, maxima; None = filtered out."""
        if hour not in self._hours:
            self._hours[hour] = self._pick({name: label(hour) for name, label in TIMES.items()})
        if group not in self._groups:
            self._groups[group] = self._pick(group._asdict())
        times, names = self._hours[hour], self._groups[group]
        if times is None or names is None:
            return None
        rows = self._rows.get(times)
        if rows is None:
            rows = self._rows[times] = {}
        row = rows.get(names)
        if row is None:
            row = rows[names] = [0] * (_ERRORS + 1 + len(MAXIMA))
        return row

    def _pick(self, labels: Mapping[str, str]) -> _Labels | None:
        if any(labels[name] != wanted for name, wanted in self._where.items() if name in labels):
            return None
        return tuple([labels[name] for name in self._by if name in labels])

    def rows(self) -> list[Row]:
        """Ordered by labels, versions as numbers. ``errors`` counts what did not end ``ok``."""
        places = [*(name for name in self._by if name in TIMES), *(name for name in self._by if name not in TIMES)]
        shown = []
        for times, rows in self._rows.items():
            for names, row in rows.items():
                found = dict(zip(places, (*times, *names), strict=True))
                sums = {"invocations": row[0], "errors": row[_ERRORS], **dict(zip(METRICS[1:], row[1:], strict=False))}
                most = row[_ERRORS + 1 :]
                maxima = dict(zip(MAXIMA, most, strict=True)) if any(most) else {}
                shown.append(Row({name: found[name] for name in self._by}, sums, maxima))
        return sorted(shown, key=lambda row: in_order(row.labels))

    def take(self) -> list[Row]:
        """``rows``, which are then forgotten: the report goes on with none."""
        rows = self.rows()
        self._rows = {}
        return rows


def in_order(labels: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """What rows are ordered by: their labels, numbers among them by value."""
    return [_natural(label) for label in labels.values()]


def _natural(label: str) -> tuple[int, int, str]:
    return (0, int(label), "") if label.isascii() and label.isdigit() else (1, 0, label)


def periods(hours: Iterable[int], by: Sequence[str]) -> list[list[int]]:
    """Ascending hours, cut where the finest time among ``by`` changes: no row of a report spans two pieces.

    >>> periods([0, 1, 23, 24, 50], ("function", "day"))
    [[0, 1, 23], [24], [50]]
    >>> periods([0, 1, 23, 24, 50], ("function",))
    [[0, 1, 23, 24, 50]]
    """
    finest = next((TIMES[name] for name in TIMES if name in by), lambda _: "")
    return [list(some) for _, some in groupby(hours, finest)]


def report(cells: Cells, by: Sequence[str], where: Mapping[str, str]) -> list[tuple[dict[str, str], dict[str, int]]]:
    """The rows of a report over ``cells``: see ``Report``."""
    rows = Report(by, where)
    for (hour, group), sums in cells.items():
        rows.add(hour, group, sums)
    return [(row.labels, row.sums) for row in rows.rows()]
