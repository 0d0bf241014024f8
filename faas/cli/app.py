"""All verbs put together, each imported when it is asked for; the one place that turns errors into exit codes."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import click

from faas.cli import out
from faas.cli.out import CliError
from faas.cli.verb import WIDTH_MAX, Noun

HELP = """Functions that run in containers of their own, cost nothing while idle, and are metered to the millisecond.

Start a node with `faas up`, write a function with `faas init hello`, deploy it with `faas deploy hello.py`.
"""

# Verb -> module, by section of the help. A verb is the click command of that name in its module. Only the module of
# the verb at hand is imported: the rest would double the time a command takes to start.
SECTIONS: Mapping[str, Mapping[str, str]] = {
    "A node": {"up": "up", "doctor": "doctor"},
    "Functions": {
        "init": "init",
        "deploy": "deploy",
        "invoke": "invoke",
        "ls": "functions",
        "show": "functions",
        "rm": "functions",
    },
    "Events": {"queue": "queue", "trigger": "triggers"},
    "What happened": {
        "logs": "logs",
        "invocations": "invocations",
        "invocation": "invocations",
        "usage": "usage",
    },
    "Money": {"bill": "bill", "budget": "budgets", "price": "prices", "estimate": "prices"},
    "Administration": {"key": "keys", "namespace": "namespaces", "node": "nodes", "runtime": "runtime"},
}
VERBS: Mapping[str, str] = {verb: module for verbs in SECTIONS.values() for verb, module in verbs.items()}


class Faas(Noun):
    """All verbs, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in VERBS:
            return None
        found = getattr(import_module(f"faas.cli.{VERBS[cmd_name]}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:  # with what may have been meant
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=VERBS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = formatter.width - max(map(len, VERBS)) - 6
        for title, verbs in SECTIONS.items():
            with formatter.section(title):
                commands = [(verb, self.get_command(ctx, verb)) for verb in verbs]
                formatter.write_dl([(verb, each.get_short_help_str(width)) for verb, each in commands if each])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.say(f"faas {version('faas')}")
        ctx.exit()


@click.group(
    "faas",
    cls=Faas,
    help=HELP,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH_MAX},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Say which it is.")
def faas() -> None:
    """Options that stand before the verb; there is nothing to do for them."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code (0 ok, 1 failed, 2 usage, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["help"]:  # as docker, git and others have it
        arguments = [*arguments[1:], "--help"]
    try:
        with faas.make_context("faas", list(arguments)) as context:
            faas.invoke(context)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        out.note(error.format_message())
        return 2
    except click.UsageError as error:
        out.fail(_mistake(error), as_json="--json" in arguments)
        return 2
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
    return 0


def _mistake(error: click.UsageError) -> CliError:
    """A mistake in the command line: what it is, how it is written, where there is more."""
    usage, do = "", "faas --help"
    if error.ctx is not None:
        usage, do = error.ctx.get_usage(), f"{error.ctx.command_path} --help"
    return CliError(error.format_message(), usage, do, code=2)
