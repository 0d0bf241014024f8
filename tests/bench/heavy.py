"""A function that imports numpy, after its first start on this node: from parked, and from nothing at all."""

from __future__ import annotations

import time

from tests.bench import report
from tests.bench.node import ROOT, BenchError, Node
from tests.bench.report import Bar, Row, Verdict
from tests.bench.starts import HELLO, phase_medians_ns, wait_parked
from tests.bench.stats import Paired, median, percentile

NUMPY = ROOT / "tests" / "bench" / "functions" / "bench_numpy.py"
START = Bar("<= 3 x hello from zero", 3.0)
SAMPLES = 12
MEMORY = "256MB"


def measure(node: Node, say: report.Say) -> list[Row]:
    """Both rows. Each sample is a start of hello from zero and one of numpy, one right after the other."""
    say("numpy is fetched and installed, if this machine has not had it before")
    node.deploy(NUMPY, "numpy-zero", keep_alive="0s", memory=MEMORY)
    node.deploy(HELLO, "hello-zero", keep_alive="0s")
    try:
        say("starts with numpy from zero")
        zero = [(_start(node, "numpy-zero"), _start(node, "hello-zero")) for _ in range(SAMPLES // 2)]
        say("starts with numpy from parked")
        parked = [(_resumed(node), _start(node, "hello-zero")) for _ in range(SAMPLES)]
    finally:
        node.delete("numpy-zero")
        node.delete("hello-zero")
    return [heavy_row("parked", parked, START), heavy_row("zero", zero, None)]


def _start(node: Node, name: str) -> tuple[int, str]:
    """A call of a function that has nothing running while a generic sandbox waits: time in ns, phases."""
    node.settle()
    return _called(node, name, "prewarmed")


def _resumed(node: Node) -> tuple[int, str]:
    """A call of a version that was loaded and parked; it is deployed for this, and removed."""
    name = "numpy-parked"
    node.deploy(NUMPY, name, memory=MEMORY)
    try:
        wait_parked(node, name)
        return _called(node, name, "parked")
    finally:
        node.delete(name)


def _called(node: Node, name: str, kind: str) -> tuple[int, str]:
    begin = time.perf_counter_ns()
    reply = node.call(name, {})
    elapsed = time.perf_counter_ns() - begin
    if reply.headers.get("faas-start") != kind:
        raise BenchError(f"{name} was to start {kind}, not {reply.headers.get('faas-start')}")
    return elapsed, reply.headers.get("server-timing", "")


def heavy_row(origin: str, pairs: list[tuple[tuple[int, str], tuple[int, str]]], bar: Bar | None) -> Row:
    """Judged by the median of the ratios of numpy's start to the hello start after it."""
    ours, hello = [ns for (ns, _), _ in pairs], [ns for _, (ns, _) in pairs]
    pair = Paired(ours, hello)
    note = f"{len(pairs)} samples, each beside a start of hello from zero, {report.duration(median(hello))}"
    note += f"; slowest {report.duration(max(ours))}"
    note += "".join(
        f"; {name} p50 {report.duration(ns)}" for name, ns in phase_medians_ns([t for (_, t), _ in pairs]).items()
    )
    return Row(
        f"start from {origin} with numpy, p50",
        report.duration(percentile(ours, 0.5)),
        ratio=f"{pair.ratio:.2f}",
        bar=bar.text if bar else "",
        verdict=bar.judge(pair.ratio) if bar else Verdict.INFO,
        note=note if bar else f"{note}; with keep_alive 0s: nothing of it is kept",
        values={"samples_ns": ours, "hello_ns": hello, "ratio": pair.ratio},
    )
