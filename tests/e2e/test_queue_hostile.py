"""Queues and the hostile or careless, on a real node: nonsense sent, nonsense answered, the store away."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
import redis

from faas.stores.embedded import find_binary
from tests.e2e.node import Node
from tests.e2e.processes import wait_until

# The body says what to answer.
NONSENSE = """
import json

def handler(event, context):
    answer = event["Records"][0]["body"]
    if answer == "huge":
        return {"batchItemFailures": [{"itemIdentifier": "x" * 2_000_000}]}
    if answer == "deep":
        return '{"batchItemFailures": ' + "[" * 100_000
    if answer == "text":
        return "batchItemFailures, you know"
    return json.loads(answer)
"""
ANSWERS = {
    '{"batchItemFailures": "all"}': "is not a list",
    '{"batchItemFailures": [7]}': "holds something other than",
    '{"batchItemFailures": [{"itemIdentifier": null}]}': "holds something other than",
    '{"batchItemFailures": [{"itemIdentifier": "ffffffffffffffffffffffffffffffff"}]}': "not in the batch: ffff",
    '[{"batchItemFailures": []}]': "no object",
    "huge": "not in the batch: xxxx",
    "deep": "batchItemFailures",
    "text": "batchItemFailures",
}
FINE = (
    "null",
    "{}",
    "[]",
    "17",
    '"done"',
    '{"batchItemFailures": null}',
    '{"batchItemFailures": []}',
    '{"failed": ["a"]}',
)


def test_answers_that_make_no_sense_fail_their_batch_and_say_why(node: Node) -> None:
    node.deploy("nonsense", NONSENSE, queue=[{"name": "nonsense", "batch": 1}], retry={"attempts": 1})
    try:
        messages = [{"body": body} for body in (*ANSWERS, *FINE)]
        assert node.client.post("/v1/queues/nonsense/messages", json=messages).status_code == 201
        state = ended(node, "nonsense", len(messages))
        assert (state["counts"]["acked"], state["counts"]["dead"]) == (len(FINE), len(ANSWERS))
        letters = {each["body"]: each["reason"] for each in node.get("/v1/queues/nonsense/dead")["messages"]}
        assert letters.keys() == ANSWERS.keys()
        for body, words in ANSWERS.items():
            assert words in letters[body]
            assert len(letters[body]) <= 1000
    finally:
        node.delete("nonsense")
        node.client.delete("/v1/queues/nonsense")


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"{", b"7", b'"text"', b"[]", b"[7]", b"{}", b'[{"body": 1}, {"bdy": 2}]', b'{"body": 1, "delay": "soon"}',
        b'{"body": 1, "delay": -1}', b'{"body": 1, "delay": "9d"}', b'{"body": 1, "group": 7}',
        b'{"body": 1, "dedup_id": {}}',
        b'{"body": 1, "attributes": []}', b'{"body": 1, "attributes": {"a": 1}}', b'{"body": ' + b"[" * 100_000,
        b"[" + b'{"body": 1},' * 1000 + b'{"body": 1}]', b'{"body": 1}\xff', b'{"body": NaN}',
    ],
)  # fmt: skip
def test_malformed_messages_are_refused_whole_with_words(node: Node, sent: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = node.client.post("/v1/queues/malformed/messages", content=sent, headers=headers)
    assert answer.status_code in (400, 413, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 10
    assert node.client.get("/v1/queues/malformed").status_code == 404, "nothing of it is stored"


def test_a_queue_that_is_removed_under_its_consumer_comes_back_empty(node: Node) -> None:
    slow = """
    import time

    def handler(event, context):
        print("began")
        time.sleep(1 if event["Records"][0]["body"] == "slow" else 0)
    """
    node.deploy("removed", slow, queue=[{"name": "removed", "batch": 1, "max_concurrency": 1}])
    try:
        send(node, "removed", "slow", "never", "never")
        wait_until(lambda: node.get("/v1/functions/removed/logs")["lines"], "it runs")
        assert node.client.delete("/v1/queues/removed").status_code in (200, 204)
        send(node, "removed", "after")
        state = ended(node, "removed", 1)
        assert (state["counts"]["acked"], state["dead"]) == (1, 0)
    finally:
        node.delete("removed")
        node.client.delete("/v1/queues/removed")


# -- the store is away ------------------------------------------------------------------------------------------------

TAKER = """
import json, time

def handler(event, context):
    time.sleep(0.01)
    if "Records" in event:
        print(json.dumps([record["body"] for record in event["Records"]]))
