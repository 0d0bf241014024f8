"""TOML as people write it: its values, the line of each key, and what is wrong with the form of the text."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

from faas.model.errors import ManifestProblem

Path = tuple[str | int, ...]  # ("http", "public"), ("queue", 0, "name")

TOML_BYTES_MAX = 512 * 1024
KEY_DOTS_MAX = 256  # tomllib takes quadratic time on a dotted key: 17 s for one of 64 KB

_KEY = r"(?:[A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')"
_ASSIGN = re.compile(rf"\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*=")
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEY}(?:\s*\.\s*{_KEY})*)\s*\]\]?")
_PART = re.compile(_KEY)
_AT_LINE = re.compile(r"at line (\d+)")


def split_lines(source: str) -> list[str]:
    """Lines as Python's universal newlines see them (a file from Windows works), and nothing else ends a line."""
    return source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def parse(
    text: str, first_line: int = 1, parse_float: Callable[[str], Any] = float
) -> tuple[dict[str, Any], dict[Path, int], ManifestProblem | None]:
    """TOML to a table and the line of each key; ``first_line`` is the line of the file that ``text`` begins on."""
    text = "\n".join(split_lines(text))
    if len(text) > TOML_BYTES_MAX:
        return {}, {}, ManifestProblem("", "this file of settings is larger than 512 KB", first_line)
    for number, written in enumerate(text.split("\n"), start=first_line):
        if written.rpartition("=")[0].count(".") > KEY_DOTS_MAX:
            return {}, {}, ManifestProblem("", "a key with this many dots is not a setting of anything", number)
    try:
        table = tomllib.loads(text, parse_float=parse_float)
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = first_line + (int(found[1]) - 1 if found else max(text.rstrip("\n").count("\n"), 0))
        message = re.sub(r" \(at .*\)$", "", str(error))
        return {}, {}, ManifestProblem("", f"not valid TOML: {message[:1].lower()}{message[1:]}", line)
    except (RecursionError, ValueError) as error:  # nested too deeply; a date or number out of range
        return {}, {}, ManifestProblem("", f"not valid TOML: {error}", first_line)
    return table, key_lines(text, first_line), None


def key_lines(text: str, first_line: int = 1) -> dict[Path, int]:
    """The line each key and each table header of a valid TOML text is on; of an inline table's keys, not."""
    lines: dict[Path, int] = {}
    arrays: dict[Path, int] = {}
    at: Path = ()
    quote = ""
    for number, line in enumerate(text.split("\n"), start=first_line):
        if quote:  # inside a multi-line string
            quote = "" if quote in line else quote
            continue
        header = _HEADER.match(line)
        if header is not None and "=" not in line.partition("]")[0]:
            at = _header_path(header, arrays)
            for depth in range(1, len(at) + 1):
                lines.setdefault(at[:depth], number)
            continue
        assign = _ASSIGN.match(line)
        if assign is None:
            continue
        path = (*at, *_parts(assign[1]))
        for depth in range(len(at) + 1, len(path) + 1):
            lines.setdefault(path[:depth], number)
        quote = next((q for q in ('"""', "'''") if line.count(q) % 2), "")
    return lines


def _header_path(header: re.Match[str], arrays: dict[Path, int]) -> Path:
    """``[a.b]`` -> ("a", "b"); the third ``[[queue]]`` -> ("queue", 2); ``[queue.x]`` under it -> ("queue", 2, "x")."""
    path: Path = ()
    parts = _parts(header[2])
    for position, part in enumerate(parts):
        path = (*path, part)
        if position == len(parts) - 1 and header[1] == "[[":
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = (*path, arrays[path])
    return path


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in _PART.findall(dotted)]


def dotted(path: Path) -> str:
    """``("queue", 0, "name")`` -> ``queue[0].name``."""
    written = ""
    for part in path:
        written += f"[{part}]" if isinstance(part, int) else ("." if written else "") + part
    return written[:200]
