"""Frames and bytes: the golden vectors, read by both ends; what is refused; what is too large."""

from __future__ import annotations

import importlib
import json
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

import runtimes
from faas.wire import (
    FRAME_BYTES_MAX,
    Chunk,
    Connection,
    Error,
    Frame,
    Http,
    Invoke,
    LocalProtocolError,
    Log,
    RemoteProtocolError,
    Result,
    decode,
    encode,
)
from faas.wire.frames import KINDS
from runtimes.python import zygote

VECTORS = Path(runtimes.__file__).parent / "vectors"
FRAMES: list[dict[str, Any]] = json.loads((VECTORS / "frames.json").read_text())
REFUSED: list[dict[str, str]] = json.loads((VECTORS / "refused.json").read_text())
ID = "0" * 31 + "1"
NAMES = [vector["name"] for vector in FRAMES]


@pytest.fixture(scope="module")
def codec() -> Any:
    """The codec of the Python runtime, loaded as it is in a sandbox."""
    zygote.load(str(Path(msgpack.__file__).parents[1]))
    return importlib.import_module(f"{zygote.PACKAGE}.codec")


def plain(value: Any) -> Any:
    """A vector's field with its byte strings as such."""
    if isinstance(value, dict):
        return bytes.fromhex(value["bin"]) if value.keys() == {"bin"} else {k: plain(v) for k, v in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def listed(value: Any) -> Any:
    """A frame as the lists that a vector has."""
    if isinstance(value, dict):
        return {key: listed(each) for key, each in value.items()}
    return [listed(each) for each in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("vector", FRAMES, ids=NAMES)
def test_the_node_reads_and_writes_the_vectors(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    frame = decode(data[4:])
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert [KINDS[type(frame)], *listed(frame)] == plain(vector["frame"])
    assert encode(frame) == data


@pytest.mark.parametrize("vector", FRAMES, ids=NAMES)
def test_the_runtime_reads_and_writes_the_vectors(vector: dict[str, Any], codec: Any) -> None:
    data, fields = bytes.fromhex(vector["hex"]), plain(vector["frame"])
    assert codec.decode(data[4:]) == fields
    assert codec.encode(*fields) == data
    if fields[0] == codec.RESULT:
        assert b"".join(codec.encode_result(*fields[1:])) == data


def test_every_kind_has_a_vector() -> None:
    assert {vector["frame"][0] for vector in FRAMES} == set(KINDS.values())


@pytest.mark.parametrize("vector", REFUSED, ids=[vector["name"] for vector in REFUSED])
def test_what_is_refused(vector: dict[str, str]) -> None:
    connection = Connection()
    connection.receive_data(bytes.fromhex(vector["after"]))
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(bytes.fromhex(vector["hex"]))
    assert caught.value.frames == []
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(b"")


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000, FRAME_BYTES_MAX - 100])
@pytest.mark.parametrize("kind", ["result", "invoke", "chunk"])
def test_payloads_of_any_size(size: int, kind: str, codec: Any) -> None:
    payload = b"\xfe" * size
    http = Http("GET", "/", "/", "", (("a", "b"),), "", "HTTP/1.1")
    frames: dict[str, Frame] = {
        "result": Result(ID, 200, ((b"a", b"b"),), 3, 1, 2, payload),
        "invoke": Invoke(ID, 1, "http", 1, "", "", http, payload),
        "chunk": Chunk(ID, payload),
    }
    frame = frames[kind]
    data = encode(frame)
    assert decode(memoryview(data)[4:]) == frame
    assert codec.decode(data[4:])[-1] == payload
    if isinstance(frame, Result):
        assert decode(b"".join(codec.encode_result(*frame))[4:]) == frame


def test_frames_beyond_the_cap_are_not_made(codec: Any) -> None:
    payload = bytes(FRAME_BYTES_MAX)
    for frame in (Chunk(ID, payload), Error(ID, "function", "x" * FRAME_BYTES_MAX, "", "", 0, 0)):
        with pytest.raises(LocalProtocolError):
            encode(frame)
    with pytest.raises(codec.FrameTooLarge):
        codec.encode_result(ID, 200, [], 1, 1, 1, payload)
    with pytest.raises(codec.FrameTooLarge):
        codec.encode(codec.CHUNK, ID, payload)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xdc\x02\x00" + b"\x90" * 512, id="many arrays in one"),
        pytest.param(b"\x92\x12" + b"\xdc\x02\x00" * 900 + b"\x90" * 2**20, id="a tree of arrays"),
        pytest.param(b"\xdc\x01\x00" + (b"\xdc\x02\x00" + b"\x80" * 512) * 256, id="arrays of maps"),
        pytest.param(b"\x92\x02\xde\x04\x00" + b"".join(b"\xa4%04d\x80" % n for n in range(1024)), id="a map of maps"),
        pytest.param(b"\x91" * 2**20, id="depth"),
    ],
)
def test_a_frame_can_not_blow_up_in_memory(body: bytes) -> None:
    padding = b"\xc6" + (2**20).to_bytes(4, "big") + bytes(2**20)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            decode(body + padding)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 2**20


def test_texts_and_logs_at_their_limits() -> None:
    for frame in (
        Log("", "x" * 32, 0, "é" * 16384),
        Error("", "function", "x" * 256, "x" * 16384, "x" * 65536, 2**63 - 1, 0),
        Result(ID, 599, ((b"x" * 256, b"\t y" * 2000),) * 4, 0, 0, 0, b""),
    ):
        assert decode(encode(frame)[4:]) == frame


@pytest.mark.parametrize(
    ("text", "chars_max", "cleaned"),
    [
        ("fine", 100, "fine"),
        ("\ud800x", 100, "\\ud800x"),
        ("a" * 50 + "b" * 50, 60, "a" * 14 + "\n... cut ...\n" + "b" * 14),
    ],
)
def test_texts_are_made_fit_for_a_frame(text: str, chars_max: int, cleaned: str, codec: Any) -> None:
    assert codec.clean(text, chars_max) == cleaned
