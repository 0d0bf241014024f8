"""Frames as the sandbox sees them: plain lists ``[kind, field...]``. The specification is ``runtimes/README.md``."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import msgpack  # type: ignore[import-untyped]
else:
    from . import msgpack

    sys.modules.pop("msgpack._cmsgpack", None)  # its compiled half enters itself under the name it was built with

PROTOCOL = 1
HELLO, INIT, FORK, READY = 1, 2, 3, 4
INVOKE, CANCEL, KILL, DRAIN = 8, 9, 10, 11
RESULT, ERROR, LOG, CHUNK, STREAM, EXITED = 16, 17, 18, 19, 20, 21

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
_pack = _packer.pack
_unpack = msgpack.unpackb
_LARGE_BYTES = 64 * 1024


class FrameTooLarge(ValueError):
    pass


def encode(*fields: Any) -> bytes:
    """One frame. Every text in it must be encodable: see ``clean``."""
    body: bytes = _pack(fields)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a frame of {len(body)} bytes")
    return len(body).to_bytes(4, "big") + body


def encode_result(
    invocation_id: str,
    status: int,
    headers: list[tuple[bytes, bytes]],
    cpu_ns: int,
    peak_bytes: int,
    payload: bytes,
) -> tuple[bytes, bytes]:
    """A RESULT in two parts to be sent one after the other; the second is a large payload as it is, or empty."""
    if len(payload) <= _LARGE_BYTES:
        return encode(RESULT, invocation_id, status, headers, cpu_ns, peak_bytes, payload), b""
    meta: bytes = _pack((RESULT, invocation_id, status, headers, cpu_ns, peak_bytes, b""))[:-2]
    meta += b"\xc6" + len(payload).to_bytes(4, "big")
    size = len(meta) + len(payload)
    if size > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"a frame of {size} bytes")
    return size.to_bytes(4, "big") + meta, payload


def decode(body: bytes | bytearray | memoryview) -> list[Any]:
    frame: list[Any] = _unpack(body)
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
