"""`faas queue` against a real node: from the first message to a function's hands, to the dead letters and back."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import FAAS, HANG_S, Node, code
from tests.e2e.processes import wait_until

WORKER = """
import json
import os


def handler(event, context):
    failures = []
    for record in event["Records"]:
        print("got", record["body"], record["attributes"]["ApproximateReceiveCount"])
        if os.environ.get("REFUSES") and "bad" in record["body"]:
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}
"""
QUEUE = [{"name": "jobs", "batch": 10}]
ONCE = {"attempts": 1, "max_age": "1h"}


class Cli:
    """`faas` in a directory of its own, against one node."""

    def __init__(self, node: Node, cwd: Path) -> None:
        self.cwd = cwd
        self.environment = node.environment()

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FAAS, *arguments],
            cwd=self.cwd,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=HANG_S,
            text=True,
        )

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        ran = self.run(*arguments, stdin=stdin)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"))


@pytest.fixture(scope="module")
def own_node() -> Iterator[Node]:
    """What is tested is above the engine, so one of them will do."""
    made = Node("process")
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def faas(own_node: Node, tmp_path: Path) -> Cli:
    return Cli(own_node, tmp_path)


def counts(node: Node) -> dict[str, int]:
    return dict(node.get("/v1/queues/jobs")["counts"])


def test_what_is_answered_for_is_on_disk(own_node: Node) -> None:
    """Where the store's file cannot be synced, nothing is: asked again under the same ids, it is there once."""
    node = own_node
    node.deploy("later", "def handler(event, context): pass")
    files = node.home / "valkey" / "appendonlydir"
    aside = files.with_name("aside")
    body = {"body": "x", "dedup_id": "x"}
    files.rename(aside)
    try:
        refused = node.client.post("/v1/queues/safe/messages", json=body)
        assert code(refused)[0] == 503, refused.text
        called = node.call("later", {}, headers={"prefer": "respond-async"})
        assert code(called) == code(refused)
        assert "there is no append-only file" in node.said()
    finally:
        aside.rename(files)
    assert node.client.post("/v1/queues/safe/messages", json=body).status_code == 201
    assert node.get("/v1/queues/safe")["depth"] == 1
    assert node.client.delete("/v1/queues/safe").is_success
    node.delete("later")


def test_the_life_of_a_queue(faas: Cli, own_node: Node) -> None:
    node = own_node
    first = faas("queue", "send", "jobs", "-d", '{"n": 0}', "--dedup-id", "zero").strip()
    again = faas.run("queue", "send", "jobs", "-d", '{"n": 0}', "--dedup-id", "zero")
    assert again.stdout.strip() == first
    assert "not stored again" in again.stderr
    lines = "".join(f'{{"n": {n}}}\n' for n in range(1, 1500)) + '"bad 1"\n"bad 2"\n"bad 3"\n'
    assert faas("queue", "send", "jobs", "--lines", stdin=lines).startswith("sent 1,502 messages to jobs")
    faas("queue", "send", "jobs", "--text", "later", "--delay", "1d")
    state = faas.json("queue", "show", "jobs")
    assert (state["depth"], state["ready"], state["delayed"]) == (1504, 1503, 1)
    peeked = [(each["body"], each["attempts"]) for each in faas.json("queue", "peek", "jobs", "--limit", "3")]
    assert peeked == [('{"n":0}', 0), ('{"n":1}', 0), ('{"n":2}', 0)]

    node.deploy("worker", WORKER, queue=QUEUE, retry=ONCE, env={"REFUSES": "yes"})
    wait_until(lambda: counts(node)["acked"] == 1500 and counts(node)["dead"] == 3, "all are handled", HANG_S)
    (listed,) = faas.json("queue", "ls")
    assert (listed["depth"], listed["dead"]) == (1, 3), "the delayed one waits"
    assert listed["consumers"] == [{"trigger": "worker.jobs", "function": "worker", "enabled": True}]
    assert "worker" in faas("queue", "ls")
    page = faas.json("queue", "dead", "jobs", "--limit", "2")
    assert [each["body"] for each in page["messages"]] == ["bad 1", "bad 2"]
    assert [each["attempts"] for each in page["messages"]] == [1, 1]
    assert all(each["reason"] for each in page["messages"])
    rest = faas.json("queue", "dead", "jobs", "--after", page["next"])
    assert [each["body"] for each in rest["messages"]] == ["bad 3"]

    node.deploy("worker", WORKER, queue=QUEUE, retry=ONCE)
    third = rest["messages"][0]["id"]
    assert faas("queue", "redrive", "jobs", third) == "put 1 message back into jobs\n"
    assert faas.run("queue", "redrive", "jobs", third).returncode == 1
    assert faas("queue", "redrive", "jobs", "--rate", "20") == "put 2 messages back into jobs\n"
    wait_until(lambda: counts(node)["acked"] == 1503, "the mended function has them", HANG_S)
    assert faas("queue", "redrive", "jobs") == "no dead letters in jobs\n"

    assert faas("queue", "purge", "jobs") == "forgot 1 message of jobs\n"
    removed = faas.run("queue", "rm", "jobs")
    assert removed.stdout == "removed jobs\n"
    assert "the function worker still takes from it" in removed.stderr
    node.delete("worker")
    missing = faas.run("queue", "show", "jobs")
    assert missing.returncode == 1
    assert "faas queue ls" in missing.stderr


def test_many_who_send_at_once_are_all_heard(own_node: Node) -> None:
    """Each gets the ids of its own messages, whatever shares a step of the store with them."""
    ids: dict[str, str] = {}

    def send(sender: int) -> None:
        with own_node.anyone(**own_node.headers) as client:
            for n in range(25):
                body = f"{sender}.{n}"
                answer = client.post("/v1/queues/crowd/messages", json={"body": body})
                assert answer.status_code == 201, answer.text
                ids[answer.json()["id"]] = body

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shown = own_node.get("/v1/queues/crowd/messages", limit=100)["messages"]
    assert len(ids) == 100
    assert {each["id"]: each["body"] for each in shown} == ids
    for sender in range(4):
        mine = [each["body"] for each in shown if each["body"].startswith(f"{sender}.")]
        assert mine == [f"{sender}.{n}" for n in range(25)], "in the order one sender sent them"
    assert own_node.client.delete("/v1/queues/crowd").status_code == 200


def test_nothing_of_a_wrong_list_is_stored(own_node: Node) -> None:
    answer = own_node.client.post("/v1/queues/none/messages", json=[{"body": 1}, {"body": 1, "delay": "soon"}])
    assert code(answer) == (400, "invalid-request")
    assert answer.json()["errors"][0]["index"] == 1
    assert code(own_node.client.get("/v1/queues/none")) == (404, "not-found")
