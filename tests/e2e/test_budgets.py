"""Budgets on a real node: stopped, raised, warned of once, over kills; and a chain of calls that ends."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from faas.model.hops import HOPS_MAX
from tests.e2e.node import FAAS, HANG_S, Node, code
from tests.e2e.processes import wait_until

HELLO = """
def handler(event, context):
    return context.trace_parent
"""


class Receiver:
    """A webhook's other end; ``got`` are the ids and bodies in the order they came."""

    def __init__(self) -> None:
        got: list[tuple[str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                got.append((self.headers["webhook-id"], body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                return None

        self.got = got
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def own_node() -> Iterator[Node]:
    """Of this test alone, which kills it. What is tested is above the engine, so one of them will do."""
    made = Node("process")
    try:
        made.start()
        made.deploy("hello", HELLO)
        yield made
    finally:
        made.close()


def faas(node: Node, *arguments: str) -> str:
    environment = {**node.environment(), "FAAS_URL": node.url, "FAAS_KEY": node.key}
    ran = subprocess.run([FAAS, *arguments], env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def budgets(node: Node) -> dict[str, Any]:
    return dict(node.get("/v1/budgets/default"))


def stopped(node: Node) -> bool:
    answer = node.call("hello")
    if answer.status_code == 200:
        return False
    assert code(answer) == (402, "budget-exhausted"), answer.text
    return True


def test_a_budget_stops_its_function_warns_once_and_survives_kills(own_node: Node, receiver: Receiver) -> None:
    node = own_node
    for _ in range(4):
        node.call("hello")
    node.settled()
    usage = node.get("/v1/usage")["totals"]["mb_ms"]
    limit = (usage + 128 * 40) / 1_024_000  # at least one call more, at most forty
    faas(node, "budget", "set", "--function", "hello", "--gb-seconds", f"{limit:.9f}", "--webhook", receiver.url)
    node.kill()
    node.start()
    assert not stopped(node), "what was used before the kill counts, and no more than that"
    wait_until(lambda: stopped(node), "the budget is used up", HANG_S)
    detail = node.call("hello").json()["detail"]
    assert "faas budget set -N default --function hello --gb-seconds" in detail
    wait_until(lambda: len(receiver.got) == 3, "all thresholds have been told of", HANG_S)
    wait_until(
        lambda: [each["state"] for each in budgets(node)["warnings"]] == ["sent"] * 3, "the node knows it", HANG_S
    )
    node.settled()
    node.kill()
    node.start()
    assert stopped(node), "it is used up still"
    shown = budgets(node)["budgets"][0]
    assert shown["state"] == "exhausted"
    used, used_mb_ms = float(shown["used_gb_seconds"]), node.get("/v1/usage")["totals"]["mb_ms"]
    assert used == used_mb_ms / 1_024_000 < limit + 30 * 128 / 1000, "one call more than the limit, at most"
    assert sorted(each[0] for each in receiver.got) == sorted({each["id"] for each in budgets(node)["warnings"]})
    faas(node, "budget", "set", "--function", "hello", "--gb-seconds", "1000")
    assert not stopped(node), "it begins anew once it is raised"
    assert "1000" in faas(node, "budget", "show")
    assert len(receiver.got) == 3


def test_a_chain_of_calls_that_hand_their_trace_on_ends(own_node: Node) -> None:
    """What a handler would do that calls its own function: send ``context.trace_parent`` as ``traceparent``."""
    answer = own_node.call("hello")
    for _ in range(HOPS_MAX):
        answer = own_node.call("hello", headers={"traceparent": answer.json()})
        assert answer.status_code == 200, answer.text
    refused = own_node.call("hello", headers={"traceparent": answer.json()})
    assert code(refused) == (400, "loop-detected")
    assert "chain of 16 calls" in refused.json()["detail"]
    over_http = own_node.fetch("/fn/hello", headers={"traceparent": answer.json()})
    assert code(over_http) == (400, "loop-detected")
    said = own_node.call("hello", headers={"Faas-Hops": str(HOPS_MAX)})
    assert code(said) == (400, "loop-detected")
    assert own_node.call("hello").status_code == 200
