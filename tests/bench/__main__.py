"""`make bench`: every row of the table in README.md. See the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import fairness, heavy, ledger, machine, memory, metering, overload, queues, redeploy, starts, warm
from tests.bench.load import LoadError
from tests.bench.node import ROOT, BenchError, Node, Server, running_echo, running_node
from tests.bench.report import Row, Verdict, as_json, text_table, write_readme

Section = Callable[[], list[Row]]
SECTIONS = (
    "warm", "cold", "parked", "burst", "deploy", "memory", "numpy", "fairness", "overload", "redeploy",
    "queues", "metering", "ledger", "wrk",
)  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--engine", default="auto", choices=("auto", "docker", "process"))
    parser.add_argument("--only", default="", help=f"sections, comma-separated: {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=5, help="of warm calls, floods, deploys and bursts")
    parser.add_argument("--samples", type=int, default=120, help="starts from zero and from parked; at least 100")
    parser.add_argument("--seconds", type=float, default=60.0, help="of redeploys under load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--write-readme", action="store_true", help="replace the table in README.md")
    parser.add_argument("--wrk", action="store_true", help="compare our load generator with wrk, where it is installed")
    return parser.parse_args()


def sections(node: Node, echo: Server, temporary: Path, given: argparse.Namespace) -> dict[str, Section]:
    """What can be measured, by name, in order. Each leaves the node without functions."""
    found: dict[str, Section] = {
        "warm": lambda: warm.measure(node, echo, given.rounds, say),
        "cold": lambda: starts.cold(node, max(given.samples, starts.SAMPLES_MIN), 60.0, say),
        "parked": lambda: starts.parked(node, max(given.samples, starts.SAMPLES_MIN), 60.0, say),
        "burst": lambda: starts.burst(node, given.rounds, say),
        "deploy": lambda: starts.deploy(node, given.rounds, say),
        "memory": lambda: memory.measure(node, say),
        "numpy": lambda: heavy.measure(node, say),
        "fairness": lambda: fairness.measure(node, given.rounds, say),
        "overload": lambda: overload.measure(node, say),
        "redeploy": lambda: redeploy.measure(node, given.seconds, say),
        "queues": lambda: queues.measure(node, given.rounds, max(given.samples // 2, 50), say),
        "metering": lambda: metering.measure(node, temporary, given.rounds, say),
        "ledger": lambda: ledger.measure(node.engine, temporary, say),
        "wrk": lambda: warm.wrk_rows(node, echo, 3),
    }
    wanted = given.only.split(",") if given.only else [name for name in found if name != "wrk" or given.wrk]
    unknown = [name for name in wanted if name not in SECTIONS]
    if unknown:
        raise BenchError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return {name: section for name, section in found.items() if name in wanted}


def say(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


def measured(name: str, section: Section) -> list[Row]:
    """The section's rows; one that says why when it could not be measured."""
    try:
        rows = section()
    except (BenchError, LoadError, OSError) as error:
        rows = [Row(name, verdict=Verdict.FAILED, note=" ".join(str(error).split()))]
    for row in rows:
        cells = [row.what, row.measured, f"(echo {row.floor})" if row.floor else "", row.ratio and f"ratio {row.ratio}"]
        print(
            "  ".join([*filter(None, cells), f"bar {row.bar}: {row.verdict}" if row.bar else str(row.verdict)]),
            flush=True,
        )
    return rows


def main() -> int:
    """Exit code 0 when everything could be measured, whether or not the bars were met."""
    given = arguments()
    begin = time.monotonic()
    load_before = round(os.getloadavg()[0], 1)
    date = time.strftime("%Y-%m-%d")
    with tempfile.TemporaryDirectory(prefix="faas-bench-") as temporary:
        say("starting a node")
        with running_node(given.engine, Path(temporary)) as node, running_echo(node.key) as echo:
            facts = machine.facts(machine.engine_words(node.engine), load_before)
            print(f"{date}  {machine.sentence(facts)}", flush=True)
            rows = [
                row
                for name, section in sections(node, echo, Path(temporary), given).items()
                for row in measured(name, section)
            ]
    print(f"\n{text_table(rows)}\n\ntook {time.monotonic() - begin:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(as_json(rows, facts, date), indent=1) + "\n")
    if given.write_readme:
        write_readme(ROOT / "README.md", rows, machine.sentence(facts), date)
    return 1 if any(row.verdict is Verdict.FAILED for row in rows) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BenchError, LoadError, ValueError) as error:
        sys.exit(f"the benchmark could not run: {error}")
