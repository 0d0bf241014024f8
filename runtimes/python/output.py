"""What a function prints, as LOG frames: line by line, with the id of the invocation it belongs to.

Two ways lead here. ``sys.stdout`` and ``sys.stderr`` are text streams over ``LineWriter`` and send each line at once,
so that a function killed a moment later still has its last words in the log. Whatever goes to descriptors 1 and 2
directly (C code, child processes) goes through a pipe to the zygote: see ``pump``.
"""

# contextlib would cost more to import than all of this file:
# ruff: noqa: SIM105
from __future__ import annotations

import io
import os
import sys
import time

from .codec import LOG, LOG_BYTES_MAX, STREAM_NAME_CHARS_MAX, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .channel import Channel

    Buffer = bytes | bytearray | memoryview

STREAMS = ("stdout", "stderr")


class Lines:
    """Cuts a stream of bytes into lines of at most ``LOG_BYTES_MAX`` bytes, never within a UTF-8 character."""

    __slots__ = ("rest",)

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        texts = [text for line in lines for text in _pieces(line)]
        while len(self.rest) > LOG_BYTES_MAX:
            cut = _cut(self.rest)
            texts.append(self.rest[:cut].decode("utf-8", "replace"))
            self.rest = self.rest[cut:]
        return texts

    def end(self) -> list[str]:
        """The line that was begun and not ended, if any."""
        rest, self.rest = self.rest, b""
        return _pieces(rest) if rest else []


def _cut(data: bytes) -> int:
    cut = LOG_BYTES_MAX
    while cut > LOG_BYTES_MAX - 4 and data[cut] & 0xC0 == 0x80:
        cut -= 1
    return cut


def _pieces(line: bytes) -> list[str]:
    pieces = []
    while len(line) > LOG_BYTES_MAX:
        cut = _cut(line)
        pieces.append(line[:cut].decode("utf-8", "replace"))
        line = line[cut:]
    pieces.append(line.decode("utf-8", "replace"))
    return pieces


def log_frames(invocation_id: str, stream: str, lines: Iterable[str]) -> bytes:
    now_ns = time.time_ns()
    return b"".join([encode(LOG, invocation_id, stream, now_ns, line) for line in lines])


class Scope:
    """Whose lines they are: an invocation's id ("" for none), and what it began and did not end on each stream."""

    __slots__ = ("id", "lines")

    def __init__(self, invocation_id: str = "") -> None:
        self.id = invocation_id
        self.lines = Lines(), Lines()


class Output:
    """Where a process's lines go. Without a channel (a child that the user forked) to the descriptors.

    ``scope`` is the process's own; ``here`` says which is the one of the code that runs.
    """

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.scope = Scope()
        self.here: Callable[[], Scope] = lambda: self.scope
        self.stdout, self.stderr = _text(LineWriter(self, 0)), _text(LineWriter(self, 1))

    def install(self) -> None:
        """Take the place of Python's own streams."""
        sys.stdout = sys.__stdout__ = self.stdout  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self.stderr  # type: ignore[misc]

    def mend(self) -> None:
        """Put back a stream that the user deleted."""
        if getattr(sys, "stdout", None) is None:
            sys.stdout = self.stdout
        if getattr(sys, "stderr", None) is None:
            sys.stderr = self.stderr

    def emit(self, stream: str, lines: list[str]) -> None:
        channel = self.channel
        if channel is None or not channel.own[0]:
            data = "".join(line + "\n" for line in lines).encode("utf-8", "backslashreplace")
            target = 1 if stream == "stdout" else 2
            try:
                os.write(target, data)
            except OSError:  # closed by the user: nowhere left to say it
                pass
            return
        try:
            channel.send(log_frames(self.here().id, stream, lines))
        except OSError:  # the channel is gone; the result that can't be sent either will end this process
            pass

    def emit_text(self, stream: str, lines: list[str]) -> None:
        """As ``emit``, for lines that were not cut to size."""
        self.emit(stream, [piece for line in lines for piece in _pieces(line.encode("utf-8", "backslashreplace"))])

    def disown(self) -> None:
        """In a child that the user forked: write to the descriptors, and leave the parent's half lines to it."""
        self.channel = None
        for scope in (self.scope, self.here()):
            for lines in scope.lines:
                lines.end()

    def rest(self, scope: Scope) -> bytes:
        """LOG frames for lines that were begun and not ended."""
        out, err = scope.lines
        if not out.rest and not err.rest:
            return b""
        return log_frames(scope.id, "stdout", out.end()) + log_frames(scope.id, "stderr", err.end())

    def flush(self) -> None:
        """Send what is left of a line now."""
        if self.channel is None:
            for stream, lines in zip(STREAMS, self.here().lines, strict=True):
                if lines.rest:
                    self.emit(stream, lines.end())
        elif rest := self.rest(self.here()):
            self.channel.send(rest)


class LineWriter(io.RawIOBase):
    """The binary stream under ``sys.stdout`` (0) or ``sys.stderr`` (1)."""

    def __init__(self, output: Output, which: int) -> None:
        self._output = output
        self._which = which
        self.name = f"<{STREAMS[which]}>"
        self.mode = "wb"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._which + 1

    def isatty(self) -> bool:
        return False

    def write(self, data: Buffer) -> int:  # type: ignore[override]
        data = bytes(data)
        lines = self._output.here().lines[self._which]
        if b"\n" in data or len(lines.rest) + len(data) > LOG_BYTES_MAX:
            self._output.emit(STREAMS[self._which], lines.feed(data))
        else:
            lines.rest += data
        return len(data)

    def flush(self) -> None:
        """Lines go out when they are whole. A child that the user forked may end any time: its go out now."""
        if self._output.channel is None:
            self._output.flush()

    def close(self) -> None:
        """Stays open: whoever closes the standard streams would only lose his own lines."""


def _text(writer: LineWriter) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        writer,
        encoding="utf-8",
        errors="backslashreplace",
        newline="\n",
        line_buffering=True,
        write_through=True,
    )


def last_words(text: str) -> None:
    """Say something where the zygote will find it after this process has ended, if descriptor 2 is still there."""
    try:
        os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


def stream_name(level: str) -> str:
    """A logging level's name, fit for a LOG frame."""
    name = level[:STREAM_NAME_CHARS_MAX]
    return name if name and name.isprintable() else "log"
