"""How many calls led to a call: a chain that calls itself for ever is stopped.

Theory of operation. A function's own HTTP call goes out without the node: nothing can be added to it. But a handler
that forwards ``context.trace_parent`` as ``traceparent`` (W3C Trace Context) hands back a span id that this platform
made. So the number of hops is in the span id: 29 bits of check, 30 at random, 5 of hops. That needs no memory and no
store, holds on every node, and survives whatever is between. Span ids of others have the right check by chance once in
2^29, and then, once in 2^5, the one number that is refused. Who forwards nothing, or begins spans of its own, is not
recognised: of those nothing can be known.

Example: a call without a parent has 0 hops, what it calls 1, and after ``HOPS_MAX`` the next one is refused.

>>> hops_of(span_with(3, 12345)), hops_of(0x00F067AA0BA902B7)
(3, None)
"""

from __future__ import annotations

from typing import Final

from faas.model.errors import LoopDetected

HOPS_MAX: Final = 16  # as AWS Lambda's recursive loop detection
HOPS_BITS: Final = 5
RANDOM_BITS: Final = 30
_LOW_BITS: Final = HOPS_BITS + RANDOM_BITS
_LOW: Final = (1 << _LOW_BITS) - 1
_HIGH: Final = (1 << 64 - _LOW_BITS) - 1
_HOPS: Final = (1 << HOPS_BITS) - 1
_MIX: Final = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio (Knuth's multiplicative hashing)


def span_with(hops: int, random: int) -> int:
    """A span id that says ``hops``; ``random`` has ``RANDOM_BITS``, of which not all may be 0."""
    low = random << HOPS_BITS | min(_HOPS, hops)
    return (low * _MIX >> _LOW_BITS & _HIGH) << _LOW_BITS | low


def hops_of(span: int) -> int | None:
    """What a span id says; None when it is none of ours."""
    low = span & _LOW
    ours = span >> _LOW_BITS == low * _MIX >> _LOW_BITS & _HIGH
    return low & _HOPS if ours and low & _HOPS <= HOPS_MAX else None


def check_hops(hops: int, namespace: str, function: str) -> None:
    """Raises ``LoopDetected`` when there are too many."""
    if hops > HOPS_MAX:
        raise LoopDetected(
            f"This call of '{function}' in the namespace '{namespace}' is the end of a chain of {HOPS_MAX} calls that"
            " functions made of each other, so it was not begun. See which function calls itself, directly or through"
            " others, and end the chain there.",
            hops=hops,
            hops_max=HOPS_MAX,
        )
