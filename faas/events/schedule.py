"""When a schedule is due. Pure: the time is an argument, and every time here is an aware ``datetime``.

A schedule is five fields of cron, read on the wall clock of a time zone as Debian's cron does (``cronsim``). Where the
clock changes, a schedule that names its minutes and hours runs once for each time it names: one that falls into the
hour that is left out runs right after it, and one in the hour that comes twice runs in the first of the two. A schedule
whose minutes or hours begin with ``*`` follows real time: it runs in both of the two hours, and not in the one that is
left out.

In Berlin, ``30 2 * * *`` is due at 3:00 on 2026-03-29 and at the first 2:30 on 2026-10-25; ``*/30 * * * *`` every half
hour of both nights.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

from faas.events.records import REGION
from faas.model.manifest import CronTrigger
from faas.model.trigger import TriggerSpec

GRACE: Final = dt.timedelta(seconds=60)  # so late is on time: the node was busy, or the store away for a moment
ACCOUNT: Final = "000000000000"  # twelve digits, as handlers written for Lambda may expect
_SECOND: Final = dt.timedelta(seconds=1)
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def next_tick(schedule: str, zone: str, after: dt.datetime) -> dt.datetime | None:
    """The first time the schedule is due after ``after``, in its zone; None when it is not within 50 years.

    Raises ``ValueError`` (``CronSimError``) and ``KeyError`` (``ZoneInfoNotFoundError``) for what a check would refuse.

    >>> next_tick("0 6 * * 1-5", "Europe/Berlin", dt.datetime(2026, 3, 27, 9, tzinfo=dt.UTC)).isoformat()
    '2026-03-30T06:00:00+02:00'
    """
    # One that stands in the second of two equal hours begins on the wall clock of the first: those before are over.
    ticks = CronSim(schedule, after.astimezone(_zone(zone)))
    return next((tick for tick in ticks if tick.astimezone(dt.UTC) > after), None)


def due_ticks(cron: CronTrigger, last: dt.datetime, now: dt.datetime, grace: dt.timedelta = GRACE) -> list[dt.datetime]:
    """What has to run now: each tick after ``last`` that is at most ``grace`` late, in order. Before them, where the
    trigger says ``missed = "once"``, the newest of those that are later than that: one run for all that was missed.

    >>> hourly, day = CronTrigger(schedule="0 * * * *", missed="once"), dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    >>> [tick.hour for tick in due_ticks(hourly, day, day.replace(hour=5, second=30))]
    [4, 5]
    """
    last, now = last.astimezone(dt.UTC), now.astimezone(dt.UTC)  # within one zone, sums and comparisons go by its wall
    on_time = now - grace
    found = [] if cron.missed == "skip" else _newest_between(cron, last, on_time)
    after = max(last, on_time - _SECOND)
    while (tick := next_tick(cron.schedule, cron.timezone, after)) is not None and tick <= now:
        if tick >= on_time:
            found.append(tick)
        after = tick
    return found


def _newest_between(cron: CronTrigger, last: dt.datetime, end: dt.datetime) -> list[dt.datetime]:
    """The newest tick with ``last`` < tick < ``end``, or none, in some thirty steps however many there are."""

    def tick_after(seconds: int) -> dt.datetime | None:
        tick = next_tick(cron.schedule, cron.timezone, last + seconds * _SECOND)
        return tick if tick is not None and tick < end else None

    newest = tick_after(0)
    if newest is None:
        return []
    low, high = (
        0,
        max(1, (end - last) // _SECOND + 1),
    )  # after low there is one before the end, after high there is none
    while high - low > 1:
        middle = (low + high) // 2
        tick = tick_after(middle)
        low, high, newest = (middle, high, tick) if tick is not None else (low, middle, newest)
    return [newest]


def delay_ms(key: str, tick: dt.datetime, jitter_ms: int) -> int:
    """From 0 to ``jitter_ms``, evenly, and the same on every node: a digest of the trigger and the tick."""
    digest = hashlib.sha256(f"{key}@{unix_ms(tick)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") * (jitter_ms + 1) >> 64


def scheduled_event(trigger: TriggerSpec, tick: dt.datetime, event_id: str) -> bytes:
    """What the function gets, in JSON: the trigger's payload, else EventBridge's "Scheduled Event" of that tick
    (Amazon EventBridge User Guide, "Events"). ``event_id`` is 32 hex digits, and shown as a UUID.
    """
    assert trigger.cron is not None
    if trigger.cron.payload is not None:
        return _json(trigger.cron.payload)
    parts = (event_id[:8], event_id[8:12], event_id[12:16], event_id[16:20], event_id[20:])
    return _json(
        {
            "version": "0",
            "id": "-".join(parts),
            "detail-type": "Scheduled Event",
            "source": "aws.events",
            "account": ACCOUNT,
            "time": f"{tick.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
            "region": REGION,
            "resources": [f"arn:faas:{trigger.namespace}:rule/{trigger.id}"],
            "detail": {},
        }
    )


def in_zone(when: dt.datetime, zone: str) -> dt.datetime:
    """On that zone's clock, or on UTC's where this machine does not know the zone."""
    try:
        return when.astimezone(_zone(zone))
    except (ValueError, KeyError, OSError):
        return when.astimezone(dt.UTC)


def _zone(zone: str) -> dt.tzinfo:
    return dt.UTC if zone == "UTC" else ZoneInfo(zone)


def unix_ms(when: dt.datetime) -> int:
    return (when - _EPOCH) // dt.timedelta(milliseconds=1)


def at_ms(unix_ms: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(milliseconds=unix_ms)


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
