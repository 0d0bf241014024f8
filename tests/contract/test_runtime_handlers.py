"""What a handler gets, what may come back, and what each way of failing looks like."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import pytest

from faas.wire import Error, Http, Invoke, Log, Result
from tests.contract.runtime_node import FAR_NS, REQUEST, Node, new_id, serving


def answer(source: str, payload: bytes = b"{}", content_type: str = "", http: Http | None = None) -> Result | Error:
    with serving(source) as peer:
        frame: Result | Error = peer.answer(payload, content_type, http)
        return frame


@pytest.mark.parametrize(
    ("content_type", "payload", "event"),
    [
        ("", b'{"a": [1, 2.5, null, "\xc3\xa9"]}', {"a": [1, 2.5, None, "é"]}),
        ("application/json", b"7", 7),
        ("application/json", b' \n{"a": "\xc3\xa9"}\t', {"a": "é"}),
        ("application/json", '["é€𝄞", {}, -0.5e3]'.encode(), ["é€𝄞", {}, -500]),
        ("application/json", b"\xef\xbb\xbf[1]", [1]),
        ("Application/JSON; charset=utf-8", b'"x"', "x"),
        ("application/cloudevents+json", b"[]", []),
        ("application/json", b"", {}),
        ("", b"\xef\xbb\xbf{}", {}),
        ("text/plain", b"raw", "bytes:raw"),
        ("application/octet-stream", b"", "bytes:"),
    ],
)
def test_the_event_of_a_direct_call(content_type: str, payload: bytes, event: Any) -> None:
    source = """
        def handler(event, context):
            return "bytes:" + event.decode() if isinstance(event, bytes) else event
        """
    frame = answer(source, payload, content_type)
    assert isinstance(frame, Result)
    assert json.loads(frame.payload) == event


@pytest.mark.parametrize("content_type", ["", "application/json"])
@pytest.mark.parametrize("payload", [b"{", b"\xff", b"NaN", b"[1,]", b"1 2", b"[" * 100_000, b" ", b"1" * 5000])
def test_a_body_that_is_not_json(payload: bytes, content_type: str) -> None:
    with serving("def handler(event, context): return event") as peer:
        frame = peer.answer(payload, content_type)
        assert isinstance(frame, Error)
        assert frame.kind == "bad_event"
        assert "JSON" in frame.message
        assert peer.call(1) == 1


@pytest.mark.parametrize(
    ("expression", "content_type", "payload"),
    [
        ("{'a': (1, 2), 3: None}", b"application/json", b'{"a":[1,2],"3":null}'),
        ("type('Own', (dict,), {})(a=True)", b"application/json", b'{"a":true}'),
        ("'x' * 70_000", b"application/json", b'"' + b"x" * 70_000 + b'"'),
        ("None", b"application/json", b"null"),
        ("'text \\u00e9'", b"application/json", '"text é"'.encode()),
        ("'\\ud800'", b"application/json", b'"\\ud800"'),
        ("b'raw\\x00'", b"application/octet-stream", b"raw\x00"),
        ("bytearray(b'x')", b"application/octet-stream", b"x"),
        ("__import__('decimal').Decimal('1.5')", b"application/json", b"1.5"),
    ],
)
def test_the_result_of_a_direct_call(expression: str, content_type: bytes, payload: bytes) -> None:
    frame = answer(f"def handler(event, context): return {expression}")
    assert isinstance(frame, Result)
    assert (frame.status, frame.headers, frame.payload) == (200, ((b"content-type", content_type),), payload)
    assert frame.cpu_ns > 0
    assert frame.peak_bytes > 1_000_000


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{'a': [1, {2}]}", "result['a'][1] is of type set"),
        ("object()", "result is of type object"),
        ("[float('nan')]", "result[0] is nan"),
        ("{'x': float('inf')}", "result['x'] is inf"),
        ("{(1, 2): 3}", "a key of result is of type tuple"),
        ("(l := [], l.append(l), l)[2]", "nested too deeply or contains itself"),
        ("{'d': b'bytes'}", "result['d'] is of type bytes"),
    ],
)
def test_a_result_that_is_not_json(expression: str, said: str) -> None:
    with serving(f"def handler(event, context): return {expression} if event else 'fine'") as peer:
        frame = peer.error(1)
        assert frame.kind == "not_serialisable"
        assert said in frame.message
        assert peer.call() == "fine"


def test_a_result_that_contains_itself_however_deep_the_user_may_go() -> None:
    source = """
        import sys
        sys.setrecursionlimit(10_000_000)
        def handler(event, context):
            if event: event.append(event)
            return event
        """
    with serving(source) as peer:
        assert "contains itself" in peer.error([1]).message
        assert peer.call([]) == []


@pytest.mark.parametrize("expression", ["bytes(event)", "'x' * (event - 2)"])
def test_a_result_beyond_the_cap(expression: str) -> None:
    with serving(f"def handler(event, context): return {expression}", result_bytes_max=1000) as peer:
        assert len(peer.answer(b"1000").payload) == 1000
        frame = peer.error(1001)
        assert (frame.kind, frame.error_type) == ("too_large", "ResultTooLarge")
        assert "1001" in frame.message
        assert "1000" in frame.message


def test_large_payloads_both_ways() -> None:
    with serving("def handler(event, context): return event") as peer:
        payload = os.urandom(6 * 1024 * 1024)
        frame = peer.answer(payload, "application/octet-stream")
        assert frame.payload == payload


def test_frames_in_pieces_and_several_at_once() -> None:
    with serving("def handler(event, context): return event") as peer:
        for step in (1, 3, 7):
            ids = [new_id() for _ in range(2)]
            payloads = [b'"first"', b'"second"']
            fields = (FAR_NS, "direct", 1, "application/json", "", None)
            frames = [Invoke(ids[n], *fields, payloads[n]) for n in (0, 1)]
            data = b"".join(peer.connection.send(frame) for frame in frames)
            for at in range(0, len(data), step):
                peer.send_raw(data[at : at + step])
            answers = [peer.expect(Result) for _ in ids]
            assert [(answer.invocation_id, answer.payload) for answer in answers] == list(
                zip(ids, payloads, strict=True)
            )


def test_nothing_of_an_invocation_is_held_while_waiting_for_the_next() -> None:
    source = """
        class Told(int):
            def __del__(self): print("gone")
        def handler(event, context): return [Told(1)]
        """
    with serving(source) as peer:
        assert peer.call() == [1]
        line = peer.expect(Log)
        assert (line.invocation_id, line.text) == ("", "gone")


def test_each_invocation_has_its_own_processor_time() -> None:
    source = """
        import time
        def handler(event, context):
            until = time.process_time() + event / 1000
            while time.process_time() < until: pass
        """
    with serving(source) as peer:
        used_ms = [peer.answer(b"%d" % wanted).cpu_ns / 1e6 for wanted in (0, 200, 0, 50)]
        assert used_ms[1] >= 200
        assert used_ms[3] >= 50
        assert used_ms[2] < 200


def test_the_context() -> None:
    source = """
        def handler(event, context):
            return {n: getattr(context, n) for n in dir(context) if not n.startswith("_")
                    and n not in ("identity", "get_remaining_time_in_millis")} | {
                "left": context.get_remaining_time_in_millis(), "who": context.identity.cognito_identity_id}
        """
    with Node() as node:
        node.bind(source, namespace="team", function="shop", version=7, arn="arn:x", memory_mb=128, log_group="/l")
        peer = node.fork()
        deadline_ns = time.time_ns() + 60_000_000_000
        frame = peer.answer(deadline_ns=deadline_ns, trigger="cron", attempt=2, trace_parent="00-1-2-03")
        seen = json.loads(frame.payload)
        assert 0 < seen.pop("left") <= 60_000
        assert seen == {
            "aws_request_id": frame.invocation_id,
            "invocation_id": frame.invocation_id,
            "function_name": "shop",
            "function_version": "7",
            "memory_limit_in_mb": 128,
            "invoked_function_arn": "arn:x",
            "log_group_name": "/l",
            "log_stream_name": "[7]s1-1",
            "namespace": "team",
            "client_context": None,
            "who": None,
            "trigger": "cron",
            "attempt": 2,
            "trace_parent": "00-1-2-03",
            "deadline": deadline_ns / 1e9,
        }


# -- the HTTP trigger -----------------------------------------------------------------------------------------------


def test_the_event_of_an_http_request() -> None:
    with serving("def handler(event, context): return event") as peer:
        frame = peer.answer(b'{"q": 1}', "application/json", REQUEST)
        event = json.loads(frame.payload)
        assert (
            event.pop("requestContext").items()
            >= {
                "accountId": "default",
                "apiId": "fn",
                "domainName": "h.example:81",
                "requestId": frame.invocation_id,
                "stage": "$default",
                "http": {
                    "method": "POST",
                    "path": "/a b/c",
                    "protocol": "HTTP/1.1",
                    "sourceIp": "203.0.113.9",
                    "userAgent": "curl",
                },
            }.items()
        )
        assert event == {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": "/fn/fn/a%20b/c",
            "rawQueryString": "x=1&x=2&y=%C3%A9+z",
            "cookies": ["a=1", "b=2"],
            "headers": {
                "host": "h.example:81",
                "accept": "text/html,*/*",
                "user-agent": "curl",
                "content-type": "application/json",
            },
            "queryStringParameters": {"x": "1,2", "y": "é z"},
            "body": '{"q": 1}',
            "isBase64Encoded": False,
        }


@pytest.mark.parametrize(
    ("content_type", "payload", "encoded"),
    [("image/png", b"\x89PNG", True), ("text/plain", b"\xff", True), ("text/plain; charset=utf-8", b"hi", False)],
)
def test_binary_request_bodies_come_in_base64(content_type: str, payload: bytes, encoded: bool) -> None:
    request = REQUEST._replace(headers=(("content-type", content_type),), query="")
    frame = answer("def handler(event, context): return event", payload, content_type, request)
    assert isinstance(frame, Result)
    event = json.loads(frame.payload)
    assert event["isBase64Encoded"] is encoded
    assert (base64.b64decode(event["body"]) if encoded else event["body"].encode()) == payload
    assert "queryStringParameters" not in event
    assert "cookies" not in event


@pytest.mark.parametrize(
    ("expression", "status", "headers", "payload"),
    [
        ("{'a': 1}", 200, {"content-type": "application/json"}, b'{"a":1}'),
        ("'hé'", 200, {"content-type": "text/plain; charset=utf-8"}, "hé".encode()),
        ("b'x'", 200, {"content-type": "application/octet-stream"}, b"x"),
        ("{'statusCode': 204}", 204, {"content-type": "application/json"}, b""),
        ("{'statusCode': '404', 'body': 'no'}", 404, {"content-type": "application/json"}, b"no"),
        ("{'statusCode': 200, 'body': {'a': 1}}", 200, {"content-type": "application/json"}, b'{"a":1}'),
        (
            (
                "{'statusCode': 200, 'headers': {'Content-Type': 'image/gif', 'X-N': 5, 'Content-Length': '9'},"
                " 'body': 'R0lG', 'isBase64Encoded': True}"
            ),
            200,
            {"content-type": "image/gif", "x-n": "5"},
            b"GIF",
        ),
        (
            "{'statusCode': 302, 'headers': {'location': '/x'}, 'cookies': ['a=1; Secure']}",
            302,
            {"location": "/x", "set-cookie": "a=1; Secure", "content-type": "application/json"},
            b"",
        ),
    ],
)
def test_the_response_of_an_http_request(expression: str, status: int, headers: dict[str, str], payload: bytes) -> None:
    frame = answer(f"def handler(event, context): return {expression}", b"", "", REQUEST)
    assert isinstance(frame, Result)
    assert frame.status == status
    assert {name.decode(): value.decode() for name, value in frame.headers} == headers
    assert frame.payload == payload


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("{'statusCode': 99}", "statusCode"),
        ("{'statusCode': True}", "statusCode"),
        ("{'statusCode': 'ok'}", "statusCode"),
        ("{'statusCode': 200, 'headers': {'x': 'a\\r\\nb: c'}}", "control character"),
        ("{'statusCode': 200, 'headers': {'x y': '1'}}", "not the name of a header"),
        ("{'statusCode': 200, 'headers': {f'h{i}': '1' for i in range(200)}}", "headers"),
        ("{'statusCode': 200, 'headers': [1]}", "headers must be a dict"),
        ("{'statusCode': 200, 'body': 'abcde', 'isBase64Encoded': True}", "base64"),
    ],
)
def test_a_response_that_can_not_be_sent(expression: str, said: str) -> None:
    frame = answer(f"def handler(event, context): return {expression}", b"", "", REQUEST)
    assert isinstance(frame, Error)
    assert (frame.kind, frame.error_type) == ("not_serialisable", "InvalidResponse")
    assert said in frame.message


# -- failures -------------------------------------------------------------------------------------------------------


def test_a_handler_that_raises() -> None:
    source = """
        def inner(x):
            raise ValueError("no " + x)

        def handler(event, context):
            try:
                inner("luck")
            except ValueError as error:
                raise RuntimeError("wrapped") from error
        """
    with serving(source) as peer:
        frame = peer.error()
        assert (frame.kind, frame.error_type, frame.message) == ("function", "RuntimeError", "wrapped")
        lines = frame.traceback.splitlines()
        assert [line.strip() for line in lines if line.lstrip().startswith("File")] == [
            'File "fn.py", line 7, in handler',
            'File "fn.py", line 3, in inner',
            'File "fn.py", line 9, in handler',
        ]
        assert "ValueError: no luck" in lines
        assert lines[-1] == "RuntimeError: wrapped"
        assert peer.error().error_type == "RuntimeError"  # and goes on serving


@pytest.mark.parametrize(
    ("statement", "error_type", "message"),
    [
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise BaseException('b')", "BaseException", "b"),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("raise ExceptionGroup('g', [ValueError('1'), TypeError('2')])", "ExceptionGroup", "g (2 sub-exceptions)"),
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})()", "Odd", "whose __str__ raised"),
        ("raise ValueError('\\ud800')", "ValueError", "\\ud800"),
        ("raise ValueError('x' * 1_000_000)", "ValueError", "cut"),
        ("f = lambda: f(); f()", "RecursionError", "maximum recursion depth"),
        ("import nope.really", "ModuleNotFoundError", "dependencies"),
    ],
)
def test_other_ways_to_raise(statement: str, error_type: str, message: str) -> None:
    with serving(f"def handler(event, context):\n    if event: return 1\n    {statement}") as peer:
        frame = peer.error()
        assert (frame.kind, frame.error_type) == ("function", error_type)
        assert message in frame.message
        assert "_faas_runtime" not in frame.traceback
        assert "runtimes/python" not in frame.traceback
        assert peer.call(1) == 1


@pytest.mark.parametrize(("argument", "code"), [("3", 3), ("", 0), ("'bye'", 1)])
def test_sys_exit_ends_the_invocation_and_the_instance(argument: str, code: int) -> None:
    with Node() as node:
        node.bind(f"import sys\ndef handler(event, context): sys.exit({argument})")
        peer = node.fork()
        frame = peer.error()
        assert (frame.kind, frame.error_type) == ("exit", "SystemExit")
        assert frame.message == f"the function called sys.exit({argument})"
        assert peer.closed()
        assert node.exited().exit_code == code
        assert node.fork().error().kind == "exit"


def test_running_out_of_memory_is_told_and_ends_the_instance() -> None:
    source = """
        def handler(event, context):
            try:
                held = bytearray(event)
            except MemoryError:
                if event > 1 << 30:
                    return "caught"
                raise
            return len(held)
        """
    with Node() as node:
        node.bind(source, memory_mb=64)
        peer = node.fork()
        assert peer.call(32 << 20) == 32 << 20
        assert peer.call(2 << 30) == "caught"
        frame = peer.error(512 << 20)
        assert (frame.kind, frame.error_type) == ("oom", "MemoryError")
        assert peer.closed()
        assert node.exited().exit_code == 1
        assert node.fork().call(1) == 1


def test_many_small_allocations_run_out_of_memory_too() -> None:
    with Node() as node:
        node.bind("def handler(event, context):\n    held = []\n    while True: held.append(bytes(100))", memory_mb=64)
        assert node.fork().error().kind == "oom"
