"""Calls that nobody waits for, on a real node: accepted, run, tried again, told of, cancelled, and never lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from standardwebhooks import Webhook

from tests.e2e.node import Node, code
from tests.e2e.processes import wait_until
from tests.hooks import CERTIFICATE, receiving_hooks

LATER = {"prefer": "respond-async"}


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        made = Node("process", webhook_addresses="any")
        made.start()
        try:
            yield made
        finally:
            made.close()


def later(node: Node, name: str, value: Any = None, **headers: str) -> str:
    """Accepted; the invocation's id."""
    answer = node.call(name, value, headers={**LATER, **headers})
    assert answer.status_code == 202, answer.text
    assert answer.headers["preference-applied"] == "respond-async"
    found = str(answer.headers["faas-invocation-id"])
    assert answer.headers["location"] == f"/v1/invocations/{found}"
    assert answer.json() == {"id": found, "status": "queued"}
    return found


def ended(node: Node, invocation_id: str) -> dict[str, Any]:
    for _ in range(10):
        found = node.get(f"/v1/invocations/{invocation_id}", wait="5s")
        assert isinstance(found, dict)
        if found["ended_at"] is not None:
            return found
    raise AssertionError(f"it does not end: {found}")


def test_a_call_is_accepted_runs_and_has_a_result(node: Node) -> None:
    node.deploy("adder", "def handler(event, context):\n    return {'sum': sum(event), 'how': context.trigger}\n")
    made = later(node, "adder", [1, 2, 3])
    found = ended(node, made)
    assert (found["state"], found["status"], found["trigger"]) == ("succeeded", "ok", "async")
    assert found["result"] == {"sum": 6, "how": "async"}
    answer = node.fetch(f"/v1/invocations/{made}/result")
    assert (answer.status_code, answer.json()) == (200, {"sum": 6, "how": "async"})
    wait_until(lambda: len(node.get(f"/v1/invocations/{made}")["attempts"]) == 1, "its usage is on record")
    assert node.get(f"/v1/invocations/{made}")["billed_ms"] >= 1
    assert code(node.fetch(f"/v1/invocations/{made}", "DELETE")) == (409, "conflict")
    assert code(node.fetch(f"/v1/invocations/{'0' * 32}", "DELETE")) == (404, "not-found")


def test_what_can_be_refused_is_refused_at_once(node: Node) -> None:
    assert code(node.call("nobody", 1, headers=LATER)) == (404, "not-found")
    assert code(node.call("adder", 1, headers={**LATER, "faas-hops": "16"})) == (400, "loop-detected")
    assert code(node.call("adder", content=b"x" * 7_000_000, headers=LATER)) == (413, "payload-too-large")


def test_a_call_that_fails_is_tried_again_and_its_failure_told_to_a_queue(node: Node) -> None:
    source = "def handler(event, context):\n    raise ValueError(f'attempt {context.attempt}')\n"
    node.deploy("failing", source, retry={"attempts": 2, "max_age": "1h"}, on_failure="queue:failed")
    made = later(node, "failing", {"order": 7})
    found = ended(node, made)
    assert (found["state"], found["status"], found["attempt"]) == ("failed", "function_error", 2)
    assert found["error"]["message"] == "attempt 2"
    assert "2 attempts" in found["reason"]
    failed = node.fetch(f"/v1/invocations/{made}/result")
    assert code(failed) == (500, "function-error")
    assert failed.json()["error_type"] == "ValueError"
    (message,) = messages(node, "failed")
    event = json.loads(message["body"]) if isinstance(message["body"], str) else message["body"]
    assert event["requestContext"]["requestId"] == made
    assert event["requestContext"]["condition"] == "RetriesExhausted"
    assert event["requestPayload"] == {"order": 7}
    assert event["responsePayload"]["errorMessage"] == "attempt 2"


def messages(node: Node, queue: str) -> list[dict[str, Any]]:
    wait_until(lambda: node.fetch(f"/v1/queues/{queue}").status_code == 200, f"the queue {queue} is there")
    found = node.get(f"/v1/queues/{queue}/messages")["messages"]
    assert isinstance(found, list)
    return found


