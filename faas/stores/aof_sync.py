"""The embedded Valkey's append-only file, synced to disk by the node.

Theory of operation
-------------------
The server writes to its file before it answers, and leaves the disk to the kernel (``appendfsync no``). So whatever
kills its process takes nothing that was answered for; with ``everysec`` it may put the write off for up to two seconds
while a sync runs, and answers all the same (``flushAppendOnlyFile`` in its ``aof.c``). What a power cut would take is
for the node to sync: once a second by itself (``run``), and at once for a caller who waits (``sync``). Nobody else
waits, where ``appendfsync always`` has the whole server wait for its disk.

*Group commit*: whoever comes while a sync runs shares the next, which begins when that one has ended. So each caller's
sync began after its call, and no more than one runs.

*A write that failed* (a full disk) is in no file. The server answers for the first of these all the same, so it is
asked before each sync; it tries again by itself and refuses writes until that has succeeded.

*A sync that failed* is final for its file: the kernel may have dropped what it could not write, and a second attempt
would say that all is well (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020). So everybody is
refused until the server has written all it has into a new file, for which ``run`` asks.

A file that is gone needs no sync: a rewrite removes it only after the file that takes its place is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from faas.model.errors import StoreUnavailable
from faas.stores.redis_client import Client, ask
from faas.stores.segments import sync_directory

log = logging.getLogger("faas.stores.aof_sync")

EVERY_S: Final = 1.0  # what a power cut may take of what nobody waited for
AGAIN_S: Final = 5.0  # between two tries to have a damaged file replaced
WAIT_S: Final = 5.0  # then the disk counts as stuck

_State = tuple[int, int, int]  # of a file: inode, bytes, when it was changed


class AofSync:
    """``directory``: the server's ``appendonlydir``; ``client``: of that server."""

    def __init__(self, directory: Path, client: Client) -> None:
        self._directory = directory
        self._client = client
        self._thread = ThreadPoolExecutor(1, "aof-sync")  # of its own: a deployment may hold the common ones for long
        self._running: asyncio.Task[str] | None = None
        self._next: asyncio.Task[str] | None = None  # whom those who come now wait for
        self._synced: dict[str, _State] = {}  # file name -> as of its last sync
        self._damaged: dict[str, int] = {}  # file name -> inode; a sync of it failed
        self._trouble = ""

    async def sync(self) -> None:
        """Return when all that the server has answered for is on disk. Raises ``StoreUnavailable``."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._after(self._running))
        try:
            async with asyncio.timeout(WAIT_S):
                trouble = await asyncio.shield(self._next)  # it is the others' as well
        except TimeoutError:
            trouble = f"The disk of {self._directory} did not take what it was given within {WAIT_S:g} s."
        if trouble:
            raise StoreUnavailable(trouble)

    async def run(self) -> None:
        """Sync once a second what was written, beside the node, and have a damaged file replaced. Until cancelled."""
        while True:
            with contextlib.suppress(StoreUnavailable):  # logged where it happened
                await self.sync()
            if self._damaged:
                with contextlib.suppress(StoreUnavailable):  # it is away, or at it already
                    await ask(self._client.bgrewriteaof())
            await asyncio.sleep(AGAIN_S if self._damaged else EVERY_S)

    async def _after(self, before: asyncio.Task[str] | None) -> str:
        """One sync; what is wrong, or nothing."""
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        trouble = await self._try()
        if trouble and trouble != self._trouble:
            log.error("what is written to the store is not on disk: %s", trouble)
        elif self._trouble and not trouble:
            log.info("what is written to the store is on disk again")
        self._trouble = trouble
        return trouble

    async def _try(self) -> str:
        try:
            found = await ask(self._client.info("persistence"))
            if not found["aof_enabled"] or found["aof_last_write_status"] != "ok":
                return f"The embedded Valkey cannot write to {self._directory}: see its log. Is the disk full?"
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sync_changed)
        except StoreUnavailable as error:
            return error.message
        except OSError as error:
            return f"{self._directory} could not be synced to disk: {error}. Check the disk."
        return ""

    # -- in the thread ----------------------------------------------------------------------------------------------

    def _sync_changed(self) -> None:
        """Raises ``OSError``."""
        names = sorted(path.name for path in self._directory.glob("*.incr.aof"))
        if not names:
            raise FileNotFoundError("there is no append-only file")
        self._synced = {name: state for name, state in self._synced.items() if name in names}
        self._damaged = {name: inode for name, inode in self._damaged.items() if self._inode(name) == inode}
        if self._damaged:
            raise OSError(f"a sync of {', '.join(self._damaged)} failed before")
        new = [name for name in names if self._sync_file(name)]
        if new:
            self._sync_directories(new)

    def _sync_file(self, name: str) -> bool:
        """Whether it is a new one."""
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(fd)
            state = found.st_ino, found.st_size, found.st_mtime_ns
            known = self._synced.get(name)
            if state == known:
                return False
            try:
                os.fdatasync(fd)
            except OSError:
                self._damaged[name] = found.st_ino
                raise
        finally:
            os.close(fd)
        self._synced[name] = state
        return known is None or known[0] != found.st_ino

    def _sync_directories(self, new: list[str]) -> None:
        try:
            sync_directory(self._directory)
            sync_directory(self._directory.parent)
        except OSError:
            for name in new:  # not before they can be found again
                del self._synced[name]
            raise

    def _inode(self, name: str) -> int | None:
        with contextlib.suppress(FileNotFoundError):
            return (self._directory / name).stat().st_ino
        return None
