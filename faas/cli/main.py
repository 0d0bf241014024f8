"""Entry point: the verbs put together, and the one place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import typer

from faas.cli import out
from faas.cli.out import CliError

_HELP = """Functions that run in containers of their own, cost nothing while idle, and are metered to the millisecond.

Start a node with `faas up`, write a function with `faas init hello`, deploy it with `faas deploy hello.py`.
"""

# Verb -> module, in the order of the help. Only the module of the verb at hand is imported: the rest would double
# the time a command takes to start.
VERBS: Mapping[str, str] = {
    "up": "up",
    "doctor": "doctor",
    "init": "init",
    "deploy": "deploy",
    "invoke": "invoke",
    "ls": "functions",
    "show": "functions",
    "rm": "functions",
    "logs": "logs",
    "invocations": "invocations",
    "invocation": "invocations",
    "usage": "usage",
    "key": "keys",
    "node": "nodes",
    "runtime": "runtime",
}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.say(f"faas {version('faas')}")
        raise typer.Exit


def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Options that stand before the verb."""


def build(arguments: Sequence[str]) -> typer.Typer:
    """The app with the verb that ``arguments`` name; with all of them when that is none of ours, to help with."""
    app = typer.Typer(
        name="faas",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=_HELP)(_root)
    verb = next((argument for argument in arguments if not argument.startswith("-")), "")
    for module in [VERBS[verb]] if verb in VERBS else dict.fromkeys(VERBS.values()):
        import_module(f"faas.cli.{module}").register(app)
    return app


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0 ok, 1 failed, 2 usage, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = build(arguments)(args=arguments, prog_name="faas")
    except CliError as error:
        out.fail(error, as_json="--json" in arguments)
        return error.code
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`faas logs NAME | head`). Nothing may be written to that pipe again, not even at exit.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code if isinstance(code, int) else 0


def main() -> None:
    """The `faas` script."""
    sys.exit(run())
