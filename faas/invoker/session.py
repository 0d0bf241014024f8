"""One sandbox as the node sees it: its socket, its zygote's control channel and a channel per instance.

Theory of operation. The session turns what arrives on the channels into pool events. An instance has ended when its
channel is closed *and* its zygote has said how it ended: the two come over different sockets in either order, and
what the instance wrote before it died must be read first. Each waits a moment for the other.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from faas.invoker.channel import Channel
from faas.model.errors import FunctionFailed, InstanceCrashed
from faas.pool.messages import (
    Cause,
    InitFailed,
    InstanceDown,
    InstanceUp,
    Recalled,
    SandboxLost,
    SandboxReady,
    SandboxUp,
)
from faas.wire import Chunk, Error, Exited, Frame, Hello, Kill, Log, Ready, Recall, Result, Stream
from faas.wire import Recalled as RecalledFrame

log = logging.getLogger(__name__)

CHANNELS_MAX = 1024
WORD_WAIT_S = 1.0  # after a channel closed: how long the zygote has to say how its instance ended
DRAIN_WAIT_S = 0.2  # after the zygote said so: how long the channel has to deliver what is left


class Owner(Protocol):
    """What a session needs of the invoker. ``channels`` are those of all instances on the node, by instance id."""

    channels: dict[str, Channel]

    def apply(
        self, event: SandboxUp | SandboxReady | SandboxLost | InitFailed | InstanceUp | InstanceDown | Recalled
    ) -> None: ...

    def answered(self, channel: Channel, frame: Result | Error | Chunk | Stream) -> None: ...

    def together(self) -> AbstractContextManager[None]:
        """Frames that came in one read are seen to in here."""

    def logged(self, session: Session, frame: Log) -> None: ...

    def oom_kills(self, sandbox: str) -> int: ...


class Session:
    """Made before the sandbox is booted (``listen``), closed when it is removed."""

    def __init__(self, sandbox: str, directory: Path, owner: Owner) -> None:
        self.id = sandbox
        self.directory = directory
        self.key = ""  # the function version it is bound to
        self.bound_ns = 0
        self.booted = asyncio.Event()
        self.dialled = asyncio.Event()  # by its zygote; or it is closed
        self.initialised = False  # told whose it is
        self.waiting: tuple[str, ...] = ()  # instances to fork as soon as it has been told
        self.control: Channel | None = None
        self.closed = False
        self.answered, self.together = owner.answered, owner.together
        self._owner = owner
        self._channels = owner.channels
        self._server: asyncio.Server | None = None
        self._connections: set[Channel] = set()
        self._expected: set[str] = set()
        self._exits: dict[str, Exited] = {}
        self._recalls: dict[str, int] = {}  # by instance: how many INVOKEs it had been sent when they were asked back
        self._unanswered: dict[str, tuple[str, ...]] = {}  # by instances whose channel has closed
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._oom_seen = 0

    async def listen(self) -> None:
        """Create the socket directory, for this sandbox alone, and listen in it."""
        self.directory.mkdir(mode=0o711)
        self.directory.chmod(0o711)
        path = self.directory / "node.sock"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Channel(self), str(path), backlog=CHANNELS_MAX)
        path.chmod(0o666)

    def close(self) -> None:
        """Stop listening and cut every channel; safe to call twice."""
        if self.closed:
            return
        self.closed = True
        self.booted.set()
        self.dialled.set()
        if self._server is not None:
            self._server.close()
        for channel in list(self._connections):
            self._channels.pop(channel.instance, None)
            channel.close()
        for timer in self._timers.values():
            timer.cancel()
        for path in (self.directory / "node.sock", self.directory):
            _remove(path)

    def expect(self, instances: tuple[str, ...]) -> None:
        """These instances have been asked for: whoever names another id is turned away."""
        self._expected.update(instances)

    # -- channels ---------------------------------------------------------------------------------------------------

    def connected(self, channel: Channel) -> None:
        self._connections.add(channel)
        if self.closed or len(self._connections) > CHANNELS_MAX:
            channel.close()

    def received(self, channel: Channel, frame: Frame) -> None:
        """Any frame but RESULT, which its channel hands to ``answered`` itself."""
        if type(frame) is Log:
            self._owner.logged(self, frame)
        elif type(frame) is Error and channel is self.control:
            self._owner.apply(InitFailed(self.id, _init_error(frame)))
        elif type(frame) in (Error, Chunk, Stream):
            self.answered(channel, frame)  # type: ignore[arg-type]
        elif type(frame) is Hello:
            self._greeted(channel, frame)
        elif type(frame) is Ready:
            self._owner.apply(SandboxReady(self.id, frame.info.get("recall") == "1"))
        elif type(frame) is Exited:
            self._exited(frame)
        elif type(frame) is RecalledFrame:
            self._recalled(frame)

    def _greeted(self, channel: Channel, hello: Hello) -> None:
        if hello.role == "zygote":
            if self.control is not None:
                log.warning("sandbox %s: a second process claims to be the zygote; turned away", self.id)
                channel.close()
                return
            self.control = channel
            self.dialled.set()
            self._owner.apply(SandboxUp(self.id))
        elif hello.instance_id in self._expected:
            self._expected.discard(hello.instance_id)
            channel.instance = hello.instance_id
            self._channels[hello.instance_id] = channel
            self._owner.apply(InstanceUp(hello.instance_id))
        else:
            log.warning("sandbox %s: unknown instance %r turned away", self.id, hello.instance_id[:80])
            channel.close()

    def broken(self, channel: Channel, reason: str) -> None:
        """The channel sent nonsense: whatever it speaks for can't be trusted any more."""
        if channel is self.control:
            self._down(Cause.LOST, f"its zygote broke the protocol: {reason}")
        elif channel.instance:
            self._kill(channel.instance)

    def disconnected(self, channel: Channel) -> None:
        self._connections.discard(channel)
        if self.closed:
            return
        if channel is self.control:
            self._down(Cause.LOST, "its first process ended")
        elif channel.instance:
            del self._channels[channel.instance]
            self._unanswered[channel.instance] = channel.unanswered
            if channel.instance in self._exits:
                self._ended(channel.instance)
            else:
                self._later(WORD_WAIT_S, channel.instance)

    def has_exited(self, instance: str) -> bool:
        """The zygote has said so, though the channel may still hold what the instance wrote last."""
        return instance in self._exits

    # -- ends -------------------------------------------------------------------------------------------------------

    def _exited(self, frame: Exited) -> None:
        self._exits[frame.instance_id] = frame
        channel = self._channels.get(frame.instance_id)
        if channel is not None and channel.connection.open_ids:
            self._later(DRAIN_WAIT_S, frame.instance_id)
        else:
            self._expected.discard(frame.instance_id)
            self._ended(frame.instance_id)

    def _later(self, seconds: float, instance: str) -> None:
        loop = asyncio.get_running_loop()
        self._timers[instance] = loop.call_later(seconds, self._ended, instance)

    def _ended(self, instance: str) -> None:
        timer = self._timers.pop(instance, None)
        if timer is not None:
            timer.cancel()
        self._recalls.pop(instance, None)
        frame = self._exits.pop(instance, None)
        if frame is None:
            self._kill(instance)  # it let go of its channel, or lost it, and may live on
        channel = self._channels.get(instance)
        unanswered = self._unanswered.pop(instance, ()) if channel is None else channel.connection.open_ids
        cause, text = self._why(frame)
        # It may have begun the oldest of them, and the next only after having answered that.
        self._owner.apply(InstanceDown(instance, cause, text, unanswered[1:]))
        if channel is not None:
            self._channels.pop(instance)
            channel.instance = ""
            channel.close()

    def recall(self, instance: str) -> None:
        """Ask for the calls back that the instance was sent and has not begun."""
        channel = self._channels.get(instance)
        if channel is not None and self.control is not None:
            self._recalls[instance] = upto = channel.connection.invoked
            self.control.send(Recall(instance, upto))

    def _recalled(self, frame: RecalledFrame) -> None:
        channel = self._channels.get(frame.instance_id)
        upto = self._recalls.pop(frame.instance_id, 0)
        if channel is not None:
            self._owner.apply(Recalled(frame.instance_id, channel.connection.withdraw(frame.begun, upto)))

    def _kill(self, instance: str) -> None:
        if self.control is not None:
            self.control.send(Kill(instance))

    def _why(self, frame: Exited | None) -> tuple[Cause, str]:
        if frame is None:
            return Cause.LOST, "lost"
        if frame.signal == signal.SIGKILL and self._oom_counted():
            return Cause.OOM, "oom"
        if frame.signal is not None:
            return Cause.EXIT, f"signal:{_signal_name(frame.signal)}"
        return Cause.EXIT, f"code:{frame.exit_code}"

    def _oom_counted(self) -> bool:
        """Whether the kernel has killed for memory here since last asked."""
        seen, self._oom_seen = self._oom_seen, self._owner.oom_kills(self.id)
        return self._oom_seen > seen

    def _down(self, cause: Cause, reason: str) -> None:
        if self._oom_counted():
            cause = Cause.OOM
        self._owner.apply(SandboxLost(self.id, cause, reason))


def _init_error(frame: Error) -> FunctionFailed | InstanceCrashed:
    if frame.kind == "oom":
        return InstanceCrashed("loading the function needed more than its memory; raise `memory`", "oom")
    return FunctionFailed(frame.error_type, frame.message, frame.traceback)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _remove(path: Path) -> None:
    remove: Callable[[], None] = path.rmdir if path.is_dir() else path.unlink
    try:
        remove()
    except OSError as error:
        if path.exists():
            log.warning("could not remove %s: %s", path, error)
