"""One HTTP exchange of the CLI: an answer is read the same however it is cut into pieces; half of one is an error."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from faas.cli.client import Node
from faas.cli.exchange import HEAD_BYTES_MAX, BrokenAnswer, Exchange, TlsFailed, Unsendable, dial, request_head
from faas.cli.out import CliError

OK = b"HTTP/1.1 200 OK\r\n"


def answered(answer: bytes, step: int = 1 << 20) -> tuple[int, dict[str, str], bytes]:
    """What an exchange makes of these bytes, sent ``step`` at a time and then nothing more."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)

    def send() -> None:
        with theirs, contextlib.suppress(BrokenPipeError):  # a reader may have what it wants before all is sent
            for begin in range(0, len(answer), step):
                theirs.sendall(answer[begin : begin + step])

    with ours:
        sender = threading.Thread(target=send)
        sender.start()
        try:
            exchange = Exchange(ours)
            exchange.receive_head()
            return exchange.status, exchange.headers, b"".join(exchange.pieces())
        finally:
            ours.close()
            sender.join()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("head", "body", "want"),
    [
        (b"Content-Length: 5\r\n\r\n", b"hello", b"hello"),
        (b"Content-Length: 0\r\n\r\n", b"", b""),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\nTrailer: t\r\n\r\n", b"hello"),
        (b"\r\n", b"until it closes", b"until it closes"),
        (b"Content-Length: 2\r\nConnection: close\r\n\r\n", b"ok, and more that nobody asked for", b"ok"),
    ],
)
def test_a_whole_answer_is_read_however_it_comes(head: bytes, body: bytes, want: bytes, step: int) -> None:
    status, headers, found = answered(OK + b"X-One: 1\r\n" + head + body, step)
    assert (status, headers["x-one"], found) == (200, "1", want)


def test_an_answer_without_a_body_ends_with_its_head() -> None:
    assert answered(b"HTTP/1.1 204 No Content\r\n\r\n")[::2] == (204, b"")


def test_what_comes_before_the_answer_is_left_out() -> None:
    first = b"HTTP/1.1 103 Early Hints\r\nLink: early\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    assert answered(first + b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", 3) == (
        404,
        {"content-length": "2"},
        b"no",
    )


def test_a_repeated_header_is_joined() -> None:
    assert answered(OK + b"A: 1\r\na: 2\r\nContent-Length: 0\r\n\r\n")[1]["a"] == "1, 2"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed without an answer"),
        (OK + b"Content-Le", "closed without an answer"),
        (OK + b"Content-Length: 5\r\n\r\nhell", "ended too soon"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "ended too soon"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "not HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", "another protocol"),
        (OK + b"X: " + b"x" * 2 * HEAD_BYTES_MAX, "do not end"),
    ],
)
def test_half_an_answer_is_none(answer: bytes, why: str) -> None:
    with pytest.raises(BrokenAnswer, match=why):
        answered(answer)


def test_an_answer_given_before_the_body_was_read_counts() -> None:
    """As a server does that refuses a body for its size: it answers and closes, and our writing fails."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 20):  # so that the answer is not lost in a reset
                    pass

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with dial("127.0.0.1", server.getsockname()[1], tls=False, timeout_s=5) as connection:
            exchange = Exchange(connection)
            exchange.send("POST", "/", "here", {}, b"x" * (1 << 22))
            exchange.receive_head()
            assert (exchange.status, b"".join(exchange.pieces())) == (413, b"big")
        refusing.join()


def test_a_connection_reset_while_sending_is_told_by_the_missing_answer() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours:
        exchange = Exchange(ours)
        exchange.send("POST", "/", "here", {}, b"x")
        with pytest.raises((BrokenAnswer, ConnectionResetError)):
            exchange.receive_head()


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/a b", {}),
        ("/a\r\nX: 1", {}),
        ("/ä", {}),
        ("/", {"Authorization": "Bearer a\r\nX: 1"}),
        ("/", {"Content-Type": "ä"}),
    ],
)
def test_nothing_can_be_slipped_into_a_head(target: str, headers: dict[str, str]) -> None:
    with pytest.raises(Unsendable):
        request_head("GET", target, "here", headers, 0)


def test_a_key_that_cannot_be_sent_is_not_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        node = Node(f"http://127.0.0.1:{server.getsockname()[1]}", "faas_secret\n", "default", "FAAS_KEY")
        with pytest.raises(CliError) as caught:
            node.call("GET", "/")
    assert (caught.value.code, "Authorization" in caught.value.why) == (2, True)
    assert "secret" not in f"{caught.value.what} {caught.value.why} {caught.value.do}"


def test_a_name_that_is_no_host_is_not_found() -> None:
    with pytest.raises(CliError, match="no such host"):
        Node("http://a..b", "", "default").call("GET", "/")


# -- TLS ------------------------------------------------------------------------------------------------------------


# For localhost, signed by itself, from 2000 to 2099. It protects nothing.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1Jwq8e+9AXzQVM9s
Lq8s+IJAbm/Mq4I8/FzXh11NAwihRANCAAR2XrIVfAc+nHSHau5PXpAl5Zw06We+
PlxxRJF+uAsCtGmE2sqQAIIx2SMDJUbLu+kBCi3LPsH6ldoPTSs1PQyu
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBYTCCAQegAwIBAgIBATAKBggqhkjOPQQDAjAUMRIwEAYDVQQDDAlsb2NhbGhv
c3QwIBcNMDAwMTAxMDAwMDAwWhgPMjEwMDAxMDEwMDAwMDBaMBQxEjAQBgNVBAMM
CWxvY2FsaG9zdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHZeshV8Bz6cdIdq
7k9ekCXlnDTpZ74+XHFEkX64CwK0aYTaypAAgjHZIwMlRsu76QEKLcs+wfqV2g9N
KzU9DK6jSDBGMA8GA1UdEwEB/wQFMAMBAf8wFAYDVR0RBA0wC4IJbG9jYWxob3N0
MB0GA1UdDgQWBBQau1wY/yyvJQ9L1yMcigbCr5rAtjAKBggqhkjOPQQDAgNIADBF
AiAsxIK5nfVe8SxzIAGSZvv57NuH6UTQabX8bfzocbNm1QIhAJQphXKVzQUE5kMg
SBKopWcklMiUqaGfa9xB+0PbhyeJ
-----END CERTIFICATE-----
"""


@contextmanager
def tls_server(directory: Path) -> Iterator[tuple[int, Path]]:
    """A server that says ``{}`` over TLS as localhost; its port and its certificate."""
    certificate = directory / "certificate.pem"
    certificate.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            try:
                with context.wrap_socket(connection, server_side=True) as safe:
                    safe.recv(65_536)
                    safe.sendall(OK + b"Content-Length: 2\r\n\r\n{}")
            except OSError:  # the other side did not like our certificate
                pass

        serving = threading.Thread(target=serve)
        serving.start()
        yield server.getsockname()[1], certificate
        serving.join()


def test_https_works_with_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tls_server(tmp_path) as (port, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert Node(f"https://localhost:{port}", "k", "default").call("GET", "/") == {}


def test_https_with_any_other_is_refused(tmp_path: Path) -> None:
    with tls_server(tmp_path) as (port, _), pytest.raises(CliError, match="no safe connection") as caught:
        Node(f"https://localhost:{port}", "k", "default").call("GET", "/")
    assert "self" in caught.value.why  # self-signed


def test_a_port_that_speaks_no_tls_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(TlsFailed, match="http://"):
            dial("localhost", server.getsockname()[1], tls=True, timeout_s=5)
        serving.join()
