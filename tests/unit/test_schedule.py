"""When schedules are due: over the changes of the clock, after downtimes, and against a plain reading of the fields."""

from __future__ import annotations

import datetime as dt
import doctest
import json
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import example, given, settings
from hypothesis import strategies as st

from faas.events import derive, schedule
from faas.events.schedule import GRACE, at_ms, delay_ms, due_ticks, next_tick, scheduled_event, unix_ms
from faas.model.manifest import CronTrigger
from faas.model.trigger import TriggerSpec

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = dt.timedelta(minutes=1)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)


@pytest.mark.parametrize("module", [schedule, derive])
def test_the_examples_hold(module: object) -> None:
    found = doctest.testmod(module)  # type: ignore[arg-type]
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize(
    ("when", "due"),
    [
        # the night of 2026-03-29, on which 2:00 to 3:00 is left out
        ("30 2 * * *", ["03-29T03:00+02:00", "03-30T02:30+02:00"]),
        ("15,45 2 * * *", ["03-29T03:00+02:00", "03-30T02:15+02:00"]),
        ("0 3 * * *", ["03-29T03:00+02:00", "03-30T03:00+02:00"]),
        ("0,30 2,3 * * *", ["03-29T03:00+02:00", "03-29T03:30+02:00", "03-30T02:00+02:00"]),
        ("*/30 2 * * *", ["03-30T02:00+02:00", "03-30T02:30+02:00"]),
        ("30 * * * *", ["03-29T00:30+01:00", "03-29T01:30+01:00", "03-29T03:30+02:00"]),
    ],
)
def test_what_falls_into_the_hour_that_is_left_out_runs_once_right_after_it(when: str, due: list[str]) -> None:
    found, after = [], dt.datetime(2026, 3, 29, tzinfo=BERLIN)
    for _ in due:
        tick = next_tick(when, "Europe/Berlin", after)
        assert tick is not None
        found.append(tick.isoformat(timespec="minutes")[5:])
        after = tick
    assert found == due


@pytest.mark.parametrize(
    ("when", "due"),
    [
        # the night of 2026-10-25, on which 2:00 to 3:00 comes twice
        ("30 2 * * *", ["10-25T02:30+02:00", "10-26T02:30+01:00"]),
        ("0 2,3 * * *", ["10-25T02:00+02:00", "10-25T03:00+01:00", "10-26T02:00+01:00"]),
        ("30 * * * *", ["10-25T00:30+02:00", "10-25T01:30+02:00", "10-25T02:30+02:00", "10-25T02:30+01:00"]),
        ("*/30 2 * * *", [f"10-25T02:{m}+0{h}:00" for h in (2, 1) for m in ("00", "30")]),
    ],
)
def test_what_falls_into_the_hour_that_comes_twice_runs_in_the_first(when: str, due: list[str]) -> None:
    found, after = [], dt.datetime(2026, 10, 25, tzinfo=BERLIN)
    for _ in due:
        tick = next_tick(when, "Europe/Berlin", after)
        assert tick is not None
        found.append(tick.isoformat(timespec="minutes")[5:])
        after = tick
    assert found == due


def test_in_the_second_of_two_equal_hours_nothing_of_the_first_comes_again() -> None:
    after = dt.datetime(2026, 10, 25, 2, 15, tzinfo=BERLIN, fold=1)
    tick = next_tick("30 2 * * *", "Europe/Berlin", after)
    assert tick is not None
    assert tick.isoformat() == "2026-10-26T02:30:00+01:00"


def test_what_never_comes_again_is_none() -> None:
    assert next_tick("0 0 31 4,6 1", "UTC", utc("2026-01-01")) is not None  # day or weekday
    assert next_tick("0 0 29 2 *", "UTC", utc("2026-01-01")) == utc("2028-02-29")
    with pytest.raises(KeyError):
        next_tick("0 0 * * *", "Mars/Olympus", utc("2026-01-01"))


# -- against a plain reading ------------------------------------------------------------------------------------------

minutes = st.sampled_from(["*", "*/7", "*/30", "0", "30", "15,45", "0,30", "59"])
hours = st.sampled_from(["*", "*/2", "2", "3", "1-3", "2,3", "0", "23"])
changes = st.sampled_from(["2026-03-29", "2026-10-25", "2026-06-15"])


