# /// script
# [tool.faas]
# name = "bench-echo"
# ///
"""What the floor does: the body comes back."""

from typing import Any


def handler(event: Any, context: Any) -> Any:
    return event
