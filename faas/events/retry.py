"""When what failed is tried again, and when it is given up: exponential pauses with full jitter, capped.

After failure n the pause is drawn evenly from 0 to ``min(cap, base * 2^(n-1))`` (Marc Brooker, AWS Architecture Blog,
"Exponential Backoff And Jitter": of the variants there, full jitter needs the fewest tries in all). It is given up
after so many attempts, and when it would be older than ``max_age_ms`` at its next one.

>>> [ceiling_ms(n) for n in (1, 2, 3, 20)]
[1000, 2000, 4000, 300000]
>>> decide(Retry(attempts=3), attempt=2, age_ms=0, jitter=0.5)
1000
>>> decide(Retry(attempts=3), attempt=3, age_ms=0, jitter=0.5)
'the last of 3 attempts failed'
"""

from __future__ import annotations

from typing import Final

from faas.model.manifest import Retry

BASE_MS: Final = 1000
CAP_MS: Final = 300_000
_DOUBLINGS_MAX: Final = 20  # far above the cap


def ceiling_ms(attempt: int) -> int:
    """The longest pause after this attempt has failed; the first is 1."""
    return min(CAP_MS, BASE_MS << min(max(attempt, 1) - 1, _DOUBLINGS_MAX))


def pause_ms(attempt: int, jitter: float) -> int:
    """The pause after this attempt. ``jitter`` is drawn evenly from [0, 1)."""
    return int(ceiling_ms(attempt) * jitter)


def decide(retry: Retry, *, attempt: int, age_ms: int, jitter: float) -> int | str:
    """The pause in ms before the next attempt; or, in words, why there will be none.

    ``age_ms`` is how long ago the message was sent.
    """
    if attempt >= retry.attempts:
        return f"the last of {retry.attempts} attempts failed" if retry.attempts > 1 else "the only attempt failed"
    pause = pause_ms(attempt, jitter)
    if age_ms + pause > retry.max_age_ms:
        return f"attempt {attempt} failed, and the next one would be later than max_age, {retry.max_age_ms / 1000:g} s"
    return pause
