"""From bytes to frames: what a frame must look like to be believed.

``decode`` accepts exactly what the tables here say: the type of every field, its length, its range. What it hands out
needs no second look by the node.

Why the limits are where they are. The peer is hostile code. A length is checked before its bytes are waited for.
msgpack spends up to 64 bytes of memory per byte received (an empty map costs one byte), so a frame beyond
``SMALL_BYTES_MAX`` may only be big because of its payload or its texts: containers are counted while they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]

from faas.wire.errors import RemoteProtocolError
from faas.wire.frames import (
    PROTOCOL,
    Cancel,
    Chunk,
    Drain,
    Error,
    Exited,
    Fork,
    Frame,
    Hello,
    Http,
    Init,
    Invoke,
    Kill,
    Log,
    Ready,
    Recall,
    Recalled,
    Result,
    Stream,
)

SMALL_BYTES_MAX: Final = 64 * 1024
ID_CHARS: Final = 32  # an invocation id: 32 lower-case hex digits
INSTANCE_ID_CHARS_MAX: Final = 64
INFO_ENTRIES_MAX: Final = 16
INFO_CHARS_MAX: Final = 1024
NAME_CHARS_MAX: Final = 256
LOG_CHARS_MAX: Final = 16 * 1024
LOG_STREAM_CHARS_MAX: Final = 32
MESSAGE_CHARS_MAX: Final = 16 * 1024
TRACEBACK_CHARS_MAX: Final = 64 * 1024
HEADERS_MAX: Final = 100
HEADER_NAME_BYTES_MAX: Final = 256
HEADER_VALUE_BYTES_MAX: Final = 8 * 1024
FORKS_MAX: Final = 256
CONTAINERS_MAX: Final = 256  # arrays and maps in one frame that is not small
ARRAY_ITEMS_MAX: Final = 512
MAP_ENTRIES_MAX: Final = 1024
INT_MAX: Final = 2**63 - 1
ERROR_KINDS: Final = frozenset({"bad_event", "function", "not_serialisable", "too_large", "oom", "exit"})
FINAL_ERROR_KINDS: Final = frozenset({"oom", "exit"})  # the instance ends itself after saying so


def _refuse(what: str) -> RemoteProtocolError:
    return RemoteProtocolError(what)


def _texts(*pairs: tuple[str, int]) -> None:
    for text, chars_max in pairs:
        if len(text) > chars_max:
            raise _refuse(f"a text of {len(text)} characters where {chars_max} are allowed")


def _counts(*values: int) -> None:
    for value in values:
        if not 0 <= value <= INT_MAX:
            raise _refuse(f"{value} where a count is wanted")


def _invocation_id(text: str) -> None:
    if len(text) != ID_CHARS or text.strip("0123456789abcdef"):
        raise _refuse("an invocation id is 32 lower-case hex digits")


def _instance_id(text: str) -> None:
    if not 0 < len(text) <= INSTANCE_ID_CHARS_MAX:
        raise _refuse(f"an instance id has 1 to {INSTANCE_ID_CHARS_MAX} characters")


def _info(info: Mapping[Any, Any]) -> None:
    if len(info) > INFO_ENTRIES_MAX:
        raise _refuse(f"info with {len(info)} entries")
    for key, value in info.items():
        if type(key) is not str or type(value) is not str:
            raise _refuse("info maps texts to texts")
        _texts((key, NAME_CHARS_MAX), (value, INFO_CHARS_MAX))


_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"  # RFC 9110 token, lower case as in HTTP/2
_VALUE: Final = bytes(c for c in range(256) if c == 9 or (c >= 32 and c != 127))  # RFC 9110 field-value

# Most answers carry these, so they are not looked through byte by byte.
_USUAL_NAMES: Final = frozenset({b"content-type", b"cache-control", b"location"})
_USUAL_VALUES: Final = frozenset({b"application/json", b"text/plain; charset=utf-8", b"application/octet-stream"})


def _headers(headers: tuple[Any, ...]) -> None:
    if len(headers) > HEADERS_MAX:
        raise _refuse(f"{len(headers)} headers; at most {HEADERS_MAX} are allowed")
    for pair in headers:
        if type(pair) is not tuple or len(pair) != 2:
            raise _refuse("a header is a pair")
        name, value = pair
        if type(name) is not bytes or type(value) is not bytes:
            raise _refuse("a header is two byte strings")
        if name not in _USUAL_NAMES and (not 0 < len(name) <= HEADER_NAME_BYTES_MAX or name.translate(None, _TOKEN)):
            raise _refuse("a header name is a lower-case token")
        if value not in _USUAL_VALUES and (len(value) > HEADER_VALUE_BYTES_MAX or value.translate(None, _VALUE)):
            raise _refuse("a header value is too long or has a control character")


def _status(status: int) -> None:
    if not 200 <= status <= 599:
        raise _refuse(f"status {status}; a final status is 200 to 599")


def _hello(f: tuple[Any, ...]) -> Hello:
    frame = Hello(*f[1:])
    if frame.protocol != PROTOCOL:
        raise _refuse(f"the sandbox speaks protocol {frame.protocol}, this node speaks {PROTOCOL}; rebuild its image")
    if frame.role == "instance":
        _instance_id(frame.instance_id)
    elif frame.role != "zygote" or frame.instance_id:
        raise _refuse("a role is zygote, with no instance id, or instance")
    _counts(frame.pid)
    _info(frame.info)
    return frame


def _init(f: tuple[Any, ...]) -> Init:
    if any(type(key) is not str for key in f[1]):
        raise _refuse("the configuration maps texts to values")
    return Init(f[1])


def _fork(f: tuple[Any, ...]) -> Fork:
    ids = f[1]
    if not 0 < len(ids) <= FORKS_MAX or any(type(each) is not str for each in ids):
        raise _refuse(f"fork takes 1 to {FORKS_MAX} instance ids")
    for each in ids:
        _instance_id(each)
    return Fork(ids)


def _ready(f: tuple[Any, ...]) -> Ready:
    _counts(f[1])
    _info(f[2])
    return Ready(f[1], f[2])


_HTTP_TYPES: Final = (str, str, str, str, tuple, str, str)


def _invoke(f: tuple[Any, ...]) -> Invoke:
    _, invocation_id, deadline_ns, trigger, attempt, content_type, trace_parent, http, payload = f
    _invocation_id(invocation_id)
    _counts(deadline_ns, attempt)
    if http is not None:
        if tuple(map(type, http)) != _HTTP_TYPES:
            raise _refuse("http is method, path, raw path, query, headers, source address, protocol")
        http = Http(*http)
        if any(type(pair) is not tuple or tuple(map(type, pair)) != (str, str) for pair in http.headers):
            raise _refuse("a request header is a pair of texts")
    return Invoke(invocation_id, deadline_ns, trigger, attempt, content_type, trace_parent, http, payload)


def _cancel(f: tuple[Any, ...]) -> Cancel:
    _invocation_id(f[1])
    return Cancel(f[1])


def _kill(f: tuple[Any, ...]) -> Kill:
    _instance_id(f[1])
    return Kill(f[1])


def _recall(f: tuple[Any, ...]) -> Recall:
    _instance_id(f[1])
    _counts(f[2])
    return Recall(f[1], f[2])


def _drain(f: tuple[Any, ...]) -> Drain:  # noqa: ARG001 - one shape for all
    return Drain()


def _result(f: tuple[Any, ...]) -> Result:
    _, invocation_id, status, headers, busy_ns, cpu_ns, peak_bytes, _ = f
    if len(invocation_id) != ID_CHARS or invocation_id.strip("0123456789abcdef") or not 200 <= status <= 599:
        _invocation_id(invocation_id)
        _status(status)
    _headers(headers)
    if not (0 <= busy_ns <= INT_MAX and 0 <= cpu_ns <= INT_MAX and 0 <= peak_bytes <= INT_MAX):
        raise _refuse("what was used is a count")
    return tuple.__new__(Result, f[1:])  # as Result(*f[1:]) at half the cost


def _error(f: tuple[Any, ...]) -> Error:
    frame = Error(*f[1:])
    if frame.invocation_id:
        _invocation_id(frame.invocation_id)
    if frame.kind not in ERROR_KINDS:
        raise _refuse(f"no such kind of error: {frame.kind[:40]!r}")
    _texts(
        (frame.error_type, NAME_CHARS_MAX),
        (frame.message, MESSAGE_CHARS_MAX),
        (frame.traceback, TRACEBACK_CHARS_MAX),
    )
    _counts(frame.cpu_ns, frame.peak_bytes)
    return frame


def _log(f: tuple[Any, ...]) -> Log:
    _, invocation_id, stream, time_ns, text = f
    if invocation_id:
        _invocation_id(invocation_id)
    if not 0 < len(stream) <= LOG_STREAM_CHARS_MAX or not stream.isprintable():
        raise _refuse("a log stream has a short printable name")
    _counts(time_ns)
    _texts((text, LOG_CHARS_MAX))
    if "\n" in text:
        raise _refuse("a log frame is one line")
    return Log(invocation_id, stream, time_ns, text)


def _chunk(f: tuple[Any, ...]) -> Chunk:
    _invocation_id(f[1])
    return Chunk(f[1], f[2])


def _stream(f: tuple[Any, ...]) -> Stream:
    _invocation_id(f[1])
    _status(f[2])
    _headers(f[3])
    return Stream(f[1], f[2], f[3])


def _exited(f: tuple[Any, ...]) -> Exited:
    frame = Exited(*f[1:])
    _instance_id(frame.instance_id)
    if not (0 <= (frame.exit_code or 0) <= 255 and 0 <= (frame.signal or 0) <= 64):
        raise _refuse("an exit code is 0 to 255, a signal 0 to 64")
    _counts(frame.peak_bytes, frame.cpu_ns)
    return frame


def _recalled(f: tuple[Any, ...]) -> Recalled:
    _instance_id(f[1])
    _counts(f[2])
    return Recalled(f[1], f[2])


_RESULT: Final = 16
_RESULT_TYPES: Final = (int, str, int, tuple, int, int, int, bytes)
_NONE: Final = type(None)
_Types = tuple[type, ...]
_SCHEMA: Final[dict[int, tuple[frozenset[_Types], Callable[[tuple[Any, ...]], Frame]]]] = {
    1: (frozenset({(int, int, str, str, int, dict)}), _hello),
    2: (frozenset({(int, dict)}), _init),
    3: (frozenset({(int, tuple)}), _fork),
    4: (frozenset({(int, int, dict)}), _ready),
    8: (frozenset((int, str, int, str, int, str, str, http, bytes) for http in (_NONE, tuple)), _invoke),
    9: (frozenset({(int, str)}), _cancel),
    10: (frozenset({(int, str)}), _kill),
    11: (frozenset({(int,)}), _drain),
    12: (frozenset({(int, str, int)}), _recall),
    _RESULT: (frozenset({_RESULT_TYPES}), _result),
    17: (frozenset({(int, str, str, str, str, str, int, int)}), _error),
    18: (frozenset({(int, str, str, int, str)}), _log),
    19: (frozenset({(int, str, bytes)}), _chunk),
    20: (frozenset({(int, str, int, tuple)}), _stream),
    21: (frozenset({(int, str, int, _NONE, int, int), (int, str, _NONE, int, int, int)}), _exited),
    22: (frozenset({(int, str, int)}), _recalled),
}


class _Counter:
    """Raises on the container too many, while msgpack is still at it."""

    def __init__(self) -> None:
        self.left = CONTAINERS_MAX

    def __call__(self, container: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"more than {CONTAINERS_MAX} arrays and maps in one frame")
        return container


def decode(body: bytes | bytearray | memoryview) -> Frame:
    """The frame whose body (without the length) this is. Raises ``RemoteProtocolError``, and nothing else."""
    count = _Counter() if len(body) > SMALL_BYTES_MAX else None
    try:
        fields = msgpack.unpackb(
            body,
            use_list=False,
            max_array_len=ARRAY_ITEMS_MAX,
            max_map_len=MAP_ENTRIES_MAX,
            max_ext_len=0,
            list_hook=count,
            object_hook=count,
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise _refuse(f"not a msgpack frame: {error}") from None
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise _refuse("a frame is an array that begins with its kind")
    if fields[0] == _RESULT and tuple(map(type, fields)) == _RESULT_TYPES:  # by far the most frequent
        return _result(fields)
    known = _SCHEMA.get(fields[0])
    if known is None:
        raise _refuse(f"no such kind of frame: {fields[0]}")
    types, build = known
    if tuple(map(type, fields)) not in types:
        raise _refuse(f"frame of kind {fields[0]} has the wrong fields")
    return build(fields)
