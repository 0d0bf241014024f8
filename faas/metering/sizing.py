"""How much memory a function should be given, from the most it ever took.

A quarter above the peak is kept free, because the next call may take more than any before; the result is rounded up to
32 MB, so that a hint does not change with every call. Too little is said at once, too much only when it has been seen
often enough and the hint saves at least a quarter.
"""

from __future__ import annotations

from typing import Final

BYTES_PER_MB: Final = 1024 * 1024
STEP_MB: Final = 32
LEAST_MB: Final = 64  # the least that a function may have
CALLS_MIN: Final = 20  # before less is suggested
TIGHT: Final = 9, 10  # a peak of nine tenths is too close


def suggested_mb(peak_memory_bytes: int, memory_mb: int, invocations: int) -> int | None:
    """MB to set instead of ``memory_mb``; None where what is set is right, or too little is known.

    >>> suggested_mb(41 * BYTES_PER_MB, 512, invocations=1000)  # 51.25 with a quarter on top
    64
    >>> suggested_mb(125 * BYTES_PER_MB, 128, invocations=1)
    160
    >>> suggested_mb(41 * BYTES_PER_MB, 512, invocations=3), suggested_mb(90 * BYTES_PER_MB, 128, invocations=1000)
    (None, None)
    """
    if peak_memory_bytes <= 0 or memory_mb <= 0:
        return None
    needed_mb = -(-peak_memory_bytes * 5 // (4 * BYTES_PER_MB))
    fits_mb = max(LEAST_MB, -(-needed_mb // STEP_MB) * STEP_MB)
    share, whole = TIGHT
    if fits_mb > memory_mb and peak_memory_bytes * whole >= memory_mb * BYTES_PER_MB * share:
        return fits_mb
    if invocations >= CALLS_MIN and fits_mb * 4 <= memory_mb * 3:
        return fits_mb
    return None
