"""What can have a price: each in whole base units that are summed, and in the unit that a price is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from faas.model.usage import MB_MS_PER_GB_SECOND


@dataclass(frozen=True, slots=True)
class Metric:
    """``per_unit`` base units are one ``unit``. ``title`` begins the description of a line."""

    name: str
    title: str
    unit: str
    per_unit: int


REQUESTS: Final = "requests"
GB_SECONDS: Final = "gb_seconds"
CPU_SECONDS: Final = "cpu_seconds"
GB_OUT: Final = "gb_out"
PROVISIONED: Final = "provisioned_gb_seconds"
ROUNDING: Final = "rounding"  # of a line that is no usage: what the total was rounded by

METRICS: Final = {
    metric.name: metric
    for metric in (
        Metric(REQUESTS, "Requests", "request", 1),
        Metric(GB_SECONDS, "Compute", "GB-second", MB_MS_PER_GB_SECOND),  # base: mb_ms
        Metric(CPU_SECONDS, "Processor time", "CPU-second", 1_000_000_000),  # base: cpu_ns
        Metric(GB_OUT, "Data out", "GB", 1_000_000_000),  # base: bytes; a GB of data is 10^9 of them
        Metric(PROVISIONED, "Provisioned memory", "GB-second", MB_MS_PER_GB_SECOND),  # base: mb_ms
    )
}
"""In the order in which they stand on a bill."""
