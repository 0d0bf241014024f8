"""Reads traces in the format of the Azure Functions dataset of 2019, or of samples drawn from it.

A folder holds either ``invocations.csv`` and ``memory.csv``, as InVitro samples them, or the dataset's own files,
``invocations_per_function_md.anon.dNN.csv`` and ``app_memory_percentiles.anon.dNN.csv``; days that are there are put
one after the other. Memory is given per function, or per application: then its functions share it evenly. Where it is
missing, the median of the others is taken. Durations are not read: the paper's accounting has calls take no time.
"""

from __future__ import annotations

import csv
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faas.testing.replay.trace import Trace, TraceFunction

_MEDIAN_MB = 170.0  # of an application, in the paper (section 3.4); where a trace says nothing at all
_ID_COLUMNS = 4
Key = tuple[str, str, str]


class BadTrace(Exception):
    """A folder that is not a trace; says which file and line."""


@dataclass(slots=True)
class _Row:
    trigger: str
    active: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def read(folder: Path, tick: Callable[[str], None] = lambda _: None) -> Trace:
    """Raises ``BadTrace``. ``tick`` is told what is being read."""
    invocations = _files(folder, "invocations.csv", "invocations_per_function_md.anon.d*.csv")
    if not invocations:
        raise BadTrace(f"{folder}: no invocations.csv and no invocations_per_function_md.anon.dNN.csv in it")
    rows: dict[Key, _Row] = {}
    minutes = 0
    for path in invocations:
        tick(f"reading {path.name}")
        minutes += _read_day(path, rows, minutes)
    memory: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for path in _files(folder, "memory.csv", "app_memory_percentiles.anon.d*.csv"):
        tick(f"reading {path.name}")
        _read_memory(path, memory)
    return Trace(folder.name, minutes, _functions(rows, memory))


def _files(folder: Path, sample: str, dataset: str) -> list[Path]:
    return [folder / sample] if (folder / sample).is_file() else sorted(folder.glob(dataset))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        for row in reader:
            if row:
                yield reader.line_num, row


def _read_day(path: Path, rows: dict[Key, _Row], first: int) -> int:
    """Add one file's calls, its first minute being ``first``; returns how many minutes it has."""
    lines = _rows(path)
    _, header = next(lines, (1, []))
    if header[:_ID_COLUMNS] != ["HashOwner", "HashApp", "HashFunction", "Trigger"]:
        raise BadTrace(f"{path}:1: expected HashOwner,HashApp,HashFunction,Trigger and a column per minute")
    for line, cells in lines:
        if len(cells) != len(header):
            raise BadTrace(f"{path}:{line}: {len(cells)} columns, the header has {len(header)}")
        owner, app, function, trigger = cells[:_ID_COLUMNS]
        row = rows.setdefault((owner, app, function), _Row(trigger))
        for minute, cell in enumerate(cells[_ID_COLUMNS:], first):
            if cell not in ("0", ""):
                row.active.append(minute)
                row.counts.append(_count(cell, path, line))
    return len(header) - _ID_COLUMNS


def _count(cell: str, path: Path, line: int) -> int:
    if not cell.isdecimal():
        raise BadTrace(f"{path}:{line}: {cell!r} is not a number of calls")
    return int(cell)


def _read_memory(path: Path, memory: dict[tuple[str, ...], list[tuple[float, float]]]) -> None:
    """Add (MB, samples) to each (owner, app) or (owner, app, function)."""
    lines = _rows(path)
    _, header = next(lines, (1, []))
    try:
        ids = [header.index(name) for name in ("HashOwner", "HashApp", "HashFunction") if name in header]
        average, samples = header.index("AverageAllocatedMb"), header.index("SampleCount")
    except ValueError:
        raise BadTrace(f"{path}:1: no column AverageAllocatedMb or SampleCount") from None
    for line, cells in lines:
        try:
            entry = (float(cells[average]), float(cells[samples]))
            memory.setdefault(tuple(cells[i] for i in ids), []).append(entry)
        except (ValueError, IndexError):
            raise BadTrace(f"{path}:{line}: not a row of allocated memory") from None


def _functions(
    rows: dict[Key, _Row], memory: dict[tuple[str, ...], list[tuple[float, float]]]
) -> tuple[TraceFunction, ...]:
    siblings = Counter(key[:2] for key in rows)

    def known_mb(key: Key) -> float | None:
        for place, share in ((key, 1), (key[:2], siblings[key[:2]])):
            entries = memory.get(place)
            if entries:
                samples = sum(n for _, n in entries)
                mean = sum(mb * n for mb, n in entries) / samples if samples else entries[0][0]
                return mean / share
        return None

    found = {key: known_mb(key) for key in rows}
    middle = statistics.median([mb for mb in found.values() if mb is not None] or [_MEDIAN_MB])
    return tuple(
        TraceFunction(key[2], row.trigger, found[key] or middle, tuple(row.active), tuple(row.counts))
        for key, row in rows.items()
        if row.active
    )
