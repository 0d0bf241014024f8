"""The replay of traces, and the bars that our keep-alive has to reach on the real sample and on traces it never saw."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from faas.pool.keepalive import policy_of
from faas.testing.replay.__main__ import main
from faas.testing.replay.generate import write
from faas.testing.replay.reader import BadTrace, read
from faas.testing.replay.simulate import simulate
from faas.testing.replay.synthetic import MIXES, synthetic
from faas.testing.replay.trace import Trace

# Two mixes are harder than any part of the real trace: sessions of calls minutes apart without a rhythm, which is what
# a fixed time is made for, and a majority of functions called a few times a day at random.
COLD_MAX = {"bursty": 0.85, "rare": 0.65}
SAMPLE = Path(__file__).parents[1] / "traces" / "azure2019-sample-100"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "faas.testing.replay", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(answer: dict[str, Any], accounting: str) -> dict[str, dict[str, Any]]:
    return {line["policy"]: line for line in answer[accounting]}


def shares(trace: Trace) -> tuple[float, float]:
    """Cold starts and idle memory of ours, as shares of the fixed policy's."""
    fixed, ours = simulate(trace, policy_of("fixed")), simulate(trace, policy_of("adaptive"))
    return ours.cold / fixed.cold, ours.idle_mb_min / fixed.idle_mb_min


# -- the bars -------------------------------------------------------------------------------------------------------


def test_the_real_sample() -> None:
    done = run(SAMPLE, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["functions"], answer["minutes"], answer["invocations"]) == (100, 480, 339657)
    ours = table(answer, "allocated")["adaptive"]
    assert ours["cold_share"] <= 0.45
    assert ours["memory_share"] <= 0.75
    fixed = table(answer, "allocated")["fixed"]
    assert (fixed["cold_share"], fixed["memory_share"]) == (1, 1)
    published = table(answer, "allocated")["histogram"]
    assert ours["cold_starts"] < published["cold_starts"]
    assert ours["idle_mb_min"] < published["idle_mb_min"]
    parked = table(answer, "parked")["adaptive"]
    assert parked["cold_starts"] < ours["cold_starts"]
    assert parked["idle_mb_min"] < 0.6 * ours["idle_mb_min"]
    assert parked["cold_starts"] + parked["parked_starts"] + parked["warm_starts"] == answer["invocations"]


@pytest.mark.parametrize("seed", range(4))
def test_other_samples_of_it(seed: int) -> None:
    sample, random = read(SAMPLE), Random(seed)
    cold, memory = shares(sample.only(random.sample(range(100), 40)))
    assert cold <= 0.6
    assert memory <= 1
    first = random.randrange(240)
    cold, memory = shares(sample.window(first, first + 240))
    assert cold <= 0.6
    assert memory <= 1


@pytest.mark.parametrize("mix", sorted(MIXES))
@pytest.mark.parametrize("seed", [1, 2])
def test_synthetic_mornings(mix: str, seed: int) -> None:
    cold, memory = shares(synthetic(mix, seed, functions=60, minutes=480))
    assert cold <= COLD_MAX.get(mix, 0.6)
    assert memory <= 1


@pytest.mark.parametrize("mix", ["azure", "bursty", "random", "rare"])
def test_synthetic_days(mix: str) -> None:
    cold, memory = shares(synthetic(mix, 3, functions=60, minutes=1440))
    assert cold <= COLD_MAX.get(mix, 0.6)
    assert memory <= 1


@pytest.mark.parametrize("apart_min", [20, 60])
def test_where_nothing_can_be_foreseen_it_costs_no_more_and_does_about_as_well(apart_min: int) -> None:
    random = Random(apart_min)
    rows = [[m for m in range(960) if random.random() < 1 / apart_min] for _ in range(15)]
    cold, memory = shares(trace_of(rows, 960))
    assert cold <= 1.15
    assert memory <= 1


def trace_of(rows: list[list[int]], minutes: int) -> Trace:
    template = synthetic("timers", 0, len(rows), minutes)
    functions = tuple(
        type(f)(f.name, f.trigger, 100.0, tuple(row), (1,) * len(row))
        for f, row in zip(template.functions, rows, strict=True)
    )
    return Trace("made", minutes, functions)


# -- synthetic traces -----------------------------------------------------------------------------------------------


def test_a_synthetic_trace_is_its_seed_and_survives_being_written(tmp_path: Path) -> None:
    trace = synthetic("azure", 5, functions=30, minutes=200)
    assert trace == synthetic("azure", 5, functions=30, minutes=200)
    assert trace.functions != synthetic("azure", 6, functions=30, minutes=200).functions
    write(trace, tmp_path / trace.name)
    assert read(tmp_path / trace.name) == trace


def test_the_generator_feeds_the_replay(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    command = [sys.executable, "-m", "faas.testing.replay.generate", str(folder)]
    subprocess.run([*command, "--mix", "rare", "--seed", "4", "--functions", "12", "--minutes", "300"], check=True)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    assert "made: 12 functions, 300 minutes" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith(("fixed ", "hist", "adap"))] == [
        "fixed",
        "fixed",
        "histogram",
        "adaptive",
        "fixed",
        "histogram",
        "adaptive",
    ]


