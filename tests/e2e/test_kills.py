"""A short run of the kills that ``make soak`` does by the thousand (``soak_kills.py``): same code, same promises."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from faas.model.usage import UsageRecord
from tests.e2e.kills import Campaign, compare, plan
from tests.e2e.load import Book, Told
from tests.e2e.node import Node

KILLS, NODE_KILLS, VALKEY_KILLS = 40, 3, 2


@pytest.mark.anyio
@pytest.mark.timeout(300)
async def test_every_call_ends_and_the_ledger_agrees_whatever_is_killed(make_node: Callable[..., Node]) -> None:
    seed = int(os.environ.get("FAAS_TEST_SEED") or random.randrange(1 << 32))
    print(f"seed {seed} (FAAS_TEST_SEED={seed} draws the same victims)")
    node = make_node()
    node.start()
    victims = plan(random.Random(seed), KILLS, NODE_KILLS, VALKEY_KILLS, containers=node.engine == "docker")
    campaign = Campaign(node, seed, victims, grown_s=2)
    await campaign.run()
    assert campaign.killed.total() == KILLS
    assert campaign.book.statuses[200] > KILLS


def record(invocation: str, billed_ms: int = 5, status: str = "ok") -> UsageRecord:
    counts = (0, 0, 0, 0, billed_ms, 128, 0, 0, 0, 0)
    return UsageRecord(f"{invocation}-1", "default", "f", 1, "k", "direct", status, "warm", *counts, "n", 1)


def test_the_comparison_sees_what_it_must() -> None:
    """The judge is judged: a record missing, doubled, changed or invented is noticed."""
    book = Book(
        answered={"a": Told("a", "f", 200, 5), "b": Told("b", "f", 200, 5)}, cut={"c": Told("c", "f", 200, None)}
    )
    sound = [record("a"), record("b")]
    assert compare(book, sound) == []
    assert compare(book, [*sound, record("c", 9, "platform_error")]) == []
    assert len(compare(book, sound[:1])) == 1
    assert len(compare(book, [*sound, record("a")])) == 1
    assert len(compare(book, [record("a", 6), record("b")])) == 1
    assert len(compare(book, [record("a", 5, "timeout"), record("b")])) == 1
    assert len(compare(book, [*sound, record("d")])) == 1
