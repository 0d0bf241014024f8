"""The task that runs what is due: with a clock of its own, and queues that remember ticks as the real ones do."""

from __future__ import annotations

import asyncio
import datetime as dt
import itertools
import json
from collections.abc import Callable, Sequence

import pytest

from faas.events.schedule import at_ms, unix_ms
from faas.model.errors import StoreUnavailable
from faas.model.invocation import Trigger
from faas.model.manifest import CronTrigger
from faas.model.message import Send
from faas.model.trigger import TriggerSpec
from faas.triggers.scheduler import FORGET_S, SLEEP_S_MAX, Scheduler

pytestmark = pytest.mark.anyio
START = dt.datetime(2026, 3, 1, 12, 0, 30, tzinfo=dt.UTC)
KEY = "default/report.cron-x"


class Clock:
    def __init__(self) -> None:
        self.now_ms = unix_ms(START)

    def monotonic_ns(self) -> int:
        raise AssertionError("schedules go by the wall")

    def unix_ns(self) -> int:
        return self.now_ms * 1_000_000

    def set(self, text: str) -> None:
        self.now_ms = unix_ms(dt.datetime.fromisoformat(f"2026-03-{text}+00:00"))


class Ticks:
    """The part of ``MessageQueue`` that schedules use."""

    def __init__(self) -> None:
        self.last: dict[str, int] = {}
        self.sent: list[tuple[str, str, Send]] = []
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("Redis does not answer.")

    async def tick(self, trigger: str, tick_ms: int, send: Send) -> bool:
        await asyncio.sleep(0)
        self._check()
        if self.last.get(trigger, 0) >= tick_ms:
            return False
        self.last[trigger] = tick_ms
        self.sent.append((trigger, f"{at_ms(tick_ms):%d %H:%M}", send))
        return True

    async def last_ticks(self, triggers: Sequence[str]) -> dict[str, int]:
        self._check()
        return {key: self.last[key] for key in triggers if key in self.last}

    async def forget_ticks(self, triggers: Sequence[str]) -> None:
        self._check()
        for key in triggers:
            self.last.pop(key, None)

    @property
    def times(self) -> list[str]:
        return [when for _, when, _ in self.sent]


class Followed:
    """The part of ``Triggers`` that schedules use."""

    def __init__(self) -> None:
        self.followers: list[Callable[[Sequence[TriggerSpec]], None]] = []
        self.known: list[TriggerSpec] = []

    def watch(self, changed: Callable[[Sequence[TriggerSpec]], None]) -> None:
        self.followers.append(changed)
        changed(self.known)

    def say(self, *triggers: TriggerSpec) -> None:
        self.known = [*triggers]
        for follower in self.followers:
            follower(self.known)


class World:
    def __init__(self) -> None:
        self.clock, self.ticks, self.triggers = Clock(), Ticks(), Followed()
        self.ids = itertools.count(1)

    def node(self) -> Scheduler:
        made = lambda: f"{next(self.ids):032x}"  # noqa: E731
        return Scheduler(self.triggers, self.ticks, self.clock, made)  # type: ignore[arg-type]

    def cron(self, schedule: str = "*/5 * * * *", *, enabled: bool = True, **more: object) -> TriggerSpec:
        cron = CronTrigger.model_validate({"schedule": schedule, **more})
        since_ms = self.clock.now_ms
        return TriggerSpec(
            id="report.cron-x", namespace="default", function="report", cron=cron, enabled=enabled, since_ms=since_ms
        )


@pytest.fixture
def world() -> World:
    return World()


async def test_each_tick_runs_once_over_all_nodes(world: World) -> None:
    nodes = [world.node() for _ in range(3)]
    world.triggers.say(world.cron())
    waits = []
    for minute in range(1, 31):
        world.clock.set(f"01T12:{minute:02}:00.005")
        waits += await asyncio.gather(*(node.step() for node in nodes))
    assert world.ticks.times == [f"01 12:{minute:02}" for minute in range(5, 35, 5)]
    assert all(0 < wait_s <= SLEEP_S_MAX + 0.01 for wait_s in waits)
    queue, message = world.ticks.sent[0][2]
    assert str(queue) == "default/@call.report"
    assert (message.trigger, message.qualifier, message.delay_ms) == (Trigger.CRON, "", 0)
    assert json.loads(message.body)["time"] == "2026-03-01T12:05:00Z"
    assert len({send.message.id for _, _, send in world.ticks.sent}) == 6


async def test_it_sleeps_until_the_next_tick(world: World) -> None:
    node = world.node()
    assert await node.step() == pytest.approx(SLEEP_S_MAX, abs=0.01)
    world.triggers.say(world.cron("* * * * *"))
    world.clock.set("01T12:00:57.500")
    assert await node.step() == pytest.approx(2.5, abs=0.01)
    world.clock.set("01T12:01:00")
    assert await node.step() == pytest.approx(SLEEP_S_MAX, abs=0.01)
    assert world.ticks.times == ["01 12:01"]


async def test_a_new_one_begins_from_its_deployment(world: World) -> None:
    world.triggers.say(world.cron(missed="once"))
    world.clock.set("01T12:04:59")
    await world.node().step()
    assert world.ticks.times == []
    world.clock.set("01T12:05:01")
    await world.node().step()
    assert world.ticks.times == ["01 12:05"], "a node that came up meanwhile is on time"


