"""The load generator's reading of answers; the sockets are exercised by the benchmark itself."""

from __future__ import annotations

import socket

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


def test_an_answer_in_pieces_is_put_together() -> None:
    loop = _Loop(Job("", 0, "", 1))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        connection = _Connection(ours)
        assert loop.read(connection) == b""
        for at in range(len(ANSWER) - 1):
            theirs.send(ANSWER[at : at + 1])
            assert loop.read(connection) == b""
        theirs.send(ANSWER[-1:])
        assert loop.read(connection) == ANSWER
        theirs.send(ANSWER)
        assert loop.read(connection) == ANSWER
        theirs.close()
        with pytest.raises(LoadError, match="closed"):
            loop.read(connection)
    loop.epoll.close()
