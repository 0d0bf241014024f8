"""Usage records for tests of the journal, the ledger and the meter."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faas.model.usage import UsageRecord
from faas.ports import Entry

HOUR_MS = 3_600_000
NOON_MS = 1_900_000 * HOUR_MS // 1000 * 1000  # some full hour, years from now: nothing stored has expired


class FixedClock:
    """``Clock`` that a test sets."""

    def __init__(self, unix_ns: int = NOON_MS * 1_000_000) -> None:
        self.now_ns = unix_ns

    def monotonic_ns(self) -> int:
        return self.now_ns

    def unix_ns(self) -> int:
        return self.now_ns


def make_record(number: int = 1, **changes: Any) -> UsageRecord:
    """A plain record: invocation ``number``, 128 MB, 2 ms billed."""
    values: dict[str, Any] = {
        "id": f"{number:032x}-{changes.get('attempt', 1)}",
        "namespace": "default",
        "function": "hello",
        "version": 1,
        "key_id": "k1",
        "trigger": "http",
        "status": "ok",
        "start": "warm",
        "started_at_ns": NOON_MS * 1_000_000 + number,
        "queue_ns": 5,
        "init_ns": 0,
        "run_ns": 1_500_000,
        "billed_ms": 2,
        "memory_mb": 128,
        "peak_memory_bytes": 9_000_000,
        "cpu_ns": 1_000_000,
        "bytes_in": 10,
        "bytes_out": 20,
        "node": "node-1",
        "attempt": 1,
    }
    return UsageRecord(**(values | changes))


def make_entry(number: int = 1, detail: dict[str, Any] | None = None, sequence: int = 0, **changes: Any) -> Entry:
    return Entry(make_record(number, **changes), detail or {}, sequence)


def numbered(records: Iterable[UsageRecord], first: int = 1) -> list[Entry]:
    """Entries as a journal would number them."""
    return [Entry(record, {}, sequence) for sequence, record in enumerate(records, first)]


def segment_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.log"))
