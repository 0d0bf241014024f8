"""From what was measured to the usage record of one attempt.

Theory of operation
-------------------
The node measures three durations of an attempt: waiting (``queue_ns``), starting (``init_ns``) and running
(``run_ns``). What is billed follows from them, and only here:

* A start is billed once, to the invocation that it was made for: ``init_ns`` counts when ``start`` is cold or
  prewarmed. An invocation that found its sandbox bound (warm, parked) carries ``init_ns`` for its timing alone.
* ``billed_ms`` is the sum, rounded up to a millisecond once, at least 1.
* Whatever the platform did wrong (``platform_error``) or did not run (``rejected``) bills 0.
* With a concurrency above 1 an instance's time is billed once: see ``SharedTime``.

Everything is an integer below ``VALUE_MAX``, so that a sum over one batch is exact even in a language whose numbers
are doubles (the ledger's Lua).
"""

from __future__ import annotations

from typing import Final, Protocol

from faas.model.function import FunctionVersion
from faas.model.invocation import Call, StartKind, Status
from faas.model.usage import NS_PER_MS, UsageRecord

VALUE_MAX: Final = 2**51  # of any measured value: 26 days in ns, 2 PiB

UNBILLED: Final = frozenset({Status.REJECTED, Status.PLATFORM_ERROR})
INIT_BILLED: Final = frozenset({StartKind.COLD, StartKind.PREWARMED})


class Measured(Protocol):
    """What the node saw of one attempt. Durations in ns; ``started_at_ns`` is Unix time of the admission.

    ``shared_ns`` is the attempt's part of its instance's busy time (``SharedTime``) where invocations overlapped;
    None when it had the instance for itself, and then ``run_ns`` is billed.
    """

    start: StartKind
    started_at_ns: int
    queue_ns: int
    init_ns: int
    run_ns: int
    peak_memory_bytes: int
    cpu_ns: int
    bytes_out: int
    shared_ns: int | None


def billed_ms(status: Status, start: StartKind, init_ns: int, run_ns: int) -> int:
    """Milliseconds to bill.

    >>> billed_ms(Status.OK, StartKind.PREWARMED, init_ns=4_200_000, run_ns=1_300_000)  # 5.5 ms
    6
    >>> billed_ms(Status.OK, StartKind.WARM, init_ns=4_200_000, run_ns=1_300_000)  # somebody else's start
    2
    >>> billed_ms(Status.TIMEOUT, StartKind.WARM, init_ns=0, run_ns=0)
    1
    >>> billed_ms(Status.PLATFORM_ERROR, StartKind.COLD, init_ns=9_000_000, run_ns=9_000_000)
    0
    """
    if status in UNBILLED:
        return 0
    ns = run_ns + init_ns if start in INIT_BILLED else run_ns
    return max(1, -(-ns // NS_PER_MS))


def init_part_ms(start: str, init_ns: int, run_ns: int, billed_ms: int) -> int:
    """Of ``billed_ms``, how much would not be there if starts were not billed.

    Worked out from the record alone, so that it can be checked against it. Exact where the invocation had its instance
    for itself; where others ran beside it, its share of the time is not in the record, and up to 1 ms less comes out.

    >>> init_part_ms("prewarmed", init_ns=4_200_000, run_ns=1_300_000, billed_ms=6)  # 2 ms without it
    4
    >>> init_part_ms("warm", init_ns=4_200_000, run_ns=1_300_000, billed_ms=2)
    0
    """
    if start not in INIT_BILLED or not billed_ms:
        return 0
    return billed_ms - max(1, min(-(-run_ns // NS_PER_MS), billed_ms - init_ns // NS_PER_MS))


def meter(call: Call, version: FunctionVersion, measured: Measured, status: Status, node: str) -> UsageRecord:
    """The usage record of one attempt. Raises ``AssertionError`` on a duration that cannot have been measured; what the
    sandbox itself reports (``cpu_ns``, ``peak_memory_bytes``) is not trusted and cut to the possible range.

    Worked example: a function with 128 MB is called directly, for the first time. Binding a generic sandbox and
    importing the module took 4.2 ms, the handler 1.3 ms. The record says ``start="prewarmed"``, ``init_ns=4200000``,
    ``run_ns=1300000``, ``billed_ms=6`` and thereby ``mb_ms=768``. The next call finds the instance: ``start="warm"``,
    ``init_ns=0``, ``run_ns=1300000``, ``billed_ms=2``, ``mb_ms=256``.
    """
    m = measured
    start, init_ns, run_ns, queue_ns, bytes_out = m.start, m.init_ns, m.run_ns, m.queue_ns, m.bytes_out
    cpu_ns, peak_bytes = m.cpu_ns, m.peak_memory_bytes
    memory_mb = version.manifest.memory_mb
    billed = billed_ms(status, start, init_ns, run_ns if m.shared_ns is None else m.shared_ns)
    assert min(queue_ns, init_ns, run_ns, bytes_out) >= 0, m
    assert max(queue_ns, init_ns, run_ns, bytes_out, memory_mb * billed) < VALUE_MAX, m
    return UsageRecord(
        f"{call.id}-{call.attempt}",
        version.namespace,
        version.name,
        version.version,
        call.key_id,
        call.trigger.value,
        status.value,
        start.value,
        m.started_at_ns,
        queue_ns,
        init_ns,
        run_ns,
        billed,
        memory_mb,
        peak_bytes if 0 <= peak_bytes < VALUE_MAX else _cut(peak_bytes),
        cpu_ns if 0 <= cpu_ns < VALUE_MAX else _cut(cpu_ns),
        len(call.payload),
        bytes_out,
        node,
        call.attempt,
    )


def _cut(value: int) -> int:
    return min(max(value, 0), VALUE_MAX - 1)


class SharedTime:
    """Splits one instance's busy time among the invocations that overlap in it, exactly.

    Each stretch between two changes is shared equally by the invocations that ran in it; the odd nanoseconds go one
    each to the earliest begun. Invariant: the shares of all ended invocations add up to the busy time, to the
    nanosecond, so an instance with ``concurrency`` 10 never bills a second twice.

    Worked example: A begins at 0 ns, B at 100, A ends at 200, B at 300. A gets 100 + 50 = 150, B gets 50 + 100 = 150.

    >>> shared = SharedTime()
    >>> shared.begin("A", 0); shared.begin("B", 100)
    >>> shared.end("A", 200), shared.end("B", 300)
    (150, 150)
    """

    __slots__ = ("_at_ns", "_shares")

    def __init__(self) -> None:
        self._shares: dict[str, int] = {}  # in the order they began
        self._at_ns = 0

    def begin(self, invocation_id: str, now_ns: int) -> None:
        """Raises ``ValueError`` when it has begun already or time went back."""
        if invocation_id in self._shares:
            raise ValueError(f"the invocation {invocation_id} runs already")
        self._advance(now_ns)
        self._shares[invocation_id] = 0

    def end(self, invocation_id: str, now_ns: int) -> int:
        """The invocation's share in ns. Raises ``KeyError`` when it does not run."""
        if invocation_id not in self._shares:
            raise KeyError(invocation_id)
        self._advance(now_ns)
        return self._shares.pop(invocation_id)

    def _advance(self, now_ns: int) -> None:
        shares = self._shares
        if shares:
            if now_ns < self._at_ns:
                raise ValueError(f"time went back from {self._at_ns} to {now_ns}")
            each, odd = divmod(now_ns - self._at_ns, len(shares))
            for index, invocation_id in enumerate(shares):
                shares[invocation_id] += each + (index < odd)
        self._at_ns = now_ns