@pytest.mark.parametrize(("missed", "ran"), [("skip", ["02 09:00"]), ("once", ["02 08:55", "02 09:00"])])
async def test_after_a_downtime(world: World, missed: str, ran: list[str], caplog: pytest.LogCaptureFixture) -> None:
    world.triggers.say(world.cron(missed=missed))
    world.clock.set("01T12:05:00")
    await world.node().step()
    world.ticks.sent.clear()
    world.clock.set("02T08:58:00")
    nodes = [world.node() for _ in range(3)]
    for when in ("02T08:58:00", "02T08:59:00", "02T09:00:00"):
        world.clock.set(when)
        await asyncio.gather(*(node.step() for node in nodes))
    assert world.ticks.times == ran
    assert "default/report.cron-x missed its time, 2026-03-01T12:10" in caplog.text
    assert ("skipped" if missed == "skip" else "made up for by one run") in caplog.text


async def test_a_store_that_was_away_for_a_moment_takes_no_tick(world: World) -> None:
    node = world.node()
    world.triggers.say(world.cron())
    await node.step()
    world.ticks.down = True
    for second in (0, 1, 30):
        world.clock.set(f"01T12:05:{second:02}")
        with pytest.raises(StoreUnavailable):
            await node.step()
    world.clock.set("01T12:05:50")
    world.ticks.down = False
    await node.step()
    await node.step()
    assert world.ticks.times == ["01 12:05"]


async def test_one_that_the_store_does_not_take_keeps_no_other_from_running(world: World) -> None:
    class Picky(Ticks):
        async def tick(self, trigger: str, tick_ms: int, send: Send) -> bool:
            if trigger == KEY:
                raise StoreUnavailable("WRONGTYPE")
            return await super().tick(trigger, tick_ms, send)

    world.ticks = Picky()
    node = world.node()
    others = [world.cron().model_copy(update={"id": f"report.cron-{n}"}) for n in range(3)]
    world.triggers.say(world.cron(), *others)
    world.clock.set("01T12:05:00")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await node.step()
    assert sorted(key for key, _, _ in world.ticks.sent) == [each.key for each in others]


async def test_deploying_again_at_the_minute_takes_no_tick(world: World) -> None:
    node = world.node()
    world.triggers.say(world.cron())
    await node.step()
    world.clock.set("01T12:05:02")
    world.triggers.say(world.cron(jitter_ms=1000))
    await node.step()
    assert world.ticks.times == ["01 12:05"]
    assert 0 <= world.ticks.sent[0][2].message.delay_ms <= 1000
    world.clock.set("01T12:06:00")
    world.triggers.say(world.cron("*/2 * * * *"))
    await node.step()
    world.clock.set("01T12:08:00")
    await node.step()
    assert world.ticks.times[1:] == ["01 12:08"], "another schedule begins anew"


async def test_what_fell_into_a_pause_is_not_made_up_for(world: World) -> None:
    node = world.node()
    world.triggers.say(world.cron(missed="once"))
    await node.step()
    world.triggers.say(world.cron(missed="once", enabled=False))
    for when in ("01T12:05:00", "01T12:10:00", "01T12:17:00"):
        world.clock.set(when)
        await node.step()
    world.triggers.say(world.cron(missed="once"))
    for each in (node, world.node()):
        await each.step()
    assert world.ticks.times == []
    world.clock.set("01T12:20:00")
    await node.step()
    assert world.ticks.times == ["01 12:20"]


async def test_one_that_is_gone_is_forgotten_but_not_at_once(world: World) -> None:
    node = world.node()
    world.triggers.say(world.cron())
    world.clock.set("01T12:05:00")
    await node.step()
    world.triggers.say(world.cron(enabled=False))
    world.clock.now_ms += FORGET_S * 2000
    await node.step()
    assert world.ticks.last.keys() == {KEY}, "a pause is not an end"
    world.triggers.say()
    await node.step()
    world.triggers.say(world.cron())
    world.clock.now_ms += FORGET_S * 2000
    await node.step()
    assert world.ticks.last.keys() == {KEY}
    world.triggers.say()
    world.clock.now_ms += FORGET_S * 1000
    await node.step()
    assert world.ticks.last.keys() == {KEY}
    world.clock.now_ms += 1
    await node.step()
    assert world.ticks.last == {}


async def test_a_clock_that_is_set_back_repeats_nothing(world: World) -> None:
    node = world.node()
    world.triggers.say(world.cron())
    for when in ("01T12:05:00", "01T11:05:00", "01T12:05:00"):
        world.clock.set(when)
        await node.step()
    assert world.ticks.times == ["01 12:05"]


async def test_what_this_node_cannot_read_keeps_no_other_from_running(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    node = world.node()
    odd = world.cron(timezone="Mars/Olympus").model_copy(update={"id": "report.cron-odd"})
    world.triggers.say(odd, world.cron())
    for _ in range(3):
        await node.step()
    assert caplog.text.count("cron-odd cannot run on this node") == 1
    world.clock.set("01T12:05:00")
    await node.step()
    assert world.ticks.times == ["01 12:05"]


async def test_a_change_wakes_it(world: World) -> None:
    node, trigger = world.node(), world.cron()
    task = asyncio.ensure_future(node.run())
    try:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
            world.triggers.say(trigger)
            world.clock.set("01T12:05:00")
            world.triggers.say(trigger)
            while not world.ticks.sent:
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert world.ticks.times == ["01 12:05"]
