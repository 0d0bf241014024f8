"""Where a function's settings are written, read into one shape with the line of every key.

Three places: the PEP 723 block of a file, ``faas.toml``, and ``pyproject.toml``. Each becomes a ``Document`` whose
``values`` are the keys of functions/README.md plus ``dependencies`` and ``requires-python``: the same shape as the
overrides of a deploy, so the two merge key by key. Nothing is judged here but the form of the TOML.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from faas.model.errors import ManifestProblem
from faas.model.toml_text import Path, parse, split_lines
from faas.packaging import pep723

BLOCK_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Document:
    """Settings as written. ``lines`` are 1-based in ``file``; ``problems`` are about the form of the text."""

    file: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    lines: Mapping[Path, int] = field(default_factory=dict)
    source: tuple[str, ...] = ()  # the file's lines, to find an element of a list
    problems: tuple[ManifestProblem, ...] = ()
    warnings: tuple[str, ...] = ()
    tool: bool = False  # it has a [tool.faas] table


def from_script(source: str, file: str) -> Document:
    """The settings in the PEP 723 block of a Python file; an empty document when it has none."""
    block, problems = pep723.find_script(source)
    if block is None or problems:
        return Document(file, problems=tuple(problems))
    if len(block.text) > BLOCK_BYTES_MAX:
        return Document(file, problems=(ManifestProblem("script", "the block is larger than 64 KB", block.line - 1),))
    table, lines, problem = parse(block.text, block.line)
    if problem is not None:
        return Document(file, problems=(problem,))
    return _from_tool_table(table, lines, file, source, known=("dependencies", "requires-python", "tool"))


def from_faas_toml(source: str, file: str = "faas.toml") -> Document:
    """``faas.toml``: the same keys at the top; a ``[tool.faas]`` table, pasted from a block, works as well."""
    table, lines, problem = parse(source, 1)
    if problem is not None:
        return Document(file, problems=(problem,))
    if isinstance(table.get("tool"), dict):
        return _from_tool_table(table, lines, file, source, known=("dependencies", "requires-python", "tool"))
    return Document(file, table, lines, tuple(split_lines(source)))


def from_pyproject(source: str, file: str = "pyproject.toml") -> Document | None:
    """``[tool.faas]`` of ``pyproject.toml``, with name, dependencies and Python version from ``[project]``.

    None when the file has neither table.
    """
    table, lines, problem = parse(source, 1)
    if problem is not None:
        return Document(file, problems=(problem,))
    project = table.get("project")
    project = project if isinstance(project, dict) else {}
    tool = table.get("tool")
    if not project and not (isinstance(tool, dict) and "faas" in tool):
        return None
    document = _from_tool_table(table, lines, file, source, known=tuple(table))
    values, lines = dict(document.values), dict(document.lines)
    for key in ("dependencies", "requires-python", "name"):
        if key in project and key not in values:
            value = project[key]
            if key == "name" and isinstance(value, str):
                value = re.sub(r"[-_.]+", "-", value).lower()
            values[key] = value
            lines[(key,)] = lines.get(("project", key), 1)
    return replace(document, values=values, lines=lines)


def from_requirements(source: str, file: str = "requirements.txt") -> Document:
    """The plain lines of a ``requirements.txt``; a line with an option (``-r``, ``--hash``) is a problem."""
    found: list[str] = []
    lines: dict[Path, int] = {("dependencies",): 1}
    problems: list[ManifestProblem] = []
    for number, line in enumerate(split_lines(source), start=1):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if not text:
            continue
        if text.startswith("-") or text.endswith("\\") or " --" in text:
            message = f"{file}: only plain requirements are read here, no options; list the packages by name"
            problems.append(ManifestProblem("dependencies", message, number))
            continue
        lines[("dependencies", len(found))] = number
        found.append(text)
    return Document(file, {"dependencies": found} if found else {}, lines, (), tuple(problems))


def merge(document: Document, overrides: Mapping[str, Any]) -> Document:
    """``document`` with ``overrides`` on top: tables merge key by key, else the override wins; null is the default.

    An overridden key has no line any more, for what is wrong with it is not in the file.
    """
    lines = dict(document.lines)
    values = _merge(document.values, overrides, (), lines)
    return replace(document, values=values, lines=lines)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], at: Path, lines: dict[Path, int]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        path = (*at, key)
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value, path, lines)
            continue
        for known in [p for p in lines if p[: len(path)] == path]:
            del lines[known]
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


def _from_tool_table(
    table: dict[str, Any], lines: dict[Path, int], file: str, source: str, known: tuple[str, ...]
) -> Document:
    """A document with ``[tool.faas]`` beside ``dependencies`` and ``requires-python``."""
    problems: list[ManifestProblem] = []
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key[:80], known, n=1, cutoff=0.7)
            hint = f'did you mean "{close[0]}"?' if close else "settings of the function go under [tool.faas]"
            problems.append(ManifestProblem(key, f"unknown key at the top of the block; {hint}", lines.get((key,))))
    tool = table.get("tool", {})
    settings = tool.get("faas", {}) if isinstance(tool, dict) else {}
    if not isinstance(settings, dict):
        problems.append(ManifestProblem("tool.faas", "must be a table", lines.get(("tool", "faas"))))
        settings = {}
    values = dict(settings)
    moved: dict[Path, int] = {p[2:]: n for p, n in lines.items() if p[:2] == ("tool", "faas") and len(p) > 2}
    for key in ("dependencies", "requires-python"):
        if key in settings:
            hint = "stands above [tool.faas], at the top of the block (in pyproject.toml: in [project])"
            problems.append(ManifestProblem(key, hint, moved.get((key,))))
            del values[key]
        if key in table and "project" not in known:
            values[key] = table[key]
            moved[(key,)] = lines.get((key,), 1)
    moved |= {p: n for p, n in lines.items() if p[:1] == ("project",)}
    warnings: list[str] = []
    if isinstance(tool, dict) and "uv" in tool:
        warnings.append("[tool.uv] is not used: the node's own package index settings apply")
    lined = tuple(split_lines(source))
    has_tool = isinstance(tool, dict) and "faas" in tool
    return Document(file, values, moved, lined, tuple(problems), tuple(warnings), has_tool)


def line_of(document: Document, path: Path) -> int | None:
    """The line of ``path`` in the file: its own, else that of the nearest table around it, else None."""
    for depth in range(len(path), 0, -1):
        line = document.lines.get(path[:depth])
        if line is not None:
            return line if depth == len(path) else _line_inside(document, path, line)
    return None


def _line_inside(document: Document, path: Path, line: int) -> int:
    """Look for an element of a list, or a key of an inline table, in the lines from its key's line on."""
    value: Any = document.values
    try:
        for part in path:
            value = value[part]
    except (KeyError, IndexError, TypeError):
        return line
    last = path[-1]
    if isinstance(last, str):
        wanted = re.compile(rf"\b{re.escape(last)}\b\s*[=.]")
    elif isinstance(value, str) and value:
        wanted = re.compile(rf"[\"']{re.escape(value)}[\"']")
    else:
        return line
    limit = min([n for n in document.lines.values() if n > line], default=len(document.source) + 1)
    for number in range(line, min(limit, len(document.source) + 1)):
        if wanted.search(document.source[number - 1]):
            return number
    return line
