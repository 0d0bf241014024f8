"""Runs what is due. Every node does, and the store lets one of them have each tick.

Theory of operation. One task sleeps until the next tick of any enabled schedule, and never longer than ``SLEEP_S_MAX``:
it compares wall time, so a clock that was set, or a machine that slept, is noticed then. A tick is sent by
``MessageQueue.tick`` as a message of the function's own queue of calls, and remembered as the trigger's last in the
same step: the node that comes second is told that it did, and a node that dies before has done nothing. Which ticks are
due follows from the last one (``faas.events.schedule.due_ticks``), so a store that was away is simply asked again, and
what was missed for longer than the grace is made up for as the trigger says.

Contract. A trigger's first tick is the first after its ``since_ms``: nothing that was due before it was deployed, added
or resumed. This node goes by the ``since_ms`` that it saw first: deploying again takes no tick away. A trigger that was
gone for ``FORGET_S`` loses the memory of its last tick; not sooner, as this node's view may be behind.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from faas.events.schedule import GRACE, at_ms, delay_ms, due_ticks, next_tick, scheduled_event, unix_ms
from faas.model.errors import StoreUnavailable
from faas.model.invocation import Trigger
from faas.model.manifest import CronTrigger
from faas.model.message import Message, Send, calls_of
from faas.model.trigger import TriggerSpec
from faas.ports import Clock
from faas.ports.events import MessageQueue, Triggers

log = logging.getLogger("faas.triggers")

SLEEP_S_MAX: Final = 20.0
RETRY_S: Final = 1.0
FORGET_S: Final = 600
READ_AT_ONCE: Final = 50
_NS_PER_MS: Final = 1_000_000
_SLACK_S: Final = 0.001  # a timer may end a little early


@dataclass(slots=True)
class _Timer:
    """One enabled schedule. ``next`` is the next tick after ``last``, None when there is none."""

    trigger: TriggerSpec
    cron: CronTrigger
    last: dt.datetime  # the last tick that was sent by any node, or when the trigger began
    next: dt.datetime | None = None
    failed: bool = False  # the store did not take its last one: others go first, in case it is this one's fault


class Scheduler:
    """``run`` it beside the node; ``step`` is one look at the clock. ``new_id`` makes invocation ids."""

    def __init__(self, triggers: Triggers, queues: MessageQueue, clock: Clock, new_id: Callable[[], str]) -> None:
        self._queues = queues
        self._clock = clock
        self._new_id = new_id
        self._known: dict[str, TriggerSpec] = {}  # enabled schedules by key, as the directory last said
        self._timers: dict[str, _Timer] = {}
        self._gone: dict[str, int] = {}  # key -> Unix ms since when there is no such trigger
        self._all: set[str] = set()  # keys of schedules, paused ones too
        self._wake = asyncio.Event()
        triggers.watch(self._changed)

    async def run(self) -> None:
        """Runs for as long as the node serves."""
        while True:
            self._wake.clear()
            try:
                wait_s = await self.step()
            except StoreUnavailable as error:
                log.warning("schedules wait for the store: %s", error.message)
                wait_s = RETRY_S
            except Exception:
                log.exception("a look at the schedules failed, will try again")
                wait_s = RETRY_S
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def step(self) -> float:
        """Send what is due; how long to sleep then, in seconds. Raises ``StoreUnavailable``: nothing is lost by it."""
        now = self._now()
        await self._begin(now)
        due = [timer for timer in self._timers.values() if timer.next is not None and timer.next <= now]
        for timer in sorted(due, key=lambda timer: timer.failed):
            timer.failed = True
            await self._send(timer, now)
            timer.failed = False
        await self._forget(now)
        after = self._now()
        waits_s = [(timer.next - after).total_seconds() for timer in self._timers.values() if timer.next is not None]
        return min(max(0.0, min(waits_s, default=SLEEP_S_MAX)) + _SLACK_S, SLEEP_S_MAX)

    def _now(self) -> dt.datetime:
        return at_ms(self._clock.unix_ns() // _NS_PER_MS)

    @property
    def enabled(self) -> int:
        """How many schedules this node knows that are not paused."""
        return len(self._known)

    # -- which there are ------------------------------------------------------------------------------------------

    def _changed(self, triggers: Sequence[TriggerSpec]) -> None:
        crons = {trigger.key: trigger for trigger in triggers if trigger.cron is not None}
        now_ms = self._clock.unix_ns() // _NS_PER_MS
        self._gone = {key: self._gone.get(key, now_ms) for key in (self._all | self._gone.keys()) if key not in crons}
        self._all = set(crons)
        self._known = {key: trigger for key, trigger in crons.items() if trigger.enabled}
        self._wake.set()

    async def _begin(self, now: dt.datetime) -> None:
        """Make the timers what the directory says. A schedule that is new here asks what any node last ran of it."""
        known = dict(self._known)
        for key in self._timers.keys() - known.keys():
            del self._timers[key]
        new = []
        for key, trigger in known.items():
            timer = self._timers.get(key)
            assert trigger.cron is not None
            if timer is None or not _same_times(timer.cron, trigger.cron):
                new.append(key)
            else:
                timer.trigger, timer.cron = trigger, trigger.cron
        last_ms = await self._queues.last_ticks(new) if new else {}
        for index, key in enumerate(new):
            if index % READ_AT_ONCE == READ_AT_ONCE - 1:
                await asyncio.sleep(0)  # reading a schedule takes about 0.1 ms, and calls wait meanwhile
            trigger = known[key]
            assert trigger.cron is not None
            began_ms = trigger.since_ms or unix_ms(now)
            timer = _Timer(trigger, trigger.cron, at_ms(max(began_ms, last_ms.get(key, 0))))
            if self._foresee(timer):
                self._timers[key] = timer
            elif self._known.get(key) is trigger:
                del self._known[key]  # said once; until the directory says something new

    def _foresee(self, timer: _Timer) -> bool:
        """Work out the next tick; False for a schedule or zone that this node cannot read."""
        try:
            timer.next = next_tick(timer.cron.schedule, timer.cron.timezone, timer.last)
        except (ValueError, KeyError, OSError) as error:
            log.error("the trigger %s cannot run on this node: %s", timer.trigger.key, error)
            return False
        return True

    async def _forget(self, now: dt.datetime) -> None:
        over = [key for key, since_ms in self._gone.items() if unix_ms(now) - since_ms > FORGET_S * 1000]
        if over:
            await self._queues.forget_ticks(over)
            self._gone = {key: since_ms for key, since_ms in self._gone.items() if key not in over}

    # -- what is due ----------------------------------------------------------------------------------------------

    async def _send(self, timer: _Timer, now: dt.datetime) -> None:
        due = due_ticks(timer.cron, timer.last, now)
        for tick in due:
            await self._queues.tick(timer.trigger.key, unix_ms(tick), self._message(timer, tick))
            timer.last = tick
        if timer.next is not None and timer.next < now - GRACE:
            done = "skipped" if timer.cron.missed == "skip" else "made up for by one run"
            log.warning("the trigger %s missed its time, %s: %s", timer.trigger.key, timer.next.isoformat(), done)
        timer.last = max(timer.last, now)
        self._foresee(timer)

    def _message(self, timer: _Timer, tick: dt.datetime) -> Send:
        trigger, call_id = timer.trigger, self._new_id()
        return Send(
            calls_of(trigger.namespace, trigger.function),
            Message(
                id=call_id,
                body=scheduled_event(trigger, tick, call_id),
                delay_ms=delay_ms(trigger.key, tick, timer.cron.jitter_ms),
                trigger=Trigger.CRON,
            ),
        )


def _same_times(one: CronTrigger, other: CronTrigger) -> bool:
    return (one.schedule, one.timezone) == (other.schedule, other.timezone)
