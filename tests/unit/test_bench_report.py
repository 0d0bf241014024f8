"""The benchmark's table, its block in README, and how its rows are judged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.bench import memory, starts, warm
from tests.bench.load import Outcome
from tests.bench.report import (
    BEGIN,
    END,
    Bar,
    Row,
    Verdict,
    as_json,
    readme_block,
    replace_block,
    text_table,
    write_readme,
)

MS = 1_000_000
ROWS = [
    Row("warm call", "1.90 ms", "1.00 ms", "1.90", "<= 2 x", Verdict.PASS, "5 rounds", {"ratio": 1.9}),
    Row("a | b", verdict=Verdict.INFO),
]


def outcome(per_second: float = 1000, p50_ms: float = 1, elapsed_ms: float = 1000, refused: int = 0) -> Outcome:
    answered = round(per_second * elapsed_ms / 1000)
    starts_ = {"prewarmed": 1, "warm": 99}
    return Outcome(answered, refused, round(elapsed_ms * MS), p50_ms * MS, 2 * p50_ms * MS, 9e9, starts_, "503 busy")


def pair(ours: Outcome, floor: Outcome) -> tuple[warm.Round, warm.Round]:
    return warm.Round(ours, 100.0), warm.Round(floor, 70.0)


def test_columns_line_up_and_notes_follow() -> None:
    lines = text_table(ROWS).splitlines()
    assert lines[0].startswith("what       measured")
    assert lines[2] == "warm call  1.90 ms   1.00 ms    1.90   <= 2 x  pass"
    assert lines[-1] == "warm call: 5 rounds"


def test_the_readme_block_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nMore.\n")
    write_readme(readme, ROWS, "2 cores", "2026-01-02")
    write_readme(readme, ROWS, "2 cores", "2026-01-03")
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\nMeasured by `make bench` on 2026-01-03: 2 cores.")
    assert text.endswith(f"{END}\n\nMore.\n")
    assert "old" not in text
    assert "2026-01-02" not in text
    assert "| a \\| b |  |  |  |  | - |" in text
    assert "- warm call: 5 rounds" in text


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_exactly_one_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="there must be one"):
        replace_block(text, readme_block(ROWS, "", ""))


def test_json_carries_texts_and_numbers() -> None:
    made = json.loads(json.dumps(as_json(ROWS, {"cores": 2}, "2026-01-02")))
    assert made["machine"] == {"cores": 2}
    assert made["rows"][0]["values"] == {"ratio": 1.9}
    assert made["rows"][1]["verdict"] == "-"


def test_a_bar_that_is_met_exactly_is_met() -> None:
    assert Bar("", 2).judge(2) is Verdict.PASS
    assert Bar("", 2).judge(2.001) is Verdict.SHORT
    assert Bar("", 0.7, at_least=True).judge(0.7) is Verdict.PASS
    assert Bar("", 0.7, at_least=True).judge(0.699) is Verdict.SHORT


def test_latency_is_judged_by_the_ratio_of_p50() -> None:
    rounds = [pair(outcome(p50_ms=1.9), outcome()), pair(outcome(p50_ms=5), outcome()), pair(outcome(), outcome())]
    row = warm.latency_row(rounds)
    assert row.verdict is Verdict.PASS
    assert row.ratio == "1.90 / 1.90"
    assert (row.measured, row.floor) == ("1.90 ms / 3.80 ms", "1.00 ms / 2.00 ms")
    assert "between 1.00 and 5.00" in row.note
    assert "100 us, of the echo 70 us" in row.note


def test_throughput_is_judged_by_its_ratio() -> None:
    assert warm.throughput_row([pair(outcome(700), outcome(1000))], 8).verdict is Verdict.PASS
    row = warm.throughput_row([pair(outcome(690), outcome(1000))], 8)
    assert (row.verdict, row.measured, row.floor, row.ratio) == (Verdict.SHORT, "690/s", "1,000/s", "0.69")


@pytest.mark.parametrize(
    ("slowest_two_ms", "p50_ms", "verdict"), [(25, 10, Verdict.PASS), (26, 10, Verdict.SHORT), (25, 11, Verdict.SHORT)]
)
def test_a_start_must_meet_both_its_bars(slowest_two_ms: int, p50_ms: int, verdict: Verdict) -> None:
    row = starts.cold_row(
        [p50_ms * MS] * 98 + [slowest_two_ms * MS] * 2, Counter(), ["queue;dur=0.020, init;dur=4.500, run;dur=0.300"]
    )
    assert row.verdict is verdict
    assert "queue p50 20 us; init p50 4.50 ms; run p50 300 us" in row.note


def test_too_few_starts_are_no_measurement() -> None:
    row = starts.cold_row([MS] * 59, Counter(cold=3), [])
    assert row.verdict is Verdict.FAILED
    assert "only 59" in row.note
    assert "'cold': 3" in row.note


def test_a_burst_counts_only_when_all_are_answered() -> None:
    row = starts.burst_row([outcome(elapsed_ms=400), outcome(elapsed_ms=900), outcome(elapsed_ms=500)])
    assert (row.verdict, row.measured) == (Verdict.PASS, "500 ms")
    assert "slowest of 3 rounds 900 ms" in row.note
    assert "99 warm, 1 prewarmed" in row.note
    assert starts.burst_row([outcome(), outcome(refused=1)]).verdict is Verdict.FAILED


def test_an_instance_costs_the_difference() -> None:
    before = memory.Held(1, 10_000_000, (1_000_000,), 20_000_000, 0)
    after = memory.Held(11, 15_000_000, (600_000,) * 11, 32_000_000, 0)
    row = memory.instance_row(before, after)
    assert (row.measured, row.verdict) == ("1.20 MB", Verdict.PASS)
    assert "by PSS 0.50 MB, private pages 0.60 MB" in row.note
    ungrouped = memory.instance_row(memory.Held(1, 0, (1,), 0, 0), memory.Held(11, 30_000_000, (1,) * 11, 0, 0))
    assert (ungrouped.measured, ungrouped.verdict) == ("3.00 MB", Verdict.SHORT)
    assert memory.instance_row(before, before).verdict is Verdict.FAILED
