"""``python -m faas.testing.replay TRACE_FOLDER``: cold starts and idle memory of every keep-alive policy."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random

from faas.pool.keepalive import POLICIES
from faas.testing.replay.reader import BadTrace, read
from faas.testing.replay.report import as_json, as_text, replay
from faas.testing.replay.simulate import Holding
from faas.testing.replay.trace import Trace

_LONG = 200_000  # function-minutes from which on progress is told


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        trace = read(options.folder, lambda what: _say(what) if _large(options.folder) else None)
    except (BadTrace, OSError, UnicodeDecodeError) as error:
        _say(f"this trace cannot be read: {error}")
        return 1
    if options.functions:
        trace = _some(trace, options.functions, options.seed)
    long = len(trace.functions) * trace.minutes >= _LONG
    holding = Holding(options.parked_mb, options.warm_s)
    report = replay(
        trace, tuple(options.policy or POLICIES), options.fixed_min, holding, _say if long else lambda _: None
    )
    sys.stdout.write(json.dumps(as_json(report), indent=2) + "\n" if options.json else as_text(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faas.testing.replay", description=__doc__)
    parser.add_argument("folder", type=Path, help="with invocations.csv and memory.csv, or the Azure dataset's files")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="only this one (may be repeated)")
    parser.add_argument("--fixed-min", type=_positive, default=10.0, help="minutes of the fixed keep-alive (10)")
    parser.add_argument("--parked-mb", type=_positive, default=15.0, help="what a parked sandbox holds (15)")
    parser.add_argument("--warm-s", type=_positive, default=10.0, help="how long it stays warm before that (10)")
    parser.add_argument("--functions", type=int, default=0, help="only so many of the trace's functions, at random")
    parser.add_argument("--seed", type=int, default=0, help="which ones")
    parser.add_argument("--json", action="store_true", help="numbers for programs")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


def _some(trace: Trace, functions: int, seed: int) -> Trace:
    places = range(len(trace.functions))
    return trace.only(sorted(Random(seed).sample(places, min(functions, len(places)))))


def _large(folder: Path) -> bool:
    return sum(path.stat().st_size for path in folder.glob("invocations*.csv")) > 10_000_000


def _say(what: str) -> None:
    sys.stderr.write(what + "\n")


if __name__ == "__main__":
    sys.exit(main())
