# /// script
# [tool.faas]
# name = "bench-work"
# ///
"""A function that works: ``ms`` milliseconds of processor time, however long that takes."""

import time
from typing import Any


def handler(event: Any, context: Any) -> int:
    end = time.thread_time_ns() + int(event["ms"] * 1_000_000)
    rounds = 0
    while time.thread_time_ns() < end:
        rounds += sum(range(200)) > 0
    return rounds
