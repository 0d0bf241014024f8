"""The contract of the store of asynchronous calls, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

import anyio
import pytest

from faas.model.call import CallStatus, Response
from faas.model.invocation import Trigger
from faas.model.message import Delivery, Message
from faas.ports.events import CallStore
from faas.stores.calls import RedisCalls
from faas.stores.memory_calls import MemoryCalls
from faas.stores.redis_client import Client
from faas.stores.webhooks import RedisWebhookSecrets

pytestmark = pytest.mark.anyio
NOW_MS = time.time_ns() // 1_000_000
ID = "0190" * 8
OTHER = "0191" * 8
ERROR = {"code": "function-error", "message": "no", "error_type": "ValueError", "traceback": "..."}
PLAIN = Response(200, ((b"content-type", b"text/plain"),), b"\x00result")


def message(call_id: str = ID) -> Message:
    trace = f"00-{call_id}-00f067aa0ba902b7-01"
    return Message(call_id, b"{}", trigger=Trigger.ASYNC, qualifier="3", key_id="k1", trace_parent=trace)


def delivery(call_id: str = ID, attempt: int = 1) -> Delivery:
    return Delivery(message(call_id), "receipt", attempt, NOW_MS, 0)


@pytest.fixture(params=["memory", "valkey"])
def calls(request: pytest.FixtureRequest, client: Client) -> CallStore:
    if request.param == "memory":
        return MemoryCalls(lambda: time.time_ns() // 1_000_000)
    return RedisCalls(client)


async def test_a_call_is_queued_runs_and_succeeds(calls: CallStore) -> None:
    assert await calls.get("default", ID) is None
    await calls.queued("default", "hello", message())
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.status, found.qualifier, found.trigger, found.key_id) == ("queued", "3", "async", "k1")
    assert found.created_at_ms > NOW_MS - 3_600_000
    assert await calls.begin("default", "hello", delivery(), 3, "n1") is CallStatus.RUNNING
    assert [each.id for each in await calls.open("default", "hello", 10)] == [ID]
    assert await calls.succeed("default", ID, PLAIN) is CallStatus.SUCCEEDED
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.status, found.version, found.node, found.attempts) == ("succeeded", 3, "n1", 1)
    assert found.response == PLAIN
    assert found.ended_at_ms >= found.started_at_ms > 0
    assert await calls.open("default", "hello", 10) == []


async def test_what_ended_first_stays(calls: CallStore) -> None:
    await calls.begin("default", "hello", delivery(), 1, "n1")
    assert await calls.cancel("default", ID) is CallStatus.RUNNING
    assert await calls.succeed("default", ID, PLAIN) is CallStatus.CANCELLED
    assert await calls.fail("default", "hello", ID, ERROR, "x") is CallStatus.CANCELLED
    await calls.put_back("default", ID, None, 0, 1)
    await calls.queued("default", "hello", message())
    assert await calls.begin("default", "hello", delivery(attempt=2), 1, "n2") is CallStatus.CANCELLED
    assert await calls.cancel("default", ID) is CallStatus.CANCELLED
    assert await calls.cancel("default", OTHER) is None
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.status, found.response) == ("cancelled", None)


async def test_a_record_that_comes_late_changes_nothing(calls: CallStore) -> None:
    await calls.begin("default", "hello", delivery(), 1, "n1")
    await calls.queued("default", "hello", message())
    found = await calls.get("default", ID)
    assert found is not None
    assert found.status is CallStatus.RUNNING


async def test_failed_attempts_are_seen_and_at_last_the_reason(calls: CallStore) -> None:
    await calls.begin("default", "hello", delivery(), 1, "n1")
    await calls.put_back("default", ID, None, 0, 0)
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.status, found.attempts, found.error) == ("queued", 0, None)
    await calls.begin("default", "hello", delivery(), 1, "n1")
    await calls.put_back("default", ID, ERROR, 60_000, 1)
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.status, found.attempts, found.error) == ("retrying", 1, ERROR)
    assert found.retry_at_ms >= found.started_at_ms + 60_000
    await calls.begin("default", "hello", delivery(attempt=2), 2, "n1")
    assert await calls.fail("default", "hello", ID, ERROR, "the last attempt") is CallStatus.FAILED
    await calls.delivered("default", ID, "https://example.com/", "delivered")
    await calls.delivered("default", OTHER, "https://example.com/", "delivered")
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.reason, found.attempts, found.retry_at_ms) == ("the last attempt", 2, 0)
    assert found.deliveries == {"https://example.com/": "delivered"}
    assert await calls.get("default", OTHER) is None


async def test_a_call_that_could_not_begin_has_failed(calls: CallStore) -> None:
    assert await calls.fail("default", "gone", ID, ERROR, "nothing to run") is CallStatus.FAILED
    found = await calls.get("default", ID)
    assert found is not None
    assert (found.function, found.reason) == ("gone", "nothing to run")


async def test_ends_and_cancellations_are_heard(calls: CallStore) -> None:
    for each in (ID, OTHER):
        await calls.queued("default", "hello", message(each))
    with anyio.fail_after(20):
        ended = cast("AsyncGenerator[tuple[str, str], None]", calls.bells("ended"))
        cancelled = cast("AsyncGenerator[tuple[str, str], None]", calls.bells("cancelled"))
        async with aclosing(ended), aclosing(cancelled):
            assert await anext(ended) == ("*", "*")
            assert await anext(cancelled) == ("*", "*")
            await calls.begin("default", "hello", delivery(), 1, "n1")
            await calls.succeed("default", ID, PLAIN)
            await calls.cancel("default", OTHER)
            assert [await anext(ended), await anext(ended)] == [("default", ID), ("default", OTHER)]
            assert await anext(cancelled) == ("default", OTHER)


async def test_open_calls_come_newest_first_and_are_of_one_function(calls: CallStore) -> None:
    ids = [f"{number:032x}" for number in range(5)]
    for number, each in enumerate(ids):
        sent = Delivery(message(each), "r", 1, NOW_MS + number, 0)
        await calls.begin("default", "hello", sent, 1, "n1")
    await calls.queued("default", "other", message("f" * 32))
    assert [each.id for each in await calls.open("default", "hello", 3)] == [*reversed(ids)][:3]
    assert await calls.open("team", "hello", 3) == []


async def test_old_results_make_room_for_new_ones(client: Client) -> None:
    calls = RedisCalls(client, ended_max=3, result_bytes_max=100)
    ids = [f"{number:032x}" for number in range(5)]
    for each in ids:
        await calls.begin("default", "hello", delivery(each), 1, "n1")
        await calls.succeed("default", each, Response(200, (), b"x" * 40))
    found = [await calls.get("default", each) for each in ids]
    assert [each is not None for each in found] == [False, False, True, True, True]
    kept = [each for each in found if each is not None]
    assert [each.given_up for each in kept] == [True, False, False]
    assert [each.response is None for each in kept] == [True, False, False]
    for key in await client.keys("faas:call*"):
        assert await client.pttl(key) > 0, key


async def test_a_namespace_has_one_secret(client: Client) -> None:
    ours, theirs = RedisWebhookSecrets(client), RedisWebhookSecrets(client)
    first = await ours.secret("default")
    assert first.startswith("whsec_")
    assert await theirs.secret("default") == first
    assert await ours.secret("team") != first
