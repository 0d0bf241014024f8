"""``Idempotency-Key`` on real nodes: one run however often it is sent, also when a node dies in the middle."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import redis

from tests.e2e.node import FAAS, HANG_S, Node, code
from tests.e2e.processes import wait_until

PAY = """
import os, time
def handler(event, context):
    event = event if "wait" in event else {"wait": 0, **event}
    time.sleep(event["wait"])
    if event.get("fail"):
        raise ValueError("no")
    return {"receipt": os.urandom(8).hex(), "id": context.invocation_id}
"""
CHUNKS = """
import os
def handler(event, context):
    for _ in range(3):
        yield os.urandom(4).hex()
"""


def runs(node: Node, name: str) -> int:
    """How often it ran, by the ledger."""
    node.settled()
    return len(node.get(f"/v1/functions/{name}/invocations")["invocations"])


def test_a_retry_gets_the_first_answer_and_costs_nothing(node: Node) -> None:
    node.deploy("pay", PAY)
    before = runs(node, "pay")
    once = {"idempotency-key": "order-1"}
    first, again = (node.call("pay", {"eur": 5}, headers=once) for _ in range(2))
    assert first.status_code == 200
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content
    assert node.metric("faas_replayed_total", namespace="default") > 0
    assert again.headers["faas-invocation-id"] == first.headers["faas-invocation-id"] == first.json()["id"]
    assert code(node.call("pay", {"eur": 6}, headers=once)) == (422, "invalid-request")
    assert code(node.call("pay", {"eur": 5}, headers={"idempotency-key": "x" * 256})) == (400, "invalid-request")
    said = [_faas(node, "invoke", "pay", "-d", '{"eur": 7}', "--idempotency-key", "order-2") for _ in range(2)]
    assert said[0] == said[1]
    for _ in range(2):  # what it raised is no answer
        assert code(node.call("pay", {"fail": 1}, headers={"idempotency-key": "order-3"})) == (500, "function-error")
    assert runs(node, "pay") - before == 4
    node.delete("pay")


def _faas(node: Node, *arguments: str) -> str:
    done = subprocess.run(
        [FAAS, *arguments], env=node.environment(), capture_output=True, text=True, timeout=HANG_S, check=True
    )
    return done.stdout


def test_the_same_request_many_times_at_once_runs_once(node: Node) -> None:
    node.deploy("pay-once", PAY, http={"public": True}, concurrency=10)
    before = runs(node, "pay-once")
    body, together = json.dumps({"wait": 0.3}), threading.Barrier(8)

    def ask(_: int) -> httpx2.Response:
        with node.anyone(**{"idempotency-key": "order-9", "content-type": "application/json"}) as caller:
            together.wait(HANG_S)
            return caller.post("/v1/functions/pay-once/invocations", content=body, headers=node.headers)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert {(a.status_code, a.content) for a in answers} == {(200, answers[0].content)}
    assert sum("idempotency-replayed" in a.headers for a in answers) == 7
    assert runs(node, "pay-once") - before == 1
    node.delete("pay-once")


def test_a_call_that_nobody_waits_for_is_accepted_once(node: Node) -> None:
    node.deploy("pay-later", PAY)
    before = runs(node, "pay-later")
    once = {"idempotency-key": "order-5", "prefer": "respond-async"}
    first, again = (node.call("pay-later", {"eur": 5}, headers=once) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert code(node.call("pay-later", {"eur": 5}, headers={"idempotency-key": "order-5"})) == (422, "invalid-request")
    _forget_answers(node, "pay-later")  # as if the node had died between the call's message and the answer
    third = node.call("pay-later", {"eur": 5}, headers=once)
    assert (third.status_code, "idempotency-replayed" in third.headers) == (202, False)
    assert third.headers["location"] == first.headers["location"]
    assert third.json() == first.json()
    record = node.get(first.headers["location"], wait="30s")
    assert record["status"] == "ok"
    assert runs(node, "pay-later") - before == 1
    node.delete("pay-later")


def _forget_answers(node: Node, name: str) -> None:
    with redis.Redis(unix_socket_path=str(node.home / "valkey" / "run" / "valkey.sock")) as client:
        keys = client.keys(f"faas:once:default/{name}:*")
        assert client.delete(*keys) == 1


def test_on_the_http_trigger_with_streams_and_safe_methods(node: Node) -> None:
    node.deploy("pay-stream", CHUNKS, http={"public": True})
    with node.anyone(**{"idempotency-key": "a"}) as caller:
        posts = [caller.post("/fn/pay-stream/x?y=1", content=b"1") for _ in range(2)]
        gets = [caller.get("/fn/pay-stream/x?y=1") for _ in range(2)]
    assert posts[0].content == posts[1].content
    assert posts[1].headers["idempotency-replayed"] == "true"
    assert gets[0].content != gets[1].content
    node.delete("pay-stream")


def test_a_caller_that_gave_up_and_comes_back_gets_its_answer(node: Node) -> None:
    node.deploy("pay-slow", PAY)
    node.call("pay-slow", {})
    before = runs(node, "pay-slow")
    once = {"idempotency-key": "order-4"}
    try:
        node.call("pay-slow", {"wait": 0.8}, headers=once, timeout=0.3)
    except httpx2.TimeoutException:
        pass
    else:
        raise AssertionError("it was to take longer")
    answer = node.call("pay-slow", {"wait": 0.8}, headers=once)
    assert (answer.status_code, answer.headers["idempotency-replayed"]) == (200, "true")
    assert runs(node, "pay-slow") - before == 1
    node.delete("pay-slow")


def test_a_node_that_dies_in_the_middle_lets_go() -> None:
    node = Node("process", generic_sandboxes="0")
    try:
        node.start()
        _die_and_retry(node)
    finally:
        node.close()


def _die_and_retry(node: Node) -> None:
    node.deploy("pay", PAY)
    once = {"idempotency-key": "order-1"}
    cut_off: list[Exception] = []
    left = threading.Thread(target=_unanswered, args=(node, once, cut_off))
    left.start()
    wait_until(lambda: node.metric("faas_instances", state="busy") == 1, "the first call runs")
    node.kill()
    left.join(HANG_S)
    assert cut_off
    node.start()
    answer = node.call("pay", {"wait": 1}, headers=once)
    assert (answer.status_code, answer.headers.get("idempotency-replayed")) == (200, None)
    assert node.call("pay", {"wait": 1}, headers=once).content == answer.content


def _unanswered(node: Node, headers: dict[str, str], cut_off: list[Exception]) -> None:
    try:
        node.call("pay", {"wait": 1}, headers=headers)
    except httpx2.HTTPError as error:
        cut_off.append(error)
