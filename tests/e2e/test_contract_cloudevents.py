"""CloudEvents 1.0 on a real node, made and read by the official SDK."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings import http as sdk
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.e2e.node import Node, code

SHOP = """
import json
def handler(event, context):
    if isinstance(event, list):
        return [handler(each, context) for each in event]
    if event["type"] == "order.echo":
        return {"event": event, "trigger": context.trigger}
    kept = {name: event[name] for name in ("data", "data_base64", "datacontenttype", "subject") if name in event}
    return {"specversion": "1.0", "id": context.invocation_id, "source": "/shop", "type": "order.seen", "n": 5, **kept}
"""
APP = """
async def app(scope, receive, send):
    body = (await receive())["body"]
    head = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    names = b",".join(sorted(n + b"=" + v for n, v in scope["headers"] if n == b"content-type" or n[:3] == b"ce-"))
    await send({"type": "http.response.body", "body": names + b" " + scope["path"].encode() + b" " + body})
"""
PATHS = ["/v1/functions/shop/invocations", "/fn/shop/orders?a=1"]
DATA: list[tuple[Any, str | None]] = [
    ({"eur": 5, "who": "Zoë"}, "application/json"),
    ({"eur": 5}, None),
    ("Grüße", "text/plain"),
    (b"\x89PNG\x00\xff", "image/png"),
    (None, None),
]


@pytest.fixture(scope="module")
def shop(node: Node) -> Node:
    node.deploy("shop", SHOP)
    node.deploy("shop-app", APP)
    return node


def send(node: Node, path: str, message: sdk.HTTPMessage) -> httpx2.Response:
    return node.fetch(path, "POST", content=message.body, headers=message.headers)


def received(response: httpx2.Response) -> BaseCloudEvent:
    assert response.status_code == 200, response.text
    kept = {n: v for n, v in response.headers.items() if n == "content-type" or n.startswith("ce-")}
    return sdk.from_http(sdk.HTTPMessage(kept, response.content), JSONFormat())


def made(data: Any, kind: str | None, **attributes: Any) -> CloudEvent:
    more = {"datacontenttype": kind} if kind is not None else {}
    return CloudEvent({"type": "order.paid", "source": "/till/9", "subject": "Größe 5%", **more, **attributes}, data)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("binary", [True, False])
def test_events_go_in_and_come_out_in_one_mode(shop: Node, path: str, binary: bool) -> None:
    for data, kind in DATA:
        event = made(data, kind)
        message = sdk.to_binary(event, JSONFormat()) if binary else sdk.to_structured(event, JSONFormat())
        response = send(shop, path, message)
        assert ("ce-id" in response.headers) is binary
        back = received(response)
        assert back.get_id() == response.headers["faas-invocation-id"]
        assert (back.get_type(), back.get_subject(), back.get_data()) == ("order.seen", "Größe 5%", data)
        assert back.get_time() is not None
        assert str(back.get_extension("n")) == "5"
        if kind is not None:
            assert back.get_datacontenttype() == kind


@pytest.mark.parametrize("path", PATHS)
def test_batches(shop: Node, path: str) -> None:
    events = [JSONFormat().write(made(data, kind)) for data, kind in DATA]
    headers = {"content-type": "application/cloudevents-batch+json"}
    response = shop.fetch(path, "POST", content=b"[%b]" % b",".join(events), headers=headers)
    assert response.headers["content-type"] == "application/cloudevents-batch+json"
    back = [JSONFormat().read(None, json.dumps(each)) for each in response.json()]
    assert [event.get_data() for event in back] == [data for data, _ in DATA]


@pytest.mark.parametrize(("path", "trigger"), [*zip(PATHS, ("direct", "http"), strict=True)])
def test_the_function_gets_one_structured_event(shop: Node, path: str, trigger: str) -> None:
    event = made({"eur": 5}, "application/json", type="order.echo", id="7")
    for message in (sdk.to_binary(event, JSONFormat()), sdk.to_structured(event, JSONFormat())):
        response = send(shop, path, message)
        assert response.headers["content-type"] == "application/json"
        assert response.json() == {"event": json.loads(JSONFormat().write(event)), "trigger": trigger}


def test_what_is_no_event_is_refused(shop: Node) -> None:
    for path in PATHS:
        wrong = shop.fetch(path, "POST", content=b"{}", headers={"ce-id": "1", "ce-type": "a", "ce-source": "/"})
        assert code(wrong) == (400, "invalid-request")
        assert wrong.json()["errors"] == ["'specversion' is missing"]


def test_an_app_gets_the_request_in_structured_mode(shop: Node) -> None:
    event = made({"eur": 5}, "application/json")
    response = send(shop, "/fn/shop-app/in", sdk.to_binary(event, JSONFormat()))
    kind, path, body = response.content.split(b" ", 2)
    assert (kind, path) == (b"content-type=application/cloudevents+json", b"/in")
    assert JSONFormat().read(None, body).get_attributes() == event.get_attributes()
