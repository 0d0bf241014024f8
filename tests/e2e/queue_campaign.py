"""A queue under load whose nodes are killed: every message's fate, counted by what its handlers did.

Two nodes on one Valkey. A sender puts numbered messages into a queue; a function on both nodes handles them and tells
the recorder (``queue_recorder``). Nodes die by ``kill -9`` at random and are started again. Afterwards:

- every message was handled, but those whose handler always fails: these, and no others, are dead letters;
- one was handled twice only where a kill fell between the effect and the acknowledgement: the earlier effect is among
  the last of an instance that ended with a killed node, or its acknowledgement was due when Valkey died or was away;
- the store's own count agrees: as many acknowledged and dead as were sent, none left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.e2e.ledger_nodes import CrashValkey
from tests.e2e.node import Node
from tests.e2e.queue_recorder import Effect, Recorder, handler, hopeless

QUEUE = "numbers"
SEND_AT_ONCE = 500
AHEAD_MAX = 20_000  # messages that wait in the queue; the sender waits with more
AT_ONCE = 8
BATCH = 10
LEASE_S = 5
ENDS_WITH_S = 5.0  # a killed node's instances are gone after so long
UNSETTLED = 2  # batches of one instance whose acknowledgement may be on its way
UNHEARD_S = 0.5  # an acknowledgement may be under way for so long when Valkey dies
SETTLING_S = 1.0
PATIENCE_S = 90.0

Say = Callable[[str], None]


@dataclass
class Fate:
    """What became of all messages; ``problems`` is empty when every promise was kept."""

    sent: int = 0
    handled: int = 0
    twice: int = 0
    dead: int = 0
    kills: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        return (
            f"{self.sent} messages sent, {self.handled} handled ({self.twice} twice, each at a kill), {self.dead} dead"
            f" letters, {self.kills} kills, {self.seconds:.0f} s"
        )


class QueueCampaign:
    """``pause_s`` lies between a kill and the next, drawn around it; every ``valkey_every``th kill is Valkey's."""

    def __init__(
        self, directory: Path, seed: int, messages: int, kills: int, *, pause_s: float = 4.0, valkey_every: int = 0
    ) -> None:
        self._rng = random.Random(seed)
        self._messages = messages
        self._kills_wanted = kills
        self._pause_s = pause_s
        self._valkey_every = valkey_every
        self._valkey = CrashValkey(directory / "valkey", syncs=False)
        self._nodes: list[Node] = []
        self._recorder = Recorder()
        self._killed_at: list[float] = []
        self._away: list[tuple[float, float]] = []  # Valkey, from and to, with what is around it
        self._sent = 0
        self.fate = Fate()

    async def play(self, say: Say = lambda _: None) -> Fate:
        began = time.monotonic()
        await self._valkey.start()
        await self._recorder.start()
        try:
            await self._start_nodes()
            trigger = {"name": QUEUE, "batch": BATCH, "max_concurrency": AT_ONCE, "lease": f"{LEASE_S}s"}
            settings: dict[str, Any] = {"network": "egress", "timeout": "3s", "memory": "64MB", "queue": [trigger]}
            retry = {"attempts": 5, "max_age": "6h"}
            await asyncio.to_thread(
                self._nodes[0].deploy, "counter", handler(self._recorder.port), retry=retry, **settings
            )
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send())
                tasks.create_task(self._kill(sending, say))
            await self._drained(say)
            self.fate.seconds = time.monotonic() - began
            await self._judge()
        finally:
            for node in self._nodes:
                await asyncio.to_thread(node.close)
            await self._recorder.stop()
            await self._valkey.stop()
        return self.fate

    async def _start_nodes(self) -> None:
        for _ in range(2):
            node = Node("process", redis_url=self._valkey.url)
            self._nodes.append(node)
            if len(self._nodes) > 1:
                node.home.mkdir(parents=True)
                shutil.copy(self._nodes[0].home / "client.toml", node.home / "client.toml")
            await asyncio.to_thread(node.start)

    # -- load -------------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        while self._sent < self._messages:
            if self._sent - len(self._recorder.effects) > AHEAD_MAX:
                await asyncio.sleep(0.05)
                continue
            numbers = range(self._sent, min(self._sent + SEND_AT_ONCE, self._messages))
            await self._send_some(numbers)
            self._sent = numbers.stop

    async def _send_some(self, numbers: Sequence[int]) -> None:
        """Again and again until a node has said that they are stored; their dedup ids keep them single."""
        body = json.dumps([{"body": str(number), "dedup_id": f"d{number}"} for number in numbers]).encode()
        end = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(httpx2.HTTPError):
                answer = await asyncio.to_thread(self._post, body)
                if answer.status_code == 201:
                    return
                assert answer.status_code >= 500, answer.text
            assert time.monotonic() < end, "nobody takes messages"
            await asyncio.sleep(0.1)

    def _post(self, body: bytes) -> httpx2.Response:
        node = self._rng.choice(self._nodes)
        headers = {**node.headers, "content-type": "application/json"}
        return httpx2.post(
            f"{node.url}/v1/queues/{QUEUE}/messages", content=body, headers=headers, timeout=20, trust_env=False
        )

    async def _kill(self, sending: asyncio.Task[None], say: Say) -> None:
        while self.fate.kills < self._kills_wanted:
            await asyncio.sleep(self._pause_s * self._rng.uniform(0.5, 1.5))
            if sending.done() and len(self._recorder.effects) > self._messages * 0.98:
                return  # nothing is in flight any more: a kill would prove nothing
            self.fate.kills += 1
            if self._valkey_every and self.fate.kills % self._valkey_every == 0:
                killed = time.monotonic()
                await self._valkey.kill()
                await asyncio.sleep(self._rng.uniform(0.0, 2.0))
                await self._valkey.start()
                self._away.append((killed - UNHEARD_S, time.monotonic() + SETTLING_S))
            else:
                node = self._rng.choice(self._nodes)
                self._killed_at.append(time.monotonic())
                await asyncio.to_thread(node.kill)
                await asyncio.to_thread(node.start)
            say(f"{self.fate.kills} kills, {self._sent} sent, {len(self._recorder.effects)} handled")

    async def _drained(self, say: Say) -> None:
        """Until nothing is left in the queue."""
        handled, since = -1, time.monotonic()
        while (state := await self._state())["depth"]:
            if len(self._recorder.effects) != handled:
                handled, since = len(self._recorder.effects), time.monotonic()
            assert time.monotonic() - since < PATIENCE_S, f"nothing moves any more: {state}"
            say(f"{handled} handled, {state['depth']} left")
            await asyncio.sleep(1.0)

    async def _state(self) -> dict[str, Any]:
        found = await asyncio.to_thread(self._nodes[0].get, f"/v1/queues/{QUEUE}")
        assert isinstance(found, dict)
        return found

    # -- judgement --------------------------------------------------------------------------------------------------

    async def _judge(self) -> None:
        fate, effects = self.fate, self._recorder.effects
        state = await self._state()
        dead = await asyncio.to_thread(self._dead)
        fate.sent, fate.handled, fate.dead = self._sent, len(effects), len(dead)
        fate.twice = sum(len(found) > 1 for found in effects.values())
        fate.problems = judge(self._messages, effects, dead, self._last_batches(), self._away)
        if state["counts"].get("acked", 0) + len(dead) != self._messages:
            fate.problems.append(f"the queue counts {state['counts']}, with {len(dead)} dead letters")

    def _dead(self) -> list[int]:
        found: list[int] = []
        after: str | None = ""
        while after is not None:
            page = self._nodes[0].get(f"/v1/queues/{QUEUE}/dead", limit=1000, after=after)
            found += [int(letter["body"]) for letter in page["messages"]]
            after = page["next"]
        return found

    def _last_batches(self) -> dict[int, int]:
        """Of the connections that ended with a killed node: the first of their last, maybe unsettled, batches."""
        ended_at_a_kill = {
            line
            for line, ended in self._recorder.ended.items()
            if any(0 <= ended - killed <= ENDS_WITH_S for killed in self._killed_at)
        }
        return {line: self._recorder.batches[line] - UNSETTLED + 1 for line in ended_at_a_kill}


