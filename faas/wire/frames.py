"""The frames of protocol 1, and how they become bytes. ``schema`` is the way back.

A frame on the wire is a 32-bit big-endian length and as many bytes of one msgpack array ``[kind, field...]``. In
memory it is a ``NamedTuple`` with the fields in wire order. The payload is the last field of each kind that has one,
so a large one is joined on, not packed, and copied once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypedDict

import msgpack  # type: ignore[import-untyped]

from faas.wire.errors import LocalProtocolError

PROTOCOL: Final = 1
HEAD_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024

Headers = tuple[tuple[bytes, bytes], ...]


class InitConfig(TypedDict):
    """What a zygote is told about the function it becomes."""

    namespace: str
    function: str
    version: int
    arn: str
    entry: str  # module name
    handler: str  # "" = handler, else app, else main
    code: str  # directory, as seen inside the sandbox
    layers: list[str]
    env: dict[str, str]
    memory_mb: int
    timeout_ms: int
    concurrency: int
    log_group: str


class Hello(NamedTuple):
    """First frame of every connection."""

    protocol: int
    role: str  # zygote | instance
    instance_id: str  # "" for a zygote
    pid: int
    info: Mapping[str, str]


class Init(NamedTuple):
    """Become this function: set the environment, import the module. Answered by READY or ERROR."""

    config: Mapping[str, Any]  # InitConfig, and optional keys that a runtime may not know


class Fork(NamedTuple):
    """Make these instances; each dials by itself. May follow INIT at once; without effect if that fails."""

    instance_ids: tuple[str, ...]


class Ready(NamedTuple):
    init_ns: int
    info: Mapping[str, str]


class Http(NamedTuple):
    """The HTTP trigger's request, part of INVOKE. ``path`` is decoded and below the function."""

    method: str
    path: str
    raw_path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    source_ip: str
    protocol: str


class Invoke(NamedTuple):
    invocation_id: str
    deadline_ns: int  # Unix time
    trigger: str
    attempt: int
    content_type: str
    trace_parent: str
    http: Http | None
    payload: bytes


class Cancel(NamedTuple):
    invocation_id: str


class Kill(NamedTuple):
    """To the zygote: SIGKILL that instance and all it left behind; EXITED follows."""

    instance_id: str


class Recall(NamedTuple):
    """To the zygote: let that instance begin none of the INVOKEs it was sent before this, as far as it has not.

    ``upto`` is how many those are, since its HELLO. Answered by RECALLED, or by EXITED.
    """

    instance_id: str
    upto: int


class Drain(NamedTuple):
    """Finish what runs, take nothing new, end."""


class Result(NamedTuple):
    """Ends an invocation. After STREAM the payload is empty, and status and headers are those of STREAM.

    ``busy_ns`` is how long it kept the instance busy, from its receipt to this; 0 = not known.
    """

    invocation_id: str
    status: int
    headers: Headers
    busy_ns: int
    cpu_ns: int
    peak_bytes: int
    payload: bytes


class Error(NamedTuple):
    """Ends an invocation, or with id "" the zygote's INIT."""

    invocation_id: str
    kind: str  # ERROR_KINDS
    error_type: str
    message: str
    traceback: str
    cpu_ns: int
    peak_bytes: int


class Log(NamedTuple):
    invocation_id: str  # "" outside an invocation
    stream: str  # stdout | stderr | name of a logging level
    time_ns: int  # Unix time
    text: str


class Chunk(NamedTuple):
    invocation_id: str
    payload: bytes


class Stream(NamedTuple):
    """A streamed response begins: CHUNKs follow, RESULT or ERROR ends it."""

    invocation_id: str
    status: int
    headers: Headers


class Exited(NamedTuple):
    """The zygote reaped that instance and killed what it left behind. One of ``exit_code`` and ``signal`` is None."""

    instance_id: str
    exit_code: int | None
    signal: int | None
    peak_bytes: int
    cpu_ns: int


class Recalled(NamedTuple):
    """Of the INVOKEs that RECALL was about, the first ``begun`` are answered, or will be; the others never begin."""

    instance_id: str
    begun: int


Frame = (
    Hello
    | Init
    | Fork
    | Ready
    | Invoke
    | Cancel
    | Kill
    | Drain
    | Result
    | Error
    | Log
    | Chunk
    | Stream
    | Exited
    | Recall
    | Recalled
)

KINDS: Final[dict[type[Any], int]] = {
    Hello: 1,
    Init: 2,
    Fork: 3,
    Ready: 4,
    Invoke: 8,
    Cancel: 9,
    Kill: 10,
    Drain: 11,
    Recall: 12,
    Result: 16,
    Error: 17,
    Log: 18,
    Chunk: 19,
    Stream: 20,
    Exited: 21,
    Recalled: 22,
}


# -- out ------------------------------------------------------------------------------------------------------------

_pack: Final = msgpack.Packer().pack
_EMPTY_BIN: Final = b"\xc4\x00"
_LARGE_BYTES: Final = 64 * 1024


def encode(frame: Frame) -> bytes:
    """The frame as it goes on the wire. Raises ``LocalProtocolError`` when it is larger than a frame may be."""
    kind = KINDS[type(frame)]
    if isinstance(frame, (Invoke, Result, Chunk)) and len(frame.payload) > _LARGE_BYTES:
        payload = frame.payload
        meta: bytes = _pack((kind, *frame[:-1], b""))[: -len(_EMPTY_BIN)]
        size = len(meta) + 5 + len(payload)
        _fits(size)
        return b"".join((struct.pack(">I", size), meta, struct.pack(">BI", 0xC6, len(payload)), payload))
    body: bytes = _pack((kind, *frame))
    _fits(len(body))
    return len(body).to_bytes(4, "big") + body


def _fits(size: int) -> None:
    if size > FRAME_BYTES_MAX:
        raise LocalProtocolError(f"a frame of {size} bytes; at most {FRAME_BYTES_MAX} are allowed")
