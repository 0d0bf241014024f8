"""The contract of the store of closed bills, on the in-memory twin and on a real Valkey."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from faas.billing.statement import CreditNote, Usage
from faas.model.errors import Conflict, StoreUnavailable
from faas.ports import BillStore
from faas.stores.bills import MemoryBills, RedisBills
from faas.stores.redis_client import Client, connect
from tests.bill_samples import HOSTILE, sample_closing
from tests.contract.valkeys import ExternalValkey

pytestmark = pytest.mark.anyio

Open = Callable[[], BillStore]


@pytest.fixture(params=["memory", "valkey"])
def open_store(request: pytest.FixtureRequest, client: Client) -> Open:
    """Another node's view of the same store, each time."""
    if request.param == "memory":
        twin = MemoryBills()
        return lambda: twin
    return lambda: RedisBills(client)


@pytest.fixture
def bills(open_store: Open) -> BillStore:
    return open_store()


def note(number: int = 1, month: str = "2026-10", reason: str = "outage") -> CreditNote:
    return CreditNote(f"credit-{number}", month, "default", Decimal("1.50"), "EUR", reason, number, "key-1")


async def test_what_is_closed_comes_back_to_the_digit(bills: BillStore) -> None:
    late: dict[str, Usage] = {"2026-09": {("default", "hello", "ok", "first"): {"mb_ms": 2**70, "invocations": -1}}}
    closing = replace(sample_closing(mb_ms=10**21 + 1, invocations=3), late=late, credits=("credit-1",))
    assert closing.bills[0].lines
    assert await bills.closed() == {}
    assert await bills.close(closing, 0)
    assert await bills.closed() == {"2026-10": closing}


async def test_a_month_is_closed_once(bills: BillStore, open_store: Open) -> None:
    first, second = sample_closing(), replace(sample_closing(), closed_by="key-2")
    assert await bills.close(first, 0)
    assert not await open_store().close(second, 0)
    assert not await open_store().close(second, 1)
    assert (await bills.closed())["2026-10"].closed_by == "key-1"


async def test_of_many_that_close_at_once_one_does(open_store: Open) -> None:
    closings = [replace(sample_closing(), closed_by=f"key-{number}") for number in range(20)]
    done = await asyncio.gather(*(open_store().close(each, 0) for each in closings))
    assert sum(done) == 1
    stored = (await open_store().closed())["2026-10"]
    assert stored == closings[done.index(True)]


async def test_a_closing_worked_out_before_another_is_refused(bills: BillStore) -> None:
    await bills.close(sample_closing("2026-09"), 0)
    with pytest.raises(Conflict):
        await bills.close(sample_closing("2026-10"), 0)
    assert list(await bills.closed()) == ["2026-09"]
    assert await bills.close(sample_closing("2026-10"), 1)
    assert list(await bills.closed()) == ["2026-09", "2026-10"]


async def test_credits_are_kept_once_and_in_order(bills: BillStore) -> None:
    await bills.close(sample_closing(), 0)
    later, sooner = note(2, reason=HOSTILE), note(1)
    assert await bills.credit(later) == later
    assert await bills.credit(sooner) == sooner
    assert await bills.credit(replace(sooner, amount=Decimal(9))) == sooner
    assert await bills.credits() == [sooner, later]


async def test_an_open_month_takes_no_credit(bills: BillStore) -> None:
    with pytest.raises(Conflict, match="open"):
        await bills.credit(note())
    assert await bills.credits() == []


async def test_what_was_answered_survives_kill_9_and_what_was_not_is_whole_or_absent() -> None:
    months = [f"20{year}-{month:02d}" for year in range(26, 50) for month in range(1, 13)]
    closings = [sample_closing(month) for month in months]
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    server = ExternalValkey(directory)
    answered: list[str] = []
    some = asyncio.Event()

    async def close_all(url: str) -> None:
        async with connect(url) as client:
            for number, closing in enumerate(closings):
                assert await RedisBills(client).close(closing, number)
                answered.append(closing.month)
                if number == 3:
                    some.set()

    try:
        under_way = asyncio.ensure_future(close_all(await server.start()))
        await some.wait()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(StoreUnavailable):
            await under_way
        await server.stop()
        async with connect(await server.start()) as client:
            found = await RedisBills(client).closed()
    finally:
        await server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    assert len(found) - len(answered) in (0, 1)
    assert found == {closing.month: closing for closing in closings[: len(found)]}
