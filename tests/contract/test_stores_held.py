"""What nodes held without serving, on a real Valkey: totals that may be written any number of times."""

from __future__ import annotations

import pytest

from faas.pool.holding import Held
from faas.stores.held import HeldMeter, HeldReader, RedisHeld
from faas.stores.redis_client import Client, connect
from tests.usage_samples import HOUR_MS, NOON_MS, FixedClock

pytestmark = pytest.mark.anyio
GB_S = 1_024_000 * 1_000_000  # in MB times ns


class Source:
    """What a pool would say, once."""

    def __init__(self) -> None:
        self.next: list[Held] = []

    def __call__(self) -> list[Held]:
        said, self.next = self.next, []
        return said


async def idle(held: RedisHeld, **where: str) -> list[tuple[str, ...]]:
    rows = await held.held(0, NOON_MS * 2, ["function", "hour"], where)
    return [(*row.labels.values(), str(row.sums["idle_mb_ms"])) for row in rows]


async def test_totals_of_several_runs_and_hours_add_up(client: Client) -> None:
    clock, source, held = FixedClock(), Source(), RedisHeld(client)
    for run in range(3):
        meter = HeldMeter(client, clock, source)
        for _ in range(4):
            source.next = [
                Held("default/hello@1", GB_S, 3),
                Held("team/hello@2", 0, GB_S, GB_S),
                Held("", 0, 0, 0, GB_S),
            ]
            await meter.flush()
            await meter.flush()  # nothing new
        if run == 1:
            clock.now_ns += HOUR_MS * 1_000_000
    rows = await held.held(0, NOON_MS * 2, ["namespace", "function", "version"], {})
    assert [(*row.labels.values(), *(sum_ // 1_024_000 for sum_ in row.sums.values())) for row in rows] == [
        ("", "", "", 0, 0, 0, 12),
        ("default", "hello", "1", 12, 0, 0, 0),
        ("team", "hello", "2", 0, 12, 12, 0),
    ]
    by_hour = await held.held(NOON_MS + HOUR_MS, NOON_MS * 2, ["day", "hour"], {"namespace": "team"})
    assert [row.sums["parked_mb_ms"] for row in by_hour] == [4 * 1_024_000]
    assert await held.held(NOON_MS + 1, NOON_MS + HOUR_MS, [], {}) == [], "an hour counts by its beginning"


async def test_a_server_that_lost_its_last_seconds_gets_them_again(client: Client) -> None:
    clock, source, held = FixedClock(), Source(), RedisHeld(client)
    meter = HeldMeter(client, clock, source)
    source.next = [Held("default/hello@1", GB_S)]
    await meter.flush()
    whole = await idle(held)
    await client.flushall()
    clock.now_ns += HOUR_MS * 1_000_000  # the hour before is written along
    source.next = [Held("default/other@1", GB_S)]
    await meter.flush()
    assert set(whole) < set(await idle(held))


async def test_while_the_store_is_away_totals_wait(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    meter = HeldMeter(client, FixedClock(), source)
    source.next = [Held("default/hello@1", GB_S)]
    with monkeypatch.context() as away:
        away.setattr(meter, "_client", connect("unix:///nowhere/valkey.sock"))
        await meter.flush()
    assert await idle(RedisHeld(client)) == []
    await meter.flush()
    assert [row[::2] for row in await idle(RedisHeld(client))] == [("hello", "1024000")]


async def test_closing_writes_what_was_held_last(client: Client) -> None:
    source = Source()
    meter = HeldMeter(client, FixedClock(), source)
    source.next = [Held("default/hello@1", GB_S)]
    await meter.close()
    await meter.run()  # it has ended
    assert [row[::2] for row in await idle(RedisHeld(client))] == [("hello", "1024000")]


async def test_what_is_billed_of_it_adds_up_over_runs_and_hours_however_much(client: Client) -> None:
    clock, source, held = FixedClock(), Source(), RedisHeld(client)
    much = (2**53 - 1) * 1_000_000  # as much as one cell can hold exactly; in MB times ns
    for _ in range(3):
        meter = HeldMeter(client, clock, source)
        for _ in range(2):
            source.next = [Held("default/hello@1", GB_S, 0, 1_000_000), Held("team/hello@2", 0, 0, much)]
            await meter.flush()
            clock.now_ns += 14 * HOUR_MS * 1_000_000
    assert await held.provisioned(NOON_MS, NOON_MS + 100 * HOUR_MS) == {
        ("default", "hello"): 6,
        ("team", "hello"): 6 * (2**53 - 1),
    }
    assert await held.provisioned(NOON_MS + 1, NOON_MS + 14 * HOUR_MS) == {}
    assert (await held.provisioned(NOON_MS + 1, NOON_MS + 14 * HOUR_MS + 1))["default", "hello"] == 1
    read = HeldReader(client).provisioned
    hour = NOON_MS // HOUR_MS
    assert await read(hour, hour + 15, ["default", "nobody"]) == {("default", "hello"): 2}
    day = NOON_MS // (24 * HOUR_MS) * 24 * HOUR_MS
    changes = await held.changes(day, day + 24 * HOUR_MS)
    assert changes > 0
    clock.now_ns, source.next = NOON_MS * 1_000_000, [Held("default/late@1", 0, 0, 1)]
    await meter.flush()
    assert await held.changes(day, day + 24 * HOUR_MS) > changes


async def test_a_clock_that_steps_back_takes_nothing_off(client: Client) -> None:
    clock, source, held = FixedClock(), Source(), RedisHeld(client)
    meter = HeldMeter(client, clock, source)
    for hours in (0, 5, -5, 1, -1):
        clock.now_ns += hours * HOUR_MS * 1_000_000
        source.next = [Held("default/hello@1", 0, 0, GB_S)]
        await meter.flush()
        await meter.flush()
    assert await held.provisioned(0, 2 * NOON_MS) == {("default", "hello"): 5 * 1_024_000}
