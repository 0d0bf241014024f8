"""Requests that are wrong: the exact code, a record where a call began."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.e2e.node import Node, code

BODY_BYTES_MAX = 6 * 1024 * 1024


@pytest.fixture(scope="module")
def echo(node: Node) -> Iterator[str]:
    node.deploy("requests-echo", "def handler(event, context): return event", http={"public": True})
    yield "requests-echo"
    node.delete("requests-echo")


def test_a_body_declared_too_large(node: Node, echo: str) -> None:
    for path in (f"/v1/functions/{echo}/invocations", f"/fn/{echo}"):
        response = node.client.post(path, content=b"x" * (BODY_BYTES_MAX + 1))
        assert code(response) == (413, "payload-too-large")
    assert node.call(echo, 1).json() == 1


def test_a_body_too_large_without_a_length(node: Node, echo: str) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(BODY_BYTES_MAX // 65_536 + 2):
            yield bytes(65_536)

    for path in (f"/v1/functions/{echo}/invocations", f"/fn/{echo}"):
        response = node.client.post(path, content=pieces())
        assert code(response) == (413, "payload-too-large")
    assert node.call(echo, 1).json() == 1


def test_bodies_that_are_not_json(node: Node, echo: str) -> None:
    for body in (b"{", b"nonsense", b"\xff\xfe", b'{"a":}', b"[" * 100_000, b"1 2"):
        response = node.call(echo, content=body, headers={"content-type": "application/json"})
        assert code(response) == (400, "invalid-request"), body[:20]
        record = node.record(response)
        assert record["status"] == "rejected"
        assert record["billed_ms"] == int(response.headers["faas-billed-ms"]) == 0
    assert node.call(echo, 1).json() == 1


@pytest.mark.parametrize("name", ["nobody", "UPPER", "..", "%2e%2e%2fx", "a" * 300, "requests-echo@nine", "é"])
def test_a_function_there_is_not(node: Node, echo: str, name: str) -> None:
    assert code(node.client.post(f"/v1/functions/{name}/invocations", json=1)) == (404, "not-found")
    if name != "..":
        assert code(node.client.post(f"/fn/{name}", json=1)) == (404, "not-found")


def test_a_slip_of_the_pen_gets_a_hint(node: Node, echo: str) -> None:
    assert "requests-echo" in node.call("request-echo").json()["detail"]


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer nonsense", "Basic eDp5", "Bearer " + "k" * 5000, "Bearer \xe9"]
)
def test_a_key_that_is_none(node: Node, echo: str, header: str) -> None:
    with node.anyone() as anyone:
        headers = [(b"authorization", header.encode("latin-1"))] if header else []
        for method, path in (
            ("POST", f"/v1/functions/{echo}/invocations"),
            ("POST", "/v1/functions/nobody/invocations"),
            ("GET", "/v1/functions"),
            ("DELETE", f"/v1/functions/{echo}"),
            ("GET", "/v1/usage"),
            ("GET", "/metrics"),
            ("GET", "/fn/nobody"),
        ):
            response = anyone.request(method, path, headers=headers)
            assert code(response) == (401, "unauthenticated"), (method, path)
            assert response.headers["www-authenticate"] == "Bearer"
    assert node.call(echo, 1).json() == 1


def test_a_key_of_another_namespace_and_a_key_without_the_scope(node: Node, echo: str) -> None:
    def client(namespace: str, *scopes: str) -> httpx2.Client:
        made = node.client.post("/v1/keys", json={"namespace": namespace, "scopes": scopes})
        assert made.status_code == 201, made.text
        return node.anyone(authorization=f"Bearer {made.json()['secret']}")

    path = f"/v1/functions/{echo}/invocations"
    with client("elsewhere", "admin") as stranger:
        assert code(stranger.post(path, json=1, params={"namespace": "default"})) == (403, "forbidden")
        assert code(stranger.post(path, json=1)) == (404, "not-found")
        assert stranger.get("/v1/functions").json() == {"functions": []}
    with client("default", "read") as reader:
        assert code(reader.post(path, json=1)) == (403, "forbidden")
        assert code(reader.delete(f"/v1/functions/{echo}")) == (403, "forbidden")
    with client("default", "invoke") as caller:
        assert caller.post(path, json=1).json() == 1
        assert code(caller.get(f"/v1/functions/{echo}/logs")) == (403, "forbidden")


def test_the_wrong_method_and_the_wrong_path(node: Node, echo: str) -> None:
    response = node.client.delete("/v1/functions")
    assert code(response)[0] == 405
    assert "GET" in response.headers["allow"]
    assert code(node.client.put(f"/v1/functions/{echo}/invocations"))[0] == 405
    assert code(node.client.get("/v1/nowhere")) == (404, "not-found")
    assert code(node.client.get("/v1/invocations/0")) == (404, "not-found")
    for query in ("by=colour", "from=yesterday", "from=2030-01-01&to=2020-01-01"):
        assert code(node.client.get(f"/v1/usage?{query}")) == (400, "invalid-request")
    assert code(node.client.get(f"/v1/functions/{echo}/logs?since=never")) == (400, "invalid-request")


RAW = [
    b"GET\r\n\r\n",
    b"\x00\x01\x02\x03" * 100,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /fn/requests-echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /fn/requests-echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /fn/requests-echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /fn/requests-echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"GET /fn/requests-echo HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /fn/requests-echo HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("request_bytes", RAW, ids=range(len(RAW)))
def test_bytes_that_are_no_request(node: Node, echo: str, request_bytes: bytes) -> None:
    """Refused or cut off; never a 5xx, never a hang."""
    parts = urlsplit(node.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=20) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(request_bytes)
            raw.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while piece := raw.recv(65_536):
                answer += piece
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:200]
    node.healthy()
    assert node.call(echo, 1).json() == 1


def test_callers_who_hang_up_half_way(node: Node, echo: str) -> None:
    parts = urlsplit(node.url)
    for _ in range(50):
        with socket.create_connection((parts.hostname, parts.port), timeout=20) as raw:
            raw.sendall(b"POST /fn/requests-echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhalf")
    node.healthy()
    assert node.call(echo, 1).json() == 1
