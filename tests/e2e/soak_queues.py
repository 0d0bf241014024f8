"""``make soak``: a million messages through a queue whose nodes, and whose Valkey, are killed at random.

python -m tests.e2e.soak_queues [--messages 1000000] [--kills 60] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.e2e.queue_campaign import QueueCampaign


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--valkey-every", type=int, default=10, help="so many kills, one is of Valkey; 0 = none")
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between kills, about")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    asked = parser.parse_args()
    print(f"{asked.messages} messages, up to {asked.kills} kills, seed {asked.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="faas-soak-") as directory:
        campaign = QueueCampaign(
            Path(directory), asked.seed, asked.messages, asked.kills, pause_s=asked.pause,
            valkey_every=asked.valkey_every,
        )  # fmt: skip
        fate = asyncio.run(campaign.play(lambda text: print(text, flush=True)))
    print(fate.summary())
    for problem in fate.problems[:50]:
        print(problem)
    if fate.problems:
        sys.exit("promises were broken, see above")


if __name__ == "__main__":
    main()
