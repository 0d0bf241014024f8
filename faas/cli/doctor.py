"""`faas doctor`: every setting with where it came from, and whether this machine can run a node."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass

from faas.cli import out
from faas.cli.verb import json_option, verb

MARKS = {"ok": out.GREEN, "warn": out.YELLOW, "fail": out.RED}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. ``state`` is ok, warn (works, with less) or fail (a node would not start or not work)."""

    name: str
    state: str
    found: str
    do: str = ""


@verb("faas doctor", "faas doctor --json")
@json_option
def doctor(as_json: bool) -> None:
    """Show every setting and check what a node needs.

    The exit code is 1 when something would stop a node.
    """
    from faas import settings as settings_module
    from faas.cli import checks

    with out.Progress("looking around", quiet=as_json):
        table: list[dict[str, str]] = []
        try:
            settings, sources = settings_module.load()
        except settings_module.SettingsError as error:
            found = [Check("settings", "fail", problem, "mend or remove it") for problem in error.problems]
        else:
            names = settings_module.NAMES
            table = [
                {"setting": f"FAAS_{n.upper()}", "value": settings_module.shown(settings, n), "source": sources[n]}
                for n in names
            ]
            found = checks.run_all(settings)
        found += [
            Check("environment", "warn", s, "unset or mend it") for s in settings_module.unknown_variables(os.environ)
        ]
    failed = [check for check in found if check.state == "fail"]
    if as_json:
        out.emit_json({"ok": not failed, "settings": table, "checks": [asdict(check) for check in found]})
    else:
        if table:
            out.table(["SETTING", "VALUE", "FROM"], [[row["setting"], row["value"], row["source"]] for row in table])
            out.say()
        show(found)
    if failed:
        sys.exit(1)


def show(found: list[Check]) -> None:
    width = max(len(check.name) for check in found)
    for check in found:
        out.say(f"{out.paint(check.state.ljust(4), MARKS[check.state])}  {check.name.ljust(width)}  {check.found}")
        for index, line in enumerate(check.do.splitlines()):
            out.say(" " * (width + 8) + ("    " if index else "do: ") + line)
    bad = [state for state in ("fail", "warn") for check in found if check.state == state]
    counted = [f"{bad.count(state)} {state}" for state in ("fail", "warn") if state in bad]
    out.say("\n" + (", ".join(counted) if counted else "all is well; start a node with: faas up"))
