"""Warm calls: latency at one connection, throughput at 64, round by round beside the floor."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from tests.bench import load, report
from tests.bench.node import ROOT, Node, Server, invocations
from tests.bench.processes import cpu_ns
from tests.bench.report import Bar, Row
from tests.bench.stats import Paired, median

FUNCTION = ROOT / "tests" / "bench" / "functions" / "bench_echo.py"
NAME = "bench-echo"
BODY = json.dumps({"name": "world", "numbers": [1, 2, 3]})
LATENCY = Bar("p50 <= 2 x", 2.0)
THROUGHPUT = Bar(">= 0.7 x", 0.7, at_least=True)
LATENCY_S, THROUGHPUT_S, WARM_UP_S = 0.5, 1.0, 0.2
PAIRS = 4  # per round: many short ones, since what else goes on on the machine comes in bursts of seconds


@dataclass(frozen=True, slots=True)
class Round:
    """One server's share of a round. ``cpu_us`` is the server process's processor time per answer."""

    outcome: load.Outcome
    cpu_us: float


def measure(node: Node, echo: Server, rounds: int, say: report.Say) -> list[Row]:
    """The two rows. Deploys the function and removes it."""
    node.deploy(FUNCTION, NAME)
    try:
        node.call(NAME, {})
        latency: list[tuple[Round, Round]] = []
        throughput: list[tuple[Round, Round]] = []
        for number in range(1, rounds * PAIRS + 1):
            if number % PAIRS == 1:
                say(f"warm calls, round {number // PAIRS + 1} of {rounds}")
            latency.append(pair(node, echo, 1, LATENCY_S, turned=number % 2 == 0))
            throughput.append(pair(node, echo, 64, THROUGHPUT_S, turned=number % 2 == 0))
        instances = sum(len(sandbox["instances"]) for sandbox in node.sandboxes(NAME))
        return [latency_row(latency), throughput_row(throughput, instances)]
    finally:
        node.delete(NAME)


def pair(node: Server, echo: Server, connections: int, seconds: float, *, turned: bool) -> tuple[Round, Round]:
    """A server's round and its floor's; ``turned``: the floor goes first, so that neither is always favoured."""
    if turned:
        floor = _one(echo, connections, seconds)
        return _one(node, connections, seconds), floor
    ours = _one(node, connections, seconds)
    return ours, _one(echo, connections, seconds)


def _one(server: Server, connections: int, seconds: float) -> Round:
    request = load.request_text("POST", invocations(NAME), f"{server.host}:{server.port}", server.headers, BODY)
    before = cpu_ns(server.pid)
    outcome = load.run(load.Job(server.host, server.port, request, connections, seconds, WARM_UP_S))
    used = cpu_ns(server.pid) - before
    if outcome.refused or not outcome.answered:
        raise load.LoadError(f"{outcome.refused} calls were refused, the first with: {outcome.first_refusal}")
    share = seconds / (seconds + WARM_UP_S)
    return Round(outcome, used * share / outcome.answered / 1000)


def latency_row(rounds: list[tuple[Round, Round]]) -> Row:
    p50 = Paired([ours.outcome.p50_ns for ours, _ in rounds], [floor.outcome.p50_ns for _, floor in rounds])
    p99 = Paired([ours.outcome.p99_ns for ours, _ in rounds], [floor.outcome.p99_ns for _, floor in rounds])
    return Row(
        "warm call, 1 connection, p50 / p99",
        f"{report.duration(median(p50.ours))} / {report.duration(median(p99.ours))}",
        f"{report.duration(median(p50.floor))} / {report.duration(median(p99.floor))}",
        f"{p50.ratio:.2f} / {p99.ratio:.2f}",
        LATENCY.text,
        LATENCY.judge(p50.ratio),
        f"rounds between {p50.spread[0]:.2f} and {p50.spread[1]:.2f}; {_cpu(rounds)}",
        {
            "p50_ns": p50.ours,
            "floor_p50_ns": p50.floor,
            "p99_ns": p99.ours,
            "floor_p99_ns": p99.floor,
            "ratio": p50.ratio,
        },
    )


def throughput_row(rounds: list[tuple[Round, Round]], instances: int) -> Row:
    rates = Paired([ours.outcome.per_second for ours, _ in rounds], [floor.outcome.per_second for _, floor in rounds])
    p99_ns = median([ours.outcome.p99_ns for ours, _ in rounds])
    return Row(
        "warm throughput, 64 connections",
        report.rate(median(rates.ours)),
        report.rate(median(rates.floor)),
        f"{rates.ratio:.2f}",
        THROUGHPUT.text,
        THROUGHPUT.judge(rates.ratio),
        f"rounds between {rates.spread[0]:.2f} and {rates.spread[1]:.2f}; p99 {report.duration(p99_ns)}; "
        f"{instances} instances; {_cpu(rounds)}",
        {"per_second": rates.ours, "floor_per_second": rates.floor, "p99_ns": p99_ns, "ratio": rates.ratio},
    )


def _cpu(rounds: list[tuple[Round, Round]]) -> str:
    ours, floor = median([each.cpu_us for each, _ in rounds]), median([each.cpu_us for _, each in rounds])
    return f"processor time of the server process per call {ours:.0f} us, of the echo {floor:.0f} us"


# -- is the generator good enough? ------------------------------------------------------------------------------------


def compare_with_wrk(servers: dict[str, Server], rounds: int) -> list[Row]:
    """Our generator's throughput beside wrk's, on the same servers; no rows where wrk is not installed."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return []
    rows = []
    for name, server in servers.items():
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(_one(server, 64, THROUGHPUT_S).outcome.per_second)
            theirs.append(_wrk(wrk, server))
        pair = Paired(ours, theirs)
        rows.append(
            Row(
                f"load generator beside wrk, on the {name}",
                report.rate(median(ours)),
                report.rate(median(theirs)),
                f"{pair.ratio:.2f}",
                note="second column: wrk",
                values={"per_second": ours, "wrk_per_second": theirs, "ratio": pair.ratio},
            )
        )
    return rows


def _wrk(wrk: str, server: Server) -> float:
    lines = ['wrk.method = "POST"', f"wrk.body = {json.dumps(BODY)}"]
    lines += [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in server.headers.items()]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        url = f"http://{server.host}:{server.port}{invocations(NAME)}"
        arguments = [wrk, "-t1", "-c64", f"-d{round(THROUGHPUT_S)}s", "-s", script.name, url]
        found = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60).stdout
    if "Non-2xx" in found:
        raise load.LoadError(f"wrk was refused: {found}")
    return float(found.partition("Requests/sec:")[2].split()[0])


def wrk_rows(node: Node, echo: Server, rounds: int) -> list[Row]:
    """`compare_with_wrk` on the echo and on the node."""
    node.deploy(FUNCTION, NAME)
    try:
        return compare_with_wrk({"echo": echo, "node": node}, rounds)
    finally:
        node.delete(NAME)
