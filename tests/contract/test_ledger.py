"""The ledger's contract, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faas.metering.meter import VALUE_MAX
from faas.metering.sums import report, total
from faas.model.errors import Conflict, InvalidRequest, StoreUnavailable
from faas.model.usage import UsageRecord
from faas.ports import Entry, Ledger, RecordStore
from faas.stores.ledger import RedisLedger, RedisRecords
from faas.stores.memory import MemoryLedger
from faas.stores.redis_client import Client, connect
from tests.contract.valkeys import emptied, running_valkey
from tests.property.test_ledger_sums import records as any_records
from tests.usage_samples import HOUR_MS, NOON_MS, make_entry, make_record, numbered

pytestmark = pytest.mark.anyio

ALWAYS = (0, NOON_MS * 2)
RECORDS_MAX = 20


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    with running_valkey() as url:
        yield url


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Client]:
    async with emptied(valkey_url) as found:
        yield found


@pytest.fixture(params=["memory", "valkey"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stores(kind: str, client: Client) -> tuple[Ledger, RecordStore]:
    if kind == "memory":
        twin = MemoryLedger(records_max=RECORDS_MAX)
        return twin, twin
    return RedisLedger(client, records_max=RECORDS_MAX), RedisRecords(client)


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
            run_ns=rng.randrange(10**11),
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
    for by in [[], ["function"], ["namespace", "version"], ["status", "start"], ["key", "trigger"], ["hour"], ["day"]]:
        assert await rows(ledger, *by) == report(total(found), by, {})
    for where in [{"function": "thumb"}, {"status": "timeout", "namespace": "acme"}, {"version": "3"}, {"key": "no"}]:
        assert await rows(ledger, "month", "function", where=where) == report(
            total(found), ["month", "function"], where
        )
    assert sorted(r.id for r in await ledger.records(*ALWAYS)) == sorted(r.id for r in found)


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


async def test_the_newest_invocations_are_listed_and_kept(ledger: Ledger, shown: RecordStore) -> None:
    await ledger.apply("j@0", numbered([make_record(n) for n in range(1, 51)]))
    await ledger.apply("j@0", numbered([make_record(n, function="other") for n in range(51, 54)], first=51))
    listed = await shown.list("default", "hello", 100)
    assert [r["invocation_id"] for r in listed] == [f"{n:032x}" for n in range(50, 50 - RECORDS_MAX, -1)]
    assert [r["id"] for r in await shown.list("default", "hello", 3)] == [f"{n:032x}-1" for n in (50, 49, 48)]
    assert await shown.get("default", f"{30:032x}") is None, "pushed out by newer ones"
    assert await shown.get("default", f"{31:032x}") is not None
    assert len(await shown.list("default", "other", 100)) == 3
    assert (await rows(ledger))[0][1]["invocations"] == 53, "sums forget nothing"


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


# -- the real one alone -----------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(any_records(), min_size=1, max_size=60), st.integers(1, 20))
def test_any_records_in_any_batches_add_up(valkey_url: str, found: list[UsageRecord], size: int) -> None:
    async def run() -> None:
        async with emptied(valkey_url) as client:
            ledger = RedisLedger(client)
            entries = numbered(found)
            for start in range(0, len(entries), size):
                await ledger.apply("j@0", entries[start : start + size])
            by = ["function", "namespace", "version", "key", "trigger", "status", "start", "hour"]
            assert await rows(ledger, *by) == report(total(found), by, {})
            assert await ledger.records(*ALWAYS) == sorted(found, key=lambda r: (r.started_at_ns, r.id))

    asyncio.run(run())


async def test_an_hour_whose_raw_rows_are_gone_counts_by_its_beginning(client: Client) -> None:
    ledger = RedisLedger(client, raw_ms=0)
    found = [make_record(n, started_at_ns=(NOON_MS + n * HOUR_MS + 5) * 10**6) for n in range(3)]
    await ledger.apply("j@0", numbered(found))
    assert await ledger.records(*ALWAYS) == []
    assert [labels for labels, _ in await rows(ledger, "hour", start=NOON_MS + 10, end=NOON_MS + 2 * HOUR_MS + 1)] == [
        labels for labels, _ in report(total(found[1:]), ["hour"], {})
    ]


async def test_what_is_kept_for_a_time_expires(client: Client) -> None:
    ledger = RedisLedger(client, raw_ms=50_000, record_ms=60_000)
    seconds, _ = await client.time()
    now_ns = int(seconds) * 10**9
    old_ns = now_ns - 3 * HOUR_MS * 10**6
    entries = numbered([make_record(1, started_at_ns=now_ns), make_record(2, started_at_ns=old_ns)])
    await ledger.apply("j@0", entries)
    hour = now_ns // (HOUR_MS * 10**6)
    assert 0 < await client.pttl(f"faas:raw:{hour}") <= HOUR_MS + 50_000
    assert 0 < await client.pttl(f"faas:inv:default:{1:032x}") <= 60_000
    assert 0 < await client.pttl("faas:invs:default:hello") <= 60_000
    assert await client.pttl(f"faas:usage:{hour}") == -1
    assert [r.id for r in await ledger.records(0, 2**50)] == [make_record(1).id], "late entries do not bring it back"
    assert await RedisRecords(client).get("default", f"{2:032x}") is None
    assert (await rows(ledger, end=2**50))[0][1]["invocations"] == 2


async def test_a_batch_that_cannot_be_applied_leaves_nothing_behind(client: Client) -> None:
    ledger = RedisLedger(client)
    bad = [make_entry(1, sequence=1), Entry(make_record(2, started_at_ns=NOON_MS * 10**6), {}, 2, b"\xc1\xc1")]
    with pytest.raises(StoreUnavailable):
        await ledger.apply("j@0", bad)
    hour = NOON_MS // HOUR_MS
    await client.set(f"faas:usage:{hour}", "not a hash")
    with pytest.raises(StoreUnavailable):
        await ledger.apply("j@0", numbered(mixed(50)))
    assert await client.keys("*") == [f"faas:usage:{hour}".encode()]
    await client.flushall()
    await ledger.apply("j@0", numbered(mixed(50)))
    assert (await rows(ledger))[0][1]["invocations"] == 50


async def test_a_large_batch_goes_through(client: Client) -> None:
    ledger, shown = RedisLedger(client, records_max=1500), RedisRecords(client)
    found = [make_record(n) for n in range(1, 6001)]
    assert await ledger.apply("j@0", numbered(found)) == 6000
    assert len(await shown.list("default", "hello", 5000)) == 1000
    assert await client.zcard("faas:invs:default:hello") == 1500
    assert len(await client.keys("faas:inv:*")) == 1500


async def test_a_server_that_went_back_is_not_called_durable(client: Client) -> None:
    ledger = RedisLedger(client)
    await ledger.apply("j@0", numbered(mixed(10)))
    await client.hset("faas:journals", "j@0", "7")
    with pytest.raises(Conflict, match="up to 10 and now has 7"):
        await ledger.durable()
    assert await ledger.last_sequence("j@0") == 7
    assert await ledger.durable()
    await client.delete("faas:journals")
    with pytest.raises(Conflict):
        await ledger.durable()


async def test_a_server_without_an_append_only_file_cannot_say(client: Client) -> None:
    await client.config_set("appendonly", "no")
    try:
        ledger = RedisLedger(client)
        await ledger.apply("j@0", numbered(mixed(10)))
        assert not await ledger.durable()
        assert not await ledger.durable()
        await client.hset("faas:journals", "j@0", "7")
        with pytest.raises(Conflict):
            await ledger.durable()
    finally:
        await client.config_set("appendonly", "yes")


async def test_no_server_is_said_in_one_sentence() -> None:
    client = connect("unix:///nowhere/valkey.sock")
    ledger = RedisLedger(client)
    for call in (ledger.apply("j@0", numbered(mixed(1))), ledger.durable(), ledger.last_sequence("j@0")):
        with pytest.raises(StoreUnavailable, match="FAAS_REDIS_URL"):
            await call
    await client.aclose()
    with pytest.raises(StoreUnavailable, match="redis://HOST"):
        connect("http://example.com")
