"""The options that every verb has. On each verb, so that they may stand where people write them."""

from __future__ import annotations

from typing import Annotated

import typer

_NODE = "Which node, and who you are"

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs, nothing else, on stdout.")]
Url = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The node. [FAAS_URL, else what `faas up` wrote]", rich_help_panel=_NODE),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="API key. [FAAS_KEY, likewise]", rich_help_panel=_NODE)
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-N", metavar="NAME", help="[FAAS_NAMESPACE, likewise]", rich_help_panel=_NODE),
]


def example(*lines: str) -> str:
    """The epilog of a verb: commands as one would type them."""
    head = "Examples:" if len(lines) > 1 else "Example:"
    return head + "\n\n" + "\n\n".join("  $ " + line for line in lines)
