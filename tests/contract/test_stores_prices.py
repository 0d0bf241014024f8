"""The contract of the price store, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import pytest

from faas.model.errors import InvalidPrices, StoreUnavailable
from faas.ports import Prices, PriceStore
from faas.stores.memory import MemoryPrices
from faas.stores.prices import RedisPrices
from faas.stores.redis_client import Client, connect

pytestmark = pytest.mark.anyio
BOOK = '# Größe\nname = "ours"\ncurrency = "EUR"\nper_request = 0.5\n'


@pytest.fixture(params=["memory", "valkey"])
def prices(request: pytest.FixtureRequest, client: Client) -> PriceStore:
    return MemoryPrices() if request.param == "memory" else RedisPrices(client)


async def test_without_books_all_is_free(prices: PriceStore) -> None:
    found = await prices.current()
    assert found == Prices()
    assert found.books.at("2026-11").name == "free"


async def test_what_is_set_is_in_force(prices: PriceStore) -> None:
    made = await prices.set(BOOK, 77, "k1")
    assert made == await prices.current()
    assert (made.text, made.set_at_ms, made.set_by) == (BOOK, 77, "k1")
    assert made.books.at("2026-11").name == "ours"
    await prices.set(BOOK.replace("ours", "theirs"), 78, "k2")
    assert (await prices.current()).books.at("2026-11").name == "theirs"


async def test_what_does_not_hold_changes_nothing(prices: PriceStore) -> None:
    await prices.set(BOOK, 77, "k1")
    with pytest.raises(InvalidPrices):
        await prices.set("per_request = -1", 78, "k2")
    assert (await prices.current()).text == BOOK


async def test_another_node_sees_it_at_once(client: Client) -> None:
    here, there = RedisPrices(client), RedisPrices(client)
    assert (await there.current()).text == ""
    await here.set(BOOK, 77, "k1")
    assert await there.current() == await here.current()


async def test_a_store_that_is_gone_says_so() -> None:
    gone = connect("redis://127.0.0.1:1/0")
    with pytest.raises(StoreUnavailable):
        await RedisPrices(gone).current()
    await gone.aclose()
