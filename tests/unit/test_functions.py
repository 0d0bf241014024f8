"""The examples in functions/ do what their docstrings say, called with events as the platform makes them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import importlib.util
import json
import time
import urllib.error
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from faas.packaging.bundle import pack, prepare
from faas.packaging.manifest import KEYS
from tests.unit.fake_node import Answer, FakeNode

FUNCTIONS = Path(__file__).parents[2] / "functions"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"functions_{name}", FUNCTIONS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def http(
    body: bytes | None = None,
    query: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    method: str = "GET",
) -> dict[str, Any]:
    """A payload 2.0 event, with the members that API Gateway leaves out when they are empty left out."""
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/fn/x",
        "rawQueryString": "&".join(f"{k}={v}" for k, v in (query or {}).items()),
        "headers": {"host": "127.0.0.1:8080", **(headers or {})},
        "requestContext": {"http": {"method": method, "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}},
        "isBase64Encoded": False,
    }
    if query:
        event["queryStringParameters"] = query
    if body is not None:
        try:
            event["body"] = body.decode()
        except UnicodeDecodeError:
            event |= {"body": base64.b64encode(body).decode(), "isBase64Encoded": True}
    return event


@pytest.mark.parametrize("path", sorted(FUNCTIONS.glob("*.py")), ids=lambda path: path.stem)
def test_every_example_deploys_as_it_stands(path: Path) -> None:
    manifest = prepare(pack(path), {}).manifest
    assert (manifest.name, manifest.entry) == (path.stem.replace("_", "-"), path.stem)


def test_the_guide_s_first_example_deploys_and_its_table_names_every_setting(tmp_path: Path) -> None:
    guide = (FUNCTIONS / "README.md").read_text()
    (tmp_path / "fn.py").write_text(guide.partition("```python\n")[2].partition("```")[0])
    assert prepare(pack(tmp_path / "fn.py"), {}).manifest.http.public
    settings = guide.partition("## Settings")[2]
    names = {"queue": "[[queue]]", "cron": "[[cron]]", "http": "http.public"}
    keys = [names.get(key, key) for key in KEYS if key not in ("dependencies", "requires-python")]
    assert [key for key in keys if f"`{key}`" not in settings] == []


def test_hello_greets_by_query_by_event_and_without_either() -> None:
    hello = load("hello")
    assert hello.handler(http(query={"name": "Ada"}), None) == {"message": "Hello, Ada!"}
    assert hello.handler(http(), None) == {"message": "Hello, world!"}
    assert hello.handler({"name": "Grace"}, None) == {"message": "Hello, Grace!"}
    assert hello.handler([1], None) == {"message": "Hello, world!"}


# -- webhook --------------------------------------------------------------------------------------------------------

SECRET = "It's a Secret to Everybody"


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    monkeypatch.delenv("TOLERANCE_S", raising=False)
    return load("webhook")


def sign(text: bytes) -> str:
    return hmac.new(SECRET.encode(), text, hashlib.sha256).hexdigest()


def test_webhook_agrees_with_github_s_published_example(webhook: ModuleType) -> None:
    signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    webhook.verify(SECRET.encode(), {"x-hub-signature-256": signature}, b"Hello, World!", 0)


def test_webhook_accepts_a_signed_push_as_text_or_base64(webhook: ModuleType) -> None:
    for body in (b'{"ref": "refs/heads/main"}', '{"ref": "ü"}'.encode("latin-1")):
        headers = {"X-Hub-Signature-256": f"sha256={sign(body)}", "X-GitHub-Event": "push"}
        reply = webhook.handler(http(body, headers=headers, method="POST"), None)
        assert reply["statusCode"] == (200 if body.isascii() else 400)
    body = b'{"zen": "x"}'
    event = http(body, headers={"x-hub-signature-256": f"sha256={sign(body)}", "x-github-event": "ping"})
    assert json.loads(webhook.handler(event, None)["body"]) == {"accepted": "ping"}


def test_webhook_accepts_a_timely_stripe_signature_with_any_of_several_keys(webhook: ModuleType) -> None:
    body, now = b'{"type": "charge.succeeded"}', int(time.time())
    signature = f"t={now},v1={'0' * 64},v1={sign(str(now).encode() + b'.' + body)},v0=x"
    reply = webhook.handler(http(body, headers={"stripe-signature": signature}), None)
    assert (reply["statusCode"], json.loads(reply["body"])) == (200, {"accepted": "charge.succeeded"})


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no signature"),
        ({"x-hub-signature-256": "sha256=" + "0" * 64}, "does not match"),
        ({"x-hub-signature-256": "ü"}, "does not match"),
        ({"stripe-signature": "v1=abc"}, "no valid time"),
        ({"stripe-signature": "t=abc,v1=abc"}, "no valid time"),
        ({"stripe-signature": f"t=1000,v1={sign(b'1000.{}')}"}, "too old"),
        ({"stripe-signature": f"t=99999999999,v1={sign(b'99999999999.{}')}"}, "from the future"),
        ({"stripe-signature": "t=SOON"}, "does not match"),
    ],
)
def test_webhook_refuses_what_is_not_signed_right(webhook: ModuleType, headers: dict[str, str], reason: str) -> None:
    soon = str(int(time.time()) + 60)  # at the time of the test, which may be long after it was collected
    headers = {name: value.replace("SOON", soon) for name, value in headers.items()}
    reply = webhook.handler(http(b"{}", headers=headers), None)
    assert reply["statusCode"] == 401
    assert reason in reply["body"]


def test_webhook_without_its_secret_refuses_everything(webhook: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEBHOOK_SECRET")
    empty = hmac.new(b"", b"{}", hashlib.sha256).hexdigest()
    assert webhook.handler(http(b"{}", headers={"x-hub-signature-256": f"sha256={empty}"}), None)["statusCode"] == 500


# -- report ---------------------------------------------------------------------------------------------------------

SALES = """\ufefforder,country,price,paid,postcode
1,DE,19.99,2024-01-01,01067
2,FR,5.01,2024-01-02,75001
3,DE,,2024-01-03,10115
4,"AT, Wien",0.1,2024-01-04,1010
"""


def test_report_types_the_columns_and_adds_up_exactly() -> None:
    report = load("report").handler({"csv": SALES, "group": "country"}, None)
    assert report["rows"] == 4
    columns = report["columns"]
    assert {name: column["type"] for name, column in columns.items()} == {
        "order": "integer", "country": "text", "price": "number", "paid": "text", "postcode": "text",
    }  # fmt: skip
    price = {"type": "number", "empty": 1, "count": 3, "total": 25.1, "min": 0.1, "max": 19.99, "mean": 8.3666666667}
    assert columns["price"] == price
    assert columns["country"]["distinct"] == 3
    assert report["groups"]["DE"] == {"rows": 2, "totals": {"order": 4, "price": 19.99}}
    assert list(report["groups"]) == ["AT, Wien", "DE", "FR"]


def test_report_takes_bytes_and_http_bodies_in_any_usual_form() -> None:
    report = load("report")
    expected = report.report(SALES, None)
    assert report.handler(SALES.encode(), None) == expected
    assert report.handler(http(SALES.encode(), method="POST"), None) == expected
    windows = SALES.replace("\n", "\r\n").replace("country", "länd").encode("cp1252", "ignore")
    assert report.handler(http(windows, query={"group": "länd"}), None)["groups"]["FR"]["rows"] == 1
    semicolons = "a;b\n1;x\n2;y\n"
    assert report.handler(semicolons.encode(), None)["columns"]["a"]["total"] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the CSV is empty"),
        ("\n\n", "the CSV is empty"),
        ("a,b\n1,2\n3\n", "line 3: 1 values, but there are 2 columns"),
        ("a,a\n1,2\n", "line 1: every column needs a name"),
        ('a,b\n1,"2\n', "line 2"),
    ],
)
def test_report_says_what_is_wrong_with_a_file(text: str, says: str) -> None:
    reply = load("report").handler(http(text.encode()), None)
    assert reply["statusCode"] == 400
    assert says in reply["body"]


def test_report_names_the_columns_when_the_group_is_none_of_them() -> None:
    with pytest.raises(ValueError, match="there are order, country"):
        load("report").handler({"csv": SALES, "group": "region"}, None)
    with pytest.raises(TypeError, match="send a CSV file"):
        load("report").handler([1], None)


def test_report_takes_only_real_numbers_as_numbers() -> None:
    number = load("report").number
    assert [number(cell) for cell in ("1_000", "0123", "nan", "inf", "1e999", "x", "9" * 41, "")] == [None] * 8
    assert [str(number(cell)) for cell in ("0", "-0.5", "+7", "1e3")] == ["0", "-0.5", "7", "1E+3"]


# -- order_worker ---------------------------------------------------------------------------------------------------


def order(**changes: Any) -> dict[str, Any]:
    items = [{"sku": "tea", "price": "4.50", "quantity": 2}, {"sku": "cup", "price": 0.1, "quantity": 3}]
    return {"id": "A-1", "customer": "Ada", "items": items, **changes}


def records(*bodies: Any) -> dict[str, Any]:
    texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    return {"Records": [{"messageId": f"m{number}", "body": text} for number, text in enumerate(texts)]}


def test_orders_are_added_up_exactly_and_a_wrong_one_fails_alone() -> None:
    wrong = ["{", [], order(items=[]), order(id=None), order(items=[{"price": "1"}])]
    lines = [("0.001", 1), ("-1", 1), ("NaN", 1), ("x", 1), ("1", True), ("1", 0), ("1e40", 1), ("1E-40", 1)]
    wrong += [order(items=[{"price": price, "quantity": quantity}]) for price, quantity in lines]
    result = load("order_worker").handler(records(order(), *wrong, order(id="A-2")), None)
    assert [each["itemIdentifier"] for each in result["batchItemFailures"]] == [f"m{n}" for n in range(1, 14)]
    assert result["invoices"] == [
        {"order": number, "customer": "Ada", "lines": 2, "total": "9.30"} for number in ("A-1", "A-2")
    ]


# -- nightly_report -------------------------------------------------------------------------------------------------

FIGURES = "day,product,amount\n2026-02-28,tea,0.10\n2026-02-28,tea,0.20\n2026-02-28,cup,7\n2026-03-01,tea,99\n"


def test_the_nightly_report_adds_up_the_day_before_its_tick(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> None:
    node.answers["GET /sales.csv"] = Answer(200, b"\xef\xbb\xbf" + FIGURES.encode())
    monkeypatch.setenv("SOURCE_URL", f"{node.url}/sales.csv")
    report = load("nightly_report").handler
    event = {"detail-type": "Scheduled Event", "time": "2026-03-01T01:15:00Z"}
    products = [{"product": "cup", "amount": "7"}, {"product": "tea", "amount": "0.30"}]
    assert report(event, None) == {"day": "2026-02-28", "total": "7.30", "products": products}
    assert report({"day": "2026-03-01"}, None)["total"] == "99"
    assert report({"day": "2026-03-02"}, None) == {"day": "2026-03-02", "total": "0", "products": []}


def test_the_nightly_report_fails_when_its_source_does(monkeypatch: pytest.MonkeyPatch, node: FakeNode) -> None:
    monkeypatch.setenv("SOURCE_URL", f"{node.url}/gone.csv")
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        load("nightly_report").handler({"day": "2026-03-01"}, None)
    caught.value.close()


def test_the_nightly_report_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_URL", raising=False)
    with pytest.raises(ValueError, match="SOURCE_URL is not set"):
        load("nightly_report").handler({"day": "2026-03-01"}, None)
