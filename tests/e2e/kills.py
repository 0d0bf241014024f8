"""Killing parts of a node, and the node, under load; then holding the ledger against what the callers were told.

What dies, by ``kill -9`` and without warning: an instance, a zygote (the sandbox's first process), a container through
the engine, the node's Valkey, the node itself, which is then started again on the same home. The order is drawn from
a seed. The promise: every call has an answer or a clean error, nothing hangs, nothing is left over, and every answered
call has exactly one usage record, with the cost its caller was told.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import docker.errors

from faas.model.usage import UsageRecord
from faas.stores.ledger import RedisLedger
from faas.stores.redis_client import connect
from tests.e2e import processes
from tests.e2e.load import FUNCTIONS, RECORDED_AS, Book, Load, Told
from tests.e2e.node import Node, docker_api
from tests.e2e.processes import Process, wait_until

VICTIM_WAIT_S = 30.0
LIVELY_S = 60.0
TIDY_S = 90.0  # one that was killed while it booted is noticed when its time to boot is over, after 60 s
FAR_MS = 1 << 45
Say = Callable[[str], None]


def plan(rng: random.Random, kills: int, node_kills: int, valkey_kills: int, containers: bool) -> list[str]:
    """The kinds of victims in their order; the node does not die first, so that there is something to lose."""
    others = kills - node_kills - valkey_kills
    kinds = ["instance", "instance", "instance", "zygote", "container" if containers else "zygote"]
    drawn = [kinds[n % len(kinds)] for n in range(others)] + ["node"] * node_kills + ["valkey"] * valkey_kills
    rng.shuffle(drawn)
    first = next((n for n, kind in enumerate(drawn) if kind in ("instance", "zygote")), 0)
    drawn[0], drawn[first] = drawn[first], drawn[0]
    return drawn


class Campaign:
    """One run: ``await run()`` raises ``AssertionError`` with the seed in it when a promise was broken.

    ``grown_s`` spares sandboxes younger than that: one that dies before it has dialled is missed only when its time to
    boot is over, which a short run has no time for.
    """

    def __init__(
        self,
        node: Node,
        seed: int,
        victims: Sequence[str],
        callers: int = 12,
        pause_s: float = 0.25,
        grown_s: float = 0.0,
    ) -> None:
        self.node = node
        self.seed = seed
        self.killed: Counter[str] = Counter()
        self.load = Load(node, seed, callers)
        self._victims = victims
        self._pause_s = pause_s
        self._grown_s = grown_s
        self._rng = random.Random(seed)

    @property
    def book(self) -> Book:
        return self.load.book

    async def run(self, say: Say = print) -> None:
        for name, source in FUNCTIONS.items():
            await asyncio.to_thread(self.node.deploy, name, source, timeout="10s", max_instances=8)
        began = time.monotonic()
        await self.load.start()
        try:
            for number, kind in enumerate(self._victims, 1):
                await asyncio.sleep(self._rng.uniform(0, 2 * self._pause_s))
                await self._strike(kind)
                if number % 50 == 0 or number == len(self._victims):
                    took = f"{time.monotonic() - began:.0f} s"
                    say(f"{number} kills of {len(self._victims)}, {took}: {self.book.summary()}")
                self._nothing_wrong()
            await asyncio.sleep(0.5)
        finally:
            await self.load.stop()
        self._nothing_wrong()
        await asyncio.to_thread(self._lively)
        await asyncio.to_thread(self.node.settled)
        await self._compare()
        await asyncio.to_thread(self._tidy)

    def _nothing_wrong(self) -> None:
        wrong = self.book.wrong
        assert not wrong, f"seed {self.seed}: {len(wrong)} calls went wrong:\n" + "\n".join(wrong[:20])

    # -- killing ----------------------------------------------------------------------------------------------------

    async def _strike(self, kind: str) -> None:
        """Kill one of that kind, waiting for one to be there."""
        limit = time.monotonic() + VICTIM_WAIT_S
        while not await self._struck(kind):
            assert time.monotonic() < limit, f"seed {self.seed}: for {VICTIM_WAIT_S:g} s there was no {kind} to kill"
            await asyncio.sleep(0.05)
        self.killed[kind] += 1

    async def _struck(self, kind: str) -> bool:
        if kind == "node":
            await self._kill_node()
            return True
        if kind == "valkey":
            return (await asyncio.to_thread(self.node.valkey)).kill()
        if kind == "container":
            return await asyncio.to_thread(self._kill_container)
        found = [s for s in await asyncio.to_thread(self.node.sandboxes) if s.zygote.age_s >= self._grown_s]
        victims = [s.zygote for s in found] if kind == "zygote" else [i for s in found for i in s.instances]
        return bool(victims) and self._rng.choice(victims).kill()

    def _kill_container(self) -> bool:
        with docker_api() as api:
            young = time.time() - self._grown_s
            running = [each for each in api.containers(filters=self.node.label()) if each["Created"] <= young]
            if not running:
                return False
            try:
                api.kill(self._rng.choice(running)["Id"])
            except docker.errors.APIError:
                return False
            return True

    async def _kill_node(self) -> None:
        left = await asyncio.to_thread(self.node.below)
        containers = await asyncio.to_thread(self.node.containers)
        sockets = processes.sockets(self.node.pid)
        await self.load.node_dies()
        await asyncio.to_thread(self.node.kill)
        await asyncio.to_thread(self.node.start)
        await self.load.reconnect()
        await asyncio.to_thread(self._nothing_left, left, set(containers), sockets)

    def _nothing_left(self, left: list[Process], containers: set[str], sockets: set[Path]) -> None:
        """Of the node that was killed. Valkey's socket is made anew at the same place."""
        wait_until(lambda: not [p for p in left if p.alive], "the killed node's processes are gone")
        wait_until(lambda: not containers & set(self.node.containers()), "the killed node's containers are gone")
        mine = processes.sockets(self.node.pid)
        wait_until(
            lambda: not [s for s in sockets - mine if s.name == "node.sock" and s.exists()],
            "the killed node's sockets are gone",
        )

    # -- afterwards -------------------------------------------------------------------------------------------------

    def _lively(self) -> None:
        """Every function answers again, however it was left."""
        for name in FUNCTIONS:
            wait_until(lambda n=name: self._answers(n), f"{name} answers (seed {self.seed})", LIVELY_S)  # type: ignore[misc]

    def _answers(self, name: str) -> bool:
        response = self.node.call(name, 2)
        self.book.sent += 1
        billed = response.headers.get("faas-billed-ms")
        invocation = response.headers.get("faas-invocation-id", "")
        if invocation:
            told = Told(invocation, name, response.status_code, int(billed) if billed is not None else None)
            self.book.answered[invocation] = told
        return response.status_code == 200

    async def _compare(self) -> None:
        """The ledger's raw records and its sums against the book."""
        records = await ledger_records(self.node)
        problems = compare(self.book, records)
        usage = await asyncio.to_thread(self.node.get, "/v1/usage", by="function")
        sums = {
            "invocations": len(records),
            "billed_ms": sum(r.billed_ms for r in records),
            "mb_ms": sum(r.mb_ms for r in records),
            "run_ns": sum(r.run_ns for r in records),
            "bytes_out": sum(r.bytes_out for r in records),
        }
        for name, total in sums.items():
            if usage["totals"][name] != total:
                problems.append(f"/v1/usage says {name} = {usage['totals'][name]}, the records add up to {total}")
        by_id = {r.invocation_id: r for r in records}
        newest = sorted(self.book.answered)
        for invocation in self._rng.sample(newest, min(50, len(newest))):
            shown = await asyncio.to_thread(self.node.client.get, f"/v1/invocations/{invocation}")
            if shown.status_code != 200:
                problems.append(f"/v1/invocations/{invocation} answers {shown.status_code}")
            elif invocation in by_id and shown.json()["billed_ms"] != by_id[invocation].billed_ms:
                problems.append(f"/v1/invocations/{invocation} says {shown.json()['billed_ms']} ms")
        assert not problems, f"seed {self.seed}: {len(problems)} differences:\n" + "\n".join(problems[:20])

    def _tidy(self) -> None:
        """No process and no container that the node does not know of."""

        def known() -> int:
            metric = self.node.metric
            return int(metric("faas_sandboxes") - metric("faas_sandboxes", state="removed"))

        where = f"(seed {self.seed})"
        wait_until(lambda: len(self.node.sandboxes()) == known(), f"sandboxes as the node counts them {where}", TIDY_S)
        if self.node.engine == "docker":
            wait_until(lambda: len(self.node.containers()) == known(), f"no stray containers {where}", TIDY_S)


