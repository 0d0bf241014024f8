"""The node's log: as JSON lines, for collectors (FAAS_LOG_FORMAT=json), and without a flood of the same line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final

SAME_S: Final = 10.0  # the same is said once in
LINES_MAX: Final = 1000  # that are remembered


class JsonLines(logging.Formatter):
    """One object a line: ``time`` (RFC 3339), ``level``, ``logger``, ``message``; after an exception ``traceback``."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class SayOnce(logging.Filter):
    """The same line again within ``SAME_S`` is left out; the next one after that says how many were.

    A store that is away makes every request say so, and a function that fails every message: thousands of lines a
    second would fill the disk and hide what else happens. Go by the records' own times; errors with a traceback are all
    said.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], list[float]] = {}  # logger and line -> when it was last said, how many since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info:
            return True
        line = record.getMessage()
        last = self._said.pop((record.name, line), None)
        if last is not None and 0 <= record.created - last[0] < SAME_S:
            last[1] += 1
            self._said[record.name, line] = last
            return False
        if last is not None and last[1]:
            record.msg, record.args = "%s (and %d times since it was last said)", (line, int(last[1]))
        self._said[record.name, line] = [record.created, 0]
        if len(self._said) > LINES_MAX:
            del self._said[next(iter(self._said))]
        return True
