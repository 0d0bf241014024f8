"""Stopping all processes of a sandbox and letting them go on: how a sandbox is parked.

Three ways, one contract. ``GroupFreezer`` writes the control group itself: 0.1 ms, no thread. ``AskedFreezer`` asks the
container engine: 20 ms, for a node that may not write its containers' groups. ``SignalFreezer`` is for processes
without a group: SIGSTOP to each, found by its parents.

Contract:
- ``freeze`` returns when every process has stopped, or when a later ``thaw`` has overtaken it: the last one wins.
- A ``freeze`` that fails or is cancelled leaves the sandbox running.
- ``thaw`` has happened when it returns None; otherwise when what it returns has been awaited.
- Both are idempotent. Both may raise ``OSError`` or ``EngineUnavailable`` when the sandbox has ended.
- What is frozen can be killed; ``release`` lets go of whatever stands in the way of that.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol

from faas.engines import proc
from faas.engines.freezer_file import FreezerFile
from faas.model.errors import EngineUnavailable

FREEZE_LIMIT_S = 2.0  # a process in an uninterruptible wait, for a dead disk say, does not stop
ASK_TRIES = 10  # a container engine gives up on processes that fork faster than it looks, after some ms
_ASK_AGAIN_S = 0.02
_LOOK_AGAIN_S, _LOOK_AGAIN_S_MAX = 0.0005, 0.02

DIRECT, API, SIGNAL = "direct", "api", "signal"


class StillRuns(EngineUnavailable):
    """The engine did not get all of a sandbox's processes to stand still this time, and has let them go on."""


class Freezer(Protocol):
    way: str

    async def freeze(self) -> None: ...

    def thaw(self) -> Awaitable[None] | None: ...

    def release(self) -> None: ...

    async def settled(self) -> None:
        """Return when nothing is under way."""


class Freezing(ABC):
    """``freeze`` and ``thaw`` of ``faas.ports.Parking``, for engines that have a freezer for each sandbox."""

    @abstractmethod
    def freezer_of(self, sandbox_id: str) -> Freezer:
        """Raises ``EngineUnavailable`` when there is no such sandbox."""

    async def freeze(self, sandbox_id: str) -> None:
        with translated(sandbox_id):
            await self.freezer_of(sandbox_id).freeze()

    def thaw(self, sandbox_id: str) -> Awaitable[None] | None:
        with translated(sandbox_id):
            return self.freezer_of(sandbox_id).thaw()


class GroupFreezer:
    """By the control group."""

    way = DIRECT

    def __init__(self, file: FreezerFile) -> None:
        self._file = file
        self._wanted = False

    async def freeze(self) -> None:
        self._wanted = True
        try:
            self._file.freeze()
            async with asyncio.timeout(FREEZE_LIMIT_S):
                for pause_s in _growing():
                    if not self._wanted or self._file.is_frozen():
                        return
                    await asyncio.sleep(pause_s)
        except BaseException:
            self.release()
            raise

    def thaw(self) -> None:
        self._wanted = False
        self._file.thaw()

    async def settled(self) -> None:
        """At once: neither takes the engine's time."""

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self.thaw()


class AskedFreezer:
    """By two calls that somebody else carries out, of which one at a time is under way."""

    way = API

    def __init__(
        self, pause: Callable[[], Coroutine[Any, Any, None]], resume: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """``resume`` of what runs must be no error. Both raise ``EngineUnavailable``, ``pause`` also ``StillRuns``."""
        self._pause = pause
        self._resume = resume
        self._wanted = False
        self._paused = False  # or may be
        self._settling: asyncio.Task[None] | None = None

    async def freeze(self) -> None:
        settling = self._towards(frozen=True)
        try:
            await asyncio.shield(settling)
        except asyncio.CancelledError:
            self.thaw()
            raise

    def thaw(self) -> Awaitable[None] | None:
        self._wanted = False
        if not self._paused and not self._busy():
            return None
        thawed = asyncio.shield(self._towards(frozen=False))
        thawed.add_done_callback(_heard)
        return thawed

    def release(self) -> None:
        """Nothing: an engine kills what it has paused."""

    async def settled(self) -> None:
        while self._settling is not None and not self._settling.done():
            await asyncio.wait([self._settling])

    def _busy(self) -> bool:
        return self._settling is not None and not self._settling.done()

    def _towards(self, *, frozen: bool) -> asyncio.Task[None]:
        self._wanted = frozen
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._settle())
            self._settling.add_done_callback(_heard)
        return self._settling

    async def _settle(self) -> None:
        while self._paused != self._wanted:
            if not self._wanted:
                await self._resume()
                self._paused = False
                continue
            self._paused = True
            try:
                await self._pause_again_and_again()
            except EngineUnavailable:
                self._wanted = False
                with contextlib.suppress(EngineUnavailable):  # then the next thaw asks again
                    await self._resume()
                    self._paused = False
                raise

    async def _pause_again_and_again(self) -> None:
        for tries_left in reversed(range(ASK_TRIES)):
            try:
                await self._pause()
            except StillRuns:
                if not self._wanted:
                    return  # a thaw has overtaken it
                if not tries_left:
                    raise
                await asyncio.sleep(_ASK_AGAIN_S)
            else:
                return


