"""Real deaths between a real journal and a real Valkey: the sums equal exactly what was acknowledged."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from faas.stores.flusher import Flusher
from faas.stores.journal import Journal
from faas.stores.ledger import RedisLedger
from faas.stores.redis_client import connect
from tests.contract.valkeys import ExternalValkey
from tests.usage_samples import make_entry

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

WRITER = """
import asyncio, os, sys
from pathlib import Path
from faas.stores.flusher import Flusher
from faas.stores.journal import Journal
from faas.stores.ledger import RedisLedger
from faas.stores.redis_client import connect
from tests.usage_samples import make_entry

async def main():
    journal = Journal(Path(sys.argv[1]), segment_bytes_max=20_000)
    flusher = Flusher(journal, RedisLedger(connect(sys.argv[2])), interval_s=0.002, batch_max=50, sync_s=0.05)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(flusher.run())
        while True:
            flusher.record(make_entry(int(sys.argv[3]) + journal.last_sequence, billed_ms=3))
            os.write(1, b"%d\\n" % journal.last_sequence)
            await asyncio.sleep(0)

asyncio.run(main())
"""


@pytest.fixture
async def server() -> AsyncIterator[ExternalValkey]:
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    valkey = ExternalValkey(directory)
    await valkey.start()
    yield valkey
    await valkey.stop()
    shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def flushing(journal: Journal, url: str, sync_s: float = 0.05) -> AsyncIterator[Flusher]:
    async with connect(url) as client:
        flusher = Flusher(
            journal, RedisLedger(client), interval_s=0.002, sync_s=sync_s, batch_max=40, backoff_max_s=0.1
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flusher.run())
            yield flusher
            await flusher.close(wait_s=30)
        assert flusher.pending == 0


async def counted(url: str) -> tuple[int, int, int]:
    """Invocations and billed ms by the sums, invocations by the raw records (no id twice)."""
    async with connect(url) as client:
        ledger = RedisLedger(client)
        rows = await ledger.usage(0, 2**52, [], {})
        ids = [record.id for record in await ledger.records(0, 2**52)]
    assert len(ids) == len(set(ids))
    sums = rows[0].sums if rows else {"invocations": 0, "billed_ms": 0}
    return sums["invocations"], sums["billed_ms"], len(ids)


async def test_a_server_killed_again_and_again_in_the_middle_of_flushing(
    server: ExternalValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the deaths meet it while it is still loading."""
    monkeypatch.setattr("faas.stores.embedded.RESTART_WAIT_MAX_S", 0.1)
    rng = random.Random(20)
    journal = Journal(tmp_path, segment_bytes_max=20_000)
    count = 0
    async with asyncio.TaskGroup() as tasks:
        watch = tasks.create_task(server.supervise())
        async with flushing(journal, server.url) as flusher:
            for _ in range(12):
                for _ in range(rng.randint(5, 60)):
                    for _ in range(rng.randint(1, 40)):
                        count += 1
                        flusher.record(make_entry(count, billed_ms=3))
                    await asyncio.sleep(0.001)
                pid = server.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                while server.pid == pid:
                    await asyncio.sleep(0.005)
            while flusher.pending:  # it stands again
                await asyncio.sleep(0.005)
        assert await counted(server.url) == (count, 3 * count, count)
        watch.cancel()
    assert journal.first_kept > 1, "and settled entries were trimmed meanwhile"
    journal.close()


async def test_a_server_that_lost_the_end_of_its_file_gets_it_again(server: ExternalValkey, tmp_path: Path) -> None:
    """A power failure of the server: what was not synced is gone. Nothing of it was settled, so all of it is here."""
    journal = Journal(tmp_path, segment_bytes_max=20_000)
    async with flushing(journal, server.url, sync_s=3600) as flusher:
        for number in range(1, 2001):
            flusher.record(make_entry(number, billed_ms=3))
            if number % 50 == 0:
                await asyncio.sleep(0.002)
        while flusher.pending:
            await asyncio.sleep(0.005)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await server.stop()
        (file,) = server.socket.parents[1].glob("appendonlydir/*.incr.aof")
        os.truncate(file, file.stat().st_size * 2 // 3)
        await server.start()
        assert 0 < (await counted(server.url))[0] < 2000
        flusher.record(make_entry(2001, billed_ms=3))
    assert await counted(server.url) == (2001, 6003, 2001)
    assert journal.first_kept > 1
    journal.close()


async def test_a_wiped_server_gets_what_is_still_journalled(server: ExternalValkey, tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes_max=20_000)
    client = connect(server.url)
    async with flushing(journal, server.url) as flusher:
        for number in range(1, 501):
            flusher.record(make_entry(number, billed_ms=3))
        while journal.first_kept == 1:
            await asyncio.sleep(0.005)
        await client.flushall()
        kept = journal.first_kept
        flusher.record(make_entry(501, billed_ms=3))
    await client.aclose()
    expected = 501 - kept + 1
    assert await counted(server.url) == (expected, 3 * expected, expected)
    journal.close()


async def test_nodes_killed_in_the_middle_of_flushing(server: ExternalValkey, tmp_path: Path) -> None:
    """Two journals, each through six lives of its node; then a last life that only flushes."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    rng = random.Random(3)

    async def lives(directory: Path, base: int) -> int:
        for _ in range(6):
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                WRITER,
                str(directory),
                server.url,
                str(base),
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
            assert process.stdout is not None
            lines = [await process.stdout.readline() for _ in range(rng.randint(1, 600))]
            process.kill()
            lines += (await process.stdout.read()).splitlines()
            await process.wait()
            last = int(lines[-1])
        journal = Journal(directory)
        assert last <= journal.last_sequence <= last + 1
        async with flushing(journal, server.url):
            pass
        journal.close()
        return journal.last_sequence

    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(lives(tmp_path / "a", 0))
        second = tasks.create_task(lives(tmp_path / "b", 10**6))
    total = first.result() + second.result()
    assert await counted(server.url) == (total, 3 * total, total)
