"""From nothing to an answer: a start from zero, a deploy, a burst."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable

from faas.packaging.pack import pack
from tests.bench import load, report
from tests.bench.node import FAAS, ROOT, BenchError, Node, invocations, upload
from tests.bench.report import Bar, Row, Verdict
from tests.bench.stats import median, percentile

HELLO = ROOT / "functions" / "hello.py"
WAIT = ROOT / "tests" / "bench" / "functions" / "bench_wait.py"
EVENT = {"name": "world"}
COPIES = 3  # of hello, called in turn
SAMPLES_MIN = 100  # else a p99 would be the slowest
MS = 1_000_000
AT_REST = {"generic", "parked"}
PARKED_P50 = Bar("p50 <= 5 ms", 5 * MS)
COLD_P50, COLD_P99 = Bar("<= 10 ms", 10 * MS), Bar("<= 25 ms", 25 * MS)
DEPLOY = Bar("<= 1 s", 1000 * MS)
BURST = Bar("<= 1 s", 1000 * MS)
BURST_CALLS = 100


def timed_ns(work: Callable[[], object]) -> int:
    begin = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - begin


# -- a start from zero ------------------------------------------------------------------------------------------------


def cold(node: Node, samples: int, seconds_max: float, say: report.Say) -> list[Row]:
    """First calls of a function that has nothing running, while a generic sandbox waits: bind, load, fork, answer.

    Copies of hello that end at once when idle; before each call the node is at rest. The time is the caller's, from
    before it connects. A call whose ``Faas-Start`` says anything but prewarmed does not count and is told.
    """
    names = [f"hello-{number}" for number in range(1, COPIES + 1)]
    for name in names:
        node.deploy(HELLO, name, keep_alive="0s")
    took: list[int] = []
    phases: list[str] = []
    others: Counter[str] = Counter()
    end = time.monotonic() + seconds_max
    try:
        for number in range(2 * samples):
            if len(took) >= samples or (len(took) >= SAMPLES_MIN and time.monotonic() > end):
                break
            if number % 20 == 0:
                say(f"starts from zero, {len(took)} of {samples}")
            name = names[number % COPIES]
            node.settle()
            begin = time.perf_counter_ns()
            reply = node.call(name, EVENT)
            elapsed = time.perf_counter_ns() - begin
            if reply.headers.get("faas-start") == "prewarmed":
                took.append(elapsed)
                phases.append(reply.headers.get("server-timing", ""))
            else:
                others[reply.headers.get("faas-start", "no Faas-Start")] += 1
    finally:
        for name in names:
            node.delete(name)
    return [cold_row(took, others, phases)]


def cold_row(took_ns: list[int], others: Counter[str], phases: list[str]) -> Row:
    """``others`` are the starts that were not what this row is about, by kind; ``phases`` are Server-Timing headers."""
    what = "start from zero (hello, prewarmed), p50 / p99"
    if len(took_ns) < SAMPLES_MIN:
        return Row(what, verdict=Verdict.FAILED, note=f"only {len(took_ns)} prewarmed starts; others: {dict(others)}")
    p50, p99 = percentile(took_ns, 0.5), percentile(took_ns, 0.99)
    met = COLD_P50.judge(p50) is Verdict.PASS and COLD_P99.judge(p99) is Verdict.PASS
    note = f"{len(took_ns)} samples at the caller, from before it connects; slowest {report.duration(max(took_ns))}"
    note += "".join(f"; {name} p50 {report.duration(ns)}" for name, ns in phase_medians_ns(phases).items())
    return Row(
        what,
        f"{report.duration(p50)} / {report.duration(p99)}",
        bar=f"{COLD_P50.text} / {COLD_P99.text.removeprefix('<= ')}",
        verdict=Verdict.PASS if met else Verdict.SHORT,
        note=note + (f"; not counted: {dict(others)}" if others else ""),
        values={"p50_ns": p50, "p99_ns": p99, "samples_ns": took_ns, "others": dict(others)},
    )


# -- a start from parked ----------------------------------------------------------------------------------------------


def parked(node: Node, samples: int, seconds_max: float, say: report.Say) -> list[Row]:
    """First calls of a version that has just been deployed: loaded, without an instance, frozen. Thaw, fork, answer."""
    name = "hello-parked"
    took: list[int] = []
    phases: list[str] = []
    others: Counter[str] = Counter()
    end = time.monotonic() + seconds_max
    try:
        while len(took) < samples and (len(took) < SAMPLES_MIN or time.monotonic() < end):
            if sum(others.values()) > samples:
                break
            if len(took) % 20 == 0:
                say(f"starts from parked, {len(took)} of {samples}")
            node.deploy(HELLO, name)
            wait_parked(node, name)
            begin = time.perf_counter_ns()
            reply = node.call(name, EVENT)
            elapsed = time.perf_counter_ns() - begin
            kind = reply.headers.get("faas-start", "no Faas-Start")
            if kind == "parked":
                took.append(elapsed)
                phases.append(reply.headers.get("server-timing", ""))
            else:
                others[kind] += 1
    finally:
        node.delete(name)
    return [parked_row(took, others, phases)]


def wait_parked(node: Node, name: str) -> None:
    """Until the newest version's sandbox is parked and nothing else is on its way. Raises `BenchError`."""
    end = time.monotonic() + 30
    while [each["state"] for each in node.sandboxes(name)] != ["parked"] or set(node.counts("sandboxes")) != AT_REST:
        if time.monotonic() > end:
            raise BenchError(f"{name} was not parked: {node.sandboxes(name)}")
        time.sleep(0.02)


