"""The machine's clocks: the only reading of time in the platform's decisions comes through here."""

from __future__ import annotations

import time


class SystemClock:
    """``faas.ports.Clock`` on the real clocks."""

    monotonic_ns = staticmethod(time.monotonic_ns)
    unix_ns = staticmethod(time.time_ns)
