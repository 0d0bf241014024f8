"""What goes into a function by a direct call, and what comes back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.node import Node, code

ECHO = """
import base64

def handler(event, context):
    if isinstance(event, bytes):
        return {"bytes": base64.b64encode(event).decode()}
    return {"event": event, "type": type(event).__name__}
"""

RESULTS = """
class Strange:
    pass

def handler(event, context):
    if event == "bytes":
        return bytes(range(256))
    if event == "raise":
        return inner({"a": 1})
    if event == "strange":
        return {"x": Strange()}
    if event == "nan":
        return float("nan")
    if event == "exit":
        import sys
        sys.exit("no more")
    if event == "custom":
        class OutOfStock(ValueError):
            pass
        raise OutOfStock("none left")
    return event

def inner(value):
    return value["missing"]
"""

CONTEXT = """
async def handler(event, context):
    names = ["aws_request_id", "function_name", "function_version", "memory_limit_in_mb", "invoked_function_arn",
             "log_group_name", "log_stream_name", "client_context", "invocation_id", "namespace",
             "trigger", "attempt", "trace_parent"]
    found = {name: getattr(context, name) for name in names}
    found["remaining"] = context.get_remaining_time_in_millis()
    found["deadline"] = str(context.deadline)
    found["identity"] = context.identity.cognito_identity_id
    return found
