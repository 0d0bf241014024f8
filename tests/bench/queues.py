"""Messages a second, beside task queues that people use on the same server; and from an empty queue to a handler."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench import report
from tests.bench.node import ROOT, BenchError, Node
from tests.bench.report import Bar, Row, Verdict
from tests.bench.stats import median, percentile

WORKER = ROOT / "tests" / "bench" / "functions" / "bench_queue.py"
PEERS = ROOT / "tests" / "bench" / "peers"
PEER_PACKAGES = {"arq": ("arq",), "taskiq": ("taskiq", "taskiq-redis")}
BODY = {"order": 1, "items": [1, 2, 3]}
BATCH = 10
AT_ONCE = 8  # invocations of the trigger
SEND_AT_ONCE = 1000
MESSAGES = 30_000  # of ours a round
PEER_MESSAGES = 5_000
DRAIN_S = 120.0
SAMPLES_MIN = 20
RATE = Bar(">= 5,000/s", 5_000, at_least=True)
WOKEN_P50 = Bar("p50 <= 15 ms", 15_000_000)


def measure(node: Node, rounds: int, samples: int, say: report.Say) -> list[Row]:
    ours: list[float] = []
    peers: dict[str, list[float]] = {name: [] for name in PEER_PACKAGES}
    for number in range(1, rounds + 1):
        say(f"queues, round {number} of {rounds}")
        ours.append(drained_per_s(node, f"bench-{number}"))
        for name, found in peers.items():
            found.append(peer_per_s(name, node))
    return [rate_row(ours, peers), woken(node, samples, say)]


# -- throughput -------------------------------------------------------------------------------------------------------


def drained_per_s(node: Node, queue: str) -> float:
    """Messages acknowledged a second, from the first acknowledgement seen to the last, of a queue that was full."""
    messages = json.dumps([{"body": BODY}] * SEND_AT_ONCE).encode()
    for _ in range(MESSAGES // SEND_AT_ONCE):
        node.checked("POST", f"/v1/queues/{queue}/messages", messages)
    trigger = {"name": queue, "batch": BATCH, "max_concurrency": AT_ONCE}
    node.deploy(WORKER, "bench-queue", queue=[trigger])
    try:
        begin, first = 0.0, 0
        end = time.monotonic() + DRAIN_S
        while (acked := acknowledged(node, queue)) < MESSAGES:
            if acked and not first:
                begin, first = time.perf_counter(), acked
            if time.monotonic() > end:
                raise BenchError(f"{queue} was not empty after {DRAIN_S:.0f} s: {acked} of {MESSAGES} acknowledged")
            time.sleep(0.02)
        return (MESSAGES - first) / (time.perf_counter() - begin)
    finally:
        node.delete("bench-queue")
        node.checked("DELETE", f"/v1/queues/{queue}")


def acknowledged(node: Node, queue: str) -> int:
    state: dict[str, Any] = json.loads(node.checked("GET", f"/v1/queues/{queue}").body)
    return int(state["counts"].get("acked", 0))


def peer_per_s(name: str, node: Node) -> float:
    """The same of another task queue, whose tasks run in its own process, on the node's own server."""
    packages = [word for package in PEER_PACKAGES[name] for word in ("--with", package)]
    uv = [str(Path(sys.executable).with_name("uv")), "run", "-q", "--isolated", "--no-project", "--python"]
    url = f"unix://{node.home / 'valkey' / 'run' / 'valkey.sock'}"
    script = [str(PEERS / f"{name}_peer.py"), url, str(PEER_MESSAGES)]
    done = subprocess.run(
        [*uv, sys.executable, *packages, "python", *script], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode != 0:
        raise BenchError(f"{name}: {done.stderr.strip()[-600:]}")
    return float(json.loads(done.stdout)["per_second"])


def rate_row(ours: list[float], peers: dict[str, list[float]]) -> Row:
    rate = median(ours)
    beside = "; ".join(f"{name} {median(found):,.0f}/s" for name, found in peers.items())
    return Row(
        f"queue trigger, batch {BATCH}, messages acknowledged",
        f"{rate:,.0f}/s",
        bar=RATE.text,
        verdict=RATE.judge(rate),
        note=f"{len(ours)} rounds of {MESSAGES:,} messages, slowest {min(ours):,.0f}/s, {AT_ONCE} batches at once, each"
        f" an invocation in a sandbox, metered; on the same server, tasks in their own process: {beside}",
        values={"per_s": ours, **{f"{name}_per_s": found for name, found in peers.items()}},
    )


# -- from an empty queue ----------------------------------------------------------------------------------------------


def woken(node: Node, samples: int, say: report.Say) -> Row:
    """From before a message is sent to the handler's first line, of a function at zero with a generic sandbox ready."""
    name = queue = "bench-woken"
    node.deploy(WORKER, name, keep_alive="0s", queue=[{"name": queue}])
    took: list[int] = []
    try:
        for number in range(samples):
            if number % 20 == 0:
                say(f"from an empty queue, {number} of {samples}")
            node.settle()
            begin = time.time_ns()
            node.checked("POST", f"/v1/queues/{queue}/messages", json.dumps({"body": f"when {number}"}).encode())
            took.append(began_ns(node, name, len(took)) - begin)
    finally:
        node.delete(name)
        node.checked("DELETE", f"/v1/queues/{queue}")
    return woken_row(took)


def began_ns(node: Node, name: str, before: int) -> int:
    """What the handler said in its newest line, when there is one more than there was."""
    end = time.monotonic() + 30
    while True:
        lines = json.loads(node.checked("GET", f"/v1/functions/{name}/logs").body)["lines"]
        said = [line["text"] for line in lines if line["text"].startswith("began ")]
        if len(said) > before:
            return int(said[-1].removeprefix("began "))
        if time.monotonic() > end:
            raise BenchError(f"{name} was not woken by its queue within 30 s")
        time.sleep(0.02)


def woken_row(took_ns: list[int]) -> Row:
    what = "from an empty queue to the handler, function at zero, p50 / p99"
    if len(took_ns) < SAMPLES_MIN:
        return Row(what, verdict=Verdict.FAILED, note=f"only {len(took_ns)} samples")
    p50, p99 = percentile(took_ns, 0.5), percentile(took_ns, 0.99)
    return Row(
        what,
        f"{report.duration(p50)} / {report.duration(p99)}",
        bar=WOKEN_P50.text,
        verdict=WOKEN_P50.judge(p50),
        note=f"{len(took_ns)} samples, from before the sender connects to the handler's first line; a generic sandbox"
        f" was ready; slowest {report.duration(max(took_ns))}",
        values={"p50_ns": p50, "p99_ns": p99, "samples_ns": took_ns},
    )
