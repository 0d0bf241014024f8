"""What metering costs: warm throughput of a node beside that of one whose journal and ledger take nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench import load, report, warm
from tests.bench.node import Node, invocations, running_node
from tests.bench.report import Bar, Row
from tests.bench.stats import Paired, median

COST = Bar("<= 5 %", 5.0)
PAIRS = 2 * warm.PAIRS  # per round: the difference is smaller than what a round of a busy machine varies by
UNMETERED = (sys.executable, "-m", "tests.bench.unmetered", "up")
WARM_UP_S = 2.0


def measure(node: Node, temporary: Path, rounds: int, say: report.Say) -> list[Row]:
    """The row. Starts the other node beside this one, and deploys the same function on both."""
    say("starting a node that does not meter")
    with running_node(node.engine, temporary, command=UNMETERED) as without:
        both = (node, without)
        for each in both:
            each.deploy(warm.FUNCTION, warm.NAME)
        try:
            for each in both:
                request = each.request_text(warm.NAME, {})
                load.run(load.Job(each.host, each.port, request, 64, WARM_UP_S, 0))
            pairs: list[tuple[warm.Round, warm.Round]] = []
            for number in range(rounds * PAIRS):
                if number % PAIRS == 0:
                    say(f"with metering and without, round {number // PAIRS + 1} of {rounds}")
                pairs.append(warm.pair(node, without, 64, warm.THROUGHPUT_S, turned=number % 2 == 1))
            kept = len(node.checked("GET", f"{invocations(warm.NAME)}?limit=1").body)
            dropped = len(without.checked("GET", f"{invocations(warm.NAME)}?limit=1").body)
            assert kept > dropped, "one node keeps records and the other does not"
            return [cost_row(pairs)]
        finally:
            node.delete(warm.NAME)


def cost_row(pairs: list[tuple[warm.Round, warm.Round]]) -> Row:
    rates = Paired([ours.outcome.per_second for ours, _ in pairs], [floor.outcome.per_second for _, floor in pairs])
    cpu_us = [median([each.cpu_us for each in side]) for side in zip(*pairs, strict=True)]
    cost = 100 * (1 - rates.ratio)
    low, high = (100 * (1 - ratio) for ratio in reversed(rates.spread))
    return Row(
        "metering cost of warm throughput, 64 connections",
        f"{cost:.1f} %",
        ratio=f"{rates.ratio:.3f}",
        bar=COST.text,
        verdict=COST.judge(cost),
        note=f"{report.rate(median(rates.ours))} with journal and ledger, {report.rate(median(rates.floor))} on a node "
        f"that forgets its records; {len(pairs)} rounds between {low:.0f} and {high:.0f} %; "
        f"processor time of the node per call {cpu_us[0]:.0f} us, {cpu_us[1]:.0f} us without",
        values={"per_second": rates.ours, "unmetered_per_second": rates.floor, "cost_percent": cost},
    )
