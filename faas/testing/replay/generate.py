"""``python -m faas.testing.replay.generate FOLDER``: write a synthetic trace in the format that is replayed."""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from faas.testing.replay.synthetic import MIXES, synthetic
from faas.testing.replay.trace import Trace


def write(trace: Trace, folder: Path) -> None:
    """``invocations.csv`` and ``memory.csv``; ``reader.read`` gives the same trace back, named after the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "invocations.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["HashOwner", "HashApp", "HashFunction", "Trigger", *range(1, trace.minutes + 1)])
        for function in trace.functions:
            counts = dict(zip(function.active, function.counts, strict=True))
            cells = [counts.get(minute, 0) for minute in range(trace.minutes)]
            rows.writerow(["owner", "app", function.name, function.trigger, *cells])
    with (folder / "memory.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["HashFunction", "HashOwner", "HashApp", "SampleCount", "AverageAllocatedMb"])
        rows.writerows([f.name, "owner", "app", 1, repr(f.memory_mb)] for f in trace.functions)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faas.testing.replay.generate", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mix", choices=sorted(MIXES), default="azure", help="what kinds of functions (azure)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--functions", type=int, default=100)
    parser.add_argument("--minutes", type=int, default=1440)
    options = parser.parse_args(arguments)
    if options.functions < 1 or options.minutes < 1:
        parser.error("a trace has at least one function and one minute")
    write(synthetic(options.mix, options.seed, options.functions, options.minutes), options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
