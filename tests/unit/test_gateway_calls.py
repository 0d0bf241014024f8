"""Invocations through the gateway: what goes in, what comes out, and who may."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faas.gateway.services import Limits
from faas.model import errors
from faas.model.errors import BudgetExhausted
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply, Trigger
from faas.model.manifest import Http
from tests.unit.gateway_fakes import ADMIN, FakeInvoker, ask, make_bench, make_record, make_scope, make_version

pytestmark = pytest.mark.anyio

DIRECT = "/v1/functions/hello/invocations"
PRIVATE = make_version()
PUBLIC = make_version(http=Http(public=True))


def replying(**parts: Any) -> FakeInvoker:
    async def answer(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call), **parts)

    return FakeInvoker(answer)


def failing(error: errors.FaasError, **record: Any) -> FakeInvoker:
    async def answer(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call, **record), error)

    return FakeInvoker(answer)


# -- direct calls ---------------------------------------------------------------------------------------------------


async def test_a_direct_call_hands_the_body_on_and_says_what_happened() -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("POST", DIRECT, b'{"a": 1}', headers=[("content-type", "application/json")])
    assert (answer.status, answer.body, answer.header("content-type")) == (200, b'{"a": 1}', "application/json")
    assert answer.header("faas-invocation-id") == f"{1:032x}"
    assert answer.header("faas-version") == "1"
    assert answer.header("faas-start") == "warm"
    assert answer.header("faas-billed-ms") == "2"
    assert answer.header("server-timing") == "queue;dur=0.120, init;dur=0.000, run;dur=1.235"
    version, call = bench.invoker.calls[0]
    assert version is PRIVATE
    assert (call.trigger, call.payload, call.content_type) == (Trigger.DIRECT, b'{"a": 1}', "application/json")
    assert (call.key_id, call.http, call.attempt) == ("k1", None, 1)
    assert answer.header("traceparent") == call.trace_parent


async def test_a_call_without_a_body_is_an_empty_event() -> None:
    bench = make_bench(PRIVATE)
    assert (await bench.call("POST", DIRECT)).status == 200
    assert bench.invoker.calls[0][1].payload == b""


async def test_a_body_in_pieces_arrives_whole() -> None:
    bench = make_bench(PRIVATE)
    headers = [(b"authorization", b"Bearer faas_admin"), (b"transfer-encoding", b"chunked")]
    answer = await ask(bench.gateway, make_scope("POST", DIRECT, headers), [b"ab", b"", b"cd"])
    assert answer.body == b"abcd"


@pytest.mark.parametrize(
    ("qualifier", "version"), [("", 2), ("@latest", 2), ("@2", 2), ("@1", 1), ("%401", 1), ("%40latest", 2)]
)
async def test_a_version_may_be_named(qualifier: str, version: int) -> None:
    bench = make_bench(make_version(version=1), make_version(version=2))
    answer = await bench.call("POST", f"/v1/functions/hello{qualifier}/invocations")
    assert answer.header("faas-version") == str(version)


@pytest.mark.parametrize("name", ["nope", "hello@9", "hello@prod", "hello@0", "hello@01", "Hello", "..", "%2e%2e%2fx"])
async def test_what_does_not_exist_is_not_found(name: str) -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("POST", f"/v1/functions/{name}/invocations")
    assert (answer.status, answer.problem()["code"]) == (404, "not-found")
    assert not bench.invoker.calls


async def test_a_near_miss_gets_a_hint() -> None:
    answer = await make_bench(PRIVATE).call("POST", "/v1/functions/helo/invocations")
    assert "Did you mean 'hello'?" in answer.problem()["detail"]


async def test_names_are_not_looked_up_twice_and_changes_are_seen() -> None:
    bench = make_bench(PRIVATE)
    async with bench.gateway.serving():
        for _ in range(3):
            await bench.call("POST", DIRECT)
        assert bench.registry.reads == 1
        await _until(lambda: bench.registry.followers)
        await bench.registry.commit(make_version(version=2))
        await _until(lambda: bench.invoker.forgotten != [])
        assert (await bench.call("POST", DIRECT)).header("faas-version") == "2"
        assert bench.invoker.forgotten == [("default", "hello", 2)]


async def test_a_deleted_function_is_gone_at_once_on_every_node() -> None:
    bench = make_bench(PRIVATE)
    async with bench.gateway.serving():
        assert (await bench.call("POST", DIRECT)).status == 200
        await _until(lambda: bench.registry.followers)
        await bench.registry.delete("default", "hello")
        await _until(lambda: bench.invoker.forgotten != [])
        assert (await bench.call("POST", DIRECT)).status == 404
        assert bench.invoker.forgotten == [("default", "hello", None)]


async def test_calls_go_on_while_the_store_is_away() -> None:
    bench = make_bench(PRIVATE)
    assert (await bench.call("POST", DIRECT)).status == 200
    bench.registry.down = bench.keys.down = True
    bench.clock.forward(60)
    assert (await bench.call("POST", DIRECT)).status == 200
    answer = await bench.call("POST", "/v1/functions/other/invocations")
    assert (answer.status, answer.problem()["code"]) == (503, "store-unavailable")
    assert "10.0.0.7" not in answer.body.decode()
    bench.clock.forward(3600)
    assert (await bench.call("POST", DIRECT)).status == 503


async def test_what_is_not_there_yet_is_refused_not_ignored() -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("POST", DIRECT, headers=[("idempotency-key", "abc")])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert not bench.invoker.calls


@pytest.mark.parametrize("value", ["respond-async", "wait=3, Respond-Async"])
async def test_a_call_that_nobody_waits_for_is_stored_and_not_run_here(value: str) -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("POST", DIRECT, b"{}", headers=[("prefer", value)])
    assert answer.status == 202
    made = answer.json()["id"]
    assert answer.header("location") == f"/v1/invocations/{made}"
    record = await bench.calls.get("default", made)
    assert record is not None
    assert (record.status, record.function) == ("queued", "hello")
    assert not bench.invoker.calls
    bench.invoker.guarded = _no_money
    refused = await bench.call("POST", DIRECT, b"{}", headers=[("prefer", value)])
    assert (refused.status, refused.problem()["code"]) == (402, "budget-exhausted")


def _no_money(_version: FunctionVersion, _call: Call) -> None:
    raise BudgetExhausted("Nothing is left.")


# -- namespaces and keys --------------------------------------------------------------------------------------------


async def test_the_namespace_comes_from_the_query_then_the_header_then_the_key() -> None:
    bench = make_bench(make_version(namespace="a"), make_version(namespace="b"), make_version(namespace="default"))
    bench.keys.put("faas_b", "b", "invoke")

    async def served(path: str, key: str = ADMIN, **header: str) -> str:
        answer = await bench.call("POST", path, key=key, headers=[(n.replace("_", "-"), v) for n, v in header.items()])
        return bench.invoker.calls[-1][0].namespace if answer.status == 200 else answer.problem()["code"]

    assert await served(DIRECT) == "default"
    assert await served(f"{DIRECT}?namespace=a", faas_namespace="b") == "a"
    assert await served(DIRECT, faas_namespace="b") == "b"
    assert await served(DIRECT, "faas_b") == "b"
    assert await served(f"{DIRECT}?namespace=b", "faas_b") == "b"
    assert await served(f"{DIRECT}?namespace=a", "faas_b") == "forbidden"
    assert await served(DIRECT, "faas_b", faas_namespace="default") == "forbidden"
    assert await served(f"{DIRECT}?namespace=../etc") == "not-found"


@pytest.mark.parametrize(
    "header",
    ["", "faas_admin", "Basic ZmFhc19hZG1pbjo=", "Bearer", "Bearer ", "Bearer a b", "Bearer nope", "Bearer \xff"],
)
async def test_a_bad_key_is_no_key(header: str) -> None:
    bench = make_bench(PRIVATE)
    for path in (DIRECT, "/v1/functions", "/metrics", "/openapi.json", "/v1/keys"):
        method = "POST" if path == DIRECT else "GET"
        answer = await bench.call(method, path, key=None, headers=[("authorization", header)])
        assert (answer.status, answer.problem()["code"]) == (401, "unauthenticated")
        assert answer.header("www-authenticate") == "Bearer"


async def test_the_scheme_is_case_insensitive() -> None:
    answer = await make_bench(PRIVATE).call("POST", DIRECT, key=None, headers=[("authorization", "bEARER  faas_admin")])
    assert answer.status == 200


async def test_two_authorization_headers_are_refused() -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("POST", DIRECT, headers=[("authorization", "Bearer nope")])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")


async def test_a_key_is_looked_up_once_and_a_revoked_one_dies_within_seconds() -> None:
    bench = make_bench(PRIVATE)
    bench.keys.put("faas_x", "default", "invoke")
    async with bench.gateway.serving():
        for _ in range(5):
            assert (await bench.call("POST", DIRECT, key="faas_x")).status == 200
        assert bench.keys.finds == 1
        del bench.keys.known["faas_x"]
        bench.clock.forward(2)
        assert (await bench.call("POST", DIRECT, key="faas_x")).status == 200  # the look-up runs beside this call
        await _until(lambda: bench.keys.finds == 2)
        assert (await bench.call("POST", DIRECT, key="faas_x")).status == 401


async def test_a_key_nobody_used_for_a_while_is_checked_before_it_counts() -> None:
    bench = make_bench(PRIVATE)
    bench.keys.put("faas_x", "default", "invoke")
    assert (await bench.call("POST", DIRECT, key="faas_x")).status == 200
    del bench.keys.known["faas_x"]
    bench.clock.forward(6)
    assert (await bench.call("POST", DIRECT, key="faas_x")).status == 401


async def test_unknown_keys_do_not_hammer_the_store() -> None:
    bench = make_bench(PRIVATE)
    for _ in range(5):
        assert (await bench.call("POST", DIRECT, key="nope")).status == 401
    assert bench.keys.finds == 1


async def test_scopes() -> None:
    bench = make_bench(PRIVATE)
    bench.keys.put("reader", "*", "read")
    bench.keys.put("caller", "*", "invoke")
    assert (await bench.call("POST", DIRECT, key="reader")).status == 403
    assert (await bench.call("POST", DIRECT, key="caller")).status == 200
    assert (await bench.call("GET", "/v1/functions", key="caller")).status == 403
    assert (await bench.call("GET", "/v1/functions", key="reader")).status == 200
    assert (await bench.call("DELETE", "/v1/functions/hello", key="reader")).status == 403
    assert (await bench.call("GET", "/v1/keys", key="reader")).status == 403


# -- the HTTP trigger -----------------------------------------------------------------------------------------------


async def test_a_public_function_needs_no_key_and_sees_the_request() -> None:
    bench = make_bench(PUBLIC)
    headers = [("x-a", "1"), ("x-a", "2"), ("cookie", "c=1"), ("content-type", "text/plain")]
    answer = await bench.call("PUT", "/fn/hello/a%20b/c?x=1&x=%32", b"hi", key=None, headers=headers)
    assert answer.status == 200
    _, call = bench.invoker.calls[0]
    assert (call.trigger, call.key_id, call.payload, call.content_type) == (Trigger.HTTP, "", b"hi", "text/plain")
    http = call.http
    assert http is not None
    assert (http.method, http.path, http.raw_path, http.query) == ("PUT", "/a b/c", "/fn/hello/a%20b/c", "x=1&x=%32")
    assert (http.source_ip, http.protocol) == ("192.0.2.1", "HTTP/1.1")
    assert [pair for pair in http.headers if pair[0] in ("x-a", "cookie")] == [
        ("x-a", "1"),
        ("x-a", "2"),
        ("cookie", "c=1"),
    ]


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("/fn/hello", "/"),
        ("/fn/hello/", "/"),
        ("/fn/hello//", "//"),
        ("/fn/hello/../../etc/passwd", "/../../etc/passwd"),
    ],
)
async def test_the_path_below_the_function_is_the_functions_business(path: str, below: str) -> None:
    bench = make_bench(PUBLIC)
    assert (await bench.call("GET", path, key=None)).status == 200
    http = bench.invoker.calls[0][1].http
    assert http is not None
    assert http.path == below


async def test_a_private_function_needs_a_key_and_never_sees_it() -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("GET", "/fn/hello", key=None)
    assert (answer.status, answer.problem()["code"], answer.header("www-authenticate")) == (
        401,
        "unauthenticated",
        "Bearer",
    )
    assert (await bench.call("GET", "/fn/hello")).status == 200
    _, call = bench.invoker.calls[0]
    assert call.http is not None
    assert call.key_id == "k1"
    assert "authorization" not in dict(call.http.headers)


async def test_a_public_function_sees_its_own_authorization_but_no_platform_key() -> None:
    bench = make_bench(PUBLIC)
    for header in ("Bearer its-own-token", "Basic dTpw"):
        await bench.call("GET", "/fn/hello", key=None, headers=[("authorization", header)])
        _, call = bench.invoker.calls[-1]
        assert call.http is not None
        assert (dict(call.http.headers)["authorization"], call.key_id) == (header, "")
    await bench.call("GET", "/fn/hello")
    _, call = bench.invoker.calls[-1]
    assert call.http is not None
    assert call.key_id == "k1"
    assert "authorization" not in dict(call.http.headers)


async def test_a_public_function_that_checks_its_own_tokens_needs_no_store() -> None:
    bench = make_bench(PUBLIC)
    await bench.call("GET", "/fn/hello", key=None)
    bench.keys.down = bench.registry.down = True
    for header, shown in (("Bearer eyJhbGciOiJ9.e30.sig", True), ("Bearer faas_who_knows", False)):
        answer = await bench.call("GET", "/fn/hello", key=None, headers=[("authorization", header)])
        _, call = bench.invoker.calls[-1]
        assert call.http is not None
        assert (answer.status, "authorization" in dict(call.http.headers)) == (200, shown)


async def test_who_has_no_key_does_not_learn_which_names_exist() -> None:
    bench = make_bench(PRIVATE)
    assert (await bench.call("GET", "/fn/nope", key=None)).status == 401
    answer = await bench.call("GET", "/fn/helloo")
    assert answer.status == 404
    assert "Did you mean 'hello'?" in answer.problem()["detail"]


async def test_namespaces_and_versions_in_the_path() -> None:
    bench = make_bench(
        make_version(version=1, namespace="team", http=Http(public=True)),
        make_version(version=2, namespace="team", http=Http(public=True)),
    )
    bench.keys.put("faas_b", "b", "invoke")
    assert (await bench.call("GET", "/fn/hello.team/x", key=None)).header("faas-version") == "2"
    assert (await bench.call("GET", "/fn/hello.team@1", key=None)).header("faas-version") == "1"
    assert (await bench.call("GET", "/fn/hello", key=None)).status == 401
    assert (await bench.call("GET", "/fn/other.team", key="faas_b")).status == 403


async def test_a_key_of_another_namespace_may_not_call_a_private_function() -> None:
    bench = make_bench(PRIVATE)
    bench.keys.put("faas_b", "b", "invoke")
    assert (await bench.call("GET", "/fn/hello", key="faas_b")).status == 403


async def test_methods() -> None:
    bench = make_bench(make_version(http=Http(public=True, methods=("GET", "POST"))))
    for method, status in (("GET", 200), ("HEAD", 200), ("POST", 200), ("PUT", 405), ("OPTIONS", 405)):
        answer = await bench.call(method, "/fn/hello", key=None)
        assert answer.status == status, method
    assert answer.header("allow") == "GET, HEAD, POST"
    assert answer.problem()["allow"] == ["GET", "HEAD", "POST"]


async def test_websocket_is_refused() -> None:
    bench = make_bench(PUBLIC)
    answer = await bench.call("GET", "/fn/hello", headers=[("connection", "upgrade"), ("upgrade", "websocket")])
    assert answer.status == 400
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await bench.gateway({"type": "websocket", "path": "/fn/hello"}, receive, send)
    assert [m["type"] for m in sent] == ["websocket.close"]


# -- CORS -----------------------------------------------------------------------------------------------------------

ONE_ORIGIN = make_version(http=Http(methods=("POST",), cors_origins=("https://a.example",)))
ANY_ORIGIN = make_version(http=Http(public=True, cors_origins=("*",)))
ASKING = [("access-control-request-method", "POST"), ("access-control-request-headers", "authorization, x-a")]


async def test_a_preflight_is_answered_by_the_gateway_without_a_key() -> None:
    bench = make_bench(ONE_ORIGIN)
    answer = await bench.call("OPTIONS", "/fn/hello", key=None, headers=[("origin", "https://a.example"), *ASKING])
    assert answer.status == 204
    assert answer.header("access-control-allow-origin") == "https://a.example"
    assert answer.header("access-control-allow-methods") == "POST"
    assert answer.header("access-control-allow-headers") == "authorization, x-a"
    answer = await bench.call("OPTIONS", "/fn/hello", key=None, headers=[("origin", "https://b.example"), *ASKING])
    assert answer.header("access-control-allow-origin") is None
    assert not bench.invoker.calls


async def test_answers_to_other_origins_carry_permission_errors_too() -> None:
    bench = make_bench(ONE_ORIGIN)
    answer = await bench.call("POST", "/fn/hello", headers=[("origin", "https://a.example")])
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, "https://a.example")
    assert answer.header("vary") == "origin"
    answer = await bench.call("POST", "/fn/hello", key=None, headers=[("origin", "https://a.example")])
    assert (answer.status, answer.header("access-control-allow-origin")) == (401, "https://a.example")
    answer = await bench.call("POST", "/fn/hello", headers=[("origin", "https://b.example")])
    assert (answer.status, answer.header("access-control-allow-origin")) == (200, None)


async def test_the_manifest_overrules_the_functions_own_cors_headers() -> None:
    bench = make_bench(ANY_ORIGIN, invoker=replying(headers=((b"access-control-allow-origin", b"https://evil"),)))
    answer = await bench.call("GET", "/fn/hello", key=None, headers=[("origin", "https://a.example")])
    assert answer.header("access-control-allow-origin") == "*"


async def test_without_cors_in_the_manifest_options_is_the_functions() -> None:
    bench = make_bench(PUBLIC)
    await bench.call("OPTIONS", "/fn/hello", key=None, headers=[("origin", "https://a.example"), *ASKING])
    assert bench.invoker.calls[0][1].http is not None


# -- what functions answer ------------------------------------------------------------------------------------------


async def test_response_headers_are_kept_but_for_ours_and_those_of_the_connection() -> None:
    headers = (
        (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"x-thing", b"1"), (b"content-length", b"9999"),
        (b"connection", b"close"), (b"Transfer-Encoding", b"chunked"), (b"faas-billed-ms", b"0"),
        (b"Faas-Start", b"cold"), (b"keep-alive", b"1"), (b"upgrade", b"h2c"), (b"traceparent", b"x"),
    )  # fmt: skip
    answer = await make_bench(PUBLIC, invoker=replying(status=201, headers=headers, payload=b"ok")).call(
        "GET", "/fn/hello"
    )
    assert answer.status == 201
    assert [v for n, v in answer.headers if n == b"set-cookie"] == [b"a=1", b"b=2"]
    assert answer.header("x-thing") == "1"
    assert answer.header("content-length") == "2"
    assert answer.header("faas-billed-ms") == "2"
    assert answer.header("faas-start") == "warm"
    names = {n for n, _ in answer.headers}
    assert not names & {b"connection", b"transfer-encoding", b"keep-alive", b"upgrade"}


@pytest.mark.parametrize(
    "header", [(b"x-a", b"1\r\nset-cookie: s=1"), (b"x-a\r\nb", b"1"), (b"x a", b"1"), (b"", b"1"), (b"x", b"\x00")]
)
async def test_header_injection_is_the_functions_error(header: tuple[bytes, bytes]) -> None:
    answer = await make_bench(PUBLIC, invoker=replying(headers=(header,))).call("GET", "/fn/hello")
    assert (answer.status, answer.problem()["code"]) == (500, "function-error")
    assert answer.problem()["error_type"] == "InvalidResponse"
    assert answer.header("faas-invocation-id") is not None


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 600, 1000])
async def test_an_impossible_status_is_the_functions_error(status: int) -> None:
    answer = await make_bench(PUBLIC, invoker=replying(status=status)).call("GET", "/fn/hello")
    assert (answer.status, answer.problem()["code"]) == (500, "function-error")


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_that_have_no_body_have_none(status: int) -> None:
    answer = await make_bench(PUBLIC, invoker=replying(status=status, payload=b"no")).call("GET", "/fn/hello")
    assert (answer.status, answer.body, answer.header("content-length")) == (status, b"", None)


async def test_a_stream_is_passed_on_piece_by_piece() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in (b"a", b"", b"b"):
            yield piece

    async def answer(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call, start="cold", init_ns=3_000_000), stream=chunks())

    got = await make_bench(PUBLIC, invoker=FakeInvoker(answer)).call("GET", "/fn/hello")
    assert (got.status, got.body, got.complete) == (200, b"ab", True)
    assert got.header("server-timing") == "queue;dur=0.120, init;dur=3.000"
    assert (got.header("faas-start"), got.header("faas-billed-ms"), got.header("content-length")) == (
        "cold",
        None,
        None,
    )


async def test_a_stream_that_breaks_ends_the_answer_short(caplog: pytest.LogCaptureFixture) -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            raise errors.InstanceCrashed("gone", "oom")
        finally:
            closed.append(True)

    got = await make_bench(PUBLIC, invoker=replying(stream=chunks())).call("GET", "/fn/hello")
    assert (got.status, got.body, got.complete, closed) == (200, b"a", False, [True])
    assert "default/hello, invocation" in caplog.text


# -- errors ---------------------------------------------------------------------------------------------------------

BROKEN = errors.FunctionFailed("ValueError", "secret 42 is wrong", 'File "hello.py", line 3, in handler')


async def test_a_functions_error_is_told_in_full_to_who_may_read_it() -> None:
    bench = make_bench(PUBLIC, invoker=failing(BROKEN, status="function_error"))
    bench.keys.put("caller", "*", "invoke")
    for path, method in ((DIRECT, "POST"), ("/fn/hello", "GET")):
        answer = await bench.call(method, path)
        problem = answer.problem()
        assert (answer.status, problem["code"], problem["error_type"]) == (500, "function-error", "ValueError")
        assert (problem["message"], problem["traceback"]) == (BROKEN.message, BROKEN.traceback)
        assert problem["invocation_id"] == answer.header("faas-invocation-id")
        assert answer.header("faas-billed-ms") == "2"
    for key in (None, "caller"):
        answer = await bench.call("GET", "/fn/hello", key=key)
        problem = answer.problem()
        assert (answer.status, problem["code"]) == (500, "function-error")
        assert "secret" not in answer.body.decode()
        assert not {"error_type", "message", "traceback"} & set(problem)
        assert problem["invocation_id"] == answer.header("faas-invocation-id")


@pytest.mark.parametrize(
    ("error", "status", "code", "members"),
    [
        (errors.InvalidRequest("the body is not JSON"), 400, "invalid-request", {}),
        (errors.BudgetExhausted("used up"), 402, "budget-exhausted", {}),
        (errors.Throttled("max_instances reached", 3), 429, "throttled", {"retry_after_s": 3}),
        (errors.InstanceCrashed("out of memory", "oom"), 502, "instance-crashed", {"exit": "oom"}),
        (errors.NoCapacity("full", 2), 503, "no-capacity", {"retry_after_s": 2}),
        (errors.EngineUnavailable("/var/run/docker.sock: no"), 503, "engine-unavailable", {}),
        (errors.DependenciesUnavailable("no index"), 503, "dependencies-unavailable", {}),
        (errors.DeadlineExceeded("ran past 30s"), 504, "timeout", {}),
        (errors.PayloadTooLarge("answer too large", bytes_max=5), 413, "payload-too-large", {"bytes_max": 5}),
    ],
)
async def test_outcomes_have_their_codes(
    error: errors.FaasError, status: int, code: str, members: dict[str, Any]
) -> None:
    answer = await make_bench(PRIVATE, invoker=failing(error)).call("POST", DIRECT)
    problem = answer.problem()
    assert (answer.status, problem["code"]) == (status, code)
    assert members.items() <= problem.items()
    assert "docker.sock" not in answer.body.decode()
    if "retry_after_s" in members:
        assert answer.header("retry-after") == str(members["retry_after_s"])


async def test_a_bug_is_an_id_for_the_caller_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(version: FunctionVersion, call: Call) -> Reply:
        raise KeyError("/internal/path")

    got = await make_bench(PRIVATE, invoker=FakeInvoker(answer)).call("POST", DIRECT)
    problem = got.problem()
    assert (got.status, problem["code"]) == (500, "internal")
    assert "/internal/path" not in got.body.decode()
    assert problem["error_id"] in caplog.text
    assert "KeyError" in caplog.text


# -- limits ---------------------------------------------------------------------------------------------------------

SMALL = Limits(body_bytes_max=10, body_wait_s=0.1)


async def test_a_body_too_large_by_its_own_word_is_refused_unread() -> None:
    bench = make_bench(PUBLIC, limits=SMALL)
    for path in (DIRECT, "/fn/hello"):
        scope = make_scope("POST", path, [(b"authorization", b"Bearer faas_admin"), (b"content-length", b"11")])

        async def receive() -> dict[str, Any]:
            raise AssertionError("the body was read")

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)  # noqa: B023 - this iteration's list

        await bench.gateway(scope, receive, send)
        assert sent[0]["status"] == 413
    assert not bench.invoker.calls


async def test_a_body_that_grows_too_large_is_refused_and_swallowed() -> None:
    bench = make_bench(PRIVATE, limits=SMALL)
    headers = [(b"authorization", b"Bearer faas_admin"), (b"transfer-encoding", b"chunked")]
    answer = await ask(bench.gateway, make_scope("POST", DIRECT, headers), [b"12345678", b"12345678", b"1", b"2"])
    assert (answer.status, answer.problem()["code"], answer.complete) == (413, "payload-too-large", True)
    assert answer.header("connection") == "close"


async def test_the_largest_body_passes() -> None:
    assert (await make_bench(PRIVATE, limits=SMALL).call("POST", DIRECT, b"1234567890")).status == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "", "9" * 40])
async def test_a_length_that_is_none(length: str) -> None:
    answer = await make_bench(PRIVATE, limits=SMALL).call("POST", DIRECT, b"x", headers=[("content-length", length)])
    assert answer.status in (400, 413)


async def test_a_body_that_never_comes_gets_an_answer() -> None:
    bench = make_bench(PRIVATE, limits=SMALL)
    headers = [(b"authorization", b"Bearer faas_admin"), (b"content-length", b"5")]
    answer = await ask(bench.gateway, make_scope("POST", DIRECT, headers), [])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert bench.gateway.in_flight == 0


# -- leaving, cancelling, draining ----------------------------------------------------------------------------------


async def _forever(version: FunctionVersion, call: Call) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.002)


async def test_a_caller_who_hangs_up_cancels_the_call(caplog: pytest.LogCaptureFixture) -> None:
    bench = make_bench(PUBLIC, invoker=FakeInvoker(_forever))
    answer = await ask(bench.gateway, make_scope("GET", "/fn/hello"), leave=True)
    assert answer.status == 0
    assert len(bench.invoker.cancelled) == 1
    assert bench.gateway.in_flight == 0
    assert not caplog.records


async def test_a_caller_who_hangs_up_ends_a_stream() -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    bench = make_bench(PUBLIC, invoker=replying(stream=chunks()))
    answer = await ask(bench.gateway, make_scope("GET", "/fn/hello"), leave=True)
    assert (answer.body, answer.complete) == (b"a", False)
    assert closed.is_set()


async def test_a_caller_who_hangs_up_while_sending_is_not_answered() -> None:
    bench = make_bench(PRIVATE)
    headers = [(b"authorization", b"Bearer faas_admin"), (b"content-length", b"5")]
    answer = await ask(bench.gateway, make_scope("POST", DIRECT, headers), [], leave=True)
    assert answer.status == 0
    assert not bench.invoker.calls


async def test_a_cancelled_server_task_is_not_swallowed() -> None:
    bench = make_bench(PUBLIC, invoker=FakeInvoker(_forever))
    task = asyncio.create_task(ask(bench.gateway, make_scope("GET", "/fn/hello")))
    await _until(lambda: bench.invoker.calls)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.gateway.in_flight == 0


async def test_slow_calls_are_watched_and_answered() -> None:
    async def slow(version: FunctionVersion, call: Call) -> Reply:
        await asyncio.sleep(0.15)
        return Reply(make_record(version, call))

    bench = make_bench(PUBLIC, invoker=FakeInvoker(slow))
    answers = await asyncio.gather(*(bench.call("GET", "/fn/hello", key=None) for _ in range(20)))
    assert {a.status for a in answers} == {200}
    assert bench.gateway.in_flight == 0


async def test_draining_refuses_new_calls_and_finishes_those_in_flight() -> None:
    go = asyncio.Event()

    async def wait(version: FunctionVersion, call: Call) -> Reply:
        await go.wait()
        return Reply(make_record(version, call))

    bench = make_bench(PUBLIC, invoker=FakeInvoker(wait))
    running = asyncio.create_task(bench.call("GET", "/fn/hello", key=None))
    await _until(lambda: bench.gateway.in_flight == 1)
    assert (await bench.call("GET", "/readyz", key=None)).status == 200
    bench.gateway.begin_drain()
    for method, path in (("GET", "/fn/hello"), ("POST", DIRECT)):
        answer = await bench.call(method, path)
        assert (answer.status, answer.problem()["code"]) == (503, "no-capacity")
        assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
    ready = await bench.call("GET", "/readyz", key=None)
    assert (ready.status, ready.json()["reasons"]) == (503, ["draining"])
    assert (await bench.call("GET", "/healthz", key=None)).status == 200
    go.set()
    assert (await running).status == 200


# -- tracing --------------------------------------------------------------------------------------------------------

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("header", "goes_on"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"00-{TRACE}-00f067aa0ba902b7-00", True),
        (f"cc-{TRACE}-00f067aa0ba902b7-01-what-else", True),
        (f"00-{TRACE}-00f067aa0ba902b7-01-what-else", False),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-0000000000000000-01", False),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", False),
        ("nonsense", False),
    ],
)
async def test_trace_context(header: str, goes_on: bool) -> None:
    bench = make_bench(PRIVATE)
    answer = await bench.call("POST", DIRECT, headers=[("traceparent", header)])
    made = answer.header("traceparent")
    assert made is not None
    version, trace, span, flags = made.split("-")
    assert (version, len(span)) == ("00", 16)
    assert span not in ("00f067aa0ba902b7", "0" * 16)
    if goes_on:
        assert (trace, flags) == (TRACE, header.split("-")[3])
    else:
        assert trace == answer.header("faas-invocation-id")


async def test_nothing_is_logged_on_a_good_day(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await make_bench(PUBLIC).call("GET", "/fn/hello", key=None)
    assert not caplog.records
