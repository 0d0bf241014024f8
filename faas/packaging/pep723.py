"""The metadata block at the top of a script: PEP 723, "Inline script metadata".

The PEP defines blocks by a regular expression. On a file that opens many blocks and closes none that expression takes
quadratic time, and these files come from strangers, so this is a scanner that reads each line once and finds exactly
what the expression finds (a property test holds the two against each other). Two things the PEP leaves to tools are
errors here, because going on would deploy a function without the settings its author wrote: two ``script`` blocks, and
a ``script`` block that is never closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from faas.model.errors import ManifestProblem
from faas.model.toml_text import split_lines

_START = re.compile(r"# /// ([a-zA-Z0-9-]+)")
_END = "# ///"


@dataclass(frozen=True, slots=True)
class Block:
    """One metadata block: its type, its TOML text, and the 1-based line of the file its first content line is on."""

    type: str
    text: str
    line: int


def scan(source: str) -> Iterator[Block]:
    """Every block of ``source``, of any type, as the PEP's reference expression finds them. Linear time."""
    lines = split_lines(source)
    index = 0
    while index < len(lines):
        start = _START.fullmatch(lines[index])
        if start is None:
            index += 1
            continue
        after = index + 1
        while after < len(lines) and _is_content(lines[after]):
            after += 1
        # The longest block wins: the last "# ///" of this run of comment lines, below at least one line of content.
        end = next((i for i in range(after - 1, index + 1, -1) if lines[i] == _END), None)
        if end is None:
            index = after  # nothing in this run is closed
            continue
        text = "".join(f"{line[2:]}\n" for line in lines[index + 1 : end])
        yield Block(start[1], text, index + 2)
        index = end + 1


def find_script(source: str) -> tuple[Block | None, list[ManifestProblem]]:
    """The ``script`` block, or None; and what is wrong with the blocks of this file, if anything."""
    blocks = [block for block in scan(source) if block.type == "script"]
    problems = [
        ManifestProblem(
            "script", f"a second `# /// script` block; the first is on line {blocks[0].line - 1}", b.line - 1
        )
        for b in blocks[1:]
    ]
    inside = {n for b in blocks for n in range(b.line - 1, b.line + b.text.count("\n") + 1)}
    problems += [
        ManifestProblem(
            "script",
            "this `# /// script` block is not closed: end it with a line `# ///`; every line between begins with `#`",
            number,
        )
        for number, line in enumerate(split_lines(source), start=1)
        if line == "# /// script" and number not in inside
    ]
    return (blocks[0] if blocks else None), problems


def _is_content(line: str) -> bool:
    return line == "#" or line.startswith("# ")
