"""Namespaces on a real node: limits through API and command line, and two tenants that want the same memory."""

from __future__ import annotations

import json
import subprocess
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from tests.e2e.node import FAAS, HANG_S, Node, bundle, code
from tests.e2e.processes import wait_until

SLOW = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return context.namespace\n"


def deploy(node: Node, namespace: str, name: str, **settings: Any) -> None:
    files = {f"{name}.py": textwrap.dedent(SLOW)}
    parts = {
        "manifest": (None, json.dumps(settings).encode(), "application/json"),
        "bundle": ("bundle.zip", bundle(files), "application/zip"),
    }
    answer = node.client.put(f"/v1/functions/{name}?namespace={namespace}", files=parts, timeout=HANG_S)
    assert answer.status_code in (200, 201), answer.text


def call(node: Node, namespace: str, name: str, seconds: float) -> httpx2.Response:
    return node.client.post(
        f"/v1/functions/{name}/invocations?namespace={namespace}", json=seconds, headers=node.headers, timeout=HANG_S
    )


def of(node: Node, namespace: str) -> dict[str, Any]:
    return dict(node.get(f"/v1/namespaces/{namespace}"))


def faas(node: Node, *arguments: str) -> str:
    environment = {**node.environment(), "FAAS_URL": node.url, "FAAS_KEY": node.key}
    ran = subprocess.run([FAAS, *arguments], env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_calls_beyond_a_namespaces_limit_are_refused_and_come_again_in_time(node: Node) -> None:
    faas(node, "namespace", "create", "team-a", "--max-concurrency", "2")
    deploy(node, "team-a", "sleeper")
    with ThreadPoolExecutor(2) as threads:
        held = [threads.submit(call, node, "team-a", "sleeper", 3) for _ in range(2)]
        wait_until(lambda: of(node, "team-a")["calls"] == 2, "both calls have come")
        refused = call(node, "team-a", "sleeper", 0)
        assert code(refused) == (429, "throttled")
        problem = refused.json()
        assert (problem["limit"], problem["namespace"]) == ("max_concurrency", "team-a")
        assert "faas namespace set team-a --max-concurrency 4" in problem["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        faas(node, "namespace", "set", "team-a", "--max-concurrency", "3")
        assert call(node, "team-a", "sleeper", 0).json() == "team-a", "a raised limit holds at once"
        assert [each.result().json() for each in held] == ["team-a"] * 2
    assert "team-a" in faas(node, "namespace", "ls")
    taken = node.client.delete("/v1/namespaces/team-a")
    assert code(taken) == (409, "conflict")
    node.client.delete("/v1/functions/sleeper?namespace=team-a")
    faas(node, "namespace", "rm", "team-a")


def test_instances_beyond_a_namespaces_memory_are_not_started(node: Node) -> None:
    assert node.client.put("/v1/namespaces/team-m", json={"memory": "256MB"}).status_code == 201
    deploy(node, "team-m", "sleeper", memory="128MB")
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: call(node, "team-m", "sleeper", 0.3), range(6)))
    assert [answer.status_code for answer in answers] == [200] * 6, "those that wait get what comes free"
    shown = node.get("/v1/functions/sleeper/instances", namespace="team-m")["sandboxes"]
    assert sum(len(sandbox["instances"]) for sandbox in shown) <= 2
    deploy(node, "team-m", "large", memory="512MB")
    refused = call(node, "team-m", "large", 0)
    assert code(refused) == (429, "throttled")
    assert refused.json()["limit"] == "memory"
    for name in ("sleeper", "large"):
        node.client.delete(f"/v1/functions/{name}?namespace=team-m")
    assert node.client.delete("/v1/namespaces/team-m").status_code == 204


def test_a_tenant_that_floods_the_node_does_not_keep_another_out(make_node: Callable[..., Node]) -> None:
    """It would for ever: its calls never end to wait for it. The other's first call waits for one of them at most."""
    node = make_node(memory_budget="1000MB", queue_depth="20")
    node.start()
    deploy(node, "loud", "sleeper", memory="128MB")
    deploy(node, "quiet", "sleeper", memory="256MB")
    over = threading.Event()

    def flood() -> None:
        with httpx2.Client(base_url=node.url, headers=node.headers, timeout=HANG_S, trust_env=False) as client:
            while not over.is_set():
                client.post("/v1/functions/sleeper/invocations?namespace=loud", json=1)

    threads = [threading.Thread(target=flood) for _ in range(16)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: of(node, "loud")["calls"] >= 16, "the flood has come")
        answers = [call(node, "quiet", "sleeper", 0) for _ in range(10)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert [code(answer)[0] if answer.status_code >= 400 else answer.json() for answer in answers] == ["quiet"] * 10
