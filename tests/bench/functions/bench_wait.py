# /// script
# [tool.faas]
# name = "bench-wait"
# memory = "64MB"
# keep_alive = "0s"
# ///
"""A function that takes 100 ms and no processor time, as one that waits for something else does."""

import time
from typing import Any


def handler(event: Any, context: Any) -> Any:
    time.sleep(event.get("ms", 100) / 1000)
    return event
