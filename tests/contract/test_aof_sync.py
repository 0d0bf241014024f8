"""What is written to the embedded Valkey is on disk when ``AofSync.sync`` returns, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from faas.model.errors import Conflict, StoreUnavailable
from faas.model.message import Ack
from faas.stores.aof_sync import AofSync
from faas.stores.bills import RedisBills
from faas.stores.ledger import RedisLedger
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client, connect
from tests.bill_samples import sample_closing
from tests.contract.test_queues import ORDERS, numbers, send, take
from tests.e2e.ledger_nodes import CrashValkey
from tests.usage_samples import make_record, numbered

pytestmark = pytest.mark.anyio
_fdatasync = os.fdatasync


class Disk:
    """In place of ``os.fdatasync``: notes what is safe, and fails or hangs where told."""

    def __init__(self) -> None:
        self.begun = 0
        self.synced: list[Path] = []
        self.safe: dict[Path, int] = {}  # bytes that outlive a power cut
        self.errors: list[int] = []  # of the next calls
        self.goes_on = threading.Event()
        self.goes_on.set()

    def fdatasync(self, fd: int) -> None:
        path, size = Path(f"/proc/self/fd/{fd}").readlink(), os.fstat(fd).st_size
        self.begun += 1
        assert self.goes_on.wait(20)
        self.synced.append(path)
        if self.errors:
            raise OSError(self.errors.pop(0), "as the test wants it")
        _fdatasync(fd)
        self.safe[path] = size


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "fdatasync", disk.fdatasync)
    yield disk
    disk.goes_on.set()


@pytest.fixture
async def server() -> AsyncIterator[CrashValkey]:
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    server = CrashValkey(directory / "valkey", syncs=False)
    await server.start()
    yield server
    await server.stop()
    shutil.rmtree(directory)


@pytest.fixture
async def client(server: CrashValkey) -> AsyncIterator[Client]:
    async with connect(server.url) as client:
        yield client


@pytest.fixture
def aof(server: CrashValkey, client: Client, disk: Disk) -> AofSync:
    return AofSync(server.files, client)


async def rewritten(client: Client) -> None:
    with suppress(StoreUnavailable):
        await client.bgrewriteaof()
    while (await client.info("persistence"))["aof_rewrite_in_progress"]:
        await asyncio.sleep(0.005)


async def until_it_syncs(aof: AofSync) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await aof.sync()
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


async def test_it_syncs_what_changed_and_nothing_else(
    server: CrashValkey, client: Client, aof: AofSync, disk: Disk
) -> None:
    await client.set("a", 1)
    await aof.sync()
    assert disk.synced == [server.newest]
    assert disk.safe[server.newest] == server.newest.stat().st_size > 0
    await aof.sync()
    assert len(disk.synced) == 1
    await client.set("a", 2)
    await aof.sync()
    assert disk.synced == [server.newest] * 2


async def test_whoever_comes_during_a_sync_shares_the_next(client: Client, aof: AofSync, disk: Disk) -> None:
    await client.set("a", 1)
    disk.goes_on.clear()
    first = asyncio.create_task(aof.sync())
    while not disk.begun:
        await asyncio.sleep(0.005)
    await client.set("a", 2)
    others = [asyncio.create_task(aof.sync()) for _ in range(20)]
    await asyncio.sleep(0.01)
    others.pop().cancel()
    assert not any(task.done() for task in [first, *others])
    disk.goes_on.set()
    await asyncio.gather(first, *others)
    assert len(disk.synced) == 2


async def test_a_sync_covers_a_file_that_a_rewrite_began(
    server: CrashValkey, client: Client, aof: AofSync, disk: Disk
) -> None:
    await client.set("a", 1)
    await aof.sync()
    before = server.newest
    await rewritten(client)
    await client.set("a", 2)
    await aof.sync()
    assert disk.synced == [before, server.newest]
    assert before != server.newest


async def test_rewrites_and_syncs_get_along(server: CrashValkey, client: Client, aof: AofSync, disk: Disk) -> None:
    """What was said to be safe is there after a power cut: files as long as their last sync, and no longer."""
    done = 0

    async def write() -> None:
        nonlocal done
        for number in range(1, 151):
            await client.set(f"n{number}", number)
            await aof.sync()
            done = number

    async def rewrite() -> None:
        while done < 150:
            await rewritten(client)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(rewrite())
    await client.set("unsynced", 1)
    await server.kill()
    for path in server.files.glob("*.incr.aof"):
        os.truncate(path, disk.safe.get(path, 0))
    await server.start()
    assert await client.dbsize() == 150


async def test_a_file_whose_sync_failed_is_not_trusted_again(
    server: CrashValkey, client: Client, aof: AofSync, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    await client.set("a", 1)
    bad = server.newest
    disk.errors = [errno.EIO]
    for task in [asyncio.create_task(aof.sync()) for _ in range(3)]:
        with pytest.raises(StoreUnavailable, match=r"could not be synced to disk.*as the test wants it"):
            await task
    with pytest.raises(StoreUnavailable, match=rf"a sync of {bad.name} failed before"):
        await aof.sync()
    assert disk.synced == [bad]
    assert "not on disk" in caplog.text
    caring = asyncio.create_task(aof.run())
    await until_it_syncs(aof)
    assert server.newest != bad
    assert not bad.exists()
    caring.cancel()


async def test_what_the_server_could_not_write_is_not_said_to_be_safe(
    server: CrashValkey, client: Client, aof: AofSync
) -> None:
    await aof.sync()
    server.limit(100)
    assert await client.set("a", "b" * 1000), "the server answers for the first write that fails"
    with pytest.raises(StoreUnavailable, match=r"cannot write to .*disk full"):
        await aof.sync()
    server.limit(None)
    await until_it_syncs(aof)
    await server.kill()
    await server.start()
    assert await client.get("a") == b"b" * 1000


async def test_a_disk_that_hangs_and_a_directory_that_is_gone_are_said(
    server: CrashValkey, client: Client, aof: AofSync, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faas.stores.aof_sync.WAIT_S", 0.05)
    disk.goes_on.clear()
    await client.set("a", 1)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"did not take what it was given within 0\.05 s"):
            await aof.sync()
    disk.goes_on.set()
    monkeypatch.setattr("faas.stores.aof_sync.WAIT_S", 20)
    await until_it_syncs(aof)
    aside = server.files.with_name("aside")
    server.files.rename(aside)
    with pytest.raises(StoreUnavailable, match="there is no append-only file"):
        await aof.sync()
    aside.rename(server.files)
    await aof.sync()
    await server.stop()
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await aof.sync()


async def test_without_anybody_who_waits_it_syncs_all_the_same(
    client: Client, aof: AofSync, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faas.stores.aof_sync.EVERY_S", 0.01)
    caring = asyncio.create_task(aof.run())
    async with asyncio.timeout(20):
        for number in range(3):
            await client.set("a", number)
            while len(disk.synced) <= number:
                await asyncio.sleep(0.005)
    caring.cancel()


async def test_a_send_waits_for_the_disk_and_nothing_else_does(client: Client, aof: AofSync, disk: Disk) -> None:
    queues = RedisQueues(client, synced=aof.sync)
    disk.goes_on.clear()
    sending = asyncio.create_task(queues.send([send(1)]))
    while not (found := (await take(queues)).deliveries):
        await asyncio.sleep(0.005)
    await queues.renew(ORDERS, [found[0].receipt], 10_000)
    await queues.settle(ORDERS, [Ack(found[0].receipt)])
    await queues.tick("t", 1, send(2))
    assert not sending.done()
    disk.goes_on.set()
    assert await sending == [f"{1:032x}"]
    disk.errors = [errno.ENOSPC]
    with pytest.raises(StoreUnavailable, match="could not be synced"):
        await queues.send([send(3)])


async def test_usage_and_bills_wait_for_it_too(client: Client, aof: AofSync, disk: Disk) -> None:
    ledger = RedisLedger(client, synced=aof.sync)
    await ledger.apply("j@0", numbered([make_record(1)]))
    assert await ledger.durable()
    assert await RedisBills(client, synced=aof.sync).close(sample_closing("2026-01"), 0)
    assert len(disk.synced) == 2
    await client.delete("faas:journals")
    with pytest.raises(Conflict):
        await ledger.durable()
    await ledger.apply("j@0", numbered([make_record(1)]))
    disk.errors = [errno.EIO]
    with pytest.raises(StoreUnavailable):
        await ledger.durable()


@pytest.mark.parametrize("power", [True, False])
async def test_kill_9_loses_nothing_that_was_answered_for(
    server: CrashValkey, client: Client, aof: AofSync, disk: Disk, power: bool
) -> None:
    """And, with the power, no message that was: files are cut to what was synced. A settled one may be back then."""
    queues = RedisQueues(client, synced=aof.sync)
    sent: set[int] = set()
    taken: set[int] = set()
    settled: set[int] = set()

    async def use(first: int) -> None:
        for number in range(first, first + 10_000):
            await queues.send([send(number)])
            sent.add(number)
            batch = (await take(queues, 2)).deliveries if number % 3 == 0 else ()
            taken.update(numbers(batch))
            await queues.settle(ORDERS, [Ack(each.receipt) for each in batch])
            settled.update(numbers(batch))

    for life in range(1, 6):
        before = len(sent)
        using = [asyncio.create_task(use((life * 10 + who) * 10_000)) for who in range(4)]
        while len(sent) < before + 30:
            await asyncio.sleep(0)
        await server.kill()
        with suppress(StoreUnavailable):
            await asyncio.gather(*using)
        await asyncio.wait(using)
        if power:
            os.truncate(server.newest, disk.safe[server.newest])
        await server.start()
        ready = set(numbers(await queues.peek(ORDERS, 1000)))
        assert sent <= ready | taken
        assert power or not settled & ready