"""


@pytest.fixture(scope="module")
def echo(node: Node) -> Iterator[str]:
    node.deploy("contract-echo", ECHO)
    yield "contract-echo"
    node.delete("contract-echo")


@pytest.fixture(scope="module")
def results(node: Node) -> Iterator[str]:
    node.deploy("contract-results", RESULTS)
    yield "contract-results"
    node.delete("contract-results")


def test_headers_of_an_answer(node: Node, echo: str) -> None:
    response = node.call(echo, 1)
    assert response.status_code == 200
    headers = response.headers
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"[0-9a-f]{32}", headers["faas-invocation-id"])
    assert headers["faas-version"] == "1"
    assert headers["faas-start"] in ("cold", "prewarmed", "parked", "warm")
    assert int(headers["faas-billed-ms"]) >= 1
    assert re.fullmatch(r"queue;dur=[0-9.]+, init;dur=[0-9.]+, run;dur=[0-9.]+", headers["server-timing"])
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", headers["traceparent"])


def test_a_trace_goes_on(node: Node, echo: str) -> None:
    mine = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    response = node.call(echo, 1, headers={"traceparent": mine})
    assert response.headers["traceparent"].split("-")[1] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert response.headers["traceparent"] != mine


@pytest.mark.parametrize("value", [None, True, 0, -1.5, "", "text é 漢 🦊", [], [1, [2]], {}, {"a": {"b": None}}])
def test_any_json_value_goes_in(node: Node, echo: str, value: Any) -> None:
    assert node.call(echo, value).json() == {"event": value, "type": type(value).__name__}


def test_no_body_is_an_empty_object(node: Node, echo: str) -> None:
    assert node.call(echo, content=b"").json() == {"event": {}, "type": "dict"}


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "application/ld+json"])
def test_json_under_its_other_names(node: Node, echo: str, content_type: str) -> None:
    response = node.call(echo, content=b'{"a":1}', headers={"content-type": content_type})
    assert response.json()["event"] == {"a": 1}


def test_another_content_type_goes_in_as_bytes(node: Node, echo: str) -> None:
    response = node.call(echo, content=b"\x00\xff", headers={"content-type": "image/png"})
    assert response.json() == {"bytes": "AP8="}


def test_the_largest_body_passes_both_ways(node: Node, results: str) -> None:
    text = "x" * (6_000_000 - 2)
    assert node.call(results, text).json() == text


@pytest.mark.parametrize("value", [None, True, 0, "text é 漢", [1, {"a": "b"}], {"k": [None]}])
def test_any_json_value_comes_out(node: Node, results: str, value: Any) -> None:
    response = node.call(results, value)
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.content) == value


def test_bytes_come_out_as_they_are(node: Node, results: str) -> None:
    response = node.call(results, "bytes")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.content == bytes(range(256))


def test_an_exception_is_a_function_error(node: Node, results: str) -> None:
    response = node.call(results, "raise")
    assert code(response) == (500, "function-error")
    problem = response.json()
    assert problem["error_type"] == "KeyError"
    assert problem["message"] == "'missing'"
    assert 'return value["missing"]' in problem["traceback"]
    assert "zygote" not in problem["traceback"]
    assert "/opt/faas/runtime" not in problem["traceback"]
    assert problem["invocation_id"] == response.headers["faas-invocation-id"]
    record = node.record(response)
    assert record["status"] == "function_error"
    assert record["error"]["error_type"] == "KeyError"
    assert record["billed_ms"] == int(response.headers["faas-billed-ms"]) >= 1


def test_an_exception_of_the_functions_own(node: Node, results: str) -> None:
    problem = node.call(results, "custom").json()
    assert problem["error_type"].endswith("OutOfStock")
    assert problem["message"] == "none left"


def test_what_is_not_json_is_a_function_error_that_says_what(node: Node, results: str) -> None:
    for event in ("strange", "nan"):
        response = node.call(results, event)
        assert code(response) == (500, "function-error")
        assert node.record(response)["status"] == "function_error"
    assert "Strange" in node.call(results, "strange").json()["message"]


def test_sys_exit_is_a_function_error(node: Node, results: str) -> None:
    response = node.call(results, "exit")
    assert code(response) == (500, "function-error")
    assert response.json()["error_type"] == "SystemExit"
    assert node.call(results, 1).json() == 1


def test_the_context_is_lambdas_and_ours(node: Node) -> None:
    node.deploy("contract-context", CONTEXT, memory="192MB", timeout="20s")
    response = node.call("contract-context")
    found = response.json()
    invocation = response.headers["faas-invocation-id"]
    assert found["aws_request_id"] == found["invocation_id"] == invocation
    assert found["function_name"] == "contract-context"
    assert found["function_version"] == "1"
    assert int(found["memory_limit_in_mb"]) == 192
    assert found["invoked_function_arn"] == "arn:faas:default:function:contract-context:1"
    assert found["log_group_name"] == "/faas/default/contract-context"
    assert found["log_stream_name"]
    assert found["client_context"] is None
    assert found["identity"] is None
    assert found["namespace"] == "default"
    assert found["trigger"] == "direct"
    assert found["attempt"] == 1
    assert found["trace_parent"] == response.headers["traceparent"]
    assert 0 < found["remaining"] <= 20_000
    node.delete("contract-context")


def test_the_record_says_what_the_answer_said(node: Node, echo: str) -> None:
    response = node.call(echo, {"some": "thing"})
    record = node.record(response)
    assert record["id"] == response.headers["faas-invocation-id"] + "-1"
    assert record["namespace"] == "default"
    assert record["function"] == echo
    assert record["version"] == 1
    assert record["key_id"]
    assert record["trigger"] == "direct"
    assert record["status"] == "ok"
    assert record["start"] == response.headers["faas-start"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", record["started_at"])
    assert record["billed_ms"] == int(response.headers["faas-billed-ms"])
    assert record["memory_mb"] == 128
    assert record["mb_ms"] == 128 * record["billed_ms"]
    assert record["bytes_in"] == len(response.request.content)
    assert record["bytes_out"] == len(response.content)
    assert record["attempt"] == 1
    assert record["trace_parent"] == response.headers["traceparent"]
    assert all(record[name] >= 0 for name in ("queue_ns", "init_ns", "run_ns", "cpu_ns"))
    assert record["peak_memory_bytes"] > 0
    assert record["node"]
    listed = node.get(f"/v1/functions/{echo}/invocations")["invocations"]
    assert record["id"] in [each["id"] for each in listed]
