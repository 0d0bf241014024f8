"""A pump: takes messages from a foreign system, sends them durably to a queue of ours, and only then acknowledges.

Theory of operation
-------------------
fetch -> send -> done, in this order, a batch at a time. Whatever dies in between, the foreign system hands the batch
out again: a crash costs a duplicate at most, which the queue's dedup ids take out where the foreign system tells its
messages apart. While our own store is away, a batch is sent again and again, under the same ids; nothing more is
fetched. While our queue holds ``DEPTH_MAX`` messages nothing is fetched either: the backlog stays where it is.

A batch, a window, retries and dead letters are the queue's: a pump knows nothing of handlers, so a message that no
handler can take does not hold up the foreign system.

Where only one node may fetch (order, or a system that tells everybody), the pump holds a lease, and fetches only while
its own clock says that the lease cannot have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import StrEnum
from typing import Final, TypeVar

from faas.model.errors import FaasError, PayloadTooLarge, StoreUnavailable
from faas.model.message import BODY_BYTES_MAX, QueueName, Send
from faas.ports.events import MessageQueue
from faas.ports.leases import Leases
from faas.triggers.connectors.source import Foreign, Source, SourceFailed

log = logging.getLogger("faas.triggers.connectors")

T = TypeVar("T")

BATCH: Final = 100
DEPTH_MAX: Final = 1000
SEND_BYTES_MAX: Final = 8 * 2**20
FULL_WAIT_S: Final = 0.25
PAUSE_MIN_S: Final = 0.2
PAUSE_MAX_S: Final = 30.0
STORE_PAUSE_MAX_S: Final = 2.0
STOP_WAIT_S: Final = 5.0  # for a batch that is being sent
LEASE_MS: Final = 10_000


class PumpState(StrEnum):
    CONNECTING = "connecting"
    RUNNING = "running"
    FULL = "full"  # our queue is: the foreign system keeps the rest
    STANDBY = "standby"  # another node fetches
    FAILING = "failing"  # it is tried again
    STOPPED = "stopped"


class Pump:
    """One source into one queue, until ``stop``."""

    def __init__(
        self,
        queue: QueueName,
        source: Source,
        queues: MessageQueue,
        *,
        label: str,
        lease: OwnLease | None = None,
    ) -> None:
        self._queue = queue
        self._source = source
        self._queues = queues
        self._lease = lease
        self._idle = asyncio.Event()  # no batch is between fetch and done
        self._idle.set()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._failures = 0
        self.label = label
        self.state = PumpState.CONNECTING
        self.error = ""  # why it fails
        self.moved = 0  # messages, by this node since the pump was started
        self.refused = 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"pump {self.label}")

    async def stop(self) -> None:
        """Fetch no more; a batch under way gets a moment to be sent and acknowledged."""
        self._stopping = True
        task, self._task = self._task, None
        if task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_WAIT_S):
                await self._idle.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        self.state = PumpState.STOPPED

    # -- life -------------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopping:
            self.state = PumpState.CONNECTING
            try:
                await self._session()
                continue
            except (SourceFailed, FaasError) as error:
                self._failed(str(error))
            except Exception as error:
                if not self._failures:
                    log.exception("connector %s: an error that nobody foresaw", self.label)
                self._failed(f"{type(error).__name__}: {error}")
            await asyncio.sleep(_pause_s(self._failures, PAUSE_MAX_S))

    async def _session(self) -> None:
        """Until it fails, or the lease is lost."""
        if self._lease is None:
            await self._pumping()
            return
        self.state = PumpState.STANDBY
        await self._lease.take()
        self.state = PumpState.CONNECTING
        pumping = asyncio.create_task(self._pumping())
        keeping = asyncio.create_task(self._lease.keep())
        try:
            await asyncio.wait([pumping, keeping], return_when=asyncio.FIRST_COMPLETED)
            if pumping.done():
                pumping.result()
        finally:
            await _cancelled(pumping, keeping)
            await self._lease.release()

    async def _pumping(self) -> None:
        try:
            await self._source.open()
            while not self._stopping:
                await self._room()
                found = await self._source.fetch(BATCH)
                self._works()
                if found:
                    self._idle.clear()
                    await self._move(found)
                    self._idle.set()
        finally:
            self._idle.set()
            await self._source.close()

    def _works(self) -> None:
        if self._failures:
            log.info("connector %s works again", self.label)
        self._failures, self.error, self.state = 0, "", PumpState.RUNNING

    def _failed(self, error: str) -> None:
        self._failures += 1
        self.state, self.error = PumpState.FAILING, error
        if self._failures == 1:
            log.warning("connector %s: %s; it is tried again, at least every %d s", self.label, error, PAUSE_MAX_S)

    # -- messages ---------------------------------------------------------------------------------------------------

    async def _room(self) -> None:
        """Wait until our queue holds fewer than ``DEPTH_MAX``."""
        while True:
            state = await self._patiently(lambda: self._queues.state(self._queue))
            if state is None or state.depth < DEPTH_MAX:
                return
            self.state = PumpState.FULL
            await asyncio.sleep(FULL_WAIT_S)

    async def _move(self, found: Sequence[Foreign]) -> None:
        for part in _parts(found):
            taken = await self._sent(part)
            if taken:
                await self._source.done(taken)
                self.moved += len(taken)

    async def _sent(self, part: Sequence[Foreign]) -> Sequence[Foreign]:
        """Those that are stored with us now. What can't be is refused, and does not keep the others from it."""
        try:
            if (size := max(len(each.message.body) for each in part)) > BODY_BYTES_MAX:
                raise PayloadTooLarge(f"its {size:,} bytes are more than a message may have, {BODY_BYTES_MAX:,}")
            await self._patiently(lambda: self._queues.send([Send(self._queue, each.message) for each in part]))
        except FaasError as error:
            if len(part) > 1:
                return [foreign for each in part for foreign in await self._sent([each])]
            self.refused += 1
            attributes = ", ".join(f"{key}={value[:80]}" for key, value in part[0].message.attributes.items())
            log.error("connector %s: a message stays where it is: %s (%s)", self.label, error, attributes[:400])
            await self._source.refuse(part[0])
            return []
        return part

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask our store until it answers. A message that is sent again keeps its id, so it is stored once."""
        tries = 0
        while True:
            try:
                answer = await ask()
            except StoreUnavailable as error:
                tries += 1
                self.state, self.error = PumpState.FAILING, error.message
                if tries == 1:
                    log.warning("connector %s waits for the store: %s", self.label, error.message)
                await asyncio.sleep(_pause_s(tries, STORE_PAUSE_MAX_S))
            else:
                if tries:
                    self.state, self.error = PumpState.RUNNING, ""
                return answer


class OwnLease:
    """This node's side of a lease: by its own clock it ends no later than by the store's."""

    def __init__(self, leases: Leases, name: str, node: str, *, ttl_ms: int = LEASE_MS) -> None:
        self._leases = leases
        self._name = name
        self._node = node
        self._ttl_ms = ttl_ms
        self._until_s = 0.0

    async def take(self) -> None:
        """Returns when it is ours. Raises ``StoreUnavailable``."""
        while not await self._hold():  # noqa: ASYNC110 - what is waited for happens on another node
            await asyncio.sleep(self._ttl_ms / 3000)

    async def keep(self) -> None:
        """Renew it; returns when it may be another's."""
        while True:
            await asyncio.sleep(self._ttl_ms / 3000)
            try:
                async with asyncio.timeout_at(self._until_s):
                    while not await self._renewed():  # noqa: ASYNC110 - the store is away
                        await asyncio.sleep(PAUSE_MIN_S)
            except (TimeoutError, _Lost):
                return

    async def release(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # then it ends by itself
            await self._leases.release(self._name, self._node)

    async def _renewed(self) -> bool:
        try:
            if not await self._hold():
                raise _Lost
        except StoreUnavailable:
            return False
        return True

    async def _hold(self) -> bool:
        asked_s = asyncio.get_running_loop().time()
        held = await self._leases.hold(self._name, self._node, self._ttl_ms)
        if held:
            self._until_s = asked_s + self._ttl_ms / 1000
        return held


class _Lost(Exception):
    """The lease is somebody else's."""


def _parts(found: Sequence[Foreign]) -> Iterator[Sequence[Foreign]]:
    """In order, each part small enough for one step in the store; what is too large for it is alone."""
    part: list[Foreign] = []
    size = 0
    for foreign in found:
        size += len(foreign.message.body)
        if part and size > SEND_BYTES_MAX:
            yield part
            part, size = [], len(foreign.message.body)
        part.append(foreign)
    if part:
        yield part


def _pause_s(failures: int, most_s: float) -> float:
    """Grows twofold, with half of it at random so that nodes do not come all at once."""
    whole = min(most_s, PAUSE_MIN_S * 2.0 ** min(failures - 1, 20))
    return whole * random.uniform(0.5, 1.0)


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
