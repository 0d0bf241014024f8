"""One connection between the node and a process in a sandbox, as the node sees it. No I/O.

Theory of operation
-------------------
A sandbox is a zygote and its instances; each dials the node and so has a connection of its own. The first frame,
HELLO, says which of the two it is and fixes the connection's *role*; from then on a *state* says what may be sent and
what may come::

    NEW --HELLO zygote--> ZYGOTE_GENERIC --INIT--> ZYGOTE_BINDING --READY--> ZYGOTE_BOUND --DRAIN--> DRAINING
                                                        `--ERROR (the import failed)-----------------> DRAINING
    NEW --HELLO instance--> INSTANCE_IDLE <--INVOKE / last RESULT, ERROR--> INSTANCE_BUSY
                                  `------------ DRAIN; ERROR of a final kind -------> DRAINING
    any --close, protocol error--> CLOSED

``_MAY_RECEIVE`` and ``_MAY_SEND`` are these arrows as tables; a frame that is not in its table is illegal: sent, it
raises ``LocalProtocolError`` and nothing changed; received, ``RemoteProtocolError`` and the connection is CLOSED.

Beyond the tables an instance connection knows its open invocations. Frames about any other invocation are illegal, so
whoever holds the channel can speak for the calls given to it and for no others. LOG is looser: it may come a little
late, hence the last few closed ids pass. The zygote's LOG may name any id: it forwards what its instances wrote to
descriptors 1 and 2. An ERROR of kind ``oom`` or ``exit`` says that the instance is about to end: it may be given
nothing more.

Contract with the caller
------------------------
* Feed every byte received to ``receive_data``, write every byte ``send`` returns, in order. Splits don't matter.
* After ``RemoteProtocolError`` handle its ``frames``, close the socket and kill the process.
* At end of stream call ``close``: it returns the invocations that will never be answered.

The buffer never holds more than one frame's ``FRAME_BYTES_MAX`` (``HELLO_BYTES_MAX`` before HELLO) plus the last piece
received.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final, cast

from faas.wire.errors import LocalProtocolError, RemoteProtocolError
from faas.wire.frames import (
    FRAME_BYTES_MAX,
    HEAD_BYTES,
    KINDS,
    Cancel,
    Chunk,
    Drain,
    Error,
    Exited,
    Fork,
    Frame,
    Hello,
    Init,
    Invoke,
    Kill,
    Log,
    Ready,
    Recall,
    Recalled,
    Result,
    Stream,
    encode,
)
from faas.wire.schema import FINAL_ERROR_KINDS, SMALL_BYTES_MAX, decode

CLOSED_IDS_KEPT: Final = 16
HELLO_BYTES_MAX: Final = SMALL_BYTES_MAX  # anyone in a sandbox may dial, as often as it likes


class Role(StrEnum):
    UNKNOWN = "unknown"
    ZYGOTE = "zygote"
    INSTANCE = "instance"


class State(StrEnum):
    NEW = "new"
    ZYGOTE_GENERIC = "zygote_generic"
    ZYGOTE_BINDING = "zygote_binding"
    ZYGOTE_BOUND = "zygote_bound"
    INSTANCE_IDLE = "instance_idle"
    INSTANCE_BUSY = "instance_busy"
    DRAINING = "draining"
    CLOSED = "closed"


_Table = dict[Role, dict[State, dict[type, State]]]

_MAY_RECEIVE: Final[_Table] = {
    Role.UNKNOWN: {State.NEW: {Hello: State.NEW}},  # the role in it decides
    Role.ZYGOTE: {
        State.ZYGOTE_BINDING: {
            Log: State.ZYGOTE_BINDING,
            Ready: State.ZYGOTE_BOUND,
            Error: State.DRAINING,
        },
        State.ZYGOTE_BOUND: {
            Log: State.ZYGOTE_BOUND,
            Exited: State.ZYGOTE_BOUND,
            Recalled: State.ZYGOTE_BOUND,
        },
        State.DRAINING: {
            Log: State.DRAINING,
            Exited: State.DRAINING,
            Recalled: State.DRAINING,
            Ready: State.DRAINING,
            Error: State.DRAINING,
        },
    },
    Role.INSTANCE: {
        State.INSTANCE_IDLE: {Log: State.INSTANCE_IDLE},
        State.INSTANCE_BUSY: {
            Log: State.INSTANCE_BUSY,
            Stream: State.INSTANCE_BUSY,
            Chunk: State.INSTANCE_BUSY,
            Result: State.INSTANCE_IDLE,  # stays busy while other invocations are open
            Error: State.INSTANCE_IDLE,
        },
        State.DRAINING: {
            Log: State.DRAINING,
            Stream: State.DRAINING,
            Chunk: State.DRAINING,
            Result: State.DRAINING,
            Error: State.DRAINING,
        },
    },
}

_MAY_SEND: Final[_Table] = {
    Role.UNKNOWN: {},
    Role.ZYGOTE: {
        State.ZYGOTE_GENERIC: {Init: State.ZYGOTE_BINDING, Drain: State.DRAINING},
        State.ZYGOTE_BINDING: {Fork: State.ZYGOTE_BINDING, Kill: State.ZYGOTE_BINDING, Drain: State.DRAINING},
        State.ZYGOTE_BOUND: {
            Fork: State.ZYGOTE_BOUND,
            Kill: State.ZYGOTE_BOUND,
            Recall: State.ZYGOTE_BOUND,
            Drain: State.DRAINING,
        },
        State.DRAINING: {Kill: State.DRAINING, Recall: State.DRAINING},
    },
    Role.INSTANCE: {
        State.INSTANCE_IDLE: {Invoke: State.INSTANCE_BUSY, Drain: State.DRAINING},
        State.INSTANCE_BUSY: {
            Invoke: State.INSTANCE_BUSY,
            Cancel: State.INSTANCE_BUSY,
            Drain: State.DRAINING,
        },
        State.DRAINING: {Cancel: State.DRAINING},
    },
}

_NOTHING: Final[dict[type, State]] = {}
_IDLE, _BUSY = State.INSTANCE_IDLE, State.INSTANCE_BUSY  # reading a member off its class costs more than a global
_RESULT_BEGINS: Final = bytes((0x90 + 1 + len(Result._fields), KINDS[Result]))  # msgpack: an array so long, its kind
_PEEKED_BYTES: Final = HEAD_BYTES + len(_RESULT_BEGINS)


class Connection:
    """See the module's theory of operation. ``role``, ``state``, ``hello``, ``open_ids`` and ``invoked`` (how many
    INVOKEs were sent) are to be read only.
    """

    __slots__ = ("_buffer", "_closed_ids", "_open", "_streaming", "hello", "invoked", "role", "state")

    def __init__(self) -> None:
        self.role = Role.UNKNOWN
        self.state = State.NEW
        self.hello: Hello | None = None
        self._buffer = bytearray()
        self.invoked = 0
        self._open: dict[str, int] = {}  # in the order they were sent; which one of ``invoked`` each is
        self._streaming: set[str] = set()
        self._closed_ids: deque[str] = deque(maxlen=CLOSED_IDS_KEPT)

    def __repr__(self) -> str:
        return f"<Connection {self.role} {self.state}, {len(self._open)} open>"

    @property
    def open_ids(self) -> tuple[str, ...]:
        """Invocations given out and not answered, in that order."""
        return tuple(self._open)

    def close(self) -> tuple[str, ...]:
        """The stream has ended, or is given up. Returns the invocations left unanswered, oldest first; idempotent."""
        unanswered = tuple(self._open)
        self.state = State.CLOSED
        self._open.clear()
        self._streaming.clear()
        self._buffer.clear()
        return unanswered

    def withdraw(self, begun: int, upto: int) -> tuple[str, ...]:
        """Of the first ``upto`` invocations sent, close those after the first ``begun``: they will not be answered.

        Which they are.
        """
        withdrawn = tuple(each for each, number in self._open.items() if begun < number <= upto)
        for each in withdrawn:
            del self._open[each]
        if withdrawn and not self._open and self.state is _BUSY:
            self.state = _IDLE
        return withdrawn

    # -- out ---------------------------------------------------------------------------------------------------------

    def send(self, frame: Frame) -> bytes:
        """The bytes to write. Raises ``LocalProtocolError``, and changes nothing, when ``frame`` is not legal now."""
        kind = type(frame)
        if kind is Invoke and (self.state is _IDLE or self.state is _BUSY):  # by far the most, so without the tables
            return self._invoke(cast("Invoke", frame))
        after = _MAY_SEND[self.role].get(self.state, _NOTHING).get(kind)
        if after is None:
            raise LocalProtocolError(f"{kind.__name__} may not be sent to {self!r}")
        if isinstance(frame, Cancel) and frame.invocation_id not in self._open:
            raise LocalProtocolError(f"invocation {frame.invocation_id} is not open on {self!r}")
        data = encode(frame)
        self.state = after
        return data

    def _invoke(self, frame: Invoke) -> bytes:
        invocation_id = frame.invocation_id
        if invocation_id in self._open:
            raise LocalProtocolError(f"invocation {invocation_id} is already open on {self!r}")
        data = encode(frame)
        self.invoked += 1
        self._open[invocation_id] = self.invoked
        self.state = _BUSY
        return data

    # -- in ----------------------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes) -> list[Frame]:
        """The frames that are complete with ``data``, checked and legal, in order.

        Raises ``RemoteProtocolError`` at the first that is not; its ``frames`` are the good ones before it.
        """
        frames: list[Frame] = []
        try:
            at = 0
            if self.state is _BUSY and not self._buffer and not self._streaming:
                at = self._results(data, frames)
                if at == len(data):
                    return frames
            if self.state is State.CLOSED:
                raise RemoteProtocolError("data after the end")
            self._parse(data[at:] if at else data, frames)
        except RemoteProtocolError as error:
            error.frames = frames
            self.close()
            raise
        return frames

    def _results(self, data: bytes, frames: list[Frame]) -> int:
        """By far the most come as whole RESULTs: what ``_parse`` does with these, in fewer steps. How far they go."""
        at, end, opened = 0, len(data), self._open
        while data[at + HEAD_BYTES : at + _PEEKED_BYTES] == _RESULT_BEGINS:
            size = int.from_bytes(data[at : at + HEAD_BYTES], "big")
            stop = at + HEAD_BYTES + size
            if stop > end or size > SMALL_BYTES_MAX:
                break
            frame = decode(data[at + HEAD_BYTES : stop])
            assert isinstance(frame, Result)
            invocation_id = frame.invocation_id
            if opened.pop(invocation_id, None) is None:
                raise RemoteProtocolError(f"the end of an invocation that is not open from {self!r}")
            self._closed_ids.append(invocation_id)
            frames.append(frame)
            at = stop
        if not opened:
            self.state = _IDLE
        return at

    def _parse(self, data: bytes, frames: list[Frame]) -> None:
        buffer = self._buffer
        source: bytes | bytearray = data
        if buffer:
            buffer += data
            source = buffer
        at, end = 0, len(source)
        while end - at >= HEAD_BYTES:
            size = int.from_bytes(source[at : at + HEAD_BYTES], "big")
            if size > HELLO_BYTES_MAX and (self.hello is None or size > FRAME_BYTES_MAX):
                size_max = HELLO_BYTES_MAX if self.hello is None else FRAME_BYTES_MAX
                raise RemoteProtocolError(f"a frame of {size} bytes; at most {size_max} are allowed")
            start = at + HEAD_BYTES
            stop = start + size
            if stop > end:
                break
            if size <= SMALL_BYTES_MAX:
                frame = decode(source[start:stop])
            else:  # the payload is copied by msgpack and not once more before
                with memoryview(source) as whole, whole[start:stop] as body:
                    frame = decode(body)
            self._received(frame)
            frames.append(frame)
            at = stop
        if source is buffer:
            del buffer[:at]
        elif at < end:
            buffer += data[at:]

    def _received(self, frame: Frame) -> None:
        kind = type(frame)
        after = _MAY_RECEIVE[self.role].get(self.state, _NOTHING).get(kind)
        if after is None:
            raise RemoteProtocolError(f"{kind.__name__} may not come from {self!r}")
        if isinstance(frame, (Result, Error)):
            after = self._ended(frame, after)
        elif isinstance(frame, Log):
            invocation_id = frame.invocation_id
            if (
                invocation_id
                and invocation_id not in self._open
                and invocation_id not in self._closed_ids
                and self.role is Role.INSTANCE
            ):
                raise RemoteProtocolError(f"a log line for a foreign invocation from {self!r}")
        elif isinstance(frame, Hello):
            self.hello = frame
            self.role = Role(frame.role)
            after = State.ZYGOTE_GENERIC if self.role is Role.ZYGOTE else State.INSTANCE_IDLE
        elif isinstance(frame, Stream):
            if frame.invocation_id not in self._open or frame.invocation_id in self._streaming:
                raise RemoteProtocolError(f"a stream that cannot begin from {self!r}")
            self._streaming.add(frame.invocation_id)
        elif isinstance(frame, Chunk) and frame.invocation_id not in self._streaming:
            raise RemoteProtocolError(f"a chunk of no stream from {self!r}")
        self.state = after

    def _ended(self, frame: Result | Error, after: State) -> State:
        """Book the end of an invocation (or of a zygote's INIT); the state that follows."""
        invocation_id = frame.invocation_id
        if self.role is Role.ZYGOTE:
            if invocation_id:
                raise RemoteProtocolError(f"an invocation's end from {self!r}")
            return after
        if invocation_id not in self._open:
            raise RemoteProtocolError(f"the end of an invocation that is not open from {self!r}")
        if self._streaming and invocation_id in self._streaming:
            if isinstance(frame, Result) and frame.payload:
                raise RemoteProtocolError(f"a payload after a stream from {self!r}")
            self._streaming.remove(invocation_id)
        del self._open[invocation_id]
        self._closed_ids.append(invocation_id)
        if isinstance(frame, Error) and frame.kind in FINAL_ERROR_KINDS:
            return State.DRAINING
        if self._open and after is State.INSTANCE_IDLE:
            return State.INSTANCE_BUSY
        return after
