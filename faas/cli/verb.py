"""What every verb is made of: its options, the node it asks, and a help page with examples.

click, and not typer on top of it: typer checks each option with pydantic, and loading that takes longer than all else
the CLI does. What typer added is here in a page: sections, examples, options that many verbs share.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from faas.cli import out

if TYPE_CHECKING:
    from faas.cli.client import Node

OPTIONS = "Options"
NODE = "Which node, and who you are"
WIDTH_MAX = 100


class Formatter(click.HelpFormatter):
    """Bold headings for people, plain text otherwise."""

    def write_heading(self, heading: str) -> None:
        self.write(" " * self.current_indent + out.paint(f"{heading}:", out.BOLD) + "\n")


class Context(click.Context):
    formatter_class = Formatter


class Option(click.Option):
    """An option that says in which section of the help it stands."""

    def __init__(self, *args: Any, section: str = OPTIONS, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class Verb(click.Command):
    """A command whose help shows its options by section and ends in ``examples``, as one would type them."""

    context_class = Context

    def __init__(self, *args: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.examples = examples

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = [param.get_help_record(ctx) for param in self.get_params(ctx) if isinstance(param, click.Argument)]
        if records:
            with formatter.section("Arguments"):
                formatter.write_dl([record for record in records if record])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record and not isinstance(param, click.Argument):
                sections.setdefault(getattr(param, "section", OPTIONS), []).append(record)
        for title in sorted(sections, key=NODE.__eq__):  # that one last, the others as they come
            with formatter.section(title):
                formatter.write_dl(sections[title])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Examples" if len(self.examples) > 1 else "Example"):
            for line in self.examples:
                formatter.write(" " * formatter.current_indent + f"$ {line}\n")


class Noun(click.Group):
    """A group of verbs: `faas key create`."""

    context_class = Context

    def verb(self, *examples: str) -> Callable[[Callable[..., Any]], Verb]:
        """As the function `verb`, in this group."""

        def add(function: Callable[..., Any]) -> Verb:
            made = verb(*examples)(function)
            self.add_command(made)
            return made

        return add


def verb(*examples: str) -> Callable[[Callable[..., Any]], Verb]:
    """Make the function below a verb of its name, with its docstring as the help."""
    return click.command(None, Verb, examples=examples)


def noun(help: str) -> Noun:  # noqa: A002
    return Noun(help=help, no_args_is_help=True)


def option(*names: str, section: str = OPTIONS, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(*names, cls=Option, section=section, **settings)


argument = click.argument
json_option = option("--json", "as_json", is_flag=True, help="Print JSON for programs, nothing else, on stdout.")


def on_node(function: Callable[..., None]) -> Callable[..., None]:
    """The options that say which node and as whom; the verb gets that node as its first argument."""

    @option("--url", metavar="URL", section=NODE, help="The node. [FAAS_URL, else what `faas up` wrote]")
    @option("--key", metavar="KEY", section=NODE, help="API key. [FAAS_KEY, likewise]")
    @option("--namespace", "-N", metavar="NAME", section=NODE, help="[FAAS_NAMESPACE, likewise]")
    @functools.wraps(function)
    def connected(*args: Any, url: str | None, key: str | None, namespace: str | None, **settings: Any) -> None:
        from faas.cli.client import connect

        node: Node = connect(url, key, namespace)
        function(node, *args, **settings)

    return connected
