"""What the CLI prints: tables, JSON, errors, progress. No colour unless a person is watching."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.status import Status

PROGRESS_AFTER_S = 0.5  # quicker than this, progress would only flicker
BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
NS_PER_MS = 1_000_000
MB_MS_PER_GB_SECOND = 1_024_000


class CliError(Exception):
    """A failure as a person needs it: ``what`` happened, ``why`` (lines), and what to ``do`` next. Exit code 1.

    ``problem`` is the machine form, printed instead under ``--json``; ``code`` may be 2 for a mistake in the usage.
    """

    def __init__(
        self, what: str, why: str = "", do: str = "", problem: dict[str, Any] | None = None, code: int = 1
    ) -> None:
        super().__init__(what)
        self.what, self.why, self.do, self.code = what, why, do, code
        self.problem = problem or {"title": what, "detail": why, "code": "usage-error" if code == 2 else "client-error"}


def wants_colour(stream: IO[str]) -> bool:
    """True for a terminal whose user did not say otherwise (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: IO[str] | None = None) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if text and wants_colour(stream or sys.stdout) else text


def say(text: str = "") -> None:
    """One line on stdout, at once (programs wait for some of them)."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line for the person, on stderr: hints and progress."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def emit_json(value: Any) -> None:
    """The only thing a verb prints on stdout under ``--json``. Indented for people, compact when piped."""
    indent = 2 if sys.stdout.isatty() else None
    say(json.dumps(value, indent=indent, ensure_ascii=False))


def fail(error: CliError, as_json: bool) -> None:
    if as_json:
        note(json.dumps(error.problem, ensure_ascii=False))
        return
    note(paint("error:", RED, sys.stderr) + " " + error.what)
    for line in error.why.splitlines():
        note("  " + line)
    for index, line in enumerate(error.do.splitlines()):
        note((paint("  do: ", BOLD, sys.stderr) if index == 0 else "      ") + line)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Columns two blanks apart, no borders, as docker and kubectl print them; ``right`` names right-aligned ones."""
    widths = [max(len(row[index]) for row in [headers, *rows]) for index in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if header in right else cell.ljust(width)
            for header, cell, width in zip(headers, row, widths, strict=True)
        )
        return "  ".join(cells).rstrip()

    say(paint(line(headers), BOLD))
    for row in rows:
        say(line(row))


def pairs(rows: Sequence[tuple[str, str]], indent: str = "") -> None:
    """``label  value`` lines, values in one column; a value of several lines stays in it."""
    width = max((len(label) for label, _ in rows), default=0)
    for label, value in rows:
        first, *rest = value.splitlines() or [""]
        say((indent + paint(label.ljust(width), DIM) + "  " + first).rstrip())
        for more in rest:
            say(indent + " " * width + "  " + more)


# -- quantities -----------------------------------------------------------------------------------------------------


def size(count: int) -> str:
    """Bytes for people: ``128 MB``, ``1.5 GB``, ``812 B`` (1 KB = 1024 B)."""
    value, unit = float(count), "B"
    for bigger in ("KB", "MB", "GB", "TB"):
        if value < 1024:
            break
        value, unit = value / 1024, bigger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 or value == int(value) else f"{value:.1f} {unit}"


def milliseconds(ms: float) -> str:
    """A duration for people, two or three digits: ``15 us``, ``0.4 ms``, ``31 ms``, ``2.35 s``, ``10m``, ``7d``."""
    if 0 < ms < 0.1:
        return f"{ms * 1000:.0f} us"
    if ms < 10:
        return f"{ms:.1f} ms" if ms % 1 else f"{ms:.0f} ms"
    if ms < 1000:
        return f"{ms:.0f} ms"
    if ms < 60_000:
        return f"{ms / 1000:.2f}".rstrip("0").rstrip(".") + " s"
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if ms >= length and ms % length == 0:
            return f"{ms / length:.0f}{unit}"
    return f"{ms / 60_000:.1f}m"


def gb_seconds(mb_ms: int) -> str:
    """The exact sum in GB-seconds, six digits: ``0.000500 GB-s``."""
    return f"{mb_ms / MB_MS_PER_GB_SECOND:.6f} GB-s"


def ago(then_s: float, now_s: float) -> str:
    seconds = max(0, int(now_s - then_s))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit} ago"
    return f"{seconds}s ago"


def unix_s(rfc3339: str) -> float:
    return datetime.fromisoformat(rfc3339).timestamp()


# -- progress -------------------------------------------------------------------------------------------------------


class Progress:
    """Says what is going on, on stderr, once it takes longer than half a second.

    On a terminal a spinner that goes away at the end; elsewhere one line per new text, so that a CI log shows it.
    Nothing at all when ``quiet``: under ``--json`` what is on stderr is an error's JSON.
    """

    def __init__(self, text: str, *, quiet: bool = False) -> None:
        self._text = text
        self._quiet = quiet
        self._lock = threading.Lock()
        self._shown = False
        self._ended = False
        self._status: Status | None = None
        self._timer = threading.Timer(PROGRESS_AFTER_S, self._show)
        self._timer.daemon = True

    def update(self, text: str) -> None:
        with self._lock:
            if text == self._text or self._ended:
                return
            self._text = text
            if self._status is not None:
                self._status.update(text)
            elif self._shown:
                note(text)

    def _show(self) -> None:
        with self._lock:
            if self._ended:
                return
            self._shown = True
            if not wants_colour(sys.stderr):
                note(self._text)
                return
            from rich.console import Console
            from rich.text import Text

            self._status = Console(stderr=True).status(Text(self._text), spinner="dots")
            self._status.start()

    def __enter__(self) -> Self:
        if not self._quiet:
            self._timer.start()
        return self

    def stop(self) -> None:
        """Take it away before the end, as output begins. Stopping twice is fine."""
        with self._lock:
            self._ended = True
            self._timer.cancel()
            if self._status is not None:
                self._status.stop()
                self._status = None

    def __exit__(self, *_: object) -> None:
        self.stop()
        if not self._quiet:
            self._timer.join()  # so that no thread of ours outlives the verb; it holds the lock only while it draws


@contextlib.contextmanager
def timed() -> Iterator[list[float]]:
    """``with timed() as took: ...`` then ``took[0]`` is seconds."""
    took = [0.0]
    begin = time.perf_counter()
    try:
        yield took
    finally:
        took[0] = time.perf_counter() - begin
