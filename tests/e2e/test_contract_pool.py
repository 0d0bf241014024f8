"""What the pool does between warm and gone, and inside one instance, on real sandboxes."""

from __future__ import annotations

from typing import Any

import httpx2

from tests.e2e.node import Node, code
from tests.e2e.processes import wait_until
from tests.e2e.test_contract_life import HELLO, at_once, instances, sandboxes

TOGETHER = """
import asyncio, os
inside, most = 0, 0
async def handler(event, context):
    global inside, most
    inside += 1
    most = max(most, inside)
    print("line of", event["n"])
    await asyncio.sleep(event["s"])
    inside -= 1
    return {"pid": os.getpid(), "most": most, "id": context.invocation_id}
"""

BUSY = """
import threading
def beat():
    while True:
        pass
threading.Thread(target=beat, daemon=True).start()
def handler(event, context):
    return "hello"
"""

HEAVY = """
import os, time
time.sleep(0.2)
imported_by = os.getpid()
def handler(event, context):
    return imported_by, os.getpid()
"""

THREADS = """
import os, threading, time
barrier = threading.Barrier(4)
def handler(event, context):
    barrier.wait(20)
    return {"pid": os.getpid(), "thread": threading.get_ident()}
"""


def parked(node: Node, name: str) -> bool:
    return [each["state"] for each in sandboxes(node, name)] == ["parked"]


def test_what_a_deploy_loaded_is_parked_and_a_call_resumes_it(node: Node) -> None:
    node.deploy("pool-parked", HELLO)
    wait_until(lambda: parked(node, "pool-parked"), "it is parked", 30)
    (sandbox,) = sandboxes(node, "pool-parked")
    assert sandbox["instances"] == []
    assert "parked: loaded and frozen" in sandbox["why"]
    answer = node.call("pool-parked")
    assert (answer.json(), answer.headers["faas-start"]) == ("hello", "parked")
    assert node.call("pool-parked").headers["faas-start"] == "warm"
    assert node.record(answer)["start"] == "parked"
    node.delete("pool-parked")


def test_a_heavy_import_is_done_before_a_parked_start(node: Node) -> None:
    node.deploy("pool-heavy", HEAVY)
    wait_until(lambda: parked(node, "pool-heavy"), "it is parked", 30)
    answer = node.call("pool-heavy")
    assert answer.headers["faas-start"] == "parked"
    imported_by, served_by = answer.json()
    assert imported_by != served_by, "by its zygote, once for all instances"
    node.delete("pool-heavy")


def test_a_sandbox_that_never_rests_is_parked_and_removed_like_any(node: Node) -> None:
    node.deploy("pool-busy", BUSY, keep_alive="3s")
    wait_until(lambda: parked(node, "pool-busy"), "it is parked", 30)
    wait_until(lambda: not sandboxes(node, "pool-busy"), "a frozen sandbox is removed", 30)
    assert node.call("pool-busy").json() == "hello"
    node.delete("pool-busy")


def test_async_calls_share_one_instance_and_its_time(node: Node) -> None:
    node.deploy("pool-async", TOGETHER, concurrency=10, max_instances=1)
    node.call("pool-async", {"n": -1, "s": 0})
    answers = at_once(node, "pool-async", [{"n": n, "s": 0.4} for n in range(10)])
    assert [answer.status_code for answer in answers] == [200] * 10
    assert len({answer.json()["pid"] for answer in answers}) == 1
    assert max(answer.json()["most"] for answer in answers) == 10
    assert len(instances(node, "pool-async")) == 1
    billed_ms = sum(int(answer.headers["faas-billed-ms"]) for answer in answers)
    run_ns = sum(int(node.record(answer)["run_ns"]) for answer in answers)
    assert billed_ms < run_ns / 1e6 / 2, "ten calls that overlap do not pay ten times"
    assert billed_ms >= 400, "the instance's time is paid for once"
    for answer in answers:
        assert answer.headers["faas-invocation-id"] == answer.json()["id"]
    node.delete("pool-async")


def test_lines_of_calls_that_overlap_are_told_apart(node: Node) -> None:
    node.deploy("pool-lines", TOGETHER, concurrency=5, max_instances=1)
    answers = at_once(node, "pool-lines", [{"n": n, "s": 0.2} for n in range(5)])

    def line(answer: httpx2.Response) -> list[str]:
        found = node.get("/v1/functions/pool-lines/logs", invocation=answer.headers["faas-invocation-id"])
        return [each["text"] for each in found["lines"]]

    for number, answer in enumerate(answers):
        wait_until(lambda a=answer: line(a), "its line is there")  # type: ignore[misc]
        assert line(answer) == [f"line of {number}"]
    node.delete("pool-lines")


def test_calls_of_a_plain_handler_run_in_threads(node: Node) -> None:
    node.deploy("pool-threads", THREADS, concurrency=4, max_instances=1)
    answers = at_once(node, "pool-threads", [None] * 4)
    assert [answer.status_code for answer in answers] == [200] * 4, "each waits for the three others"
    assert len({answer.json()["pid"] for answer in answers}) == 1
    assert len({answer.json()["thread"] for answer in answers}) == 4
    node.delete("pool-threads")


def test_a_deadline_ends_one_call_and_not_its_neighbours(node: Node) -> None:
    node.deploy("pool-deadline", TOGETHER, concurrency=2, max_instances=1, timeout="1s")
    node.call("pool-deadline", {"n": -1, "s": 0})
    events: list[Any] = [{"n": 0, "s": 60}, {"n": 1, "s": 0.7}]
    late, fine = at_once(node, "pool-deadline", events)
    assert code(late) == (504, "timeout")
    assert fine.status_code == 200
    assert node.call("pool-deadline", {"n": 2, "s": 0}).status_code == 200
    node.delete("pool-deadline")
