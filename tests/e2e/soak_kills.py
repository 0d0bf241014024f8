"""``make soak``: a thousand kills spread over instances, sandboxes, Valkey and the node itself during load.

python -m tests.e2e.soak_kills [--kills 1000] [--engine docker|process|both] [--seed N] [--callers 12]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from tests.e2e.kills import Campaign, plan
from tests.e2e.node import Node


def soak(engine: str, kills: int, seed: int, callers: int) -> None:
    victims = plan(random.Random(seed), kills, kills // 30, kills // 50, containers=engine == "docker")
    node = Node(engine)
    try:
        node.start()
        campaign = Campaign(node, seed, victims, callers, pause_s=0.15)
        asyncio.run(campaign.run(lambda text: print(text, flush=True)))
    except BaseException:
        print(f"the node said:\n{node.said()}", file=sys.stderr)
        raise
    finally:
        node.close()
    killed = ", ".join(f"{count} x {kind}" for kind, count in campaign.killed.most_common())
    print(f"engine {engine}: {kills} kills ({killed}); {campaign.book.summary()}")
    print("every call had an answer or a clean error, nothing hung, no record lost, none doubled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--engine", choices=["docker", "process", "both"], default="both")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--callers", type=int, default=12)
    asked = parser.parse_args()
    engines = ["docker", "process"] if asked.engine == "both" else [asked.engine]
    for engine in engines:
        print(f"{asked.kills // len(engines)} kills, engine {engine}, seed {asked.seed}", flush=True)
        soak(engine, asked.kills // len(engines), asked.seed, asked.callers)


if __name__ == "__main__":
    main()
