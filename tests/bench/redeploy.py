"""A new version every second while calls come: none may fail, none may be answered by a version that was replaced."""

from __future__ import annotations

import tempfile
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import paced, report
from tests.bench.node import Node
from tests.bench.report import Row, Verdict
from tests.bench.stats import median, percentile

NAME = "bench-redeploy"
CONNECTIONS = 8
SOURCE = "import time\ndef handler(event, context):\n    time.sleep(0.005)\n    return {number}\n"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A deploy's answer: the version it made, and when the one who deployed had it."""

    version: int
    at_ns: int


def measure(node: Node, seconds: float, say: report.Say) -> list[Row]:
    """The row. Deploys the function again and again and removes it."""
    say(f"a redeploy every second under load for {seconds:.0f} s")
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "bench_redeploy.py"

        def deploy(number: int) -> Acknowledged:
            source.write_text(SOURCE.format(number=number))
            return Acknowledged(node.deploy(source, NAME), time.perf_counter_ns())

        acknowledged = [deploy(0)]
        took = []
        try:
            pace = paced.Pace(node.host, node.port, node.request_text(NAME, None), CONNECTIONS, seconds)
            process = paced.start(pace, priority=0)
            begin = time.monotonic()
            number = 0
            while (left := begin + seconds - time.monotonic()) > 1:
                number += 1
                time.sleep(max(0, begin + number - time.monotonic()) if left > 1 else 0)
                asked_ns = time.perf_counter_ns()
                acknowledged.append(deploy(number))
                took.append(acknowledged[-1].at_ns - asked_ns)
            found = paced.finish(process, seconds)
        finally:
            node.delete(NAME)
    return [redeploy_row(found, acknowledged, took)]


def stale(sheet: paced.Sheet, acknowledged: Sequence[Acknowledged]) -> int:
    """Answers from a version older than the newest that was acknowledged before the call began.

    >>> deploys = [Acknowledged(1, 0), Acknowledged(2, 100)]
    >>> stale(paced.Sheet([50, 99, 101], [9, 9, 9], [200, 200, 200], [1, 2, 1]), deploys)
    1
    """
    times = [each.at_ns for each in acknowledged]
    count = 0
    for began, status, version in zip(sheet.began_ns, sheet.statuses, sheet.versions, strict=True):
        newest = bisect_right(times, began) - 1
        count += status == 200 and newest >= 0 and version < acknowledged[newest].version
    return count


def redeploy_row(found: paced.Sheet, acknowledged: Sequence[Acknowledged], took_ns: Sequence[int]) -> Row:
    """Both counts have to be 0."""
    old = stale(found, acknowledged)
    served = found.took(200)
    seen = len(set(found.versions))
    note = f"{len(took_ns)} redeploys, each acknowledged after {report.duration(median(took_ns))}; {len(served)} calls"
    if served:
        note += f", p50 / p99 {report.duration(percentile(served, 0.5))} / {report.duration(percentile(served, 0.99))}"
    if found.first_refusal:
        note += f"; the first failed with {' '.join(found.first_refusal.split())[:300]}"
    return Row(
        "redeployed every second under load: calls failed / answered by an old version",
        f"{found.failed} / {old}",
        bar="0 / 0",
        verdict=Verdict.PASS if served and found.failed == old == 0 and seen > 1 else Verdict.SHORT,
        note=f"{note}; {CONNECTIONS} callers without pause, {seen} versions answered",
        values={"failed": found.failed, "stale": old, "calls": len(found.statuses), "deploy_ns": list(took_ns)},
    )
