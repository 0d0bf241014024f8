"""Crashes of what the money passes through, by seed: journals and a Valkey that are killed, torn, full and put back.

A run has one or two nodes (``ledger_writer``: a real journal and flusher in a process) on one real Valkey with its
append-only file, all under load from the first moment to the last. What happens to them:

=========  ==========================================================================================================
node       ``kill -9`` of a node; the next life begins on what it left
torn       the same, and its journal ends in the middle of a write of several entries
valkey     ``kill -9`` of Valkey
power      its power fails: from a moment up to a second before, nothing reached its disk, and some of that is cut off
both       ``kill -9`` of a node and of Valkey at once
full       Valkey's disk is full for a while; sometimes it is killed then
rewrite    Valkey rewrites its file; sometimes it is killed then
back       Valkey is replaced by its older backup, or an empty one, under nodes that live or die
=========  ==========================================================================================================

In a node itself, at any time: its disk full within a write (``RLIMIT_FSIZE``), its clock going backwards.

Afterwards the journals are emptied into the ledger and it is held against what the nodes had promised: each record that
was acknowledged is there once, none that was refused, none twice, each as it was written, and the sums are theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faas.metering.reconcile import COMPARED
from faas.model.usage import UsageRecord
from faas.stores.flusher import Flusher
from faas.stores.journal import Journal
from faas.stores.ledger import RedisLedger
from faas.stores.redis_client import connect
from tests.e2e.ledger_nodes import CrashNode, CrashValkey, Promises
from tests.e2e.ledger_writer import KEEP_MS, TOGETHER_MAX, key_of, record_of

KINDS = ("node", "torn", "valkey", "power", "both", "full", "rewrite", "back")
PATIENCE_S = 30.0
FAR_MS = 2**52
LOST, DOUBLED = "records lost", "records doubled"


@dataclass
class Outcome:
    """Of one run. ``problems`` is empty when every promise was kept."""

    seed: int
    events: list[str] = field(default_factory=list)
    acknowledged: int = 0
    refused: int = 0
    excused: int = 0
    lost: int = 0
    doubled: int = 0
    differences: int = 0
    problems: list[str] = field(default_factory=list)


class CrashRun:
    """``events`` by name, or None to draw them. One run in four is on a server that does not know WAITAOF."""

    def __init__(self, seed: int, directory: Path, events: Sequence[str] | None = None) -> None:
        self._rng = random.Random(seed)
        self._promises = Promises()
        self._directory = directory
        self._valkey = CrashValkey(directory / "valkey", knows_waitaof=self._rng.random() < 0.75)
        self._nodes: list[CrashNode] = []
        drawn = self._rng.choices(KINDS, k=self._rng.randint(4, 8))
        self.outcome = Outcome(seed, list(events if events is not None else drawn))

    async def play(self) -> Outcome:
        url = await self._valkey.start()
        rng = self._rng
        self._nodes = [
            CrashNode(n, self._directory, url, random.Random(rng.randrange(2**32)), self._promises)
            for n in range(rng.choice((1, 1, 2)))
        ]
        try:
            for node in self._nodes:
                node.start()
            for kind in self.outcome.events:
                await self._load(rng.randint(1, 300))
                await getattr(self, f"strike_{kind}")()
            await self._load(rng.randint(1, 300))
            for node in self._nodes:
                node.kill()
            for node in self._nodes:
                await self._empty(node, url)
            await self._judge(url)
        finally:
            for node in self._nodes:
                with contextlib.suppress(AssertionError):
                    node.kill()
            await self._valkey.stop()
        return self.outcome

    async def _load(self, records: int, nodes: Sequence[CrashNode] | None = None) -> None:
        """Until so many more were acknowledged, by these nodes or all."""
        limit = time.monotonic() + PATIENCE_S
        while records > 0:
            await asyncio.sleep(0.002)
            records -= sum(node.hear() for node in nodes or self._nodes)
            assert time.monotonic() < limit, f"no records are acknowledged: {[node.said() for node in self._nodes]}"

    async def _pause(self, longest_s: float) -> None:
        """Under load."""
        until = time.monotonic() + self._rng.uniform(0, longest_s)
        while time.monotonic() < until:
            await self._load(1)

    # -- what happens ------------------------------------------------------------------------------------------------

    async def strike_node(self) -> None:
        node = self._rng.choice(self._nodes)
        node.kill()
        node.start()

    async def strike_torn(self) -> None:
        node = self._rng.choice(self._nodes)
        node.kill()
        node.tear(time.time_ns())
        node.start()

    async def strike_valkey(self) -> None:
        await self._valkey.kill()
        await self._valkey_again()

    async def strike_power(self) -> None:
        """Its last successful sync is the moment from which on its disk does not sync: no earlier, so nothing is cut
        that anybody was told is safe.
        """
        async with connect(self._valkey.url) as client:
            await client.config_set("appendfsync", "no")
        safe, synced = self._valkey.newest, self._valkey.newest.stat().st_size
        await self._pause(1.0)
        await self._valkey.kill()
        assert self._valkey.newest == safe
        with safe.open("rb+") as file:
            file.truncate(self._rng.randint(synced, safe.stat().st_size))
        await self._valkey_again()

    async def strike_both(self) -> None:
        node = self._rng.choice(self._nodes)
        for kill in self._rng.sample((self._valkey.kill, self._kill_of(node)), 2):
            await kill()
        node.start()
        await self._valkey_again()

    def _kill_of(self, node: CrashNode) -> Callable[[], Awaitable[None]]:
        async def kill() -> None:
            node.kill()

        return kill

    async def strike_full(self) -> None:
        self._valkey.limit(self._rng.randrange(20_000))
        await self._pause(0.3)
        if self._rng.random() < 0.5:
            await self._valkey.kill()
            await self._valkey_again()
        else:
            self._valkey.limit(None)

    async def strike_rewrite(self) -> None:
        async with connect(self._valkey.url) as client:
            await client.bgrewriteaof()
            if self._rng.random() < 0.5:
                await self._pause(0.05)
                await self._valkey.kill()
                await self._valkey_again()
                return
            while (await client.info("persistence"))["aof_rewrite_in_progress"]:
                await self._load(1)

    async def strike_back(self) -> None:
        """Whoever lives meanwhile is stopped while it is noted what only the server had; but not before it has read,
        and acted upon, what the server answered at last: that what it was told is on its disk.
        """
        dies = self._rng.random() < 0.5
        await self._valkey.kill()
        for node in self._nodes:
            if dies:
                node.kill()
            else:
                await self._load(30 * TOGETHER_MAX, [node])
                node.signal(signal.SIGSTOP)
                node.hear()
        self._valkey.put_back()
        await self._valkey.start()
        there = {key_of(record) for record in await self._records()}
        journalled = {key for node in self._nodes for key in node.journalled()}
        self._promises.excused |= self._promises.kept - there - journalled
        for node in self._nodes:
            if dies:
                node.start()
            else:
                node.signal(signal.SIGCONT)

    async def _valkey_again(self) -> None:
        """A dead one, after a while; sometimes a backup is made of it first."""
        if self._rng.random() < 0.5:
            self._valkey.back_up()
        await self._pause(0.2)
        await self._valkey.start()

    # -- afterwards --------------------------------------------------------------------------------------------------

    async def _empty(self, node: CrashNode, url: str) -> None:
        """A last life that only sends what is there."""
        journal = Journal(node.journal)
        async with connect(url) as client:
            flusher = Flusher(journal, RedisLedger(client, keep_ms=KEEP_MS), interval_s=0.001, sync_s=0.05)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(flusher.run())
                await flusher.close(wait_s=PATIENCE_S)
            if flusher.pending:
                self.outcome.problems.append(f"{flusher.pending} records of node {node.number} could not be sent")
        journal.close()

    async def _records(self) -> list[UsageRecord]:
        async with connect(self._valkey.url) as client:
            return await RedisLedger(client).records(0, FAR_MS)

    async def _judge(self, url: str) -> None:
        promises, outcome = self._promises, self.outcome
        records = await self._records()
        async with connect(url) as client:
            checks = [check async for check in RedisLedger(client).reconcile(0, FAR_MS)]
        found = broken(promises, records)
        differing = [difference for check in checks for difference in check.differences]
        outcome.acknowledged, outcome.refused = len(promises.kept), len(promises.refused)
        outcome.excused = len(promises.excused - set(map(key_of, records)))
        outcome.lost, outcome.doubled, outcome.differences = len(found[LOST]), len(found[DOUBLED]), len(differing)
        found["sums that are not those of the records"] = differing
        found["hours that could not be compared"] = [check for check in checks if check.state != COMPARED]
        if sum(check.records for check in checks) != len(records):
            found["totals that differ"] = [sum(check.records for check in checks), len(records)]
        outcome.problems += [f"{len(which)} {what}: {which[:5]}" for what, which in found.items() if which]


def broken(promises: Promises, records: Sequence[UsageRecord]) -> dict[str, list[Any]]:
    """Of each promise, what breaks it."""
    count = Counter(map(key_of, records))
    refused = count.keys() & promises.refused
    return {
        LOST: sorted(promises.kept - promises.excused - count.keys()),
        DOUBLED: sorted(key for key, times in count.items() if times > 1),
        "records whose writer was told that they could not be kept": sorted(refused),
        "records that nobody wrote": sorted(count.keys() - promises.kept - promises.unsaid - refused),
        "records that changed": [r.id for r in records if r != record_of(key_of(r), r.started_at_ns)],
    }


async def crash(seed: int, events: Sequence[str] | None = None) -> Outcome:
    """One run in a directory of its own, which stays when something is wrong with it."""
    directory = Path(tempfile.mkdtemp(prefix="faas-crash-"))
    outcome = await CrashRun(seed, directory, events).play()
    if outcome.problems:
        outcome.problems.append(f"see {directory}")
    else:
        shutil.rmtree(directory)
    return outcome