def plain(when: str, start: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """Every tick with start < tick <= end: minute by minute for what follows real time, by the wall for the rest."""
    minute, hour, *_ = when.split()

    def fits(wall: dt.datetime) -> bool:
        # whether the fields name this minute of the wall clock: asked of a clock that never changes
        return next(CronSim(when, wall - MINUTE)) == wall

    found = set()
    if minute.startswith("*") or hour.startswith("*"):
        moment = start.replace(second=0) + MINUTE
        while moment <= end:
            if fits(moment.astimezone(BERLIN).replace(tzinfo=None)):
                found.add(moment)
            moment += MINUTE
        return sorted(found)
    wall = start.astimezone(BERLIN).replace(tzinfo=None, second=0) - dt.timedelta(hours=2)
    while wall <= end.astimezone(BERLIN).replace(tzinfo=None):
        if fits(wall):
            moment = wall.replace(tzinfo=BERLIN)  # the first of two
            while moment.astimezone(dt.UTC).astimezone(BERLIN).replace(tzinfo=None) != moment.replace(tzinfo=None):
                moment += MINUTE  # on the wall: to the end of what is left out
            found.add(moment.astimezone(dt.UTC))
        wall += MINUTE
    return sorted(each for each in found if start < each <= end)


@settings(max_examples=25, deadline=None)
@given(minute=minutes, hour=hours, day=changes, second=st.integers(0, 60 * 60 * 20))
def test_ticks_are_those_that_the_fields_name(minute: str, hour: str, day: str, second: int) -> None:
    when = f"{minute} {hour} * * *"
    start = utc(day) - dt.timedelta(hours=2) + dt.timedelta(seconds=second)
    end = start + dt.timedelta(hours=5)
    found, after = [], start
    while (tick := next_tick(when, "Europe/Berlin", after)) is not None and tick <= end:
        assert tick.astimezone(dt.UTC) > after.astimezone(dt.UTC)
        found.append(tick.astimezone(dt.UTC))
        after = tick
    assert found == plain(when, start, end)


# -- what is due ------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    minute=minutes,
    hour=hours,
    day=changes,
    pauses_s=st.lists(st.floats(0.001, 59.0), min_size=1, max_size=60),
    missed=st.sampled_from(["skip", "once"]),
)
def test_without_a_downtime_every_tick_runs_once(
    minute: str, hour: str, day: str, pauses_s: list[float], missed: str
) -> None:
    cron = CronTrigger.model_validate(
        {"schedule": f"{minute} {hour} * * *", "timezone": "Europe/Berlin", "missed": missed}
    )
    start = now = last = utc(day) + dt.timedelta(minutes=35)
    ran: list[dt.datetime] = []
    for pause_s in pauses_s:
        now += dt.timedelta(seconds=pause_s)
        for tick in due_ticks(cron, last, now):
            ran.append(tick.astimezone(dt.UTC))
            last = tick
    assert ran == plain(cron.schedule, start, now)
    assert len({tick.replace(second=0) for tick in ran}) == len(ran)


@settings(max_examples=25, deadline=None)
@given(minute=minutes, hour=hours, day=changes, down=st.timedeltas(dt.timedelta(), dt.timedelta(hours=9)))
@example(minute="0", hour="2,3", day="2026-03-29", down=dt.timedelta(hours=4))
def test_after_a_downtime_one_run_makes_up_for_all_or_none_does(
    minute: str, hour: str, day: str, down: dt.timedelta
) -> None:
    last = utc(day) - dt.timedelta(hours=3)
    now = last + down
    when = f"{minute} {hour} * * *"
    skip, once = (
        [
            tick.astimezone(dt.UTC)
            for tick in due_ticks(
                CronTrigger.model_validate({"schedule": when, "timezone": "Europe/Berlin", "missed": missed}), last, now
            )
        ]
        for missed in ("skip", "once")
    )
    ticks = plain(when, last, now)
    assert skip == [tick for tick in ticks if tick >= now - GRACE]
    assert once == [tick for tick in ticks if tick < now - GRACE][-1:] + skip


def test_a_tick_is_on_time_for_a_minute() -> None:
    hourly, last = CronTrigger(schedule="0 * * * *"), utc("2026-03-01T11:00:00")
    assert due_ticks(hourly, last, utc("2026-03-01T11:59:59.999")) == []
    for on_time in ("12:00:00", "12:00:30", "12:01:00"):
        assert due_ticks(hourly, last, utc(f"2026-03-01T{on_time}")) == [utc("2026-03-01T12:00:00")]
    assert due_ticks(hourly, last, utc("2026-03-01T12:01:00.001")) == []


def test_a_long_downtime_takes_no_long_look() -> None:
    looked = 0

    class Counting(CronSim):
        def __next__(self) -> dt.datetime:
            nonlocal looked
            looked += 1
            return super().__next__()

    cron = CronTrigger(schedule="* * * 1 *", missed="once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "CronSim", Counting)
        found = due_ticks(cron, utc("2016-01-01"), utc("2026-03-01"))
    assert found == [utc("2026-01-31T23:59:00")]
    assert looked < 50


# -- the message ------------------------------------------------------------------------------------------------------


def test_the_delay_is_even_and_the_same_everywhere() -> None:
    first = utc("2026-03-01T12:00:00")
    found = [delay_ms("default/report.cron-1", first + n * MINUTE, 30_000) for n in range(1000)]
    assert found == [delay_ms("default/report.cron-1", first + n * MINUTE, 30_000) for n in range(1000)]
    assert 0 <= min(found) < 1_000
    assert 29_000 < max(found) <= 30_000
    assert 13_000 < sum(found) / len(found) < 17_000
    assert {delay_ms("x", first + n * MINUTE, 0) for n in range(9)} == {0}
    assert {delay_ms("x", first + n * MINUTE, 1) for n in range(50)} == {0, 1}


def trigger(payload: object = None) -> TriggerSpec:
    cron = CronTrigger(schedule="0 6 * * *", timezone="Europe/Berlin", payload=payload)
    return TriggerSpec(id="report.cron-4eb8a8", namespace="acme", function="report", cron=cron)


def test_the_event_is_eventbridges() -> None:
    tick = next_tick("0 6 * * *", "Europe/Berlin", utc("2026-07-01"))
    assert tick is not None
    assert json.loads(scheduled_event(trigger(), tick, "0123456789abcdef0123456789abcdef")) == {
        "version": "0", "id": "01234567-89ab-cdef-0123-456789abcdef", "detail-type": "Scheduled Event",
        "source": "aws.events", "account": "000000000000", "time": "2026-07-01T04:00:00Z", "region": "local",
        "resources": ["arn:faas:acme:rule/report.cron-4eb8a8"], "detail": {},
    }  # fmt: skip
    payload: object
    for payload in ({"job": "sweep"}, [], 0, False, "é"):
        assert json.loads(scheduled_event(trigger(payload), tick, "0" * 32)) == payload


@given(st.integers(0, 4_000_000_000_000))
def test_milliseconds_are_exact(ms: int) -> None:
    assert unix_ms(at_ms(ms)) == ms
