"""What `faas queue send` sends: one message, or a file of lines in requests of many messages each."""

from __future__ import annotations

import json
import select
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from faas.cli import out
from faas.cli.client import Node
from faas.cli.out import CliError

SEND_MAX = 1000  # messages that one request may have
BATCH_BYTES_MAX = 1_000_000  # well below what a node takes; a single message may be more
READ_BYTES = 64 * 1024
JSON_TYPE = {"Content-Type": "application/json"}


def attributes(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not name or not equals:
            raise CliError(f"--attribute {each!r} is no NAME=TEXT", "", "as in: --attribute kind=order", code=2)
        found[name] = text
    return found


def body(data: str | None, text: str | None) -> bytes:
    """A message's body as JSON text, from ``-d`` or ``--text``."""
    if text is not None:
        return json.dumps(text).encode()
    if data is None:
        raise CliError(
            "there is no message to send",
            "",
            'give JSON:  -d \'{"item": "book"}\'\ngive text:  --text hello\ngive many:  --lines < FILE',
            code=2,
        )
    with _opened(data) as file:
        raw = file.read() if file is not None else data.encode("utf-8", "surrogateescape")
    try:
        return _checked(raw)
    except ValueError as error:
        raise CliError(
            "the data is not JSON",
            str(error),
            "send text:  --text 'any text'\nsend each line as a message of its own:  --lines",
            code=2,
        ) from error


def send_one(node: Node, path: str, body: bytes, shared: Mapping[str, Any], *, as_json: bool) -> None:
    with out.Progress("sending", quiet=as_json):
        sent = _post(node, path, _message(body, shared))
    if as_json:
        out.emit_json(sent)
        return
    out.say(sent["id"])
    if sent.get("duplicate"):
        out.note("not stored again: a message with this dedup id was sent within the last 5 minutes, and has this id")


def send_lines(node: Node, name: str, path: str, data: str, shared: Mapping[str, Any], *, as_json: bool) -> None:
    """Send each line of a file or of stdin. What was stored stays stored when a later line is wrong."""
    if not (data == "-" or data.startswith("@")):
        raise click.UsageError("--lines reads stdin or -d @FILE, not -d JSON")
    sent = _Sent(name)
    with _opened(data) as file, out.Progress(f"sending to {name}", quiet=as_json) as progress:
        assert file is not None
        for batch, last in _batches(_bodies(file, sent)):
            try:
                _post(node, path, b"[" + b",".join(_message(each, shared) for each in batch) + b"]")
            except CliError as error:
                raise _stopped(error, sent, last) from error
            sent.messages, sent.lines = sent.messages + len(batch), last
            progress.update(f"sent {sent.messages:,} to {name}, {sent.rate:,.0f} a second")
    if as_json:
        out.emit_json({"sent": sent.messages, "seconds": round(sent.seconds, 3)})
        return
    took = out.milliseconds(1000 * sent.seconds)
    many = f", {sent.rate:,.0f} a second" if sent.messages > 1 else ""
    out.say(f"sent {sent.messages:,} message{'' if sent.messages == 1 else 's'} to {name} in {took}{many}")


@dataclass(slots=True)
class _Sent:
    """How far a file's lines are stored."""

    queue: str
    messages: int = 0
    lines: int = 0
    began_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return max(1e-9, time.monotonic() - self.began_s)

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    def __str__(self) -> str:
        return f"lines up to {self.lines} are sent" if self.lines else "nothing was sent"

    @property
    def rest(self) -> str:
        return f"tail -n +{self.lines + 1} FILE | faas queue send {self.queue} --lines"


def _post(node: Node, path: str, body: bytes) -> Any:
    with node.stream("POST", path, body=body, headers=JSON_TYPE) as response:
        return json.loads(response.read())


def _message(body: bytes, shared: Mapping[str, Any]) -> bytes:
    """One message as JSON text; the body is such text already.

    >>> _message(b'[1]', {"group": "a"})
    b'{"body":[1],"group": "a"}'
    """
    more = json.dumps(shared).encode()[1:] if shared else b"}"
    return b'{"body":' + body + (b"," if shared else b"") + more


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """Lines as they come; None where the next one may take a while: what was read so far need not wait for it."""
    held = b""
    while True:
        if not _ready(file):
            yield None
        chunk = file.read1(READ_BYTES)  # type: ignore[attr-defined]  # which binary files have, and typeshed leaves out
        if not chunk:
            break
        *whole, held = (held + chunk).split(b"\n")
        yield from whole
    yield held


def _ready(file: IO[bytes]) -> bool:
    """Whether a read returns at once."""
    try:
        return bool(select.select([file], [], [], 0)[0])
    except (OSError, ValueError):  # it is no file of the system's
        return True


def _bodies(file: IO[bytes], sent: _Sent) -> Iterator[tuple[int, bytes | None]]:
    """Lines that hold something, with their numbers; None as ``_lines`` has it."""
    number = 0
    for line in _lines(file):
        if line is None:
            yield number, None
            continue
        number += 1
        if not line.strip():
            continue
        try:
            yield number, _checked(line.strip())
        except ValueError as error:
            do = f"mend it, then send the rest:  {sent.rest}\nlines of plain text become JSON with:  jq -R ."
            raise CliError(f"line {number} is not JSON: {error}", str(sent), do) from error


def _batches(bodies: Iterable[tuple[int, bytes | None]]) -> Iterator[tuple[list[bytes], int]]:
    """Bodies for one request each, and the number of the last one's line."""
    batch: list[bytes] = []
    size, last = 0, 0
    for number, each in bodies:
        full = each is None or len(batch) == SEND_MAX or size + len(each) > BATCH_BYTES_MAX
        if batch and full:
            yield batch, last
            batch, size = [], 0
        if each is not None:
            batch.append(each)
            size, last = size + len(each), number
    if batch:
        yield batch, last


def _stopped(error: CliError, sent: _Sent, last: int) -> CliError:
    """What is known of a file's lines when a request with some of them failed."""
    refused = error.problem.get("errors")
    if isinstance(refused, list) and refused:  # all of them, as they share what is wrong
        told = dict.fromkeys(f"'{each.get('key')}' {each.get('message')}" for each in refused)
        return CliError("the messages are not valid", "\n".join(told), "", error.problem)
    answered = error.problem.get("status") is not None
    why = str(sent) + ("" if answered else f"; whether those up to {last} are is not known")
    do = f"{error.do}\nsend the rest:  {sent.rest}".lstrip()
    return CliError(error.what, "\n".join(filter(None, (error.why, why))), do, error.problem)


def _checked(raw: bytes) -> bytes:
    """``raw`` if it is one JSON value in UTF-8; raises ``ValueError`` with what is wrong."""
    try:
        json.loads(raw.decode(), parse_constant=_no_json)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return raw


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


@contextmanager
def _opened(data: str) -> Iterator[IO[bytes] | None]:
    """Stdin for ``-``, the file for ``@FILE``; None for what is data itself."""
    if data == "-":
        yield sys.stdin.buffer
        return
    if not data.startswith("@"):
        yield None
        return
    path = Path(data[1:])
    try:
        file = path.open("rb")
    except OSError as error:
        raise CliError(f"cannot read {path}", error.strerror or "", code=2) from error
    with file:
        yield file
