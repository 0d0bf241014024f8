"""kill -9 of a node while it closes a month: the month is open or whole, and closing it again gives the same bill."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import httpx2
import pytest
import redis

from tests.e2e.node import Node
from tests.e2e.processes import wait_until

PRICES = 'name = "ours"\ncurrency = "EUR"\nper_request = 0.25\n'
HELLO = """
def handler(event, context):
    return "hi"
"""
PAUSE_MS = 60_000
BILLS = "faas:bills"


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node("process")
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_a_node_killed_while_it_closes_a_month(node: Node) -> None:
    node.client.put("/v1/prices", content=PRICES, headers={"content-type": "application/toml"}).raise_for_status()
    node.deploy("hello", HELLO)
    assert [node.call("hello").status_code for _ in range(3)] == [200] * 3
    node.settled()
    month = f"{dt.datetime.now(dt.UTC):%Y-%m}"
    bill = f"/v1/bills/{month}"

    def at_the_store(store: redis.Redis) -> bool:
        return any(each["cmd"] == "evalsha" and "b" in each["flags"] for each in store.client_list())

    store = _store(node)
    store.client_pause(PAUSE_MS, all=False)
    assert _kill_while_closing(node, bill, lambda: at_the_store(store)) == []
    store.close()
    node.start()
    store = _store(node)
    store.client_unpause()
    assert store.hlen(BILLS) == 0, "worked out, and nothing of it stored"
    assert node.client.get(bill).json()["status"] == "open"

    told = _kill_while_closing(node, bill, lambda: store.hexists(BILLS, month))
    store.close()
    node.start()
    found: dict[str, Any] = node.client.post(f"{bill}/close", json={"force": True}).json()
    assert (found["status"], found["total"]) == ("closed", "0.75")
    assert told in ([], [found]), "it waits for the disk with its answer, which is when it dies, mostly"
    assert sum(Decimal(line["amount"]) for line in found["lines"]) == Decimal("0.75")
    store = _store(node)
    frozen = store.hget(BILLS, month)
    assert node.call("hello").status_code == 200
    node.settled()
    assert node.client.post(f"{bill}/close", json={"force": True}).json() == found
    assert node.client.get(bill).json() == found
    assert store.hgetall(BILLS) == {month.encode(): frozen}
    store.close()


def _store(node: Node) -> redis.Redis:
    [socket] = node.home.rglob("valkey.sock")
    return redis.Redis(unix_socket_path=str(socket))


def _kill_while_closing(node: Node, bill: str, due: Callable[[], object]) -> list[dict[str, Any]]:
    """Kill it once ``due``; what whoever asked it to close was told, if anything."""
    answers: list[httpx2.Response] = []

    def close() -> None:
        with httpx2.Client(base_url=node.url, headers=dict(node.client.headers), timeout=60, trust_env=False) as client:
            try:
                answers.append(client.post(f"{bill}/close", json={"force": True}))
            except httpx2.TransportError:
                return

    asking = threading.Thread(target=close)
    asking.start()
    wait_until(due, "the month is being closed", 30)
    node.kill()
    asking.join(60)
    assert not asking.is_alive()
    return [answer.json() for answer in answers]
