# /// script
# requires-python = ">=3.11"
# [tool.faas]
# memory = "64MB"
# ///
"""Takes messages and says when it began: for queue rows of the benchmark."""

import time
from typing import Any


def handler(event: dict[str, Any], context: object) -> None:
    if event["Records"][0]["body"].startswith("when"):
        print(f"began {time.time_ns()}")