def test_a_webhook_is_signed_and_sent_until_it_is_taken(node: Node) -> None:
    with receiving_hooks() as hooks:
        hooks.statuses = [503, 200]
        node.deploy("hooked", "def handler(event, context):\n    return 'done'\n", on_success=hooks.url)
        made = later(node, "hooked")
        wait_until(lambda: len(hooks.posts) == 2, "it was delivered at the second attempt")
        secret = node.get("/v1/webhooks/secret")["secret"]
        assert hooks.posts[0][0]["webhook-id"] == hooks.posts[1][0]["webhook-id"]
        for headers, body in hooks.posts:
            event = Webhook(secret).verify(body, headers)
            assert event["requestContext"]["requestId"] == made
            assert event["responsePayload"] == "done"
        wait_until(lambda: delivered(node, made, hooks.url) == "delivered", "its record says so")


def delivered(node: Node, made: str, url: str) -> str:
    return str(node.get(f"/v1/invocations/{made}").get("deliveries", {}).get(url, ""))


def test_a_running_call_is_cancelled_and_a_queued_one_never_runs(node: Node) -> None:
    source = """
        import pathlib, time
        def handler(event, context):
            print("began", event)
            time.sleep(event)
    """
    node.deploy("sleeper", source, max_instances=1, timeout="10m")
    running = later(node, "sleeper", 500)
    wait_until(lambda: node.get(f"/v1/invocations/{running}")["state"] == "running", "it runs")
    queued = later(node, "sleeper", 400)
    listed = node.get("/v1/functions/sleeper/invocations")["invocations"]
    assert {each["invocation_id"] for each in listed} == {running, queued}
    assert node.get(f"/v1/invocations/{queued}")["state"] == "queued"
    for each in (queued, running):
        answer = node.fetch(f"/v1/invocations/{each}", "DELETE")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert ended(node, later(node, "sleeper", 0))["state"] == "succeeded"  # there is room again
    lines = [line["text"] for line in node.get("/v1/functions/sleeper/logs")["lines"]]
    assert "began 400" not in lines
    assert node.get(f"/v1/invocations/{running}")["status"] == "cancelled"
    assert code(node.fetch(f"/v1/invocations/{running}/result")) == (409, "conflict")


def test_an_accepted_call_outlives_its_node(node: Node) -> None:
    node.deploy("slow", "import time\ndef handler(event, context):\n    time.sleep(0.2)\n    return event\n")
    made = [later(node, "slow", number) for number in range(10)]
    node.kill()
    node.start()
    for number, each in enumerate(made):
        found = ended(node, each)
        assert (found["state"], found["result"]) == ("succeeded", number)


def test_the_command_line_calls_and_fetches(node: Node) -> None:
    import subprocess

    from tests.e2e.node import FAAS

    def faas(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**node.environment(), "FAAS_URL": node.url}
        return subprocess.run([FAAS, *words], env=environment, capture_output=True, text=True, timeout=60, check=False)

    waited = faas("invoke", "adder", "-d", "[20, 22]", "--async", "--wait")
    assert (waited.returncode, json.loads(waited.stdout)["sum"]) == (0, 42), waited.stderr
    accepted = faas("invoke", "adder", "-d", "[1]", "--async", "--json")
    made = json.loads(accepted.stdout)["id"]
    assert "state" in faas("invocation", made, "--wait").stdout
    cancelled = faas("invocation", made, "--cancel")
    assert cancelled.returncode == 1
    assert "already" in cancelled.stderr
    failed = faas("invoke", "failing", "-d", "1", "--async", "--wait")
    assert failed.returncode == 1
    assert "ValueError" in failed.stderr


def test_a_long_poll_of_an_unknown_call_answers_at_once(node: Node) -> None:
    answer: httpx2.Response = node.fetch(f"/v1/invocations/{'f' * 32}?wait=60s")
    assert code(answer) == (404, "not-found")
    assert code(node.fetch(f"/v1/invocations/{'f' * 32}?wait=soon")) == (400, "invalid-request")