"""


class Store:
    """A Valkey that can be taken away, with its data kept."""

    def __init__(self, directory: Path) -> None:
        self.socket = directory / "valkey.sock"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def come(self) -> None:
        options = ("--port", "0", "--unixsocket", "valkey.sock", "--appendonly", "yes", "--save", "")
        command = [str(find_binary()), *options]
        self._process = subprocess.Popen(command, cwd=self._directory, stdout=subprocess.DEVNULL)
        wait_until(self._answers, "the store is up")

    def go(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        with redis.Redis(unix_socket_path=str(self.socket)) as client, contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False


@pytest.fixture
def store() -> Iterator[Store]:
    directory = Path(tempfile.mkdtemp(prefix="faas-test-"))
    made = Store(directory)
    try:
        made.come()
        yield made
    finally:
        made.go()
        shutil.rmtree(directory, ignore_errors=True)


class Callers:
    """Each asks for one thing again and again; ``refused`` is what they were told otherwise."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.sent: list[str] = []
        self.calls: list[str] = []
        self.refused: list[httpx2.Response] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(ask,)) for ask in (self._send, self._call)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, ask: Callable[[httpx2.Client, int], httpx2.Response]) -> None:
        with self.node.anyone(**self.node.headers) as client:
            number = 0
            while not self._over.wait(0.03):
                number += 1
                answer = ask(client, number)
                if answer.status_code not in (201, 202):
                    self.refused.append(answer)

    def _send(self, client: httpx2.Client, number: int) -> httpx2.Response:
        message = {"body": f"m{number}", "dedup_id": f"m{number}", "delay": "1s" if number % 10 == 0 else 0}
        answer = client.post("/v1/queues/taken/messages", json=message)
        if answer.status_code == 201:
            self.sent.append(f"m{number}")
        return answer

    def _call(self, client: httpx2.Client, number: int) -> httpx2.Response:
        later = {"prefer": "respond-async"}
        answer = client.post("/v1/functions/taker/invocations", json={"n": number}, headers=later)
        if answer.status_code == 202:
            self.calls.append(answer.json()["id"])
        return answer


def test_while_the_store_is_away_senders_are_told_and_nothing_that_was_taken_is_lost(store: Store) -> None:
    node = Node("process", redis_url=f"unix://{store.socket}")
    try:
        node.start()
        node.deploy("taker", TAKER, queue=[{"name": "taken", "batch": 3}])
        with Callers(node) as callers:
            wait_until(lambda: len(callers.sent) > 9 and len(callers.calls) > 9, "all goes well")
            lines_before = len(node.log.read_text().splitlines())
            store.go()
            wait_until(lambda: len(callers.refused) > 60, "they were told often", 60)
            assert node.call("taker", {}).status_code == 200, "calls of known functions go on"
            store.come()
            sent, calls = len(callers.sent), len(callers.calls)
            wait_until(lambda: len(callers.sent) > sent + 9 and len(callers.calls) > calls + 9, "all goes well again")
        wait_until(lambda: "the store is back, queues go on" in node.log.read_text(), "consumers have heard of it", 30)
        for answer in callers.refused:
            assert (answer.status_code, answer.json()["code"]) == (503, "store-unavailable")
            assert int(answer.headers["retry-after"]) > 0
        lines = node.log.read_text().splitlines()[lines_before:]
        assert len(lines) < 40, lines
        assert not [line for line in lines if "Traceback" in line]
        said = "\n".join(lines)
        assert "Check that it runs, and FAAS_REDIS_URL" in said
        assert ended(node, "taken", len(callers.sent))["dead"] == 0
        wait_until(lambda: taken(node) >= set(callers.sent), "every message was handled")
        for call in callers.calls:
            assert node.get(f"/v1/invocations/{call}", wait="30s")["state"] == "succeeded"
    finally:
        node.close()


# -- parts ------------------------------------------------------------------------------------------------------------


def send(node: Node, queue: str, *bodies: str) -> None:
    answer = node.client.post(f"/v1/queues/{queue}/messages", json=[{"body": body} for body in bodies])
    assert answer.status_code == 201, answer.text


def ended(node: Node, queue: str, at_least: int) -> dict[str, Any]:
    """The queue's state once so many of its messages have ended, and none is left."""
    state: dict[str, Any] = {}

    def so() -> bool:
        state.update(node.get(f"/v1/queues/{queue}"))
        counts = state["counts"]
        return bool(state["depth"] == 0 and counts["acked"] + counts["dead"] >= at_least)

    wait_until(so, f"{at_least} messages of {queue} have ended", 60)
    return state


def taken(node: Node) -> set[str]:
    lines = node.get("/v1/functions/taker/logs", limit=1000)["lines"]
    return {body for line in lines if line["text"].startswith("[") for body in json.loads(line["text"])}
