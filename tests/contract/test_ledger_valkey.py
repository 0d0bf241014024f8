"""The ledger on a real Valkey: what is stored, for how long, and what becomes of a batch that cannot be applied."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import struct
import tempfile
from collections import Counter
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faas.metering.meter import VALUE_MAX
from faas.metering.sums import METRICS, group_of, report, total
from faas.model.errors import Conflict, StoreUnavailable
from faas.model.usage import UsageRecord
from faas.ports import Entry
from faas.stores.batch import Batch
from faas.stores.codec import Encoder
from faas.stores.flusher import Flusher
from faas.stores.journal import Journal
from faas.stores.ledger import RedisLedger, RedisRecords
from faas.stores.memory import MemoryLedger
from faas.stores.redis_client import Client, connect
from faas.stores.segments import frame
from tests.contract.test_ledger import ALWAYS, DAY_MS, mixed, rows
from tests.contract.valkeys import emptied
from tests.e2e.ledger_nodes import CrashValkey
from tests.property.test_ledger_sums import records as any_records
from tests.usage_samples import HOUR_MS, NOON_MS, make_record, numbered

pytestmark = pytest.mark.anyio


@settings(max_examples=15, deadline=None)
@given(st.lists(any_records(), min_size=1, max_size=60, unique_by=lambda record: record.id), st.integers(1, 20))
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


async def keys(client: Client, pattern: str = "*") -> list[str]:
    found: list[Any] = await client.keys(pattern)
    return sorted(key.decode() for key in found)


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """What nodes may send: ids in order of time, starts at or after them, attempts that follow each other."""
    entries: list[Entry] = []
    made_ms = NOON_MS - draw(st.integers(0, 20_000))
    for number in range(draw(st.integers(1, 40))):
        made_ms += draw(st.sampled_from([0, 1, 300, 20_000, HOUR_MS]))
        started_ms = made_ms
        detail = {"trace_parent": f"00-{made_ms:012x}{number:020x}-00f067aa0ba902b7-01"}
        function, namespace = draw(st.sampled_from(["a", "b"])), draw(st.sampled_from(["default", "acme"]))
        for attempt in range(1, draw(st.integers(1, 3)) + 1):
            started_ms += draw(st.sampled_from([0, 1, 5000, HOUR_MS]))
            changes: dict[str, Any] = {
                "version": draw(st.integers(1, 2)),
                "status": draw(st.sampled_from(["ok", "timeout"])),
            }
            record = make_record(
                id=f"{made_ms:012x}{number:020x}-{attempt}",
                attempt=attempt,
                started_at_ns=started_ms * 1_000_000 + attempt,
                function=function,
                namespace=namespace,
                **changes,
            )
            entries.append(Entry(record, detail))
    shuffled = draw(st.permutations(entries))
    return [Entry(entry.record, entry.detail, sequence) for sequence, entry in enumerate(shuffled, 1)]


@settings(max_examples=40, deadline=None)
@given(histories(), st.lists(st.integers(1, 12), min_size=1), st.sampled_from([1, 3, 100]))
def test_any_history_is_shown_as_by_the_twin(
    valkey_url: str, history: list[Entry], sizes: list[int], limit: int
) -> None:
    async def run() -> None:
        async with emptied(valkey_url) as client:
            twin, ledger, shown = MemoryLedger(), RedisLedger(client), RedisRecords(client)
            at = 0
            for size in cycle(sizes):
                batch = history[max(0, at - 3) : at + size]  # the first of them are there already
                assert await ledger.apply("j@0", batch) == await twin.apply("j@0", batch)
                at += size
                if at >= len(history):
                    break
            for namespace in ("default", "acme"):
                for function in ("a", "b"):
                    found = await shown.list(namespace, function, limit)
                    assert found == await twin.list(namespace, function, limit)
            for entry in history:
                where = entry.record.namespace, entry.record.invocation_id
                assert await shown.get(*where) == await twin.get(*where)
            assert await ledger.records(*ALWAYS) == await twin.records(*ALWAYS)

    asyncio.run(run())


async def test_an_hour_whose_entries_are_gone_counts_by_its_beginning(client: Client) -> None:
    ledger = RedisLedger(client, keep_ms=0)
    found = [make_record(n, started_at_ns=(NOON_MS + n * HOUR_MS + 5) * 10**6) for n in range(3)]
    await ledger.apply("j@0", numbered(found))
    assert await ledger.records(*ALWAYS) == []
    assert [labels for labels, _ in await rows(ledger, "hour", start=NOON_MS + 10, end=NOON_MS + 2 * HOUR_MS + 1)] == [
        labels for labels, _ in report(total(found[1:]), ["hour"], {})
    ]
    assert await keys(client) == [
        "faas:journals",
        *(f"faas:{what}:{NOON_MS // HOUR_MS + n}" for what in ("peaks", "usage") for n in range(3)),
        "faas:usage:changes",
        "faas:usage:hours",
    ]


async def test_all_that_is_kept_for_a_time_expires(client: Client) -> None:
    """Whatever is there ten days later was meant to stay; until then every record of the last seven days is found."""
    ledger, shown = RedisLedger(client, keep_ms=7 * DAY_MS), RedisRecords(client)
    seconds, _ = await client.time()
    now_ms = int(seconds) * 1000
    ages_ms = [0, HOUR_MS, 3 * DAY_MS, 7 * DAY_MS - 1000, 7 * DAY_MS + HOUR_MS + 1000, 9 * DAY_MS]
    found = [
        make_record(id=f"{now_ms - age:012x}{n:020x}-1", started_at_ns=(now_ms - age) * 10**6)
        for n, age in enumerate(ages_ms)
    ]
    await ledger.apply("j@0", numbered(found))
    kept = {record.id for record in await ledger.records(0, 2**50)}
    assert kept == {record.id for record in found[:4]}, "what comes too late does not come back"
    assert [await shown.get("default", r.invocation_id) is not None for r in found] == [True] * 4 + [False] * 2
    assert {r["id"] for r in await shown.list("default", "hello", 10)} == kept
    assert (await rows(ledger, end=2**50))[0][1]["invocations"] == 6
    for key in await keys(client):
        expires_ms = await client.pexpiretime(key)
        if key.startswith(("faas:usage:", "faas:peaks:", "faas:journals", "faas:parts:hours")):
            assert expires_ms == -1
        else:
            assert now_ms < expires_ms <= now_ms + 7 * DAY_MS + 2 * HOUR_MS


async def test_hours_that_have_expired_are_forgotten(client: Client) -> None:
    seconds, _ = await client.time()
    hour = int(seconds) * 1000 // HOUR_MS
    await client.zadd("faas:parts:hours", {str(n): n for n in range(hour - 20, hour)})
    ledger = RedisLedger(client, keep_ms=5 * HOUR_MS)
    await ledger.apply("j@0", numbered([make_record(1, started_at_ns=hour * HOUR_MS * 10**6)]))
    assert await client.zrange("faas:parts:hours", 0, -1) == [b"%d" % n for n in range(hour - 5, hour + 1)]


async def test_hours_that_a_range_cuts_are_known_where_their_records_are_not_all_kept(client: Client) -> None:
    ledger = RedisLedger(client)
    begin_ms = int((await client.time())[0]) * 1000 // HOUR_MS * HOUR_MS - 10 * HOUR_MS
    records = [make_record(n, started_at_ns=(begin_ms + n * HOUR_MS) * 1_000_000) for n in range(4)]
    await ledger.apply("j@0", numbered(records))
    hour = begin_ms // HOUR_MS
    await client.delete(f"faas:parts:{hour}")  # as when they expire
    await client.set(f"faas:partial:{hour + 1}", 1)
    half, three = begin_ms + HOUR_MS // 2, 3 * HOUR_MS
    assert await ledger.partial(begin_ms, begin_ms + three) == []
    assert await ledger.partial(half, half + HOUR_MS) == [hour, hour + 1]
    assert await ledger.partial(half, half + 1) == [hour]
    assert await ledger.partial(half + 2 * HOUR_MS, half + three) == [], "all of these are kept"
    assert await ledger.partial(half - three, half + 7 * HOUR_MS) == [], "and where nothing was used nothing is missing"


async def test_a_pointer_lives_as_long_as_what_it_leads_to(client: Client) -> None:
    """A second attempt, hours later, of an invocation whose first brought the pointers of that time."""
    ledger, shown = RedisLedger(client, keep_ms=DAY_MS), RedisRecords(client)
    seconds, _ = await client.time()
    now_ms = int(seconds) * 1000
    made_ms = now_ms - 20 * HOUR_MS
    for number, started_ms in enumerate((made_ms, now_ms, made_ms + HOUR_MS), 1):
        record = make_record(
            id=f"{made_ms:012x}{1:020x}-{number}", attempt=number, started_at_ns=started_ms * 1_000_000 + number
        )
        await ledger.apply("j@0", numbered([record], first=number))
    (key,) = await keys(client, "faas:ids:*")
    assert await client.pexpiretime(key) == (now_ms // HOUR_MS + 1) * HOUR_MS + DAY_MS
    found = await shown.get("default", f"{made_ms:012x}{1:020x}")
    assert found is not None
    assert found["attempt"] == 3


async def test_a_batch_that_cannot_be_applied_leaves_nothing_behind(client: Client) -> None:
    ledger = RedisLedger(client)
    good = Batch.of(numbered(mixed(50)), Encoder())
    torn, garbled = list(good.frames), list(good.frames)
    torn[-1] = torn[-1][:-60]
    garbled[30] = frame(31, b"\xc1" * 100)
    for frames in (torn, garbled, [*good.frames[:20], *good.frames[30:]], [good.frames[0], *good.frames]):
        with pytest.raises(StoreUnavailable):
            await ledger.apply("j@0", Batch(1, frames))
    assert await keys(client) == []
    await ledger.apply("j@0", good)
    written = await keys(client)
    assert len(written) > 30
    for key in written:
        await client.flushall()
        await client.set(key, "of another type")
        with pytest.raises(StoreUnavailable):
            await ledger.apply("j@0", good)
        assert await keys(client) == [key]
    await client.flushall()
    await ledger.apply("j@0", good)
    assert (await rows(ledger))[0][1]["invocations"] == 50


async def test_a_large_batch_goes_through(client: Client) -> None:
    """More functions, and more groups, than arguments fit into one command."""
    ledger, shown = RedisLedger(client), RedisRecords(client)
    found = [make_record(n, function=f"f{n % 2500}", version=n) for n in range(1, 6001)]
    assert await ledger.apply("j@0", numbered(found)) == 6000
    assert await rows(ledger, "version") == report(total(found), ["version"], {})
    assert [r["version"] for r in await shown.list("default", "f7", 5000)] == [5007, 2507, 7]
    assert await ledger.apply("j@0", numbered(found)) == 6000
    assert (await rows(ledger))[0][1]["invocations"] == 6000


async def test_every_record_of_a_busy_function_stays(client: Client) -> None:
    ledger, shown = RedisLedger(client), RedisRecords(client)
    ids = [f"{NOON_MS + n // 5:012x}{n:020x}" for n in range(12_000)]
    found = [make_record(id=f"{i}-1", started_at_ns=(NOON_MS + n // 5) * 10**6 + n) for n, i in enumerate(ids)]
    for start in range(0, len(found), 400):
        await ledger.apply("j@0", numbered(found[start : start + 400], first=start + 1))
    for invocation in (ids[0], ids[1], ids[5999], ids[-1]):
        shown_as = await shown.get("default", invocation)
        assert shown_as is not None
        assert shown_as["invocation_id"] == invocation
    listed = await shown.list("default", "hello", 5000)
    assert [r["invocation_id"] for r in listed] == ids[:-1001:-1], "a list is at most a thousand"
    assert len(await ledger.records(*ALWAYS)) == 12_000


async def test_sums_of_an_older_writer_are_read_and_added_to(client: Client) -> None:
    """Metrics are only ever appended: a cell of one that knew fewer has 0 of the others."""
    ledger = RedisLedger(client)
    record = make_record(1, bytes_out=20, cpu_ns=VALUE_MAX - 1)
    group = "\0".join(group_of(record)[:7])  # a first attempt is not said
    hour = NOON_MS // HOUR_MS
    await client.zadd("faas:usage:hours", {str(hour): hour})
    await client.hset(f"faas:usage:{hour}", group, struct.pack(">B7d", 7, 1, 2, 256, 5, 0, 9, 2.0**52 - 1))
    assert (await rows(ledger))[0][1] | {"cpu_ns": 0} == {
        "invocations": 1,
        "errors": 0,
        "billed_ms": 2,
        "mb_ms": 256,
        "queue_ns": 5,
        "init_ns": 0,
        "run_ns": 9,
        "cpu_ns": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "init_mb_ms": 0,
    }
    assert (await rows(ledger, "attempt"))[0][0] == {"attempt": "first"}
    await ledger.apply("j@0", numbered([record]))
    ((_, sums),) = await rows(ledger)
    assert (sums["invocations"], sums["bytes_out"], sums["cpu_ns"]) == (2, 20, 2**52 - 1 + VALUE_MAX - 1)
    newer = struct.pack(">B22d", 11, *range(22))
    await client.hset(f"faas:usage:{hour}", group, newer)
    with pytest.raises(StoreUnavailable, match="newer version"):
        await ledger.apply("j@0", numbered([make_record(2)], first=2))
    assert await client.hget(f"faas:usage:{hour}", group) == newer
    assert (await rows(ledger))[0][1]["billed_ms"] == 1 + (12 << 40)


async def test_hours_added_up_on_the_server_are_exact_whoever_wrote_them(client: Client) -> None:
    """Sums beyond 2^53, with and without high limbs, of writers with fewer metrics and with more, in many hours."""
    rng, ledger, wanted = random.Random(5), RedisLedger(client), Counter[str]()
    first, peaks = NOON_MS // HOUR_MS, []
    for hour in range(first, first + 300):
        cells: dict[str, bytes] = {}
        for status in ("ok", "timeout")[: rng.randint(1, 2)]:
            count, wide = rng.choice((7, 10, 10, 10, 12)), rng.random() < 0.3
            limbs = [rng.choice((rng.randrange(9), 2**52 - 1 - rng.randrange(9))) for _ in range(count)]
            limbs += [rng.randrange(2**12) for _ in range(count if wide else 0)]
            cells["\0".join(("default", "hello", "1", "k", "http", status, "warm"))] = struct.pack(
                f">B{len(limbs)}d", count, *limbs
            )
            values = [low + (limbs[count + i] << 40 if wide else 0) for i, low in enumerate(limbs[:count])]
            wanted.update(dict(zip(METRICS, values, strict=False)))
        await client.hset(f"faas:usage:{hour}", mapping=cells)  # type: ignore[arg-type]
        peaks.append(rng.randrange(2**40))
        await client.hset(f"faas:peaks:{hour}", next(iter(cells)), struct.pack(">2d", peaks[-1], 128))
        await client.zadd("faas:usage:hours", {str(hour): hour})
    end_ms = NOON_MS + 300 * HOUR_MS
    (row,) = await ledger.usage(NOON_MS, end_ms, ["function"], {})
    assert {name: row.sums[name] for name in METRICS} == wanted
    assert wanted["run_ns"] > 2**56
    assert row.maxima == {"peak_memory_bytes": max(peaks), "memory_mb": 128}
    for by in ("day", "hour", "month"):
        rows_by = await ledger.usage(NOON_MS, end_ms, [by], {})
        assert {name: sum(row.sums[name] for row in rows_by) for name in METRICS} == wanted
    days = await ledger.usage(NOON_MS, end_ms, ["hour"], {"day": "2186-10-02"})
    (day,) = await ledger.usage(NOON_MS, end_ms, [], {"day": "2186-10-02"})
    assert len(days) == 24
    assert {name: sum(row.sums[name] for row in days) for name in METRICS} == {name: day.sums[name] for name in METRICS}


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


async def test_a_server_that_leaves_its_file_to_the_kernel_cannot_say(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not taken for one whose disk is stuck: its journals would never be let go of."""
    monkeypatch.setattr("faas.stores.ledger.WAIT_AOF_MS", 50)
    await client.config_set("appendfsync", "no")
    try:
        ledger = RedisLedger(client)
        await ledger.apply("j@0", numbered(mixed(10)))
        assert not await ledger.durable()
    finally:
        await client.config_set("appendfsync", "everysec")


