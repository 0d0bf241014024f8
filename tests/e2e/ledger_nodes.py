"""The processes of a crash campaign, and what was promised by them: nodes with their journals, and their Valkey."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from faas.ports import Entry
from faas.stores.codec import Encoder, unpack
from faas.stores.segments import MAGIC, frame, packed_of, scan
from tests.contract.valkeys import ExternalValkey
from tests.e2e.ledger_writer import TOGETHER_MAX, Key, Life, key_of, live, record_of

FAKE_GAP = 10**6  # numbers of records that no writer wrote: a write that was torn

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["tests.e2e.ledger_writer"])


@dataclass
class Promises:
    """What the nodes said, by (node, life, number)."""

    kept: set[Key] = field(default_factory=set)  # acknowledged
    refused: set[Key] = field(default_factory=set)
    unsaid: set[Key] = field(default_factory=set)  # it died before it could say: may be there or not
    excused: set[Key] = field(default_factory=set)  # a server was wiped or replaced that alone still had them


class CrashNode:
    """A node that lives many lives on one journal."""

    def __init__(self, number: int, directory: Path, url: str, rng: random.Random, promises: Promises) -> None:
        self.number = number
        self.journal = directory / f"node-{number}" / "journal"
        self.life = 0
        self._url = url
        self._rng = rng
        self._promises = promises
        self._top = 0
        self._process: ForkServerProcess | None = None
        self._told = -1
        self._rest = b""

    def start(self) -> None:
        self.life += 1
        self._top = 0
        rng = self._rng
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        life = Life(
            self.number,
            self.life,
            rng.randrange(2**32),
            self.journal,
            self._url,
            segment_bytes_max=rng.choice((2_500, 20_000, 8 * 2**20)),
            batch_max=rng.choice((7, 50, 500)),
            interval_s=rng.choice((0.001, 0.01, 0.05)),
            sync_s=rng.choice((0.03, 0.2)),
        )
        reading, writing = _forks.Pipe(duplex=False)
        with reading, writing:
            self._process = _forks.Process(target=live, args=(life, writing), daemon=True)
            self._process.start()
            self._told = os.dup(reading.fileno())
        os.set_blocking(self._told, False)

    def hear(self) -> int:
        """Read what it said so far; how many records it acknowledged."""
        data = b""
        while self._told >= 0:
            try:
                more = os.read(self._told, 65536)
            except BlockingIOError:
                break
            if not more:
                break
            data += more
        *lines, self._rest = (self._rest + data).split(b"\n")
        count = 0
        for line in lines:
            word, first, length = line.split()
            keys = {(self.number, self.life, int(first) + n) for n in range(int(length))}
            self._top = int(first) + int(length) - 1
            if word == b"+":
                self._promises.kept |= keys
                count += len(keys)
            else:
                self._promises.refused |= keys
        return count

    def signal(self, number: signal.Signals) -> None:
        """Stop it, or let it go on."""
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """kill -9, then the last it said. Killing a dead one is no error."""
        if self._process is None:
            return
        died_by_itself = not self._process.is_alive()
        self._process.kill()
        self._process.join()
        self._process.close()
        self._process = None
        self.hear()
        os.close(self._told)
        self._told, self._rest = -1, b""
        assert not died_by_itself, f"node {self.number} died by itself in life {self.life}"
        after = range(self._top + 1, self._top + TOGETHER_MAX + 1)
        self._promises.unsaid |= {(self.number, self.life, n) for n in after}

    def tear(self, started_at_ns: int) -> None:
        """End the journal as a death in the middle of a write of several does: some whole entries, a part of one."""
        rng = self._rng
        last = max(self.journal.glob("*.log"), default=None)
        if last is None:
            return
        sequence = max((number for number, _, _ in scan(last, len(MAGIC))), default=int(last.stem) - 1)
        keys = [(self.number, self.life, FAKE_GAP + n) for n in range(rng.randint(1, 6))]
        encoder = Encoder()
        frames = [
            frame(sequence + n, encoder.pack(Entry(record_of(key, started_at_ns), {}))) for n, key in enumerate(keys, 1)
        ]
        torn = frames[-1][: rng.randrange(len(frames[-1]))]
        with last.open("ab") as file:
            file.write(b"".join(frames[:-1]) + torn)
        self._promises.unsaid.update(keys[:-1])

    def journalled(self) -> set[Key]:
        """What is in the journal. Of a node that is dead or stopped."""
        return {
            key_of(unpack(packed_of(framed))[0])
            for path in self.journal.glob("*.log")
            for _, _, framed in scan(path, len(MAGIC))
        }

    def said(self) -> str:
        path = self.journal.with_suffix(".said")
        return path.read_text() if path.exists() else ""


class CrashValkey(ExternalValkey):
    """A real server whose process is killed, whose disk fills up, loses its end, or is put back.

    Without ``syncs`` it leaves its disk to the kernel, and has always written what it answers for.
    """

    def __init__(self, directory: Path, *, knows_waitaof: bool = True, syncs: bool = True) -> None:
        super().__init__(directory)
        self._knows_waitaof = knows_waitaof
        self._syncs = syncs
        self._backup = directory.with_suffix(".backup")

    def _config(self) -> str:
        """Redis got the command with 7.2, and some who offer it as a service have renamed it."""
        words = super()._config() + ("" if self._knows_waitaof else 'rename-command WAITAOF ""\n')
        return words if self._syncs else words + "appendfsync no\n"

    async def kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        await self.stop()

    @property
    def newest(self) -> Path:
        """The file that is appended to."""
        return max(self.files.glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3]))

    def limit(self, room: int | None) -> None:
        """Let no file of it grow beyond ``room`` more bytes: the kernel's full disk; None = there is room again."""
        assert self.pid is not None
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        soft = hard if room is None else self.newest.stat().st_size + room
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def back_up(self) -> None:
        """Of a dead server."""
        shutil.rmtree(self._backup, ignore_errors=True)
        shutil.copytree(self.files, self._backup)

    def put_back(self) -> None:
        """The backup in place of what there is; nothing where there is none."""
        shutil.rmtree(self.files)
        if self._backup.exists():
            shutil.copytree(self._backup, self.files)
