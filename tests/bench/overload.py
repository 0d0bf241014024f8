"""Ten times as much as a function can serve: what is served, how soon the rest is told, at what cost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench import paced, processes, report
from tests.bench.node import ROOT, Node
from tests.bench.report import Bar, Row, Verdict
from tests.bench.stats import median, percentile

WAIT = ROOT / "tests" / "bench" / "functions" / "bench_wait.py"
NAME = "bench-overload"
INSTANCES, CALL_MS = 4, 50
CAPACITY = INSTANCES * 1000 / CALL_MS  # calls a second at most
TIMES = 10
SECONDS, PEAK_S = 30.0, 5.0
CONNECTIONS_MAX = 2000
SAMPLE_S = 0.25
MS = 1_000_000
GOODPUT = Bar(">= 90 % of peak", 0.9, at_least=True)
REFUSAL = Bar("p99 <= 50 ms", 50 * MS)
GROWTH = Bar("<= 2 MB", 2_000_000)


def measure(node: Node, say: report.Say) -> list[Row]:
    """The rows for goodput, refusals and memory. Deploys the function and removes it."""
    node.deploy(WAIT, NAME, max_instances=INSTANCES, keep_alive="5m")
    request = node.request_text(NAME, {"ms": CALL_MS})
    try:
        node.call(NAME, {"ms": 1})
        say("its peak, with twice as many callers as instances")
        peak = paced.run(paced.Pace(node.host, node.port, request, 2 * INSTANCES, PEAK_S))
        say(f"{TIMES} times its capacity for {SECONDS:.0f} s")
        with memory_watched(node.pid) as samples:
            pace = paced.Pace(node.host, node.port, request, CONNECTIONS_MAX, SECONDS, TIMES * CAPACITY)
            found = paced.run(pace)
        return overload_rows(peak, found, samples)
    finally:
        node.delete(NAME)


@contextmanager
def memory_watched(pid: int) -> Iterator[list[int]]:
    """What a process holds, private pages in bytes, looked at all the time."""
    samples: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(processes.memory_bytes(pid)[1])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def overload_rows(peak: paced.Sheet, found: paced.Sheet, memory_bytes: list[int]) -> list[Row]:
    """Refused is what was answered 429 or 503; anything else that is not 200 fails the first row."""
    what = f"{TIMES} x capacity for {SECONDS:.0f} s"
    served, refused = found.took(200), found.took(429, 503)
    broken = len(found.statuses) - len(served) - len(refused)
    if broken or not refused or not served or not peak.took(200):
        note = f"{len(served)} served, {len(refused)} refused, {broken} neither; {found.first_refusal[:200]}"
        return [Row(f"{what}: served", verdict=Verdict.FAILED, note=" ".join(note.split()))]
    peak_per_second = len(peak.took(200)) * 1e9 / peak.elapsed_ns
    ends = [
        began + took
        for began, took, status in zip(found.began_ns, found.took_ns, found.statuses, strict=True)
        if status == 200
    ]
    per_second = (len(ends) - 1) * 1e9 / (max(ends) - min(ends))
    asked_per_second = len(found.statuses) * 1e9 / found.elapsed_ns
    share = per_second / peak_per_second
    p99 = percentile(refused, 0.99)
    third = len(memory_bytes) // 3
    first, last = median(memory_bytes[third : 2 * third]), median(memory_bytes[2 * third :])
    return [
        Row(
            f"{what}: served",
            f"{per_second:.1f}/s",
            ratio=f"{share:.2f}",
            bar=GOODPUT.text,
            verdict=GOODPUT.judge(share),
            note=f"asked {asked_per_second:.0f}/s; at its peak, {2 * INSTANCES} callers without pause, "
            f"{peak_per_second:.1f}/s; {INSTANCES} instances of {CALL_MS} ms; served calls waited and ran "
            f"{report.duration(percentile(served, 0.5))}, at most {report.duration(max(served))}",
            values={"per_second": per_second, "peak_per_second": peak_per_second},
        ),
        Row(
            f"{what}: refused, p50 / p99",
            f"{report.duration(percentile(refused, 0.5))} / {report.duration(p99)}",
            bar=REFUSAL.text,
            verdict=REFUSAL.judge(p99),
            note=f"{len(refused)} refused calls, {sum(took > REFUSAL.limit for took in refused)} of them later than "
            f"50 ms, the last after {report.duration(max(refused))}; from when the call was due, the generator's own "
            f"lateness (at most {report.duration(found.late_ns)}) included",
            values={"p99_ns": p99, "max_ns": max(refused)},
        ),
        Row(
            f"{what}: memory of the node grows by",
            report.megabytes(max(0, last - first)),
            bar=GROWTH.text,
            verdict=GROWTH.judge(last - first),
            note=f"private pages of its process, {report.megabytes(last)} in the last third against "
            f"{report.megabytes(first)} in the second",
            values={"samples_bytes": memory_bytes},
        ),
    ]
