"""The load generator's reading of answers; the sockets are exercised by the benchmark itself."""

from __future__ import annotations

import pytest

from tests.bench.load import Job, LoadError, _answer_length, _Connection, _header, _Loop, request_text

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: a\r\nContent-Length: 5\r\nfaas-start: warm\r\n\r\nhello"


def test_the_request_says_its_length_in_bytes() -> None:
    text = request_text("POST", "/x", "h:1", {"A": "b"}, "é")
    assert text == "POST /x HTTP/1.1\r\nHost: h:1\r\nContent-Length: 2\r\nA: b\r\n\r\né"


def test_an_answer_ends_where_its_length_says() -> None:
    assert _answer_length(ANSWER) == len(ANSWER)
    assert _answer_length(ANSWER[:20]) == 0
    with pytest.raises(LoadError, match="without Content-Length"):
        _answer_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ncontent-length: 1\r\n")


def test_headers_are_found_in_any_case() -> None:
    assert _header(ANSWER, b"faas-start") == "warm"
    assert _header(ANSWER, b"hello") == ""


class _Pieces:
    """A socket that gives what was put in; b"" is its end, and with nothing in it a read would block."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def recv(self, _bytes_max: int) -> bytes:
        if not self.pieces:
            raise BlockingIOError
        return self.pieces.pop(0)


def test_an_answer_in_pieces_is_put_together() -> None:
    loop, sock = _Loop(Job("", 0, "", 1)), _Pieces()
    connection = _Connection(sock)  # type: ignore[arg-type]
    assert loop.read(connection) == b""
    for at in range(len(ANSWER) - 1):
        sock.pieces.append(ANSWER[at : at + 1])
        assert loop.read(connection) == b""
    sock.pieces += [ANSWER[-1:], ANSWER]
    assert loop.read(connection) == ANSWER
    assert loop.read(connection) == ANSWER
    sock.pieces.append(b"")
    with pytest.raises(LoadError, match="closed"):
        loop.read(connection)
    loop.epoll.close()
