"""What an attempt is billed, and how an instance's time is shared."""

from __future__ import annotations

import doctest
from dataclasses import dataclass
from types import ModuleType

import pytest

from faas.metering import meter as meter_module
from faas.metering import present, sizing, sums
from faas.metering.meter import VALUE_MAX, SharedTime, billed_ms, meter
from faas.metering.present import invocation_record
from faas.model.errors import InvalidRequest
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, StartKind, Status, Trigger
from faas.model.manifest import Manifest
from faas.model.usage import UsageRecord
from tests.usage_samples import HOUR_MS, NOON_MS, make_record

VERSION = FunctionVersion(
    namespace="acme", name="hello", version=3, manifest=Manifest(name="hello", memory_mb=256), bundle="b" * 64
)


@dataclass
class Seen:
    """``Measured``, of an attempt that found everything ready and ran 1.3 ms."""

    start: StartKind = StartKind.WARM
    started_at_ns: int = 7
    queue_ns: int = 0
    init_ns: int = 0
    run_ns: int = 1_300_000
    peak_memory_bytes: int = 0
    cpu_ns: int = 0
    bytes_out: int = 0
    shared_ns: int | None = None


def record_of(seen: Seen, given: Call | None = None, status: Status = Status.OK) -> UsageRecord:
    return meter(given or call(), VERSION, seen, status, "node-1")


def call(payload: bytes = b"", attempt: int = 1) -> Call:
    return Call(id="0" * 32, trigger=Trigger.DIRECT, payload=payload, key_id="k9", attempt=attempt)


