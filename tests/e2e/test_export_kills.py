"""Usage events of a real node: what the receiver has counted is what the ledger has, whatever was killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from tests.e2e.node import FAAS, Node
from tests.e2e.processes import wait_until
from tests.receiver import DROP, HANG, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture
def exporting(receiver: Receiver) -> Iterator[Node]:
    node = Node("process", export_url=receiver.url, export_token="s3cret")
    try:
        node.start()
        yield node
    finally:
        node.close()


def by_function_and_status(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[int, int, int]]:
    return {(r["function"], r["status"]): (r["invocations"], r["billed_ms"], r["mb_ms"]) for r in rows}


def received(receiver: Receiver) -> dict[tuple[str, str], tuple[int, int, int]]:
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for event in receiver.events.values():
        data = event["data"]
        assert Fraction(data["gb_seconds"]) * 1_024_000 == data["mb_ms"]
        count, billed_ms, mb_ms = found.get((data["function"], data["status"]), (0, 0, 0))
        found[data["function"], data["status"]] = count + 1, billed_ms + data["billed_ms"], mb_ms + data["mb_ms"]
    return found


def calls(node: Node, count: int) -> None:
    for number in range(count):
        assert node.call("adder", {"n": number}).status_code == (500 if number == 3 else 200)


def test_the_receiver_has_what_the_ledger_has_after_kills_of_node_and_store(
    exporting: Node, receiver: Receiver
) -> None:
    node = exporting
    node.deploy("adder", "def handler(event, context):\n    return 6 // (event['n'] - 3)\n")
    receiver.answer = lambda _: 503
    calls(node, 10)
    wait_until(lambda: receiver.statuses.count(503) > 0, "the receiver is asked")
    pending = int(node.metric("faas_export_pending_records"))
    assert pending > 0
    asked = subprocess.run([FAAS, "doctor"], env=node.environment(), capture_output=True, text=True, timeout=60)
    assert f"takes connections; {pending} usage records of the node wait for it" in asked.stdout
    assert "s3cret" not in asked.stdout

    def counted_and_hangs(events: list[dict[str, Any]]) -> int:
        receiver.answer = lambda _: DROP
        for event in events:
            receiver._count(event)
        return HANG

    receiver.answer = counted_and_hangs  # the node dies before it knows that these are counted
    wait_until(lambda: HANG in receiver.statuses, "a batch is under way", 30)
    calls(node, 10)
    node.kill()
    receiver.go_on.set()
    node.start()
    calls(node, 10)
    os.kill(node.valkey().pid, signal.SIGKILL)
    calls(node, 10)
    receiver.answer = lambda _: 204
    calls(node, 10)
    wait_until(lambda: node.metric("faas_export_pending_records") == 0, "all is exported", 60)
    node.settled()
    wait_until(lambda: not node.metric("faas_journal_pending_records"), "the ledger has all")
    ledger = by_function_and_status(node.get("/v1/usage", by="function,status")["rows"])
    assert received(receiver) == ledger
    assert sum(row[0] for row in ledger.values()) == len(receiver.events) == 50
    assert receiver.deliveries > 50
    assert receiver.headers["authorization"] == "Bearer s3cret"
    assert node.metric("faas_export_missing_records_total") == 0
