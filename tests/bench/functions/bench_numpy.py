# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy"]
# [tool.faas]
# name = "bench-numpy"
# ///
"""A function whose import takes far longer than a start does."""

from typing import Any

import numpy as np  # type: ignore[import-not-found]


def handler(event: Any, context: Any) -> float:
    return float(np.arange(10).sum())