class SignalFreezer:
    """By SIGSTOP to process ``root`` and all its descendants, which must have no other way out than through ``root``.

    That holds for the first process of a pid namespace and for a subreaper. ``pidfd`` stands for ``root``.
    """

    way = SIGNAL

    def __init__(self, root: int, pidfd: int) -> None:
        seen = proc.look(root)
        self._root = root
        self._root_started = seen.started if seen is not None else -1
        self._root_pidfd = pidfd
        self._wanted = False
        self._known: set[tuple[int, int]] = set()  # (pid, when it started)
        self._stopped: dict[tuple[int, int], int] = {}  # pidfd of each that got the signal

    async def freeze(self) -> None:
        signal.pidfd_send_signal(self._root_pidfd, 0)  # still there?
        self._wanted = True
        try:
            async with asyncio.timeout(FREEZE_LIMIT_S):
                for pause_s in _growing():
                    if not self._wanted or not self._stop():
                        return
                    await asyncio.sleep(pause_s)
        except BaseException:
            self.release()
            raise

    def thaw(self) -> None:
        signal.pidfd_send_signal(self._root_pidfd, 0)
        self.release()

    async def settled(self) -> None:
        """At once: neither takes the engine's time."""

    def release(self) -> None:
        self._wanted = False
        self._known.clear()
        while self._stopped:
            _, pidfd = self._stopped.popitem()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)
            os.close(pidfd)

    def _stop(self) -> bool:
        """Stop what runs; False when nothing does and nobody is new, not even among the dead: nobody is left to fork.

        On the loop: a few files for the one process of a parked sandbox, and no time for others to multiply.
        """
        more = False
        for seen in proc.tree(self._root):
            if seen.pid == self._root and seen.started != self._root_started:
                raise ProcessLookupError
            key = (seen.pid, seen.started)
            more = more or seen.runs or key not in self._known
            self._known.add(key)
            if not seen.ended and key not in self._stopped:
                self._stop_one(seen)
        return more

    def _stop_one(self, seen: proc.Seen) -> None:
        try:
            pidfd = os.pidfd_open(seen.pid)
        except ProcessLookupError:
            return
        now = proc.look(seen.pid)
        if now is None or now.started != seen.started:  # the number is another's by now
            os.close(pidfd)
            return
        self._stopped[seen.pid, seen.started] = pidfd
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)


def _heard(future: asyncio.Future[None]) -> None:
    """Its error has reached whoever waits for it; that nobody does any more is no reason for a warning."""
    if not future.cancelled():
        future.exception()


def _growing() -> Iterator[float]:
    wait_s = _LOOK_AGAIN_S
    while True:
        yield wait_s
        wait_s = min(2 * wait_s, _LOOK_AGAIN_S_MAX)


@contextlib.contextmanager
def translated(sandbox_id: str) -> Iterator[None]:
    """The kernel's errors as ``EngineUnavailable``."""
    try:
        yield
    except TimeoutError:
        raise EngineUnavailable(
            f"the sandbox {sandbox_id} did not stop within {FREEZE_LIMIT_S:g} s: does a process of it wait for a disk?"
        ) from None
    except (FileNotFoundError, ProcessLookupError):
        raise EngineUnavailable(f"the sandbox {sandbox_id} has ended") from None
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise EngineUnavailable(f"the sandbox {sandbox_id} has ended") from None
        raise EngineUnavailable(f"the sandbox {sandbox_id} could not be stopped or resumed: {error}") from error
