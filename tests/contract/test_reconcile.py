"""The sums held against the raw records: what differs is found, what does not is not, whatever is written meanwhile."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from faas.metering.meter import VALUE_MAX
from faas.metering.reconcile import COMPARED, EXPIRED, INCOMPLETE, Difference, HourCheck
from faas.metering.sums import METRICS, group_of, hour_of, total
from faas.ports import Ledger
from faas.stores.ledger import RedisLedger
from faas.stores.memory import MemoryLedger
from faas.stores.redis_client import Client, connect
from tests.contract.test_ledger import ALWAYS, DAY_MS, mixed
from tests.usage_samples import HOUR_MS, NOON_MS, make_record, numbered

pytestmark = pytest.mark.anyio

NOON = NOON_MS // HOUR_MS


async def all_of(checks: AsyncIterator[HourCheck]) -> list[HourCheck]:
    return [check async for check in checks]


@pytest.mark.parametrize("kind", ["memory", "valkey"])
async def test_what_was_applied_makes_no_difference_and_a_changed_sum_does(kind: str, client: Client) -> None:
    ledger: Ledger = MemoryLedger() if kind == "memory" else RedisLedger(client)
    found = mixed(400)
    found += [make_record(n, cpu_ns=VALUE_MAX - 1, run_ns=VALUE_MAX - n) for n in range(500, 600)]
    entries = numbered(found)
    for start in range(0, len(entries), 37):
        await ledger.apply("j@0", entries[start : start + 37])
    checks = await all_of(ledger.reconcile(*ALWAYS))
    hours = sorted({hour_of(record.started_at_ns) for record in found})
    assert [(check.hour, check.state) for check in checks] == [(hour, COMPARED) for hour in hours]
    assert sum(check.records for check in checks) == 500
    assert not any(check.differences for check in checks)
    acme = await all_of(ledger.reconcile(*ALWAYS, "acme"))
    assert sum(check.records for check in acme) == sum(record.namespace == "acme" for record in found)
    assert not any(check.differences for check in acme)
    part = await all_of(ledger.reconcile(NOON_MS - 1, NOON_MS + 1))
    assert [check.hour for check in part] == [NOON - 1, NOON], "whole hours that overlap the range"
    assert await all_of(ledger.reconcile(NOON_MS, NOON_MS)) == []

    (hour, group), sums = next((key, sums) for key, sums in total(found).items() if key[1].namespace == "default")
    changed = [sums[0], sums[1] + 7, *sums[2:]]
    if isinstance(ledger, MemoryLedger):
        ledger.cells[hour, group] = changed
    else:
        limbs = [part for high in (False, True) for each in changed for part in [each >> 40 if high else each % 2**40]]
        packed = struct.pack(f">B{len(limbs)}d", len(METRICS), *limbs)
        await client.hset(f"faas:usage:{hour}", "\0".join(group[:7]), packed)
    differing = [check.differences for check in await all_of(ledger.reconcile(*ALWAYS)) if check.differences]
    assert differing == [(Difference(hour, group, "billed_ms", sums[1] + 7, sums[1]),)]
    assert not any(check.differences for check in await all_of(ledger.reconcile(*ALWAYS, "acme")))


async def test_sums_that_are_gone_and_records_that_are_gone_differ(client: Client) -> None:
    ledger = RedisLedger(client)
    both = [make_record(1, function="a"), make_record(2, function="b"), make_record(3, function="b")]
    await ledger.apply("j@0", numbered(both))
    await client.hdel(f"faas:usage:{NOON}", "\0".join(group_of(both[0])[:7]))
    await client.delete(f"faas:parts:{NOON}:default:b")
    (check,) = await all_of(ledger.reconcile(*ALWAYS))
    found = {(d.group.function, d.metric): (d.ledger, d.records) for d in check.differences}
    assert found["a", "invocations"] == (0, 1)
    assert found["b", "mb_ms"] == (512, 0)
    await client.rpush(f"faas:parts:{NOON}:default:b", b"\xc1 not a part")
    (check,) = await all_of(ledger.reconcile(*ALWAYS))
    assert {(d.group.function, d.metric): (d.ledger, d.records) for d in check.differences} == found
    await client.zrem("faas:usage:hours", NOON)
    await client.delete(f"faas:usage:{NOON}")
    (check,) = await all_of(ledger.reconcile(*ALWAYS))
    assert {d.group.function for d in check.differences} == {"a"}, "found by the records alone"


async def test_hours_without_records_cannot_be_checked_and_are_named(client: Client) -> None:
    hours = [make_record(n, started_at_ns=(NOON_MS + n * HOUR_MS) * 10**6) for n in range(4)]
    await RedisLedger(client, keep_ms=0).apply("j@0", numbered(hours[:2]))
    await RedisLedger(client).apply("j@0", numbered(hours[2:], first=3))
    checks = await all_of(RedisLedger(client).reconcile(*ALWAYS))
    assert [(check.hour - NOON, check.state) for check in checks] == [
        (0, EXPIRED), (1, EXPIRED), (2, COMPARED), (3, COMPARED)
    ]  # fmt: skip


@pytest.mark.parametrize("first_ms", [0, DAY_MS], ids=["kept from now on", "no longer kept"])
async def test_a_changed_retention_makes_no_false_difference(client: Client, first_ms: int) -> None:
    """Of such an hour there are some records, and not all."""
    await RedisLedger(client, keep_ms=first_ms).apply("j@0", numbered([make_record(1)]))
    await RedisLedger(client, keep_ms=DAY_MS - first_ms).apply("j@0", numbered([make_record(2)], first=2))
    await RedisLedger(client, keep_ms=DAY_MS).apply("j@0", numbered([make_record(3)], first=3))
    (check,) = await all_of(RedisLedger(client).reconcile(*ALWAYS))
    assert (check.state, check.differences) == (INCOMPLETE, ())
    expires_ms = await client.pexpiretime(f"faas:partial:{NOON}")
    assert expires_ms > await client.pexpiretime(f"faas:parts:{NOON}") > 0


async def test_what_is_written_meanwhile_makes_no_difference(client: Client, valkey_url: str) -> None:
    """A writer that never pauses; each reading is of one moment, and later ones have more."""
    async with connect(valkey_url) as another:
        writer = RedisLedger(another)
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                batch = numbered([make_record(written + n, function=f"f{n % 3}") for n in range(1, 41)], written + 1)
                written = await writer.apply("j@0", batch)

        task = asyncio.create_task(write())
        counts = list[int]()
        while len(counts) < 12 or written < 2000:
            for check in await all_of(RedisLedger(client).reconcile(*ALWAYS)):
                assert check.differences == ()
                counts.append(check.records)
        task.cancel()
    assert all(before <= after for before, after in pairwise(counts))
    assert counts[0] < counts[-1] <= written


async def test_memory_does_not_grow_with_the_records(client: Client) -> None:
    """Sixteen times as many records of one hour take no more."""
    ledger, written, peaks = RedisLedger(client), 0, list[int]()
    for upto in (2000, 32_000):
        while written < upto:
            batch = [make_record(n) for n in range(written + 1, written + 501)]
            written = await ledger.apply("j@0", numbered(batch, written + 1))
        del batch
        tracemalloc.start()
        try:
            (check,) = await all_of(ledger.reconcile(*ALWAYS))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert (check.records, check.differences) == (upto, ())
    assert peaks[1] < 2 * peaks[0]
