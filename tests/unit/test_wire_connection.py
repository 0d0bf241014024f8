"""Who may say what, when: the node's view of a connection, state by state."""

from __future__ import annotations

import pytest

from faas.wire import (
    FRAME_BYTES_MAX,
    Cancel,
    Chunk,
    Connection,
    Drain,
    Error,
    Exited,
    Fork,
    Frame,
    Hello,
    Init,
    Invoke,
    Kill,
    LocalProtocolError,
    Log,
    Ready,
    Recall,
    Recalled,
    RemoteProtocolError,
    Result,
    Role,
    State,
    Stream,
    encode,
)
from faas.wire.connection import HELLO_BYTES_MAX

A, B = "a" * 32, "b" * 32
ZYGOTE, INSTANCE = Hello(1, "zygote", "", 1, {}), Hello(1, "instance", "i", 2, {})


def invoke(invocation_id: str = A, payload: bytes = b"{}") -> Invoke:
    return Invoke(invocation_id, 1, "direct", 1, "", "", None, payload)


def result(invocation_id: str = A, payload: bytes = b"") -> Result:
    return Result(invocation_id, 200, (), 1, 1, 1, payload)


def error(invocation_id: str = A, kind: str = "function") -> Error:
    return Error(invocation_id, kind, "E", "m", "t", 1, 1)


# One frame of every kind, by who sends it.
FROM_SANDBOX: list[Frame] = [
    ZYGOTE,
    INSTANCE,
    Ready(1, {}),
    result(),
    error(),
    error(""),
    Log("", "stdout", 1, "x"),
    Log(A, "stdout", 1, "x"),
    Log(B, "stdout", 1, "x"),
    Chunk(A, b"x"),
    Stream(A, 200, ()),
    Exited("i", 0, None, 0, 0),
    Recalled("i", 0),
]
FROM_NODE: list[Frame] = [
    Init({}),
    Fork(("i",)),
    invoke(),
    invoke(B),
    Cancel(A),
    Cancel(B),
    Kill("i"),
    Recall("i", 4),
    Drain(),
]

# How to get into a state: "<" is received, ">" is sent.
PATHS: dict[str, list[tuple[str, Frame]]] = {
    "new": [],
    "generic": [("<", ZYGOTE)],
    "binding": [("<", ZYGOTE), (">", Init({}))],
    "bound": [("<", ZYGOTE), (">", Init({})), ("<", Ready(1, {}))],
    "failed": [("<", ZYGOTE), (">", Init({})), ("<", error(""))],
    "zygote draining": [("<", ZYGOTE), (">", Init({})), (">", Drain())],
    "idle": [("<", INSTANCE)],
    "busy": [("<", INSTANCE), (">", invoke())],
    "streaming": [("<", INSTANCE), (">", invoke()), ("<", Stream(A, 200, ()))],
    "answered": [("<", INSTANCE), (">", invoke()), ("<", result())],
    "draining": [("<", INSTANCE), (">", invoke()), (">", Drain())],
    "oom": [("<", INSTANCE), (">", invoke()), ("<", error(kind="oom"))],
}
STATES = {
    "new": State.NEW,
    "generic": State.ZYGOTE_GENERIC,
    "binding": State.ZYGOTE_BINDING,
    "bound": State.ZYGOTE_BOUND,
    "failed": State.DRAINING,
    "zygote draining": State.DRAINING,
    "idle": State.INSTANCE_IDLE,
    "busy": State.INSTANCE_BUSY,
    "streaming": State.INSTANCE_BUSY,
    "answered": State.INSTANCE_IDLE,
    "draining": State.DRAINING,
    "oom": State.DRAINING,
}
LOG_OWN, LOG_A, LOG_B = Log("", "stdout", 1, "x"), Log(A, "stdout", 1, "x"), Log(B, "stdout", 1, "x")
MAY_COME: dict[str, list[Frame]] = {
    "new": [ZYGOTE, INSTANCE],
    "generic": [],
    "binding": [Ready(1, {}), error(""), LOG_OWN, LOG_A, LOG_B],
    "bound": [LOG_OWN, LOG_A, LOG_B, Exited("i", 0, None, 0, 0), Recalled("i", 0)],
    "failed": [Ready(1, {}), error(""), LOG_OWN, LOG_A, LOG_B, Exited("i", 0, None, 0, 0), Recalled("i", 0)],
    "zygote draining": [
        Ready(1, {}),
        error(""),
        LOG_OWN,
        LOG_A,
        LOG_B,
        Exited("i", 0, None, 0, 0),
        Recalled("i", 0),
    ],
    "idle": [LOG_OWN],
    "busy": [result(), error(), LOG_OWN, LOG_A, Stream(A, 200, ())],
    "streaming": [result(), error(), LOG_OWN, LOG_A, Chunk(A, b"x")],
    "answered": [LOG_OWN, LOG_A],
    "draining": [result(), error(), LOG_OWN, LOG_A, Stream(A, 200, ())],
    "oom": [LOG_OWN, LOG_A],
}
MAY_GO: dict[str, list[Frame]] = {
    "new": [],
    "generic": [Init({}), Drain()],
    "binding": [Fork(("i",)), Kill("i"), Drain()],
    "bound": [Fork(("i",)), Kill("i"), Recall("i", 4), Drain()],
    "failed": [Kill("i"), Recall("i", 4)],
    "zygote draining": [Kill("i"), Recall("i", 4)],
    "idle": [invoke(), invoke(B), Drain()],
    "busy": [invoke(B), Cancel(A), Drain()],
    "streaming": [invoke(B), Cancel(A), Drain()],
    "answered": [invoke(), invoke(B), Drain()],
    "draining": [Cancel(A)],
    "oom": [],
}


