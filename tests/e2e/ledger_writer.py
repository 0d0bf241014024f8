"""A node as far as its money goes, in a process that is there to be killed: records, a journal, the flusher.

It says on a pipe what its callers would have been told, after it is true: ``+ FIRST COUNT`` for records that were
journalled with one write, ``- FIRST COUNT`` for those that could not be. Now and then its disk is full in the middle of
a write, and its clock goes backwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from faas.model.usage import UsageRecord
from faas.ports import Entry
from faas.stores.flusher import Flusher
from faas.stores.journal import Journal
from faas.stores.ledger import DAY_MS, RedisLedger
from faas.stores.redis_client import connect
from tests.usage_samples import HOUR_MS, make_record

TOGETHER = (1, 1, 1, 2, 3, 8, 30)  # records of one write
TOGETHER_MAX = max(TOGETHER)
KEEP_MS = 60 * DAY_MS
PAUSES_S = (0.0, 0.0, 0.001, 0.004)
FULL_CHANCE = 0.01
CLOCK_CHANCE = 0.01
BACK_MS_MAX = 5 * HOUR_MS

Key = tuple[int, int, int]  # node, life, number: what an id says


@dataclass(frozen=True)
class Life:
    """One life of a node, between two deaths."""

    node: int
    number: int
    seed: int
    journal: Path
    url: str
    segment_bytes_max: int
    batch_max: int
    interval_s: float
    sync_s: float


def record_of(key: Key, started_at_ns: int) -> UsageRecord:
    """All of it follows from the key and the time, so that whoever finds it can tell whether it is whole."""
    node, life, number = key
    return make_record(
        id=f"{started_at_ns // 10**6:012x}{node:04x}{life:04x}{number:012x}-1",
        node=f"node-{node}",
        function=f"f{number % 3}",
        namespace=("default", "acme")[number % 2],
        status=("ok", "timeout", "platform_error")[number % 5 % 3],
        started_at_ns=started_at_ns,
        billed_ms=1 + number * 7 % 101,
        run_ns=(1 + number * 1_000_003) % 2**42,
        cpu_ns=(1 + number * 7_919) % 2**40,
        bytes_out=number % 10_007,
    )


def key_of(record: UsageRecord) -> Key:
    return int(record.id[12:16], 16), int(record.id[16:20], 16), int(record.id[20:32], 16)


def live(life: Life, told: Connection) -> None:
    """The whole life; only a signal ends it."""
    logging.basicConfig(filename=life.journal.with_suffix(".said"), level=logging.WARNING)
    logging.raiseExceptions = False  # its disk is full as well
    asyncio.run(_live(life, told.fileno()))


async def _live(life: Life, told: int) -> None:
    rng = random.Random(life.seed)
    journal = Journal(life.journal, segment_bytes_max=life.segment_bytes_max)
    flusher = Flusher(
        journal,
        RedisLedger(connect(life.url), keep_ms=KEEP_MS),
        interval_s=life.interval_s,
        batch_max=life.batch_max,
        sync_s=life.sync_s,
        backoff_max_s=0.2,
    )
    number, back_ns = 0, 0
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flusher.run())
        while True:
            if rng.random() < CLOCK_CHANCE:
                back_ns = rng.randrange(BACK_MS_MAX) * 10**6
            count = rng.choice(TOGETHER)
            keys = [(life.node, life.number, n) for n in range(number + 1, number + count + 1)]
            entries = [Entry(record_of(key, time.time_ns() - back_ns), {}) for key in keys]
            room = rng.randrange(150 * count) if rng.random() < FULL_CHANCE else None
            try:
                with _full_disk(life.journal, room) if room is not None else contextlib.nullcontext():
                    flusher.record(*entries)
            except OSError:
                os.write(told, b"- %d %d\n" % (number + 1, count))
            else:
                os.write(told, b"+ %d %d\n" % (number + 1, count))
            number += count
            await asyncio.sleep(rng.choice(PAUSES_S))


@contextmanager
def _full_disk(journal: Path, room: int) -> Iterator[None]:
    """For no file may become longer than the journal's newest is, and ``room`` bytes: the kernel's own full disk."""
    size = max(journal.glob("*.log")).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
