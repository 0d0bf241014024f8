"""The ledger's contract, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from faas.metering.meter import VALUE_MAX
from faas.metering.sums import report, total
from faas.model.errors import Conflict, InvalidRequest
from faas.model.usage import UsageRecord
from faas.ports import Ledger, RecordStore
from faas.stores.ledger import RedisLedger, RedisRecords
from faas.stores.memory import MemoryLedger
from faas.stores.redis_client import Client
from tests.usage_samples import HOUR_MS, NOON_MS, make_entry, make_record, numbered

pytestmark = pytest.mark.anyio

ALWAYS = (0, NOON_MS * 2)
DAY_MS = 24 * HOUR_MS


@pytest.fixture(params=["memory", "valkey"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stores(kind: str, client: Client) -> tuple[Ledger, RecordStore]:
    if kind == "memory":
        twin = MemoryLedger()
        return twin, twin
    return RedisLedger(client), RedisRecords(client)


@pytest.fixture
def ledger(stores: tuple[Ledger, RecordStore]) -> Ledger:
    return stores[0]


@pytest.fixture
def shown(stores: tuple[Ledger, RecordStore]) -> RecordStore:
    return stores[1]


def mixed(count: int, seed: int = 1) -> list[UsageRecord]:
    """Records of several functions, hours and outcomes."""
    rng = random.Random(seed)
    return [
        make_record(
            number,
            function=rng.choice(["hello", "thumb"]),
            namespace=rng.choice(["default", "acme"]),
            version=rng.randint(1, 12),
            status=rng.choice(["ok", "ok", "timeout", "rejected"]),
            trigger=rng.choice(["http", "queue"]),
            start=rng.choice(["warm", "cold"]),
            started_at_ns=(NOON_MS + rng.randrange(-5 * HOUR_MS, 5 * HOUR_MS)) * 1_000_000 + rng.randrange(10**6),
            billed_ms=rng.randint(0, 100),
            run_ns=rng.randrange(10**9),
            init_ns=rng.randrange(10**8),
            attempt=rng.choice([1, 1, 1, 2]),
            cpu_ns=rng.randrange(10**11),
            bytes_out=rng.randrange(10**7),
        )
        for number in range(1, count + 1)
    ]


async def rows(
    ledger: Ledger, *by: str, start: int = 0, end: int = ALWAYS[1], where: Mapping[str, str] | None = None
) -> list[Any]:
    found = await ledger.usage(start, end, by, where or {})
    return [(dict(row.labels), dict(row.sums)) for row in found]


async def test_sums_are_those_of_the_records(ledger: Ledger) -> None:
    found = mixed(500)
    assert await ledger.apply("j@0", numbered(found)) == 500
    for by in [
        [],
        ["function"],
        ["namespace", "version"],
        ["status", "start", "attempt"],
        ["key", "trigger"],
        ["hour"],
        ["day"],
    ]:
        assert await rows(ledger, *by) == report(total(found), by, {})
    for where in [{"function": "thumb"}, {"status": "timeout", "namespace": "acme"}, {"version": "3"}, {"key": "no"}]:
        assert await rows(ledger, "month", "function", where=where) == report(
            total(found), ["month", "function"], where
        )
    assert sorted(r.id for r in await ledger.records(*ALWAYS)) == sorted(r.id for r in found)


async def test_maxima_are_those_of_the_records_however_they_come(ledger: Ledger) -> None:
    found = [
        make_record(
            n, function=f"f{n % 3}", version=n % 2 + 1, memory_mb=128 * (n % 2 + 1), peak_memory_bytes=n * 10**6
        )
        for n in (50, 7, 90, 12, 91, 3, 60, 61, 62)
    ]
    entries = numbered(found)
    for start, end in ((0, 4), (2, 6), (6, 9), (0, 9)):
        await ledger.apply("j@0", entries[start:end])
    for start in (0, NOON_MS - 1):
        for row in await ledger.usage(start, ALWAYS[1], ["function", "version"], {}):
            of = [r for r in found if (r.function, str(r.version)) == (row.labels["function"], row.labels["version"])]
            most = max(r.peak_memory_bytes for r in of)
            assert row.maxima == {"peak_memory_bytes": most, "memory_mb": of[0].memory_mb}
    (timeouts,) = await ledger.usage(*ALWAYS, ["day"], {"function": "f1", "version": "2"})
    assert timeouts.maxima == {"peak_memory_bytes": 91_000_000, "memory_mb": 256}


@pytest.mark.parametrize("by", [["function"], ["function", "hour"], ["day", "status"], ["month", "hour"]])
async def test_a_report_in_pieces_is_the_same_in_the_order_of_time(ledger: Ledger, by: list[str]) -> None:
    await ledger.apply("j@0", numbered(mixed(200)))
    pieces = [piece async for piece in ledger.usage_by_time(NOON_MS - 100, ALWAYS[1], by, {"namespace": "acme"})]
    found = [row for piece in pieces for row in piece]
    whole = await ledger.usage(NOON_MS - 100, ALWAYS[1], by, {"namespace": "acme"})
    assert sorted(map(repr, found)) == sorted(map(repr, whole))
    assert len(whole) > 1
    finest = next((name for name in ("hour", "day", "month") if name in by), "")
    times = [{row.labels.get(finest, "") for row in piece} for piece in pieces]
    assert all(len(each) == 1 for each in times)
    assert [min(each) for each in times] == sorted({row.labels.get(finest, "") for row in whole})


async def test_raw_records_come_by_the_hour_and_filtered(ledger: Ledger) -> None:
    found = mixed(200)
    await ledger.apply("j@0", numbered(found))
    for where in ({}, {"function": "hello", "namespace": "acme"}, {"status": "timeout", "day": "2186-10-02"}):
        pieces = [piece async for piece in ledger.records_by_hour(NOON_MS - 2 * HOUR_MS, ALWAYS[1], where)]
        records = [record for piece in pieces for record in piece]
        hours = [record.started_at_ns // (HOUR_MS * 1_000_000) for record in records]
        assert hours == sorted(hours)
        inside = total(r for r in found if r.started_at_ns >= (NOON_MS - 2 * HOUR_MS) * 1_000_000)
        labelled = {cell for cell in inside if report({cell: inside[cell]}, [], where)}
        assert {cell: sums for cell, sums in inside.items() if cell in labelled} == total(records)
        assert records or "day" in where
    with pytest.raises(InvalidRequest, match="colour"):
        await anext(ledger.records_by_hour(*ALWAYS, {"colour": "red"}))


async def test_batches_replayed_and_cut_differently_change_nothing(ledger: Ledger) -> None:
    found = mixed(300)
    entries = numbered(found)
    rng = random.Random(7)
    applied = 0
    while applied < 300:
        start = rng.randint(max(0, applied - 60), applied)
        batch = entries[start : start + rng.randint(1, 90)]
        if batch:
            applied = max(applied, start + len(batch))
            assert await ledger.apply("j@0", batch) == applied
    assert await rows(ledger, "function", "hour") == report(total(found), ["function", "hour"], {})
    assert len(await ledger.records(*ALWAYS)) == 300


async def test_a_gap_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    entries = numbered(mixed(20))
    await ledger.apply("j@0", entries[:5])
    before = await rows(ledger)
    with pytest.raises(Conflict, match="up to 5"):
        await ledger.apply("j@0", entries[6:])
    assert await rows(ledger) == before
    assert await ledger.last_sequence("j@0") == 5
    assert await ledger.apply("j@0", entries[5:]) == 20


async def test_a_name_says_where_its_journal_begins(ledger: Ledger) -> None:
    assert await ledger.last_sequence("j@100") == 100
    with pytest.raises(Conflict):
        await ledger.apply("j@100", numbered(mixed(3), first=102))
    assert await ledger.apply("j@100", numbered(mixed(3), first=101)) == 103
    assert await ledger.apply("other@0", numbered(mixed(2))) == 2
    assert await ledger.apply("other@0", []) == 2
    assert (await rows(ledger))[0][1]["invocations"] == 5


async def test_the_hour_is_exact_to_the_nanosecond(ledger: Ledger) -> None:
    """A double cannot tell these two moments apart."""
    edge = NOON_MS * 1_000_000
    await ledger.apply("j@0", numbered([make_record(1, started_at_ns=edge - 1), make_record(2, started_at_ns=edge)]))
    assert [sums["invocations"] for _, sums in await rows(ledger, "hour")] == [1, 1]
    assert [r.id for r in await ledger.records(NOON_MS, NOON_MS + 1)] == [make_record(2).id]


async def test_sums_beyond_what_a_double_holds_are_exact(ledger: Ledger) -> None:
    most = VALUE_MAX - 1
    found = [make_record(n, run_ns=most, cpu_ns=most, bytes_in=most, queue_ns=most - n) for n in range(1, 101)]
    for start in (0, 50, 99):
        await ledger.apply("j@0", numbered(found)[start : start + 50])
    ((_, sums),) = await rows(ledger)
    assert sums["run_ns"] == sums["cpu_ns"] == sums["bytes_in"] == 100 * most > 2**57
    assert sums["queue_ns"] == 100 * most - 5050


async def test_changes_grow_with_what_is_applied_and_with_nothing_else(ledger: Ledger) -> None:
    days = NOON_MS // DAY_MS * DAY_MS, (NOON_MS // DAY_MS + 1) * DAY_MS
    entries = numbered([make_record(n, started_at_ns=NOON_MS * 10**6) for n in range(4)])
    seen = [await ledger.changes(*days)]
    for some in (entries[:2], entries[:3], entries[2:]):
        await ledger.apply("j@0", some)
        seen.append(await ledger.changes(*days))
    assert sorted(set(seen)) == seen
    await ledger.apply("j@0", entries)  # all of it is there
    assert await ledger.changes(*days) == seen[-1]
    assert await ledger.changes(days[0] - DAY_MS, days[0]) == await ledger.changes(days[1], days[1] + DAY_MS) == 0
    assert await ledger.changes(days[0] - 40 * DAY_MS, days[1] + 40 * DAY_MS) == seen[-1]


async def test_a_range_within_hours_counts_by_the_moment(ledger: Ledger) -> None:
    found = mixed(400)
    await ledger.apply("j@0", numbered(found))
    start, end = NOON_MS - HOUR_MS // 3, NOON_MS + 2 * HOUR_MS + 7
    inside = [r for r in found if start * 10**6 <= r.started_at_ns < end * 10**6]
    assert 50 < len(inside) < 300
    assert await rows(ledger, "hour", "status", start=start, end=end) == report(total(inside), ["hour", "status"], {})
    assert [r.id for r in await ledger.records(start, end)] == [
        r.id for r in sorted(inside, key=lambda r: (r.started_at_ns, r.id))
    ]
    assert await rows(ledger, start=end, end=start) == []
    assert await rows(ledger, start=end, end=end) == []


async def test_an_unknown_dimension_is_the_callers_mistake(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="colour"):
        await ledger.usage(0, 1, ["colour"], {})
    with pytest.raises(InvalidRequest, match="colour"):
        await ledger.usage(0, 1, [], {"colour": "red"})


async def test_an_invocation_is_shown_with_its_detail(ledger: Ledger, shown: RecordStore) -> None:
    detail = {"error": {"code": "function-error", "message": "ö"}, "exit": None, "trace_parent": "00-1-2-01"}
    await ledger.apply("j@0", [make_entry(7, detail, sequence=1, status="function_error")])
    found = await shown.get("default", f"{7:032x}")
    assert found is not None
    assert found["error"] == {"code": "function-error", "message": "ö"}
    assert (found["status"], found["trace_parent"], found["billed_ms"]) == ("function_error", "00-1-2-01", 2)
    assert await shown.list("default", "hello", 10) == [found]
    assert await shown.get("acme", f"{7:032x}") is None
    assert await shown.get("default", "0" * 32) is None
    assert await shown.list("default", "nothing", 10) == []
    assert await shown.list("default", "hello", 0) == []


async def test_the_newest_invocations_are_listed(ledger: Ledger, shown: RecordStore) -> None:
    await ledger.apply("j@0", numbered([make_record(n) for n in range(1, 51)]))
    await ledger.apply("j@0", numbered([make_record(n, function="other") for n in range(51, 54)], first=51))
    listed = await shown.list("default", "hello", 100)
    assert [r["invocation_id"] for r in listed] == [f"{n:032x}" for n in range(50, 0, -1)]
    assert [r["id"] for r in await shown.list("default", "hello", 3)] == [f"{n:032x}-1" for n in (50, 49, 48)]
    assert len(await shown.list("default", "other", 100)) == 3
    assert await shown.list("default", "hell", 100) == []


async def test_the_newest_are_those_that_began_last(ledger: Ledger, shown: RecordStore) -> None:
    """Whatever the order in which they ended: a long call is older than the short ones that overtook it."""
    rng = random.Random(5)
    found = mixed(400, seed=5)
    for record in found[:300]:
        record.function, record.namespace = "hello", "default"
    rng.shuffle(found)
    for start in range(0, 400, 7):
        await ledger.apply("j@0", numbered(found[start : start + 7], first=start + 1))
    for function in ("hello", "thumb"):
        mine = [r for r in found if (r.namespace, r.function) == ("default", function)]
        mine.sort(key=lambda r: (r.started_at_ns, r.id), reverse=True)
        for limit in (1, 10, 150, 1000):
            listed = await shown.list("default", function, limit)
            assert [r["id"] for r in listed] == [r.id for r in mine[:limit]]


async def test_every_attempt_finds_its_invocation(ledger: Ledger, shown: RecordStore) -> None:
    """An id is as old as its invocation; attempts may come hours later, in any order, from any node."""
    made_ms = NOON_MS - 1
    invocation = f"{made_ms:012x}{7:020x}"
    others = [make_record(n, id=f"{made_ms + n % 40_000:012x}{n:020x}-1") for n in range(1, 200)]
    await ledger.apply("other@0", numbered(others))
    for number, hours in ((2, 3), (1, 0), (3, 30)):
        started_ns = (made_ms + hours * HOUR_MS) * 1_000_000
        attempt = make_record(id=f"{invocation}-{number}", attempt=number, started_at_ns=started_ns, function="slow")
        await ledger.apply(f"node{number}@0", numbered([attempt]))
        found = await shown.get("default", invocation)
        assert found is not None
        assert found["attempt"] == max(number, 2), "the last attempt there is"
    assert [r["attempt"] for r in await shown.list("default", "slow", 10)] == [3]
    assert await shown.get("acme", invocation) is None
    for record in others:
        found = await shown.get("default", record.invocation_id)
        assert found is not None
        assert found["id"] == record.id


@pytest.mark.parametrize("invocation", ["", "x", "g" * 32, "AB" * 16, "ab" * 15, "ab" * 17, "é" * 32])
async def test_what_is_no_id_is_not_found(ledger: Ledger, shown: RecordStore, invocation: str) -> None:
    await ledger.apply("j@0", [make_entry(1, sequence=1, id="ab" * 16 + "-1")])
    assert await shown.get("default", "ab" * 16) is not None
    assert await shown.get("default", invocation) is None


async def test_the_last_attempt_is_shown_in_whatever_order_they_come(ledger: Ledger, shown: RecordStore) -> None:
    attempts = [make_record(1, attempt=n, status="ok" if n == 2 else "timeout") for n in (2, 1)]
    await ledger.apply("j@0", numbered(attempts))
    (found,) = await shown.list("default", "hello", 10)
    assert (found["attempt"], found["status"]) == (2, "ok")
    assert (await rows(ledger))[0][1]["invocations"] == 2


async def test_durable_is_said_of_what_was_applied(ledger: Ledger) -> None:
    assert await ledger.durable()
    await ledger.apply("j@0", numbered(mixed(10)))
    assert await ledger.durable()