def at(where: str) -> Connection:
    connection = Connection()
    for direction, frame in PATHS[where]:
        if direction == ">":
            assert connection.send(frame) == encode(frame)
        else:
            assert connection.receive_data(encode(frame)) == [frame]
    assert connection.state is STATES[where]
    return connection


@pytest.mark.parametrize("where", PATHS)
def test_what_may_come(where: str) -> None:
    for frame in FROM_SANDBOX:
        connection = at(where)
        if frame in MAY_COME[where]:
            assert connection.receive_data(encode(frame)) == [frame]
        else:
            with pytest.raises(RemoteProtocolError):
                connection.receive_data(encode(frame))
            assert connection.state is State.CLOSED
    for frame in FROM_NODE:
        with pytest.raises(RemoteProtocolError):
            at(where).receive_data(encode(frame))


@pytest.mark.parametrize("where", PATHS)
def test_what_may_go(where: str) -> None:
    for frame in FROM_NODE + FROM_SANDBOX:
        connection = at(where)
        before = (connection.state, connection.open_ids)
        if frame in MAY_GO[where]:
            assert connection.send(frame) == encode(frame)
        else:
            with pytest.raises(LocalProtocolError):
                connection.send(frame)
            assert (connection.state, connection.open_ids) == before


@pytest.mark.parametrize("where", PATHS)
def test_nothing_goes_or_comes_after_the_end(where: str) -> None:
    connection = at(where)
    open_ids = connection.open_ids
    assert connection.close() == open_ids
    assert connection.close() == ()
    assert connection.state is State.CLOSED
    for frame in FROM_NODE:
        with pytest.raises(LocalProtocolError):
            connection.send(frame)
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(encode(LOG_OWN))


def test_hello_is_kept() -> None:
    connection = at("idle")
    assert connection.hello == INSTANCE
    assert connection.role is Role.INSTANCE
    assert repr(connection) == "<Connection instance instance_idle, 0 open>"


