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
