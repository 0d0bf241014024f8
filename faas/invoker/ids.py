"""Identifiers: time-ordered for invocations, unguessable for sandboxes."""

from __future__ import annotations

import os
import random
import time


def new_id() -> str:
    """An invocation id: 32 lower-case hex characters, UUIDv7's layout of time first and randomness after (RFC 9562).

    48 bits of Unix milliseconds and 80 random bits, so ids sort by time and do not collide over nodes. They are names,
    not secrets: whoever reads an invocation needs a key.
    """
    return f"{time.time_ns() // 1_000_000 << 80 | random.getrandbits(80):032x}"


def new_sandbox_id() -> str:
    return f"s{os.urandom(8).hex()}"
