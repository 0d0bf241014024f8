"""The HTTP trigger: API Gateway's payload format 2.0 in, and its response rules out."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.node import Node, code

EVENT = """
def handler(event, context):
    return event
"""

RESPOND = """
import json

def handler(event, context):
    return json.loads(event["body"])
"""

APPS = {
    "wsgi": """
        def app(environ, start_response):
            body = environ["wsgi.input"].read()
            start_response("201 Created", [("Content-Type", "text/x-wsgi"), ("X-Path", environ["PATH_INFO"])])
            return [b"wsgi:", body]
        """,
    "asgi": """
        async def app(scope, receive, send):
            if scope["type"] != "http":
                raise RuntimeError(scope["type"])
            body = b""
            while True:
                message = await receive()
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            headers = [(b"content-type", b"text/x-asgi"), (b"x-path", scope["path"].encode())]
            await send({"type": "http.response.start", "status": 201, "headers": headers})
            await send({"type": "http.response.body", "body": b"asgi:", "more_body": True})
            await send({"type": "http.response.body", "body": body})
        """,
}


@pytest.fixture(scope="module")
def event(node: Node) -> Iterator[str]:
    node.deploy("contract-event", EVENT)
    yield "/fn/contract-event"
    node.delete("contract-event")


@pytest.fixture(scope="module")
def respond(node: Node) -> Iterator[str]:
    node.deploy("contract-respond", RESPOND, http={"public": True})
    yield "/fn/contract-respond"
    node.delete("contract-respond")


def answer(node: Node, path: str, value: Any) -> httpx2.Response:
    return node.fetch(path, "POST", content=json.dumps(value), headers={"content-type": "application/json"})


def test_the_event_is_payload_2_0(node: Node, event: str) -> None:
    response = node.client.request(
        "PUT",
        f"{event}/a%20b/c?x=1&x=2&y=%26&empty=",
        content=b'{"n":1}',
        headers=[
            ("content-type", "application/json"),
            ("X-Twice", "one"),
            ("X-Twice", "two"),
            ("Cookie", "a=1; b=2"),
            ("User-Agent", "contract/1"),
        ],
    )
    assert response.status_code == 200
    found = response.json()
    assert found["version"] == "2.0"
    assert found["routeKey"]
    assert found["rawPath"] == f"{event}/a%20b/c" or found["rawPath"] == "/a b/c"
    assert found["rawQueryString"] == "x=1&x=2&y=%26&empty="
    assert found["queryStringParameters"] == {"x": "1,2", "y": "&", "empty": ""}
    assert found["headers"]["x-twice"] == "one,two"
    assert found["headers"]["content-type"] == "application/json"
    assert "cookie" not in found["headers"]
    assert found["cookies"] == ["a=1", "b=2"]
    assert found["body"] == '{"n":1}'
    assert found["isBase64Encoded"] is False
    context = found["requestContext"]
    assert context["http"]["method"] == "PUT"
    assert context["http"]["path"] == "/a b/c"
    assert context["http"]["protocol"] == "HTTP/1.1"
    assert context["http"]["sourceIp"] == "127.0.0.1"
    assert context["http"]["userAgent"] == "contract/1"
    assert context["requestId"] == response.headers["faas-invocation-id"]
    assert context["timeEpoch"] > 0


def test_the_platforms_key_is_not_shown_to_the_function(node: Node, event: str) -> None:
    assert node.key not in node.fetch(event).text


def test_a_binary_body_is_base64(node: Node, event: str) -> None:
    body = bytes(range(256))
    found = node.fetch(event, "POST", content=body, headers={"content-type": "image/png"}).json()
    assert found["isBase64Encoded"] is True
    assert base64.b64decode(found["body"]) == body


def test_text_that_is_not_utf8_is_base64(node: Node, event: str) -> None:
    found = node.fetch(event, "POST", content=b"\xff\xfe", headers={"content-type": "text/plain"}).json()
    assert found["isBase64Encoded"] is True


def test_no_body_no_query_no_cookies(node: Node, event: str) -> None:
    found = node.fetch(event).json()
    assert not found.get("body")
    assert not found.get("queryStringParameters")
    assert not found.get("cookies")
    assert found["rawQueryString"] == ""


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_any_method(node: Node, event: str, method: str) -> None:
    assert node.fetch(event, method).json()["requestContext"]["http"]["method"] == method


def test_head_has_no_body(node: Node, event: str) -> None:
    response = node.fetch(event, "HEAD")
    assert response.status_code == 200
    assert response.content == b""


def test_a_key_is_needed_unless_public(node: Node, event: str, respond: str) -> None:
    with node.anyone() as anyone:
        assert code(anyone.get(event)) == (401, "unauthenticated")
        assert anyone.post(respond, json={"statusCode": 204}).status_code == 204
        assert code(anyone.post("/v1/functions/contract-respond/invocations")) == (401, "unauthenticated")


def test_errors_of_a_public_function_keep_their_traceback(node: Node, respond: str) -> None:
    with node.anyone() as anyone:
        response = anyone.post(respond, content=b"not json")
    assert code(response) == (500, "function-error")
    assert not response.json().keys() & {"traceback", "message", "error_type"}
    assert "JSONDecodeError" not in response.text


def test_the_full_response(node: Node, respond: str) -> None:
    value = {
        "statusCode": 418,
        "headers": {"X-One": "1", "Content-Type": "text/teapot"},
        "cookies": ["a=1; Path=/", "b=2"],
        "body": "short and stout",
    }
    response = answer(node, respond, value)
    assert response.status_code == 418
    assert response.headers["x-one"] == "1"
    assert response.headers["content-type"] == "text/teapot"
    assert response.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]
    assert response.text == "short and stout"
    assert int(response.headers["faas-billed-ms"]) >= 1


def test_a_base64_body(node: Node, respond: str) -> None:
    value = {"statusCode": 200, "body": base64.b64encode(b"\x00\xff").decode(), "isBase64Encoded": True}
    assert answer(node, respond, value).content == b"\x00\xff"


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], 7, None])
def test_without_a_status_code_the_value_is_the_body(node: Node, respond: str, value: Any) -> None:
    response = answer(node, respond, value)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == value


def test_text_is_sent_as_it_is(node: Node, respond: str) -> None:
    response = answer(node, respond, "plain words")
    assert response.status_code == 200
    assert response.text == "plain words"


@pytest.mark.parametrize(
    "value",
    [
        {"statusCode": 99},
        {"statusCode": 600},
        {"statusCode": "many"},
        {"statusCode": 200, "headers": {"x": "a\r\nSet-Cookie: stolen=1"}},
        {"statusCode": 200, "headers": {"bad name": "x"}},
        {"statusCode": 200, "headers": ["x"]},
        {"statusCode": 200, "cookies": ["a=1\r\nX-Injected: 1"]},
        {"statusCode": 200, "body": "***", "isBase64Encoded": True},
        {"statusCode": 200, "headers": {f"x-{n}": "1" for n in range(2000)}},
    ],
)
def test_a_response_that_is_none(node: Node, respond: str, value: Any) -> None:
    response = answer(node, respond, value)
    assert code(response) == (500, "function-error"), value
    assert "set-cookie" not in response.headers
    assert "x-injected" not in response.headers
    assert answer(node, respond, "next").text == "next"


def test_headers_that_are_the_platforms_cannot_be_forged(node: Node, respond: str) -> None:
    forged = {"Faas-Billed-Ms": "0", "Faas-Invocation-Id": "x", "Content-Length": "3", "Transfer-Encoding": "chunked"}
    response = answer(node, respond, {"statusCode": 200, "headers": forged, "body": "longer than three"})
    assert response.text == "longer than three"
    assert response.headers.get_list("faas-billed-ms") != ["0"]
    assert len(response.headers["faas-invocation-id"]) == 32


def test_only_the_methods_it_names(node: Node) -> None:
    node.deploy("contract-methods", RESPOND, http={"public": True, "methods": ["POST"]})
    response = node.fetch("/fn/contract-methods")
    assert code(response)[0] == 405
    assert response.headers["allow"] == "POST"
    assert answer(node, "/fn/contract-methods", 5).json() == 5
    node.delete("contract-methods")


def test_cors_as_the_function_asked(node: Node) -> None:
    node.deploy("contract-cors", RESPOND, http={"public": True, "cors": {"origins": ["https://one.example"]}})
    ask = {"origin": "https://one.example", "access-control-request-method": "POST"}
    preflight = node.fetch("/fn/contract-cors", "OPTIONS", headers=ask)
    assert preflight.status_code in (200, 204)
    assert preflight.headers["access-control-allow-origin"] == "https://one.example"
    answered = node.fetch("/fn/contract-cors", "POST", json=1, headers={"origin": "https://one.example"})
    assert answered.headers["access-control-allow-origin"] == "https://one.example"
    other = node.fetch("/fn/contract-cors", "POST", json=1, headers={"origin": "https://two.example"})
    assert "access-control-allow-origin" not in other.headers
    node.delete("contract-cors")


@pytest.mark.parametrize("kind", APPS)
def test_an_app_serves_http(node: Node, kind: str) -> None:
    name = f"contract-{kind}"
    node.deploy(name, APPS[kind])
    response = node.fetch(f"/fn/{name}/some/where", "POST", content=b"body")
    assert response.status_code == 201, response.text
    assert response.headers["content-type"] == f"text/x-{kind}"
    assert response.headers["x-path"].endswith("/some/where")
    assert response.text == f"{kind}:body"
    node.delete(name)
