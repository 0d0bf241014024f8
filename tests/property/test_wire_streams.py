"""Whatever bytes come, in whatever pieces: frames or RemoteProtocolError, and the same ones."""

from __future__ import annotations

import contextlib

import msgpack  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from faas.wire import (
    Cancel,
    Chunk,
    Connection,
    Drain,
    Error,
    Frame,
    Hello,
    Invoke,
    LocalProtocolError,
    Log,
    RemoteProtocolError,
    Result,
    State,
    Stream,
    decode,
    encode,
)

INSTANCE = Hello(1, "instance", "i", 2, {})
IDS = [f"{n:032x}" for n in range(4)]
ids = st.sampled_from(IDS)
counts = st.integers(0, 2**63 - 1)
texts = st.text(max_size=40).filter(lambda text: "\n" not in text)
headers = st.lists(
    st.tuples(st.from_regex(rb"[a-z][a-z0-9-]{0,10}", fullmatch=True), st.from_regex(rb"[ -~]{0,20}", fullmatch=True)),
    max_size=4,
).map(tuple)
statuses = st.integers(200, 599)
answers = st.one_of(
    st.builds(Result, ids, statuses, headers, counts, counts, st.binary(max_size=100)),
    st.builds(
        Error, ids, st.sampled_from(["function", "bad_event", "too_large", "oom"]), texts, texts, texts, counts, counts
    ),
    st.builds(Log, st.one_of(st.just(""), ids), st.sampled_from(["stdout", "INFO"]), counts, texts),
    st.builds(Stream, ids, statuses, headers),
    st.builds(Chunk, ids, st.binary(max_size=100)),
)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=20,
)


def serving() -> Connection:
    """An instance with two invocations open."""
    connection = Connection()
    connection.receive_data(encode(INSTANCE))
    for each in IDS[:2]:
        connection.send(Invoke(each, 1, "direct", 1, "", "", None, b""))
    return connection


def feed(pieces: list[bytes]) -> tuple[list[Frame], str, State]:
    """All frames that came out, the error if any, and the last state."""
    connection, frames = serving(), []
    try:
        for piece in pieces:
            frames += connection.receive_data(piece)
    except RemoteProtocolError as error:
        return frames + error.frames, str(error), connection.state
    return frames, "", connection.state


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.binary(max_size=400))
def test_arbitrary_bytes(data: bytes) -> None:
    feed([data])


@given(anything)
def test_arbitrary_msgpack(value: object) -> None:
    try:
        frame = decode(msgpack.packb(value))
    except RemoteProtocolError:
        return
    assert decode(encode(frame)[4:]) == frame


@given(st.integers(0, 25), st.lists(anything, max_size=9))
def test_arbitrary_fields(kind: int, fields: list[object]) -> None:
    with contextlib.suppress(RemoteProtocolError):
        decode(msgpack.packb([kind, *fields]))


@given(st.lists(answers, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_split_of_a_stream_gives_the_same(frames: list[Frame], cuts: list[int]) -> None:
    data = b"".join(map(encode, frames))
    assert feed(split(data, cuts)) == feed([data])
    assert feed([data[i : i + 1] for i in range(len(data))]) == feed([data])


@given(st.lists(answers, min_size=1, max_size=8), st.data())
def test_mutated_streams(frames: list[Frame], data: st.DataObject) -> None:
    stream = bytearray(b"".join(map(encode, frames)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream)))
        how = data.draw(st.sampled_from(["flip", "drop", "insert", "repeat"]))
        if how == "flip" and at < len(stream):
            stream[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "drop":
            del stream[at : at + data.draw(st.integers(1, 8))]
        elif how == "insert":
            stream[at:at] = data.draw(st.binary(max_size=8))
        else:
            stream[at:at] = stream[at : at + 40]
    whole = bytes(stream)
    cuts = data.draw(st.lists(st.integers(0, 10_000), max_size=6))
    assert feed(split(whole, cuts)) == feed([whole])


class InstanceConnection(RuleBasedStateMachine):
    """An instance connection against a model of it: a set of open invocations, and whether it takes more."""

    invocations = Bundle("invocations")

    def __init__(self) -> None:
        super().__init__()
        self.connection = Connection()
        self.connection.receive_data(encode(INSTANCE))
        self.open: dict[str, bool] = {}  # id -> streaming
        self.closed: list[str] = []
        self.draining = False
        self.dead = False

    def receive(self, frame: Frame, legal: bool) -> None:
        if self.dead:
            legal = False
        try:
            assert self.connection.receive_data(encode(frame)) == [frame]
            assert legal
        except RemoteProtocolError:
            assert not legal
            self.dead = True
            self.open.clear()

    def send(self, frame: Frame, legal: bool) -> bool:
        legal = legal and not self.dead
        try:
            self.connection.send(frame)
        except LocalProtocolError:
            assert not legal
            return False
        assert legal
        return True

    @rule(target=invocations, invocation_id=ids)
    def invoke(self, invocation_id: str) -> str:
        frame = Invoke(invocation_id, 1, "direct", 1, "", "", None, b"")
        if self.send(frame, not self.draining and invocation_id not in self.open):
            self.open[invocation_id] = False
        return invocation_id

    @rule(invocation_id=invocations)
    def cancel(self, invocation_id: str) -> None:
        self.send(Cancel(invocation_id), invocation_id in self.open)

    @rule()
    def drain(self) -> None:
        if self.send(Drain(), not self.draining):
            self.draining = True

    @rule(invocation_id=invocations, payload=st.sampled_from([b"", b"x"]))
    def result(self, invocation_id: str, payload: bytes) -> None:
        legal = invocation_id in self.open and not (self.open[invocation_id] and payload)
        self.receive(Result(invocation_id, 200, (), 1, 1, 1, payload), legal)
        self.end(invocation_id)

    @rule(invocation_id=invocations, kind=st.sampled_from(["function", "exit"]))
    def error(self, invocation_id: str, kind: str) -> None:
        legal = invocation_id in self.open
        self.receive(Error(invocation_id, kind, "", "", "", 0, 0), legal)
        if kind == "exit" and not self.dead:
            self.draining = True
        self.end(invocation_id)

    def end(self, invocation_id: str) -> None:
        if not self.dead:
            del self.open[invocation_id]
            self.closed = [*self.closed, invocation_id][-16:]

    @rule(invocation_id=invocations)
    def stream(self, invocation_id: str) -> None:
        self.receive(Stream(invocation_id, 200, ()), self.open.get(invocation_id) is False)
        if not self.dead:
            self.open[invocation_id] = True

    @rule(invocation_id=invocations)
    def chunk(self, invocation_id: str) -> None:
        self.receive(Chunk(invocation_id, b"x"), self.open.get(invocation_id) is True)

    @rule(invocation_id=st.one_of(st.just(""), ids))
    def log(self, invocation_id: str) -> None:
        legal = not invocation_id or invocation_id in self.open or invocation_id in self.closed
        self.receive(Log(invocation_id, "stdout", 1, "x"), legal)

    @invariant()
    def agrees(self) -> None:
        assert set(self.connection.open_ids) == set(self.open)
        if self.dead:
            expected = State.CLOSED
        elif self.draining:
            expected = State.DRAINING
        else:
            expected = State.INSTANCE_BUSY if self.open else State.INSTANCE_IDLE
        assert self.connection.state is expected


TestInstanceConnection = InstanceConnection.TestCase
TestInstanceConnection.settings = settings(max_examples=60, stateful_step_count=30)