def parked_row(took_ns: list[int], others: Counter[str], phases: list[str]) -> Row:
    what = "start from parked (hello), p50 / p99"
    if len(took_ns) < SAMPLES_MIN:
        return Row(what, verdict=Verdict.FAILED, note=f"only {len(took_ns)} starts from parked; others: {dict(others)}")
    p50, p99 = percentile(took_ns, 0.5), percentile(took_ns, 0.99)
    return Row(
        what,
        f"{report.duration(p50)} / {report.duration(p99)}",
        bar=PARKED_P50.text,
        verdict=PARKED_P50.judge(p50),
        note=f"{len(took_ns)} samples at the caller, from before it connects"
        + "".join(f"; {name} p50 {report.duration(ns)}" for name, ns in phase_medians_ns(phases).items()),
        values={"p50_ns": p50, "p99_ns": p99, "samples_ns": took_ns, "others": dict(others)},
    )


def phase_medians_ns(headers: list[str]) -> dict[str, float]:
    """The median of each phase over Server-Timing headers.

    >>> phase_medians_ns(["queue;dur=0.1, init;dur=4.000", "queue;dur=0.3, init;dur=6.000"])
    {'queue': 200000.0, 'init': 5000000.0}
    """
    found: dict[str, list[float]] = {}
    for header in headers:
        for name, _, value in (part.strip().partition(";dur=") for part in header.split(",")):
            found.setdefault(name, []).append(round(float(value) * MS))
    return {name: float(median(values)) for name, values in found.items()}


# -- a deploy ---------------------------------------------------------------------------------------------------------


def deploy(node: Node, rounds: int, say: report.Say) -> list[Row]:
    """`faas deploy hello.py`, then the first answer: by the CLI (two processes), and by HTTP alone.

    One round before the first does not count: in it the CLI's modules are compiled, as at an installation or at the
    first command of all.
    """
    cli, http, parts = [], [], []
    _cli_once(node, "hello-cli-0")
    for number in range(1, rounds + 1):
        say(f"deploys, round {number} of {rounds}")
        deploying, invoking = _cli_once(node, f"hello-cli-{number}")
        cli.append(deploying + invoking)
        parts.append(deploying)
        name = f"hello-http-{number}"
        node.settle()
        http.append(timed_ns(lambda: _deploy_and_call(node, name)))  # noqa: B023
        node.delete(name)
    deploying_ns = median(parts)
    return [
        Row(
            "faas deploy hello.py + faas invoke, to the answer",
            report.duration(median(cli)),
            bar=DEPLOY.text,
            verdict=DEPLOY.judge(median(cli)),
            note=f"two processes of the CLI, {report.duration(deploying_ns)} of it the deploy",
            values={"samples_ns": cli, "deploy_ns": parts},
        ),
        Row(
            "the same by HTTP alone",
            report.duration(median(http)),
            bar=DEPLOY.text,
            verdict=DEPLOY.judge(median(http)),
            values={"samples_ns": http},
        ),
    ]


def _cli_once(node: Node, name: str) -> tuple[int, int]:
    """How long a deploy of hello took, and then a call."""
    node.settle()
    deploying = timed_ns(lambda: _faas(node, "deploy", str(HELLO), "--name", name))
    invoking = timed_ns(lambda: _faas(node, "invoke", name, "-d", json.dumps(EVENT)))
    node.delete(name)
    return deploying, invoking


def _faas(node: Node, *arguments: str) -> None:
    # Where this is set, every process compiles anew what was edited since somebody last did without it.
    environment = {name: value for name, value in node.environment.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([FAAS, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"faas {' '.join(arguments)}: {done.stderr.strip()}")


def _deploy_and_call(node: Node, name: str) -> None:
    body, headers = upload(pack(HELLO), {"name": name})
    node.checked("PUT", f"/v1/functions/{name}", body, headers)
    node.call(name, EVENT)


# -- a burst ----------------------------------------------------------------------------------------------------------


def burst(node: Node, rounds: int, say: report.Say) -> list[Row]:
    """100 callers at once, a function at zero that waits 100 ms: from before the first connects to the last answer."""
    name = "bench-wait"
    node.deploy(WAIT, name)
    outcomes = []
    try:
        for number in range(1, rounds + 1):
            say(f"burst, round {number} of {rounds}")
            node.settle()
            headers = {**node.headers, "Connection": "keep-alive"}
            request = load.request_text("POST", invocations(name), f"{node.host}:{node.port}", headers, '{"ms": 100}')
            outcomes.append(load.run(load.Job(node.host, node.port, request, BURST_CALLS)))
    finally:
        node.delete(name)
    return [burst_row(outcomes)]


def burst_row(outcomes: list[load.Outcome]) -> Row:
    """Refused calls fail the row: all have to be answered."""
    what = f"burst from zero, {BURST_CALLS} calls of 100 ms, all answered"
    refused = next((outcome for outcome in outcomes if outcome.refused), None)
    if refused is not None:
        note = f"{refused.refused} of {BURST_CALLS} refused, the first with {refused.first_refusal}"
        return Row(what, verdict=Verdict.FAILED, note=" ".join(note.split()))
    took = [outcome.elapsed_ns for outcome in outcomes]
    starts: Counter[str] = Counter()
    for outcome in outcomes:
        starts.update(outcome.starts)
    kinds = ", ".join(f"{count / len(outcomes):.0f} {kind}" for kind, count in starts.most_common())
    return Row(
        what,
        report.duration(median(took)),
        bar=BURST.text,
        verdict=BURST.judge(median(took)),
        note=f"64 MB instances; slowest of {len(took)} rounds {report.duration(max(took))}; per round: {kinds}",
        values={"samples_ns": took, "starts": dict(starts)},
    )