def compare(book: Book, records: Sequence[UsageRecord]) -> list[str]:
    """What is not as it must be, in words. Exactly one record per answered call, as billed as it was told."""
    problems = []
    count = Counter(r.id for r in records)
    problems += [f"{record} is there {times} times" for record, times in count.items() if times > 1]
    by_id = {r.invocation_id: r for r in records}
    for told in book.answered.values():
        record = by_id.get(told.invocation)
        if record is None:
            problems.append(f"no record of {told}")
            continue
        allowed = RECORDED_AS[told.status] if told.whole else {"crashed", "oom", "platform_error"}
        if record.status not in allowed:
            problems.append(f"{told} is recorded as {record.status}")
        if told.billed_ms is not None and told.billed_ms != record.billed_ms:
            problems.append(f"{told} is billed {record.billed_ms} ms")
        if record.function != told.function:
            problems.append(f"{told} is recorded for {record.function}")
    unknown = [r for r in records if r.invocation_id not in book.answered and r.invocation_id not in book.cut]
    if len(unknown) > book.lost + book.left:
        problems.append(f"{len(unknown)} records of calls nobody made ({book.lost} lost, {book.left} left)")
    return problems


async def ledger_records(node: Node) -> list[UsageRecord]:
    """The raw records, from the node's own Valkey."""
    [socket] = node.home.rglob("valkey.sock")
    client = connect(f"unix://{quote(str(socket))}")
    try:
        return await RedisLedger(client).records(0, FAR_MS)
    finally:
        await client.aclose()
