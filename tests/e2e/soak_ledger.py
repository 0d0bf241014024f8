"""``make soak``: two hundred seeded crashes of journals and Valkey under load; every record is accounted for.

python -m tests.e2e.soak_ledger [--runs 200] [--seed N] [--events node,power,back]

Run ``n`` has the seed N + n, and ``--runs 1 --seed N+n`` does to the nodes what it did.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter

from tests.e2e.ledger_crashes import KINDS, Outcome, crash

SAY_EVERY = 10


def soak(runs: int, seed: int, events: list[str] | None) -> bool:
    """Whether every promise was kept."""
    began = time.monotonic()
    done: list[Outcome] = []
    for number in range(runs):
        outcome = asyncio.run(crash(seed + number, events))
        done.append(outcome)
        for problem in outcome.problems:
            print(f"seed {outcome.seed} ({' '.join(outcome.events)}): {problem}", flush=True)
        if len(done) % SAY_EVERY == 0 or len(done) == runs:
            print(f"{len(done)} runs of {runs}, {time.monotonic() - began:.0f} s: {_summary(done)}", flush=True)
    kinds = Counter(kind for outcome in done for kind in outcome.events)
    print("what happened: " + ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common()))
    return not any(outcome.problems for outcome in done)


def _summary(done: list[Outcome]) -> str:
    def total(name: str) -> int:
        return sum(getattr(outcome, name) for outcome in done)

    return (
        f"{total('acknowledged')} records acknowledged: lost {total('lost')}, doubled {total('doubled')}, difference"
        f" {total('differences')} ({total('refused')} were refused, disk full; {total('excused')} were only on a server"
        f" that was replaced)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--events", help=f"comma-separated, instead of drawn ones: {', '.join(KINDS)}")
    asked = parser.parse_args()
    events = asked.events.split(",") if asked.events else None
    print(f"{asked.runs} runs, seed {asked.seed}", flush=True)
    if not soak(asked.runs, asked.seed, events):
        sys.exit("promises were broken, see above")


if __name__ == "__main__":
    main()