@pytest.mark.parametrize("module", [meter_module, sums, present, sizing])
def test_the_worked_examples_hold(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("start", [StartKind.COLD, StartKind.PREWARMED])
def test_a_start_is_billed_to_the_invocation_it_was_made_for(start: StartKind) -> None:
    assert billed_ms(Status.OK, start, init_ns=4_200_000, run_ns=1_300_000) == 6


@pytest.mark.parametrize("start", [StartKind.WARM, StartKind.PARKED])
def test_finding_the_sandbox_bound_bills_no_start(start: StartKind) -> None:
    assert billed_ms(Status.OK, start, init_ns=4_200_000, run_ns=1_300_000) == 2


@pytest.mark.parametrize(
    ("run_ns", "expected"), [(0, 1), (1, 1), (1_000_000, 1), (1_000_001, 2), (30_000_000_000, 30_000)]
)
def test_time_is_rounded_up_to_a_millisecond_and_at_least_one(run_ns: int, expected: int) -> None:
    assert billed_ms(Status.OK, StartKind.WARM, 0, run_ns) == expected


@pytest.mark.parametrize("status", list(Status))
def test_only_what_ran_and_was_not_our_fault_is_billed(status: Status) -> None:
    expected = 0 if status in {Status.REJECTED, Status.PLATFORM_ERROR} else 1
    assert billed_ms(status, StartKind.WARM, 0, 1) == expected


def test_the_record_carries_what_was_measured() -> None:
    seen = Seen(start=StartKind.COLD, queue_ns=1, init_ns=4_200_000, peak_memory_bytes=5, cpu_ns=6, bytes_out=7)
    record = record_of(seen, call(b"four", attempt=2), Status.FUNCTION_ERROR)
    assert record.id == "0" * 32 + "-2"
    assert record.invocation_id == "0" * 32
    assert (record.namespace, record.function, record.version, record.key_id) == ("acme", "hello", 3, "k9")
    assert (record.trigger, record.status, record.start, record.attempt) == ("direct", "function_error", "cold", 2)
    assert (record.queue_ns, record.init_ns, record.run_ns, record.billed_ms) == (1, 4_200_000, 1_300_000, 6)
    assert (record.bytes_in, record.bytes_out, record.cpu_ns, record.peak_memory_bytes) == (4, 7, 6, 5)
    assert record.mb_ms == 256 * 6
    assert {type(record.trigger), type(record.status), type(record.start)} == {str}, "as the journal packs them"


def test_a_sandbox_cannot_report_its_way_out_of_the_numbers() -> None:
    record = record_of(Seen(cpu_ns=2**70, peak_memory_bytes=-5))
    assert record.cpu_ns == VALUE_MAX - 1
    assert record.peak_memory_bytes == 0


@pytest.mark.parametrize("wrong", [Seen(run_ns=-1), Seen(queue_ns=VALUE_MAX), Seen(init_ns=-(10**9))])
def test_what_the_node_measured_must_be_possible(wrong: Seen) -> None:
    with pytest.raises(AssertionError):
        record_of(wrong)


def test_overlapping_invocations_are_billed_their_share() -> None:
    record = record_of(Seen(run_ns=9_000_000, shared_ns=2_500_000))
    assert (record.run_ns, record.billed_ms) == (9_000_000, 3)


def test_shared_time_refuses_what_cannot_be() -> None:
    shared = SharedTime()
    shared.begin("a", 10)
    with pytest.raises(ValueError, match="runs already"):
        shared.begin("a", 11)
    with pytest.raises(ValueError, match="went back"):
        shared.begin("b", 9)
    with pytest.raises(KeyError):
        shared.end("c", 12)
    assert shared.end("a", 15) == 5


def test_a_report_groups_filters_and_counts_errors() -> None:
    records = [
        make_record(1),
        make_record(2, function="other", version=12, billed_ms=5),
        make_record(3, status="timeout"),
        make_record(4, function="other", version=2, started_at_ns=(NOON_MS + HOUR_MS) * 1_000_000),
    ]
    cells = sums.total(records)
    rows = sums.report(cells, ["function"], {})
    assert [(labels["function"], row["invocations"], row["errors"]) for labels, row in rows] == [
        ("hello", 2, 1),
        ("other", 2, 0),
    ]
    versions = sums.report(cells, ["version"], {"function": "other"})
    assert [labels["version"] for labels, _ in versions] == ["2", "12"]
    assert [row["mb_ms"] for _, row in versions] == [256, 640]
    hours = sums.report(cells, ["function", "hour"], {"day": "2030-01-01"})
    assert hours == []


def test_times_of_a_report_are_utc() -> None:
    cells = sums.total([make_record(started_at_ns=1_798_761_599_999_999_999)])  # the last nanosecond of 2026
    ((labels, _),) = sums.report(cells, ["hour", "day", "month"], {"month": "2026-12"})
    assert labels == {"hour": "2026-12-31T23:00:00Z", "day": "2026-12-31", "month": "2026-12"}


def test_a_report_without_groups_is_one_row_and_of_nothing_none() -> None:
    assert [labels for labels, _ in sums.report(sums.total([make_record(), make_record(2)]), [], {})] == [{}]
    assert sums.report({}, [], {}) == []


@pytest.mark.parametrize(("by", "where"), [(["colour"], {}), ([], {"colour": "red"})])
def test_an_unknown_dimension_is_named_with_those_there_are(by: list[str], where: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"'colour'.*namespace, function.*month"):
        sums.report({}, by, where)


def test_an_older_cell_without_a_metric_counts_as_zero_there() -> None:
    cells = sums.total([make_record()])
    ((key, _),) = cells.items()
    report = sums.Report([], {})
    report.add(*key, [1, 2])
    ((_, row, _),) = report.rows()
    assert (row["invocations"], row["billed_ms"], row["bytes_out"]) == (1, 2, 0)


def test_the_invocation_record_reads_as_the_contract_says() -> None:
    shown = invocation_record(make_record(5), {"exit": "oom", "error": {"code": "instance-crashed"}})
    assert shown["id"] == f"{5:032x}-1"
    assert shown["invocation_id"] == f"{5:032x}"
    assert shown["started_at"].endswith(".000000005Z")
    assert shown["mb_ms"] == 256
    assert (shown["exit"], shown["error"], shown["trace_parent"]) == ("oom", {"code": "instance-crashed"}, None)
    assert "started_at_ns" not in shown