def test_several_invocations_at_once() -> None:
    connection = at("busy")
    connection.send(invoke(B))
    assert list(connection.open_ids) == [A, B]
    states = []
    for data in (encode(result()), encode(Stream(B, 200, ())) + encode(Chunk(B, b"1")) + encode(result(B))):
        connection.receive_data(data)
        states.append(connection.state)
    assert states == [State.INSTANCE_BUSY, State.INSTANCE_IDLE]
    assert list(connection.open_ids) == []


def test_what_was_not_begun_can_be_withdrawn() -> None:
    connection = at("answered")
    for each in (A, B, "c" * 32, "d" * 32):
        connection.send(invoke(each))
    assert connection.invoked == 5, "the one that is answered counts as well"
    assert connection.withdraw(2, 4) == (B, "c" * 32), "the fifth was sent after it was asked what had begun"
    assert connection.open_ids == (A, "d" * 32)
    connection.receive_data(encode(result()))
    assert connection.withdraw(2, 5) == ("d" * 32,)
    assert connection.state is State.INSTANCE_IDLE
    assert connection.withdraw(2, 5) == ()
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(encode(result("d" * 32)))


def test_a_stream_ends_without_a_payload() -> None:
    with pytest.raises(RemoteProtocolError):
        at("streaming").receive_data(encode(result(payload=b"x")))


def test_an_id_may_be_used_again_once_it_is_closed() -> None:
    connection = at("answered")
    connection.send(invoke())
    connection.receive_data(encode(result()))
    assert connection.state is State.INSTANCE_IDLE


def test_late_lines_are_taken_for_a_while() -> None:
    connection = at("answered")
    for n in range(16):
        assert connection.receive_data(encode(LOG_A)) == [LOG_A]
        other = f"{n:032x}"
        connection.send(invoke(other))
        connection.receive_data(encode(result(other)))
    with pytest.raises(RemoteProtocolError):
        connection.receive_data(encode(LOG_A))


def test_several_results_in_one_piece_with_the_beginning_of_another() -> None:
    connection = at("busy")
    for each in (B, "c" * 32):
        connection.send(invoke(each))
    data = encode(result()) + encode(result(B)) + encode(result("c" * 32))
    states = []
    for piece, frames in ((data[:-3], [result(), result(B)]), (data[-3:], [result("c" * 32)])):
        assert connection.receive_data(piece) == frames
        states.append(connection.state)
    assert states == [State.INSTANCE_BUSY, State.INSTANCE_IDLE]
    connection.send(invoke())
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(encode(result()) + encode(result()))
    assert caught.value.frames == [result()]


def test_good_frames_before_a_bad_one_count() -> None:
    connection = at("busy")
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(encode(LOG_A) + encode(result()) + b"\x00\x00\x00\x01\xc1" + encode(LOG_OWN))
    assert caught.value.frames == [LOG_A, result()]
    assert connection.close() == ()


def test_a_frame_that_is_too_large_changes_nothing() -> None:
    connection = at("idle")
    with pytest.raises(LocalProtocolError):
        connection.send(invoke(payload=bytes(FRAME_BYTES_MAX)))
    assert connection.state is State.INSTANCE_IDLE
    assert connection.open_ids == ()


def test_large_frames_in_pieces() -> None:
    connection = at("busy")
    frame = result(payload=bytes(1_000_000))
    data = encode(frame) + encode(LOG_OWN)
    pieces = [data[n : n + 300_000] for n in range(0, len(data), 300_000)]
    assert [each for piece in pieces for each in connection.receive_data(piece)] == [frame, LOG_OWN]
    with pytest.raises(RemoteProtocolError):
        connection.receive_data((1_000_000).to_bytes(4, "big") + b"\xc1" * 1_000_000)


def test_a_length_is_judged_before_its_bytes_come() -> None:
    with pytest.raises(RemoteProtocolError, match="16777217"):
        at("idle").receive_data((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError, match="at most"):
        Connection().receive_data((HELLO_BYTES_MAX + 1).to_bytes(4, "big"))
