"""Sums are exact whatever the order and the batching; shared time adds up to busy time."""

from __future__ import annotations

import random
from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from faas.metering.meter import VALUE_MAX, SharedTime, billed_ms, init_part_ms
from faas.metering.sums import METRICS, Cells, merge, report, total
from faas.model.invocation import StartKind, Status
from faas.model.usage import UsageRecord
from tests.usage_samples import HOUR_MS, NOON_MS, make_record

values = st.integers(0, VALUE_MAX - 1)


@st.composite
def records(draw: st.DrawFn) -> UsageRecord:
    memory_mb = draw(st.integers(64, 10_240))
    return make_record(
        draw(st.integers(1, 2**64)),
        namespace=draw(st.sampled_from(["default", "acme"])),
        function=draw(st.sampled_from(["hello", "thumb", "x"])),
        version=draw(st.integers(1, 3)),
        key_id=draw(st.sampled_from(["", "k1", "k2"])),
        trigger=draw(st.sampled_from(["http", "queue"])),
        status=draw(st.sampled_from(["ok", "timeout"])),
        start=draw(st.sampled_from(["warm", "cold"])),
        started_at_ns=NOON_MS * 1_000_000 + draw(st.integers(-3 * HOUR_MS, 3 * HOUR_MS)) * 1_000_000,
        queue_ns=draw(values),
        init_ns=draw(values),
        run_ns=draw(values),
        cpu_ns=draw(values),
        billed_ms=draw(st.integers(0, 3_600_000)),
        memory_mb=memory_mb,
        bytes_in=draw(values),
        bytes_out=draw(values),
        attempt=draw(st.sampled_from([1, 1, 2, 9])),
    )


def without_start_ms(record: UsageRecord) -> int:
    """What is left to bill of an attempt that had its instance for itself, or less than 1 ms above it."""
    rest_ms = record.billed_ms - init_part_ms(record.start, record.init_ns, record.run_ns, record.billed_ms)
    assert min(1, record.billed_ms) <= rest_ms <= record.billed_ms
    return rest_ms


@given(values, values, st.sampled_from(["warm", "parked", "cold", "prewarmed"]))
def test_without_its_start_an_attempt_bills_its_run(run_ns: int, init_ns: int, start: str) -> None:
    whole = billed_ms(Status.OK, StartKind(start), init_ns, run_ns)
    rest_ms = whole - init_part_ms(start, init_ns, run_ns, whole)
    assert rest_ms == billed_ms(Status.OK, StartKind.WARM, 0, run_ns)


@given(st.lists(records(), max_size=30), st.randoms(use_true_random=False), st.integers(1, 7))
def test_no_order_and_no_batching_changes_a_sum(found: list[UsageRecord], rng: random.Random, size: int) -> None:
    expected = total(found)
    shuffled = list(found)
    rng.shuffle(shuffled)
    batches = [total(shuffled[i : i + size]) for i in range(0, len(shuffled), size)]

    def merged(into: Cells, cells: Cells) -> Cells:
        merge(into, cells)
        return into

    assert reduce(merged, batches, Cells()) == expected


@given(
    st.lists(records(), max_size=30),
    st.lists(st.sampled_from(["namespace", "function", "version", "key", "status", "hour", "month"]), max_size=4),
)
def test_the_rows_of_every_report_add_up_to_the_total(found: list[UsageRecord], by: list[str]) -> None:
    cells = total(found)
    rows = report(cells, by, {})
    everything = {
        "invocations": len(found),
        "errors": sum(r.status != "ok" for r in found),
        "billed_ms": sum(r.billed_ms for r in found),
        "mb_ms": sum(r.mb_ms for r in found),
        "cpu_ns": sum(r.cpu_ns for r in found),
        "bytes_out": sum(r.bytes_out for r in found),
        "init_mb_ms": sum(r.mb_ms - r.memory_mb * without_start_ms(r) for r in found),
    }
    assert {name: sum(sums[name] for _, sums in rows) for name in everything} == everything
    assert len({tuple(labels.items()) for labels, _ in rows}) == len(rows)
    assert all(set(sums) == {*METRICS, "errors"} for _, sums in rows)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1000)), max_size=60))
def test_the_shares_of_an_instance_add_up_to_its_busy_time(steps: list[tuple[int, int]]) -> None:
    shared, now, running, busy, shares = SharedTime(), 0, set[str](), 0, 0
    for number, wait in steps:
        busy += wait if running else 0
        now += wait
        name = str(number)
        if name in running:
            shares += shared.end(name, now)
            running.discard(name)
        else:
            shared.begin(name, now)
            running.add(name)
    for name in sorted(running):
        shares += shared.end(name, now)
    assert shares == busy
