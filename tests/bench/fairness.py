"""Two namespaces on one node: what a steady caller of the one notices when the other is flooded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import paced, report
from tests.bench.node import ROOT, Node
from tests.bench.processes import cpu_ns
from tests.bench.report import Bar, Row, Verdict
from tests.bench.stats import median, percentile

FUNCTIONS = ROOT / "tests" / "bench" / "functions"
P99 = Bar("p99 <= 2 x alone", 2.0)
FLOOD_CONNECTIONS = 64
VICTIM_CONNECTIONS_MAX = 16  # one, while answers come before the next question is due
SECONDS, FLOOD_FIRST_S = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """``per_second`` calls of the victim, one after the other; the flood asks for the same with all it has."""

    what: str
    source: Path
    event: Any
    per_second: float


CASES = (
    Case("an echo", FUNCTIONS / "bench_echo.py", {"name": "world"}, 100),
    Case("10 ms of work", FUNCTIONS / "bench_work.py", {"ms": 10}, 25),
)


@dataclass(frozen=True, slots=True)
class Round:
    """The victim alone and beside the flood; the flood's answers per second; the node's share of a core meanwhile."""

    alone: paced.Sheet
    beside: paced.Sheet
    flood_per_second: float
    node_cores: float


def measure(node: Node, rounds: int, say: report.Say) -> list[Row]:
    """A row per case. Deploys both functions in namespaces of their own and removes them."""
    quiet, noisy = node.tenant("quiet"), node.tenant("noisy")
    rows = []
    for case in CASES:
        quiet.deploy(case.source, "steady")
        noisy.deploy(case.source, "flood")
        try:
            quiet.call("steady", case.event)
            found = []
            for number in range(1, rounds + 1):
                say(f"{case.what} beside a flood, round {number} of {rounds}")
                found.append(_round(quiet, noisy, case))
            rows.append(fairness_row(case.what, found))
        finally:
            quiet.delete("steady")
            noisy.delete("flood")
    return rows


def _round(quiet: Node, noisy: Node, case: Case) -> Round:
    request = quiet.request_text("steady", case.event)
    pace = paced.Pace(quiet.host, quiet.port, request, VICTIM_CONNECTIONS_MAX, SECONDS, case.per_second)
    quiet.stand_still()
    alone = paced.run(pace)
    with flooded(noisy, "flood", case.event, FLOOD_CONNECTIONS) as flood:
        time.sleep(FLOOD_FIRST_S)
        before_ns, begin_ns = cpu_ns(noisy.pid), time.perf_counter_ns()
        beside = paced.run(pace)
        cores = (cpu_ns(noisy.pid) - before_ns) / (time.perf_counter_ns() - begin_ns)
    return Round(alone, beside, sum(status == 200 for status in flood[0].statuses) * 1e9 / flood[0].elapsed_ns, cores)


@contextmanager
def flooded(node: Node, name: str, event: Any, connections: int) -> Iterator[list[paced.Sheet]]:
    """``connections`` callers without pause until the context is left; then the list has what became of them."""
    pace = paced.Pace(node.host, node.port, node.request_text(name, event), connections, SECONDS + 2 * FLOOD_FIRST_S)
    process = paced.start(pace, priority=0)
    found: list[paced.Sheet] = []
    try:
        yield found
        found.append(paced.finish(process, pace.seconds))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def fairness_row(what: str, rounds: list[Round]) -> Row:
    """Judged by the p99 of all rounds together. A call of the victim that is refused fails the row."""
    title = f"{what} beside a flood of another namespace, p50 / p99"
    failed = sum(each.alone.failed + each.beside.failed for each in rounds)
    if failed:
        refusal = next((each.beside.first_refusal for each in rounds if each.beside.first_refusal), "")
        return Row(title, verdict=Verdict.FAILED, note=f"{failed} calls failed, one with: {' '.join(refusal.split())}")
    alone = [took for each in rounds for took in each.alone.took_ns]
    beside = [took for each in rounds for took in each.beside.took_ns]
    p50, p99 = percentile(beside, 0.5), percentile(beside, 0.99)
    alone_p50, alone_p99 = percentile(alone, 0.5), percentile(alone, 0.99)
    ratios = [percentile(each.beside.took_ns, 0.99) / percentile(each.alone.took_ns, 0.99) for each in rounds]
    return Row(
        title,
        f"{report.duration(p50)} / {report.duration(p99)}",
        ratio=f"{p50 / alone_p50:.2f} / {p99 / alone_p99:.2f}",
        bar=P99.text,
        verdict=P99.judge(p99 / alone_p99),
        note=f"alone {report.duration(alone_p50)} / {report.duration(alone_p99)}; p99 by round between "
        f"{min(ratios):.2f} and {max(ratios):.2f} x; {len(beside)} calls; the flood: {FLOOD_CONNECTIONS} connections, "
        f"{report.rate(median([each.flood_per_second for each in rounds]))}, "
        f"the node's process {median([each.node_cores for each in rounds]):.2f} cores",
        values={"alone_ns": alone, "beside_ns": beside, "ratios": ratios},
    )
