"""Chains of calls are counted by what a handler hands on, and by nothing else."""

from __future__ import annotations

import random

import pytest

from faas.gateway.headers import said_hops, trace_parent
from faas.model.errors import LoopDetected
from faas.model.hops import HOPS_MAX, RANDOM_BITS, check_hops, hops_of, span_with
from tests.unit.gateway_fakes import make_bench

DIRECT = "/v1/functions/hello/invocations"
ID = "ab" * 16


def test_a_span_says_its_hops_and_spans_of_others_say_nothing() -> None:
    rng = random.Random(7)
    for hops in range(HOPS_MAX + 1):
        spans = {span_with(hops, rng.getrandbits(RANDOM_BITS) or 1) for _ in range(200)}
        assert len(spans) == 200
        assert {hops_of(span) for span in spans} == {hops}
        assert all(0 < span < 2**64 for span in spans)
    assert {hops_of(rng.getrandbits(64)) for _ in range(20_000)} == {None}
    assert hops_of(span_with(HOPS_MAX + 1, 1)) is None, "no such span is handed on, so it is another's"


def test_a_chain_that_hands_its_context_on_is_counted() -> None:
    rng = random.Random(7)
    trace, hops = trace_parent(None, ID, rng.getrandbits)
    seen = [hops]
    for _ in range(HOPS_MAX + 1):
        trace, hops = trace_parent(trace.encode(), "cd" * 16, rng.getrandbits)
        assert trace.split("-")[1] == ID
        seen.append(hops)
    assert seen == list(range(HOPS_MAX + 2))
    for number in seen[:-1]:
        check_hops(number, "default", "hello")
    with pytest.raises(LoopDetected, match="chain of 16 calls"):
        check_hops(seen[-1], "default", "hello")


def test_a_trace_of_another_system_begins_no_chain() -> None:
    foreign = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    trace, hops = trace_parent(foreign, ID, random.Random(7).getrandbits)
    assert (trace[:36], hops) == (foreign[:36].decode(), 0)
    assert trace_parent(foreign, ID, random.Random(7).getrandbits, 4)[1] == 4, "a number that was said counts"


@pytest.mark.anyio
async def test_callers_may_say_the_number_of_hops_themselves() -> None:
    bench = make_bench()
    for value, expected in (("0", 1), ("15", 16), ("-1", 0), ("1" * 9, 0)):
        await bench.call("POST", DIRECT, headers=[("Faas-Hops", value)])
        assert bench.invoker.calls[-1][1].hops == expected, value
    first = await bench.call("POST", DIRECT)
    assert bench.invoker.calls[-1][1].hops == 0
    handed_on = first.header("traceparent")
    assert handed_on
    await bench.call("POST", DIRECT, headers=[("traceparent", handed_on)])
    assert bench.invoker.calls[-1][1].hops == 1
    await bench.call("POST", DIRECT, headers=[("traceparent", handed_on), ("Faas-Hops", "7")])
    assert bench.invoker.calls[-1][1].hops == 8, "the larger of the two"
    assert said_hops(b"1e3") == 0