# -- the Azure dataset's own files ----------------------------------------------------------------------------------


def dataset(folder: Path) -> Path:
    """Two days of four minutes; an application of two functions, one without memory, one on the second day only."""
    ids = "HashOwner,HashApp,HashFunction,Trigger"
    (folder / "invocations_per_function_md.anon.d01.csv").write_text(
        f"{ids},1,2,3,4\no,app,f1,http,3,0,0,0\no,app,f2,timer,0,1,0,0\no,other,g,queue,0,0,0,1\n"
    )
    (folder / "invocations_per_function_md.anon.d02.csv").write_text(
        f"{ids},1,2,3,4\no,app,f1,http,0,0,0,2\no,new,h,http,1,0,0,0\no,new,never,http,0,0,0,0\n"
    )
    (folder / "function_durations_percentiles.anon.d01.csv").write_text("HashOwner,HashApp,HashFunction,Average\n")
    (folder / "app_memory_percentiles.anon.d01.csv").write_text(
        "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,app,3,100\no,new,1,60\n"
    )
    (folder / "app_memory_percentiles.anon.d02.csv").write_text(
        "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,app,1,140\n"
    )
    return folder


def test_the_datasets_own_files_are_days_in_a_row(tmp_path: Path) -> None:
    trace = read(dataset(tmp_path))
    assert trace.minutes == 8
    functions = {f.name: (f.active, f.counts, f.memory_mb) for f in trace.functions}
    assert functions == {
        "f1": ((0, 7), (3, 2), 55.0),  # (3 * 100 + 140) / 4, for two functions
        "f2": ((1,), (1,), 55.0),
        "g": ((3,), (1,), 42.5),  # unknown: the median of 55, 55, 30 and 30 (never called, but of an application)
        "h": ((4,), (1,), 30.0),
    }


def test_the_fixed_policy_counted_by_hand(tmp_path: Path) -> None:
    done = run(
        dataset(tmp_path), "--policy", "fixed", "--fixed-min", "2", "--parked-mb", "5", "--warm-s", "30", "--json"
    )
    answer = json.loads(done.stdout)
    line = table(answer, "allocated")["fixed"]
    assert line["cold_starts"] == 5  # f1 twice, and each of the others
    assert line["warm_starts"] == 3  # the other calls of f1's two minutes
    assert line["idle_mb_min"] == pytest.approx(55 * 2 + 55 * 2 + 42.5 * 2 + 30 * 2)
    parked = table(answer, "parked")["fixed"]
    assert parked["idle_mb_min"] == pytest.approx(8 * 5 + 0.5 * (50 + 50 + 37.5 + 25))
    assert (parked["cold_starts"], parked["warm_starts"], parked["parked_starts"]) == (5, 3, 0)


# -- its command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({}, "no invocations.csv"),
        ({"invocations.csv": "a,b\n"}, "invocations.csv:1: expected HashOwner"),
        ({"invocations.csv": "HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,t\n"}, "invocations.csv:2: 4 columns"),
        ({"invocations.csv": "HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,t,-1\n"}, "'-1' is not a number"),
        (
            {"invocations.csv": "HashOwner,HashApp,HashFunction,Trigger,1\n", "memory.csv": "HashApp\n"},
            "memory.csv:1: no column AverageAllocatedMb",
        ),
        (
            {
                "invocations.csv": "HashOwner,HashApp,HashFunction,Trigger,1\n",
                "memory.csv": "HashOwner,HashApp,SampleCount,AverageAllocatedMb\no,a,1,much\n",
            },
            "memory.csv:2: not a row",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_its_place(tmp_path: Path, content: dict[str, str], complaint: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(BadTrace, match=r".") as refused:
        read(tmp_path)
    assert complaint in str(refused.value)
    done = run(tmp_path)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stdout == ""


def test_a_trace_without_calls_has_nothing_to_compare(tmp_path: Path) -> None:
    (tmp_path / "invocations.csv").write_text("HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,t,0,0\n")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 functions, 2 minutes, 0 invocations" in done.stdout


def test_long_replays_say_how_far_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(synthetic("rare", 1, functions=40, minutes=6000), tmp_path)
    assert main([str(tmp_path), "--policy", "fixed"]) == 0
    shown = capsys.readouterr()
    assert "fixed: 50 %" in shown.err
    assert "fixed: 50 %" not in shown.out


def test_some_of_the_functions(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(SAMPLE), "--functions", "5", "--policy", "fixed", "--json"]
    answers = []
    for seed in ("1", "1", "2"):
        assert main([*arguments, "--seed", seed]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[0] == answers[1] != answers[2]
    assert answers[0]["functions"] == 5


@pytest.mark.parametrize("wrong", [["--fixed-min", "0"], ["--parked-mb", "-1"], ["--policy", "lru"], ["--warm-s", "x"]])
def test_wrong_usage_is_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(SAMPLE), *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err
