"""``Idempotency-Key`` through the gateway: one run, one answer, however often it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from faas.gateway import idempotency
from faas.gateway.services import Limits
from faas.model import errors
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply
from faas.model.manifest import Http
from faas.ports.events import Answered, Claim
from faas.stores.idempotency import MemoryIdempotency
from tests.unit.gateway_fakes import JSON, Bench, FakeInvoker, ask, make_bench, make_record, make_scope, make_version

pytestmark = pytest.mark.anyio
DIRECT = "/v1/functions/hello/invocations"
ONCE = [("idempotency-key", "order-7"), ("content-type", "application/json")]
PUBLIC = make_version(http=Http(public=True, cors_origins=("https://shop.example",)))


def bench_of(invoker: FakeInvoker | None = None, **manifest: Any) -> Bench:
    version = make_version(http=Http(public=True, cors_origins=("https://shop.example",)), **manifest)
    return make_bench(version, invoker=invoker, idempotency=MemoryIdempotency())


class Gate:
    """A function that waits until it may answer."""

    def __init__(self, **reply: Any) -> None:
        self.may = asyncio.Event()
        self.reply = reply or {"status": 201, "headers": JSON, "payload": b'{"paid":1}'}

    async def __call__(self, version: FunctionVersion, call: Call) -> Reply:
        await self.may.wait()
        return Reply(make_record(version, call), **self.reply)


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("path", [DIRECT, "/fn/hello/orders?a=1"])
async def test_the_second_gets_the_first_ones_answer(path: str) -> None:
    bench = bench_of()
    first = await bench.call("POST", path, b'{"a":1}', headers=ONCE)
    again = await bench.call("POST", path, b'{"a":1}', headers=ONCE)
    assert len(bench.invoker.calls) == 1
    assert (again.status, again.body) == (first.status, first.body) == (200, b'{"a":1}')
    assert first.header("idempotency-replayed") is None
    assert again.header("idempotency-replayed") == "true"
    for same in ("faas-invocation-id", "content-type", "faas-version", "traceparent"):
        assert again.header(same) == first.header(same)
    assert (first.header("faas-billed-ms"), again.header("faas-billed-ms")) == ("2", "0")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (DIRECT, b'{"a":2}'),
        (DIRECT + "?x=1", b'{"a":1}'),
        ("/v1/functions/hello@1/invocations", b'{"a":1}'),
        ("/fn/hello", b'{"a":1}'),
    ],
)
async def test_the_key_with_another_request_is_refused(path: str, body: bytes) -> None:
    bench = bench_of()
    await bench.call("POST", DIRECT, b'{"a":1}', headers=ONCE)
    answer = await bench.call("POST", path, body, headers=ONCE)
    assert (answer.status, answer.problem()["code"]) == (422, "invalid-request")
    assert "new key" in answer.problem()["detail"]
    assert answer.header("faas-invocation-id") is None
    assert len(bench.invoker.calls) == 1


async def test_another_content_type_is_another_request() -> None:
    bench = bench_of()
    await bench.call("POST", DIRECT, b"1", headers=ONCE)
    other = [("idempotency-key", "order-7"), ("content-type", "text/plain")]
    assert (await bench.call("POST", DIRECT, b"1", headers=other)).status == 422


@pytest.mark.parametrize("header", ["authorization", "cookie"])
async def test_whom_the_function_itself_tells_apart_get_no_answer_of_each_other(header: str) -> None:
    bench = bench_of()
    for who, status in (("Basic ada", 200), ("Basic bob", 422), ("Basic ada", 200)):
        answer = await bench.call("POST", "/fn/hello", b"1", headers=[*ONCE, (header, who)], key=None)
        assert answer.status == status
    assert len(bench.invoker.calls) == 1


async def test_keys_of_other_callers_and_other_keys_are_apart() -> None:
    bench = bench_of()
    bench.keys.put("faas_other", "default", "invoke")
    for key in ("faas_admin", "faas_other"):
        assert (await bench.call("POST", DIRECT, b"1", headers=ONCE, key=key)).header("idempotency-replayed") is None
    public = await bench.call("POST", "/fn/hello", b"1", headers=ONCE, key=None)
    assert public.header("idempotency-replayed") is None
    assert (await bench.call("POST", DIRECT, b"2", headers=[("idempotency-key", "order-8")])).status == 200
    assert len(bench.invoker.calls) == 4


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "caf\u00e9"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    bench = bench_of()
    answer = await bench.call("POST", DIRECT, b"1", headers=[("idempotency-key", key)])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
    assert not bench.invoker.calls


async def test_the_longest_key_is_taken_and_safe_methods_ignore_it() -> None:
    bench = bench_of()
    assert (await bench.call("POST", DIRECT, b"1", headers=[("idempotency-key", "~ " * 127 + "~")])).status == 200
    for _ in range(2):
        assert (await bench.call("GET", "/fn/hello", headers=ONCE)).header("idempotency-replayed") is None
    for method in ("PUT", "PATCH", "DELETE"):
        headers = [("idempotency-key", method)]
        await bench.call(method, "/fn/hello", headers=headers)
        assert (await bench.call(method, "/fn/hello", headers=headers)).header("idempotency-replayed") == "true"
    assert len(bench.invoker.calls) == 6


async def test_what_the_function_answers_is_kept_also_when_it_is_an_error() -> None:
    gate = Gate(status=409, headers=JSON, payload=b'{"sold":"out"}')
    gate.may.set()
    bench = bench_of(FakeInvoker(gate))
    answers = [await bench.call("POST", "/fn/hello", b"1", headers=ONCE) for _ in range(2)]
    assert [(a.status, a.body) for a in answers] == [(409, b'{"sold":"out"}')] * 2
    assert len(bench.invoker.calls) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.FunctionFailed("ValueError", "no"), 500),
        (errors.DeadlineExceeded("too long"), 504),
        (errors.InstanceCrashed("gone", "oom"), 502),
        (errors.Throttled("too many"), 429),
        (errors.NoCapacity("full"), 503),
    ],
)
async def test_a_call_that_was_not_answered_runs_again(error: errors.FaasError, status: int) -> None:
    bench = bench_of()

    async def failing(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call), error)

    bench.invoker.answer = failing
    assert (await bench.call("POST", DIRECT, b"1", headers=ONCE)).status == status
    bench.invoker.answer = FakeInvoker().answer
    again = await bench.call("POST", DIRECT, b"1", headers=ONCE)
    assert (again.status, again.header("idempotency-replayed")) == (200, None)
    assert len(bench.invoker.calls) == 2


async def test_those_at_the_same_time_wait_for_the_first() -> None:
    gate = Gate()
    bench = bench_of(FakeInvoker(gate))
    calls = [asyncio.ensure_future(bench.call("POST", DIRECT, b"1", headers=ONCE)) for _ in range(5)]
    await _until(lambda: bench.invoker.calls)
    gate.may.set()
    answers = await asyncio.gather(*calls)
    ran = bench.invoker.calls[0][1].id
    assert {(a.status, a.body, a.header("faas-invocation-id")) for a in answers} == {(201, b'{"paid":1}', ran)}
    assert sorted(a.header("idempotency-replayed") or "" for a in answers) == ["", *["true"] * 4]
    assert len(bench.invoker.calls) == 1


async def test_who_waits_runs_when_the_first_fails() -> None:
    gate = Gate(error=errors.FunctionFailed("ValueError", "no"))
    bench = bench_of(FakeInvoker(gate))
    first = asyncio.ensure_future(bench.call("POST", DIRECT, b"1", headers=ONCE))
    await _until(lambda: bench.invoker.calls)
    second = asyncio.ensure_future(bench.call("POST", DIRECT, b"1", headers=ONCE))
    await asyncio.sleep(0.01)
    assert len(bench.invoker.calls) == 1
    bench.invoker.answer = FakeInvoker().answer
    gate.may.set()
    assert ((await first).status, (await second).status) == (500, 200)


async def test_waiting_ends_with_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    bench = bench_of(FakeInvoker(gate), timeout_ms=20)
    first = asyncio.ensure_future(bench.call("POST", DIRECT, b"1", headers=ONCE))
    await _until(lambda: bench.invoker.calls)
    late = await bench.call("POST", DIRECT, b"1", headers=ONCE)
    assert (late.status, late.problem()["code"], late.header("retry-after")) == (409, "conflict", "2")
    monkeypatch.setattr(idempotency, "WAITING_PER_NAMESPACE_MAX", 0)
    assert (await bench.call("POST", DIRECT, b"1", headers=ONCE)).status == 409
    gate.may.set()
    assert (await first).status == 201
    assert (await bench.call("POST", DIRECT, b"1", headers=ONCE)).header("idempotency-replayed") == "true"


async def _leave(bench: Bench) -> None:
    headers = [(n.encode(), v.encode()) for n, v in ONCE]
    headers += [(b"authorization", b"Bearer faas_admin"), (b"content-length", b"1")]
    assert (await ask(bench.gateway, make_scope("POST", DIRECT, headers), [b"1"], leave=True)).status == 0


async def test_a_caller_that_hung_up_finds_its_answer() -> None:
    gate = Gate()
    bench = bench_of(FakeInvoker(gate))
    await _leave(bench)
    assert not bench.invoker.cancelled
    again = asyncio.ensure_future(bench.call("POST", DIRECT, b"1", headers=ONCE))
    gate.may.set()
    answer = await again
    assert (answer.status, answer.header("idempotency-replayed")) == (201, "true")
    assert len(bench.invoker.calls) == 1


async def test_a_call_that_ends_with_its_caller_lets_go() -> None:
    bench = bench_of(FakeInvoker(Gate()), on_disconnect="cancel")
    await _leave(bench)
    await _until(lambda: bench.invoker.cancelled)
    bench.invoker.answer = FakeInvoker().answer
    assert (await bench.call("POST", DIRECT, b"1", headers=ONCE)).status == 200
    assert len(bench.invoker.calls) == 2


@pytest.mark.parametrize(("pieces", "replayed"), [([b"ab", b"cd"], "true"), ([b"x" * 60, b"y" * 60], None)])
async def test_a_stream_is_kept_when_it_is_not_too_long(pieces: list[bytes], replayed: str | None) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def streaming(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call), None, 200, JSON, stream=chunks())

    bench = make_bench(PUBLIC, invoker=FakeInvoker(streaming), idempotency=MemoryIdempotency(), limits=Limits(100))
    answers = [await bench.call("POST", DIRECT, b"1", headers=ONCE) for _ in range(2)]
    assert [a.body for a in answers] == [b"".join(pieces)] * 2
    assert answers[1].header("idempotency-replayed") == replayed


async def test_a_stream_that_breaks_off_is_not_kept() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"ab"
        raise errors.FunctionFailed("ValueError", "no")

    async def streaming(version: FunctionVersion, call: Call) -> Reply:
        return Reply(make_record(version, call), None, 200, JSON, stream=chunks())

    bench = bench_of(FakeInvoker(streaming))
    first = await bench.call("POST", DIRECT, b"1", headers=ONCE)
    assert (first.body, first.complete) == (b"ab", False)
    bench.invoker.answer = FakeInvoker().answer
    assert (await bench.call("POST", DIRECT, b"1", headers=ONCE)).body == b"1"


async def test_replays_answer_the_origin_that_asks() -> None:
    bench = bench_of()
    assert (await bench.call("POST", "/fn/hello", b"1", headers=ONCE)).header("access-control-allow-origin") is None
    for _ in range(2):
        again = await bench.call("POST", "/fn/hello", b"1", headers=[*ONCE, ("origin", "https://shop.example")])
        assert again.header("access-control-allow-origin") == "https://shop.example"
        assert again.header("vary") == "origin"
        assert again.header("idempotency-replayed") == "true"


class Faulty(MemoryIdempotency):
    """A store that is away at times."""

    claims_fail = settles_fail = 0

    async def claim(self, key: str, request: str, owner: str, claim_ms: int) -> Claim:
        if self.claims_fail:
            raise errors.StoreUnavailable("away")
        return await super().claim(key, request, owner, claim_ms)

    async def settle(self, key: str, request: str, owner: str, answer: Answered | None, keep_ms: int) -> bool:
        if self.settles_fail:
            self.settles_fail -= 1
            raise errors.StoreUnavailable("away")
        return await super().settle(key, request, owner, answer, keep_ms)


async def test_without_the_store_nothing_runs() -> None:
    store = Faulty()
    bench = make_bench(PUBLIC, idempotency=store)
    store.claims_fail = 1
    answer = await bench.call("POST", DIRECT, b"1", headers=ONCE)
    assert (answer.status, answer.problem()["code"]) == (503, "store-unavailable")
    assert not bench.invoker.calls


async def test_an_answer_the_store_could_not_take_goes_out_and_is_stored_later() -> None:
    store = Faulty()
    bench = make_bench(PUBLIC, idempotency=store)
    store.settles_fail = 1
    assert (await bench.call("POST", DIRECT, b"1", headers=ONCE)).status == 200
    again = await bench.call("POST", DIRECT, b"1", headers=ONCE)  # waits
    assert (again.status, again.header("idempotency-replayed")) == (200, "true")
    assert len(bench.invoker.calls) == 1


async def test_a_node_without_a_store_says_so() -> None:
    bench = make_bench(PUBLIC)
    answer = await bench.call("POST", "/fn/hello", b"1", headers=ONCE)
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")
