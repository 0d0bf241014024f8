"""The usage record: what one attempt at an invocation consumed. Integers only; the exact unit of sums is mb_ms."""

from __future__ import annotations

from dataclasses import dataclass

NS_PER_MS = 1_000_000
MB_MS_PER_GB_SECOND = 1_024_000


@dataclass(slots=True)
class UsageRecord:
    """One attempt. Times ``_ns`` are durations, ``started_at_ns`` is Unix time. Treated as frozen once journalled.

    ``id`` is ``INVOCATION_ID`` of the first attempt's invocation plus ``-ATTEMPT`` (``0190...-1``).
    ``billed_ms`` is ``ceil(init + run)`` to a millisecond, at least 1; 0 when rejected or the platform's fault.
    """

    id: str
    namespace: str
    function: str
    version: int
    key_id: str
    trigger: str
    status: str
    start: str
    started_at_ns: int
    queue_ns: int
    init_ns: int
    run_ns: int
    billed_ms: int
    memory_mb: int
    peak_memory_bytes: int
    cpu_ns: int
    bytes_in: int
    bytes_out: int
    node: str
    attempt: int

    @property
    def mb_ms(self) -> int:
        return self.memory_mb * self.billed_ms

    @property
    def invocation_id(self) -> str:
        return self.id.rsplit("-", 1)[0]


FIELDS: tuple[str, ...] = tuple(UsageRecord.__slots__)


def to_row(record: UsageRecord) -> list[str | int]:
    """The record as a list in field order: the form in the journal and the ledger."""
    return [getattr(record, name) for name in FIELDS]


def from_row(row: list[str | int]) -> UsageRecord:
    """Inverse of ``to_row``; raises ``ValueError`` on a row of another length or with wrong types."""
    if len(row) != len(FIELDS):
        raise ValueError(f"a usage record has {len(FIELDS)} fields, this row has {len(row)}")
    for name, value in zip(FIELDS, row, strict=True):
        wanted = str if UsageRecord.__annotations__[name] == "str" else int
        if type(value) is not wanted:
            raise ValueError(f"usage record field {name} is {type(value).__name__}, wanted {wanted.__name__}")
    return UsageRecord(*row)  # type: ignore[arg-type]