def judge(
    messages: int,
    effects: dict[int, list[Effect]],
    dead: Sequence[int],
    last_batches: dict[int, int],
    away: Sequence[tuple[float, float]] = (),
) -> list[str]:
    """What is wrong. ``last_batches``: by connection that a kill ended, its first batch that may be unsettled;
    ``away``: from when to when no acknowledgement could be relied on."""
    problems = []
    lost = [n for n in range(messages) if n not in effects and not hopeless(n)]
    if lost:
        problems.append(f"{len(lost)} messages were never handled: {lost[:5]}")
    for name, found in (("handled", list(effects)), ("dead letters", list(dead))):
        strange = [n for n in found if hopeless(n) != (name == "dead letters") or not 0 <= n < messages]
        if strange:
            problems.append(f"{len(strange)} {name} should not be: {strange[:5]}")
    missing = {n for n in range(messages) if hopeless(n)} - set(dead)
    if missing or len(dead) != len(set(dead)):
        problems.append(f"dead letters: {len(missing)} are missing, {len(dead) - len(set(dead))} are there twice")
    for number, times in effects.items():
        for effect in sorted(times, key=lambda each: each.at)[:-1]:
            unsettled = effect.batch >= last_batches.get(effect.line, effect.batch + 1)
            if not unsettled and not any(begin <= effect.at <= end for begin, end in away):
                problems.append(f"message {number} was handled {len(times)} times, and no kill explains {effect}")
    return problems
