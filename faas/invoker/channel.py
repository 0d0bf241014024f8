"""One connection from a process inside a sandbox: bytes to frames, frames to its session."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from faas.metering.meter import SharedTime
from faas.wire import Connection, Frame, LocalProtocolError, RemoteProtocolError, Result

if TYPE_CHECKING:
    from faas.invoker.session import Session

log = logging.getLogger(__name__)


class Channel(asyncio.Protocol):
    """Speaks for one zygote or one instance. A frame that breaks the protocol closes the channel, nothing else."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._answered, self._together = session.answered, session.together
        self.connection = Connection()
        self.instance = ""  # "" for the zygote and for who has not said hello
        self.shared = SharedTime()
        self.brief = False  # its last call was one to wait awake for
        self.reading = True
        self.unanswered: tuple[str, ...] = ()  # when it has closed, oldest first
        self._transport: asyncio.Transport | None = None
        self._held: list[bytes] | None = None  # what is sent while several frames are seen to, to leave in one write

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it
        self.session.connected(self)

    def data_received(self, data: bytes) -> None:
        broken: RemoteProtocolError | None = None
        try:
            frames = self.connection.receive_data(data)
        except RemoteProtocolError as error:
            broken = error
            frames = error.frames
        if len(frames) > 1:
            self._several(frames)
        elif frames:
            self._one(frames[0])
        if broken is not None:
            log.warning("sandbox %s: closing a channel that broke the protocol: %s", self.session.id, broken)
            self.session.broken(self, str(broken))
            self.close()

    def _one(self, frame: Frame) -> None:
        if type(frame) is Result:
            self._answered(self, frame)
        else:
            self.session.received(self, frame)

    def _several(self, frames: list[Frame]) -> None:
        """The instance has what to do next before those that it answered hear of it."""
        with self._together():
            self._held = []
            try:
                for frame in frames:
                    self._one(frame)
            finally:
                held, self._held = b"".join(self._held), None
                if held and self._transport is not None:
                    self._transport.write(held)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        self._transport = None
        self.unanswered = self.connection.close()
        self.session.disconnected(self)

    def send(self, frame: Frame) -> bool:
        """Write a frame; False on a channel that is gone or going, whose end is being handled already."""
        if self._transport is None or self._transport.is_closing():
            return False
        try:
            data = self.connection.send(frame)
        except LocalProtocolError as error:
            log.debug("sandbox %s: not sent: %s", self.session.id, error)
            return False
        if self._held is None:
            self._transport.write(data)
        else:
            self._held.append(data)
        return True

    def pause_reading(self) -> None:
        if self._transport is not None and self.reading and not self._transport.is_closing():
            self.reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self.reading and not self._transport.is_closing():
            self.reading = True
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()
