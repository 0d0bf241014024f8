"""Triggers on a real node, from the command line: paused over kills, added, removed, made up for after a downtime."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.contract.valkeys import running_valkey
from tests.e2e.node import FAAS, HANG_S, Node
from tests.e2e.processes import wait_until

WORKER = """
def handler(event, context):
    return event["detail-type"] if context.trigger == "cron" else len(event["Records"]) and None
"""
DAY_MS = 25 * 3_600_000  # the longest that a day is in Berlin


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with running_valkey() as url:
        yield url


@pytest.fixture
def own_node(store: str) -> Iterator[Node]:
    """Of this test alone, which kills it. What is tested is above the engine, so one of them will do."""
    made = Node("process", redis_url=store)
    try:
        made.start()
        made.deploy(
            "worker",
            WORKER,
            queue=[{"name": "orders"}],
            cron=[{"schedule": "0 12 * * *", "timezone": "Europe/Berlin", "missed": "once"}],
        )
        yield made
    finally:
        made.close()


def faas(node: Node, *arguments: str, code: int = 0) -> Any:
    environment = {**node.environment(), "FAAS_URL": node.url, "FAAS_KEY": node.key}
    asked: list[str] = [str(FAAS), "trigger", *arguments, "--json"]
    ran = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert ran.returncode == code, ran.stderr
    return json.loads(ran.stderr if code else ran.stdout)


def shown(node: Node, trigger_id: str) -> dict[str, Any]:
    return dict(node.get(f"/v1/triggers/{trigger_id}"))


def test_what_a_pause_holds_back_comes_after_it_and_a_downtime_is_made_up_for(own_node: Node, store: str) -> None:
    node = own_node
    cron, queue = faas(node, "ls")
    assert (queue["id"], cron["last_run"], cron["next_run"][11:19]) == ("worker.orders", None, "12:00:00")
    assert "manifest of 'worker'" in faas(node, "rm", "worker.orders", code=1)["detail"]
    added = faas(node, "add", "worker", "--queue", '{ name = "returns", batch = 2 }')
    assert (added["id"], added["source"]) == ("worker.returns", "added")

    for each in ("orders", "returns"):
        faas(node, "pause", f"worker.{each}")
        sent = node.client.post(f"/v1/queues/{each}/messages", json=[{"body": "1"}, {"body": "2"}])
        assert sent.status_code == 201, sent.text
    node.kill()
    with redis.Redis.from_url(store) as client:  # as if it had been deployed, and the node been away, for a day
        version = json.loads(client.hget("faas:functions", "default/worker") or b"")
        version["created_at_ms"] -= DAY_MS
        client.hset("faas:functions", "default/worker", json.dumps(version))
    node.start()
    for each in ("orders", "returns"):
        found = shown(node, f"worker.{each}")
        assert (found["enabled"], found["depth"]) == (False, 2)
        faas(node, "resume", f"worker.{each}")
    for each in ("orders", "returns"):
        wait_until(lambda each=each: shown(node, f"worker.{each}")["depth"] == 0, "all are handled", HANG_S)  # type: ignore[misc]
    wait_until(lambda: shown(node, cron["id"])["last_run"] is not None, "one run makes up for the day", HANG_S)
    wait_until(lambda: node.metric("faas_invocations_total", trigger="cron", status="ok") >= 1, "it ran", HANG_S)
    assert faas(node, "rm", "worker.returns") == {"id": "worker.returns", "removed": True}
    node.delete("worker")
    assert faas(node, "ls") == []
    with redis.Redis.from_url(store) as client:
        assert client.keys("faas:triggers*") == []
