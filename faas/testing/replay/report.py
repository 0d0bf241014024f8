"""What a replay came to: two tables, by the paper's accounting and by what our sandboxes hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from faas.pool.keepalive import MINUTE_NS, policy_of
from faas.testing.replay.simulate import Holding, Tally, simulate
from faas.testing.replay.trace import Trace


@dataclass(frozen=True, slots=True)
class Line:
    """One policy's numbers; the shares are of the fixed keep-alive that holds all its memory. ``None``: of nothing."""

    policy: str
    tally: Tally
    cold_share: float | None
    memory_share: float | None


@dataclass(frozen=True, slots=True)
class Report:
    trace: Trace
    fixed_min: float
    holding: Holding
    allocated: tuple[Line, ...]  # the paper's accounting
    parked: tuple[Line, ...]  # ours


def replay(
    trace: Trace, policies: tuple[str, ...], fixed_min: float, holding: Holding, tick: Callable[[str], None]
) -> Report:
    """Run each policy under both accountings. ``tick`` is told how far it is, in quarters."""
    fixed_ns = round(fixed_min * MINUTE_NS)

    def run(name: str, held: Holding, label: str) -> Tally:
        told = 0

        def progress(share: float) -> None:
            nonlocal told
            if int(share * 4) > told:
                told = int(share * 4)
                tick(f"{label}: {told * 25} %")

        return simulate(trace, policy_of(name, fixed_ns), held, progress)

    base = run("fixed", Holding(), "fixed")
    tables = []
    for held, title in ((Holding(), "allocated"), (holding, "parked")):
        lines = []
        for name in policies:
            known = name == "fixed" and held == Holding()
            tally = base if known else run(name, held, f"{name}, {title} memory")
            lines.append(Line(name, tally, _share(tally.cold, base.cold), _share(tally.idle_mb_min, base.idle_mb_min)))
        tables.append(tuple(lines))
    return Report(trace, fixed_min, holding, tables[0], tables[1])


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def as_text(report: Report) -> str:
    """For people."""
    trace, holding = report.trace, report.holding
    head = f"{trace.name}: {len(trace.functions)} functions, {trace.minutes} minutes, {trace.invocations} invocations"
    fixed = f"fixed = {report.fixed_min:g} min after each call; shares are of what it has in the first table"
    first = "An idle sandbox holds its allocated memory (the paper's accounting):"
    second = (
        f"An idle sandbox holds its allocated memory for {holding.warm_s:g} s, then {holding.parked_mb:g} MB, parked:"
    )
    parts = [head, fixed, "", first, _table(report.allocated), "", second, _table(report.parked)]
    return "\n".join(parts) + "\n"


def _table(lines: tuple[Line, ...]) -> str:
    rows = [("policy", "cold starts", "share", "parked", "warm", "pre-warmings", "idle MB-min", "share")]
    for line in lines:
        t = line.tally
        counts = (f"{t.parked}", f"{t.warm}", f"{t.prewarms}", f"{t.idle_mb_min:.0f}")
        rows.append((line.policy, f"{t.cold}", _two(line.cold_share), *counts, _two(line.memory_share)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def _two(share: float | None) -> str:
    return "-" if share is None else f"{share:.2f}"


def as_json(report: Report) -> dict[str, object]:
    """For programs: the same numbers, unrounded."""
    return {
        "trace": report.trace.name,
        "functions": len(report.trace.functions),
        "minutes": report.trace.minutes,
        "invocations": report.trace.invocations,
        "fixed_min": report.fixed_min,
        "parked_mb": report.holding.parked_mb,
        "warm_s": report.holding.warm_s,
        "allocated": [_line(line) for line in report.allocated],
        "parked": [_line(line) for line in report.parked],
    }


def _line(line: Line) -> dict[str, object]:
    t = line.tally
    return {
        "policy": line.policy,
        "cold_starts": t.cold,
        "cold_share": line.cold_share,
        "parked_starts": t.parked,
        "warm_starts": t.warm,
        "prewarmings": t.prewarms,
        "idle_mb_min": t.idle_mb_min,
        "memory_share": line.memory_share,
    }
