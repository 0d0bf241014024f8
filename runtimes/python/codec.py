"""Frames as the sandbox sees them: plain lists ``[kind, field...]``. The specification is ``runtimes/README.md``."""

from __future__ import annotations

import sys
from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import msgpack  # type: ignore[import-untyped]
else:
    from . import msgpack

    sys.modules.pop("msgpack._cmsgpack", None)  # its compiled half enters itself under the name it was built with

PROTOCOL = 1
HELLO, INIT, FORK, READY = 1, 2, 3, 4
INVOKE, CANCEL, KILL, DRAIN, RECALL = 8, 9, 10, 11, 12
RESULT, ERROR, LOG, CHUNK, STREAM, EXITED, RECALLED = 16, 17, 18, 19, 20, 21, 22

HEAD_BYTES = 4
FRAME_BYTES_MAX = 16 * 1024 * 1024
LOG_BYTES_MAX = 16 * 1024
CHUNK_BYTES_MAX = 256 * 1024
NAME_CHARS_MAX = 256
STREAM_NAME_CHARS_MAX = 32
MESSAGE_CHARS_MAX = 16 * 1024
TRACEBACK_CHARS_MAX = 64 * 1024
HEADERS_MAX = 100
HEADER_NAME_BYTES_MAX = 256
HEADER_VALUE_BYTES_MAX = 8 * 1024
INFO_CHARS_MAX = 1024

_packer = msgpack.Packer(buf_size=8192)  # one page or two per instance; it grows when a frame needs more
pack = _packer.pack
unpack = msgpack.unpackb
_size = Struct(">I")
size_bytes = _size.pack
body_size = _size.unpack_from  # of a frame's first bytes; a tuple of one
LARGE_BYTES = 64 * 1024

# The RESULT of a handler that returned a JSON value, up to its payload, in one go:
# json_result(JSON_RESULT_BYTES + size, RESULT_WITH_ID, id, OK_JSON_UINT64, busy_ns, UINT64, cpu_ns, UINT64, peak_bytes,
# BIN32, size).
RESULT_WITH_ID, UINT64, BIN32 = b"\x98\x10\xd9\x20", b"\xcf", b"\xc6"
OK_JSON_UINT64 = pack(200) + pack([(b"content-type", b"application/json")]) + UINT64
_json_result = Struct(f">I4s32s{len(OK_JSON_UINT64)}sQsQsQsI")
json_result = _json_result.pack
JSON_RESULT_BYTES = _json_result.size - HEAD_BYTES


class FrameTooLarge(ValueError):
    pass


def encode(*fields: Any) -> bytes:
    """One frame. Every text in it must be encodable: see ``clean``."""
    body: bytes = pack(fields)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a frame of {len(body)} bytes")
    return size_bytes(len(body)) + body


def encode_result(
    invocation_id: str,
    status: int,
    headers: list[tuple[bytes, bytes]],
    busy_ns: int,
    cpu_ns: int,
    peak_bytes: int,
    payload: bytes,
) -> tuple[bytes, bytes]:
    """A RESULT in two parts to be sent one after the other; the second is a large payload as it is, or empty."""
    if len(payload) <= LARGE_BYTES:
        body: bytes = pack((RESULT, invocation_id, status, headers, busy_ns, cpu_ns, peak_bytes, payload))
        return size_bytes(len(body)) + body, b""
    meta: bytes = pack((RESULT, invocation_id, status, headers, busy_ns, cpu_ns, peak_bytes, b""))[:-2]
    meta += b"\xc6" + size_bytes(len(payload))
    size = len(meta) + len(payload)
    if size > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a frame of {size} bytes")
    return size_bytes(size) + meta, payload


def decode(body: bytes | bytearray | memoryview) -> list[Any]:
    frame: list[Any] = unpack(body)
    return frame


def clean(text: str, chars_max: int) -> str:
    """``text`` fit for a frame: at most ``chars_max`` characters, cut in the middle, no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    if len(text) > chars_max:
        half = (chars_max - 32) // 2
        text = f"{text[:half]}\n... cut ...\n{text[-half:]}"
    return text