async def test_a_server_that_does_not_know_waitaof_gets_again_what_it_lost(tmp_path: Path) -> None:
    """Everything stays journalled meanwhile; what it has after its restart is compared with what it said it had."""
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    server = CrashValkey(directory / "valkey", knows_waitaof=False)
    journal = Journal(tmp_path, segment_bytes_max=2000)
    async with connect(await server.start()) as client:
        ledger = RedisLedger(client)
        flusher = Flusher(journal, ledger, interval_s=0.002, sync_s=0.02, batch_max=20, backoff_max_s=0.1)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flusher.run())
            flusher.record(*(Entry(record, {}) for record in mixed(300)))
            while flusher.pending or not flusher._waiting:
                await asyncio.sleep(0.01)
            assert not await ledger.durable()
            assert journal.first_kept == 1
            await server.kill()
            os.truncate(server.newest, server.newest.stat().st_size // 3)
            await server.start()  # from here on the flusher may find it out at any moment
            flusher.record(Entry(make_record(301), {}))
            await flusher.close(wait_s=30)
        assert flusher.pending == 0
        assert [r.id for r in await ledger.records(0, 2**50)].count(make_record(301).id) == 1
        assert len({r.id for r in await ledger.records(0, 2**50)}) == len(await ledger.records(0, 2**50)) == 301
        assert (await rows(ledger))[0][1]["invocations"] == 301
        assert journal.first_kept == 1
    journal.close()
    await server.stop()
    shutil.rmtree(directory)


async def test_no_server_is_said_in_one_sentence() -> None:
    client = connect("unix:///nowhere/valkey.sock")
    ledger = RedisLedger(client)
    for call in (ledger.apply("j@0", numbered(mixed(1))), ledger.durable(), ledger.last_sequence("j@0")):
        with pytest.raises(StoreUnavailable, match="FAAS_REDIS_URL"):
            await call
    await client.aclose()
    with pytest.raises(StoreUnavailable, match="redis://HOST"):
        connect("http://example.com")
