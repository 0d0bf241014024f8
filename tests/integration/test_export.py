"""The exporter against a real receiver over HTTP: whatever that does, each record arrives, and counts once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from faas.stores.export import PLACE_FILE, REFUSALS_MAX, REFUSED_FILE, Exporter, Undelivered
from faas.stores.export_http import HttpDestination
from faas.stores.journal import Journal
from faas.stores.segments import MAGIC
from tests.receiver import DROP, HANG, Receiver, receiving
from tests.usage_samples import make_entry, segment_files

pytestmark = pytest.mark.anyio

ROOM = 2**30


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def journal(directory: Path) -> Iterator[Journal]:
    with opened(directory) as made:
        yield made


class opened:  # noqa: N801 - a context manager for one journal
    def __init__(self, directory: Path) -> None:
        self._journal = Journal(directory, segment_bytes_max=900)

    def __enter__(self) -> Journal:
        return self._journal

    def __exit__(self, *_: object) -> None:
        self._journal.close()


def fill(journal: Journal, *numbers: int, **changes: Any) -> list[str]:
    entries = [make_entry(number, **changes) for number in numbers]
    for entry in entries:
        journal.append(entry)
    return [entry.record.id for entry in entries]


def make_exporter(journal: Journal, destination: HttpDestination, **changes: Any) -> Exporter:
    values: dict[str, Any] = {
        "backlog_bytes_max": ROOM,
        "interval_s": 0.01,
        "backoff_s": 0.002,
        "backoff_max_s": 0.01,
        "batch_max": 16,
    }
    return Exporter(journal, destination, **(values | changes))


@asynccontextmanager
async def exporting(
    journal: Journal, url: str, *, token: str = "", timeout_s: float = 20, **changes: Any
) -> AsyncIterator[Exporter]:
    async with AsyncExitStack() as stack:
        destination = HttpDestination(url, token, timeout_s=timeout_s)
        stack.push_async_callback(destination.close)
        exporter = make_exporter(journal, destination, **changes)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        running = tasks.create_task(exporter.run())
        try:
            yield exporter
        finally:
            await exporter.close(wait_s=1)
            running.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def test_records_arrive_once_in_order_and_with_the_token(journal: Journal, receiver: Receiver) -> None:
    async with exporting(journal, receiver.url, token="s3cret") as exporter:
        assert exporter.pending == 0
        expected = fill(journal, *range(1, 101))
        assert exporter.pending == 100
        await until(lambda: exporter.pending == 0)
        expected += fill(journal, *range(101, 111))
        await until(lambda: exporter.pending == 0)
    assert receiver.order == expected
    assert receiver.deliveries == 110
    assert receiver.headers["authorization"] == "Bearer s3cret"
    assert len(receiver.statuses) < 20


async def test_what_was_recorded_before_there_was_a_destination_is_not_exported(
    journal: Journal, receiver: Receiver
) -> None:
    fill(journal, *range(1, 31))
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(31, 41))
        await until(lambda: exporter.pending == 0)
    assert receiver.order == expected


async def test_only_the_namespaces_asked_for_leave_the_node(journal: Journal, receiver: Receiver) -> None:
    async with exporting(journal, receiver.url, namespaces=["team-a", "team-b"]) as exporter:
        fill(journal, *range(1, 41))
        expected = fill(journal, 41, namespace="team-a") + fill(journal, 42, namespace="team-b")
        await until(lambda: exporter.pending == 0)
    assert receiver.order == expected


@pytest.mark.parametrize("trouble", [500, 503, 429, 401, 404, 302, DROP])
async def test_a_destination_in_trouble_gets_everything_later(
    journal: Journal, receiver: Receiver, trouble: int
) -> None:
    receiver.answer = lambda _: trouble
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(1, 51))
        await until(lambda: len(receiver.statuses) >= 4)
        assert exporter.pending == 50
        receiver.answer = lambda _: 204
        await until(lambda: exporter.pending == 0)
    assert receiver.order == expected


async def test_a_destination_that_hangs_is_asked_again(journal: Journal, receiver: Receiver) -> None:
    receiver.answer = lambda _: HANG
    async with exporting(journal, receiver.url, timeout_s=0.05) as exporter:
        expected = fill(journal, *range(1, 51))
        await until(lambda: len(receiver.statuses) >= 2)
        assert exporter.pending == 50
        receiver.answer = lambda _: 204
        receiver.go_on.set()
        await until(lambda: exporter.pending == 0)
    assert set(receiver.order) == set(expected)


async def test_a_destination_that_is_absent_gets_everything_when_it_comes(
    journal: Journal, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as absent:
        port, url = absent.port, absent.url
    async with exporting(journal, url, token="s3cret") as exporter:
        expected = fill(journal, *range(1, 101))
        await until(lambda: "cannot be reached" in caplog.text)
        journal.trim(100)  # the ledger has them all on disk
        assert journal.first_kept == 1
        assert len(segment_files(directory)) > 5
        with receiving(port) as receiver:
            await until(lambda: exporter.pending == 0)
            assert receiver.order == expected
        assert len(segment_files(directory)) == 1  # and now they may go
    assert "s3cret" not in caplog.text
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1  # not one per try


async def test_an_answer_that_got_lost_makes_a_double_which_counts_once(journal: Journal, receiver: Receiver) -> None:
    def once_counted_and_cut(events: list[dict[str, Any]]) -> int:
        receiver.answer = lambda _: 204
        for event in events:
            receiver._count(event)
        return DROP

    receiver.answer = once_counted_and_cut
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(1, 11))
        await until(lambda: exporter.pending == 0)
    assert receiver.order == expected
    assert receiver.deliveries > 10


async def test_a_node_that_was_killed_goes_on_where_it_was(directory: Path, receiver: Receiver) -> None:
    with opened(directory) as journal:
        async with exporting(journal, receiver.url) as exporter:
            expected = fill(journal, *range(1, 31))
            await until(lambda: exporter.pending == 0)
        expected += fill(journal, *range(31, 61))  # nobody exports these
    with opened(directory) as journal:
        async with exporting(journal, receiver.url) as exporter:
            assert exporter.pending == 30
            await until(lambda: exporter.pending == 0)
    assert receiver.order == expected
    assert receiver.deliveries == 60


@pytest.mark.parametrize("damage", ["", "3x\n"])
async def test_a_place_that_cannot_be_read_means_doubles_not_losses(
    directory: Path, receiver: Receiver, damage: str
) -> None:
    with opened(directory) as journal:
        async with exporting(journal, receiver.url) as exporter:
            expected = fill(journal, *range(1, 31))
            await until(lambda: exporter.pending == 0)
        expected += fill(journal, *range(31, 41))
    (directory / PLACE_FILE).write_text(damage)
    with opened(directory) as journal:
        async with exporting(journal, receiver.url) as exporter:
            await until(lambda: exporter.pending == 0)
    assert receiver.order == expected


async def test_entries_given_again_after_a_power_failure_are_exported_too(directory: Path, receiver: Receiver) -> None:
    with opened(directory) as journal:
        async with exporting(journal, receiver.url) as exporter:
            fill(journal, *range(1, 31))
            await until(lambda: exporter.pending == 0)
    last = directory / segment_files(directory)[-1]
    last.write_bytes(last.read_bytes()[: len(MAGIC)])  # the disk never got them
    with opened(directory) as journal:
        async with exporting(journal, receiver.url) as exporter:
            assert exporter.pending == 0
            expected = fill(journal, *range(100, 110))
            await until(lambda: exporter.pending == 0)
    assert receiver.order[-10:] == expected


async def test_one_event_that_is_refused_holds_up_the_others_for_a_while_and_is_set_aside(
    journal: Journal, directory: Path, receiver: Receiver
) -> None:
    receiver.answer = lambda events: 400 if any(e["data"]["function"] == "odd" for e in events) else 204
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(1, 21))
        odd = fill(journal, 21, function="odd")
        expected += fill(journal, *range(22, 61))
        await until(lambda: exporter.pending == 0)
        assert (exporter.refused, exporter.lost) == (1, 0)
    assert receiver.order == expected
    aside = (directory / REFUSED_FILE).read_text().splitlines()
    assert [odd[0] in line for line in aside] == [True]


async def test_a_destination_that_refuses_everything_for_a_while_loses_nothing(
    journal: Journal, directory: Path, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 400
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(1, 51))
        alone = REFUSALS_MAX // 2
        await until(lambda: len(receiver.statuses) >= 4 + alone)  # 16, 8, 4, 2 and then one by one
        receiver.answer = lambda _: 204
        await until(lambda: exporter.pending == 0)
        assert exporter.refused == 0
    assert receiver.order == expected
    assert not (directory / REFUSED_FILE).exists()


async def test_batches_that_are_too_large_are_halved(journal: Journal, receiver: Receiver) -> None:
    receiver.answer = lambda events: 413 if len(events) > 3 else 204
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(1, 51))
        await until(lambda: exporter.pending == 0)
    assert receiver.order == expected


async def test_beyond_the_backlog_the_oldest_are_given_up_which_is_said(
    journal: Journal, directory: Path, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answer = lambda _: 503
    async with exporting(journal, receiver.url, backlog_bytes_max=3 * 900) as exporter:
        expected = fill(journal, *range(1, 101))
        assert len(segment_files(directory)) > 5
        journal.trim(50)  # no further than the ledger has them
        assert journal.first_kept <= 51
        journal.trim(100)
        assert len(segment_files(directory)) == 3
        kept = 101 - journal.first_kept
        receiver.answer = lambda _: 204
        await until(lambda: exporter.pending == 0)
        assert exporter.lost == 100 - kept > 0
    assert receiver.order == expected[-kept:]
    assert f"{100 - kept} usage events (records 1 to {100 - kept} of this node) will not reach" in caplog.text


async def test_a_damaged_segment_costs_what_was_in_it_and_no_more(
    journal: Journal, directory: Path, receiver: Receiver
) -> None:
    receiver.answer = lambda _: 503
    async with exporting(journal, receiver.url) as exporter:
        expected = fill(journal, *range(1, 101))
        second, third = (int(name.removesuffix(".log")) for name in segment_files(directory)[1:3])
        path = directory / segment_files(directory)[1]
        path.write_bytes(MAGIC + b"x" * 200)
        receiver.answer = lambda _: 204
        await until(lambda: exporter.pending == 0)
        assert exporter.lost == third - second
    assert receiver.order == expected[: second - 1] + expected[third - 1 :]


async def test_closing_sends_what_is_there_and_does_not_wait_for_who_hangs(
    journal: Journal, receiver: Receiver
) -> None:
    async with exporting(journal, receiver.url, interval_s=3600) as exporter:
        await asyncio.sleep(0)
        expected = fill(journal, 1, 2, 3)
        await exporter.close()
        assert exporter.pending == 0
    receiver.answer = lambda _: HANG
    async with exporting(journal, receiver.url) as exporter:
        fill(journal, 4)
        await until(lambda: HANG in receiver.statuses)
        await exporter.close(wait_s=0.05)
        assert exporter.pending == 1
    assert receiver.order == expected


async def test_retry_after_is_heeded(journal: Journal, receiver: Receiver) -> None:
    receiver.answer = lambda _: 429
    receiver.retry_after = "600"
    async with exporting(journal, receiver.url) as exporter:
        fill(journal, 1)
        await until(lambda: len(receiver.statuses) == 1)
        await asyncio.sleep(0.1)  # ten times the longest pause without it
        assert (len(receiver.statuses), exporter.pending) == (1, 1)


@pytest.mark.parametrize(
    ("header", "wait_s"), [("7", 7), ("86400", 600), ("Mon, 23 Nov 2026 21:00:00 GMT", 0), ("-5", 0)]
)
async def test_a_refusal_says_who_why_and_when_again(receiver: Receiver, header: str, wait_s: int) -> None:
    receiver.answer = lambda _: 503
    receiver.retry_after = header
    destination = HttpDestination(receiver.url.replace("//", "//user:pass@") + "?token=abc")
    with pytest.raises(Undelivered) as caught:
        await destination.send(b"[]")
    await destination.close()
    assert caught.value.wait_s == wait_s
    assert str(caught.value) == f'{receiver.url} answered 503: {{"detail": "said so by the test"}}'
