"""A store that is away: said once when it goes and once when it is back, asked at growing intervals meanwhile."""

from __future__ import annotations

import logging
from typing import Final

from faas.model.errors import StoreUnavailable

log = logging.getLogger("faas.triggers")

PAUSE_S: Final = 0.1
PAUSE_S_MAX: Final = 3.0


class Outage:
    """What all consumers of a node know of their one store."""

    def __init__(self) -> None:
        self._away = False

    def begins(self, error: StoreUnavailable) -> None:
        if not self._away:
            self._away = True
            log.warning("queues wait for the store: %s", error.message)

    def ends(self) -> None:
        if self._away:
            self._away = False
            log.warning("the store is back, queues go on")


def pause_s(failures: int, jitter: float) -> float:
    """How long to wait after so many failures in a row. ``jitter`` is drawn evenly from [0, 1).

    >>> pause_s(1, 0.0), pause_s(20, 0.5)
    (0.05, 2.25)
    """
    return float(min(PAUSE_S_MAX, PAUSE_S * 2 ** min(failures - 1, 10)) * (0.5 + jitter / 2))
