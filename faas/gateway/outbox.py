"""Messages of many callers, stored in few steps.

Theory of operation. A step of the store costs the same for one message as for some hundreds: a round trip, a script,
and with a strict append-only file a write to disk. So while one step is on its way, what others want to send waits, and
goes together with the next; a caller who is alone waits for nobody. Whoever finds no step on its way takes the lead,
sends what waits with its own, and hands the lead on. So there is no task beside the callers, and nothing to close.

Contract. Each caller's messages are stored together or not at all, since a step is all or none. What fails fails for
all who were in the step. A leader that is cancelled leaves the others' messages to the next: the store knows what it
has by its id, and takes nothing twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from faas.model.message import SEND_MAX, Send

STEP_BYTES_MAX: Final = 1_000_000  # of bodies; a single caller's may be more


class _Waiting:
    __slots__ = ("reply", "sends", "size")

    def __init__(self, sends: Sequence[Send], reply: asyncio.Future[list[str] | None]) -> None:
        self.sends = sends
        self.reply = reply  # the ids; None: the lead is handed on
        self.size = sum(len(send.message.body) for send in sends)


class Outbox:
    """``send`` as ``MessageQueue`` has it, for callers that come at once."""

    def __init__(self, send: Callable[[Sequence[Send]], Awaitable[list[str]]]) -> None:
        self._send = send
        self._waiting: deque[_Waiting] = deque()
        self._led = False

    async def send(self, sends: Sequence[Send]) -> list[str]:
        """The ids under which they are known. Raises what the store raises."""
        if self._led:
            mine = _Waiting(sends, asyncio.get_running_loop().create_future())
            self._waiting.append(mine)
            try:
                ids = await mine.reply
            except asyncio.CancelledError:
                if _leads(mine.reply):
                    self._hand_on()
                raise
            if ids is not None:
                return ids
        self._led = True
        return await self._lead(sends)

    async def _lead(self, sends: Sequence[Send]) -> list[str]:
        others = self._join(sends)
        together = [*sends, *(send for each in others for send in each.sends)]
        try:
            ids = await self._send(together)
        except asyncio.CancelledError:
            self._waiting.extendleft(reversed(others))
            raise
        except Exception as error:
            for each in others:
                if not each.reply.done():
                    each.reply.set_exception(error)
            raise
        else:
            begin = len(sends)
            for each in others:
                end = begin + len(each.sends)
                if not each.reply.done():
                    each.reply.set_result(ids[begin:end])
                begin = end
            return ids[: len(sends)]
        finally:
            self._hand_on()

    def _join(self, sends: Sequence[Send]) -> list[_Waiting]:
        """Those who wait and fit into the same step, in the order they came."""
        count, size = len(sends), sum(len(send.message.body) for send in sends)
        joined = []
        while self._waiting:
            each = self._waiting[0]
            count, size = count + len(each.sends), size + each.size
            if count > SEND_MAX or size > STEP_BYTES_MAX:
                break
            joined.append(self._waiting.popleft())
        return joined

    def _hand_on(self) -> None:
        """To the first who still waits; if nobody does, the next who comes leads."""
        self._led = False
        while self._waiting and not self._led:
            first = self._waiting.popleft()
            if not first.reply.done():
                self._led = True
                first.reply.set_result(None)


def _leads(reply: asyncio.Future[list[str] | None]) -> bool:
    """Whether the lead was handed to it."""
    return reply.done() and not reply.cancelled() and reply.exception() is None and reply.result() is None
