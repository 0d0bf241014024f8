"""The contract of the store of answers by idempotency key, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import anyio
import pytest

from faas.model.errors import StoreUnavailable
from faas.ports.events import Answered, Claim, IdempotencyStore
from faas.stores.idempotency import LOOK_AGAIN_S, MemoryIdempotency, RedisIdempotency
from faas.stores.redis_client import Client, connect
from tests.contract.valkeys import closing

pytestmark = pytest.mark.anyio
KEY = "default/hello:0a1b"
ANSWER = Answered(418, ((b"content-type", b"text/plain"), (b"x-bin", b"\xff\x00")), b"\x00\xfftea")
LONG_MS = 60_000
OURS, THEIRS, OTHER = Claim("ours"), Claim("theirs"), Claim("other")


@pytest.fixture(params=["memory", "valkey"])
def store(request: pytest.FixtureRequest, client: Client) -> IdempotencyStore:
    return MemoryIdempotency() if request.param == "memory" else RedisIdempotency(client)


async def test_the_first_has_it_and_the_answer_is_given_again(store: IdempotencyStore) -> None:
    assert await store.claim(KEY, "r1", "a", LONG_MS) == OURS
    assert await store.claim(KEY, "r1", "a", LONG_MS) == OURS  # prolonged, or repeated after a lost answer
    assert await store.claim(KEY, "r1", "b", LONG_MS) == THEIRS
    assert await store.claim(KEY, "r2", "b", LONG_MS) == OTHER
    assert await store.settle(KEY, "r1", "a", ANSWER, LONG_MS)
    assert await store.settle(KEY, "r1", "a", ANSWER, LONG_MS)
    for owner in ("a", "b"):
        assert await store.claim(KEY, "r1", owner, LONG_MS) == Claim("answered", ANSWER)
    assert await store.claim(KEY, "r2", "b", LONG_MS) == OTHER
    assert await store.claim("default/hello:0a1c", "r2", "b", LONG_MS) == OURS


async def test_a_claim_that_is_let_go_is_the_next_ones(store: IdempotencyStore) -> None:
    await store.claim(KEY, "r1", "a", LONG_MS)
    assert await store.settle(KEY, "r1", "a", None, LONG_MS)
    assert await store.settle(KEY, "r1", "a", None, LONG_MS)
    assert await store.claim(KEY, "r2", "b", LONG_MS) == OURS
    assert not await store.settle(KEY, "r1", "a", None, LONG_MS)
    assert not await store.settle(KEY, "r1", "a", ANSWER, LONG_MS)
    assert await store.claim(KEY, "r2", "b", LONG_MS) == OURS


async def test_an_answer_is_not_let_go_of(store: IdempotencyStore) -> None:
    await store.claim(KEY, "r1", "a", LONG_MS)
    await store.settle(KEY, "r1", "a", ANSWER, LONG_MS)
    await store.settle(KEY, "r1", "a", None, LONG_MS)
    assert await store.claim(KEY, "r1", "b", LONG_MS) == Claim("answered", ANSWER)


async def test_a_claim_ends_by_itself_and_still_settles_when_nobody_took_it(store: IdempotencyStore) -> None:
    await store.claim(KEY, "r1", "a", 1)
    with anyio.fail_after(10):
        while await store.claim(KEY, "r1", "b", 1) != OURS:
            await anyio.sleep(0.005)
        while await store.claim(KEY, "r1", "c", 1) != OURS:
            await anyio.sleep(0.005)
    await anyio.sleep(0.02)
    assert await store.settle(KEY, "r1", "a", ANSWER, LONG_MS)
    assert await store.claim(KEY, "r1", "b", LONG_MS) == Claim("answered", ANSWER)


async def test_an_answer_is_kept_for_its_time(store: IdempotencyStore) -> None:
    await store.claim(KEY, "r1", "a", LONG_MS)
    await store.settle(KEY, "r1", "a", ANSWER, 1)
    with anyio.fail_after(10):
        while await store.claim(KEY, "r1", "b", LONG_MS) != OURS:
            await anyio.sleep(0.005)


@pytest.mark.parametrize("answer", [ANSWER, None])
async def test_who_waits_hears_of_the_end(store: IdempotencyStore, answer: Answered | None) -> None:
    await store.claim(KEY, "r1", "a", LONG_MS)
    async with closing(store.ends(KEY)) as ends:
        with anyio.fail_after(10):
            await anext(ends)
            assert await store.claim(KEY, "r1", "b", LONG_MS) == THEIRS
            await store.settle(KEY, "r1", "a", answer, LONG_MS)
            await anext(ends)
        expected = OURS if answer is None else Claim("answered", answer)
        assert await store.claim(KEY, "r1", "b", LONG_MS) == expected


async def test_who_waits_looks_again_without_hearing(store: IdempotencyStore) -> None:
    async with closing(store.ends(KEY)) as ends:
        with anyio.fail_after(10 * LOOK_AGAIN_S):
            await anext(ends)
            await anext(ends)


async def test_nothing_stays_in_the_store(client: Client) -> None:
    store = RedisIdempotency(client)
    await store.claim(KEY, "r1", "a", LONG_MS)
    assert 0 < await client.pttl(f"faas:once:{KEY}") <= LONG_MS
    await store.claim(KEY, "r1", "b", LONG_MS)
    assert 0 < await client.pttl(f"faas:once:{KEY}") <= LONG_MS
    await store.settle(KEY, "r1", "a", ANSWER, 2 * LONG_MS)
    assert LONG_MS < await client.pttl(f"faas:once:{KEY}") <= 2 * LONG_MS
    assert await client.keys("faas:*") == [f"faas:once:{KEY}".encode()]


async def test_a_store_that_is_away_says_so() -> None:
    client = connect("redis://127.0.0.1:1")
    store = RedisIdempotency(client)
    with pytest.raises(StoreUnavailable):
        await store.claim(KEY, "r1", "a", LONG_MS)
    with pytest.raises(StoreUnavailable):
        await store.settle(KEY, "r1", "a", None, LONG_MS)
    with pytest.raises(StoreUnavailable):
        await anext(store.ends(KEY))
    await client.aclose()
