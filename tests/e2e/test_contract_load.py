"""What holds while calls keep coming: redeploys, overload, a neighbour's flood, the end of the node."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.bench import load, paced
from tests.bench.redeploy import Acknowledged, stale
from tests.e2e.node import Node
from tests.e2e.processes import wait_until
from tests.e2e.test_contract_life import HELLO, at_once, instances

REDEPLOYS = 10
VERSION = "import time\ndef handler(event, context):\n    time.sleep(0.002)\n    return {number}\n"
SLEEPER = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return event\n"
LONG_S = 120.0  # more than any of these tests takes


@contextmanager
def calling(node: Node, name: str, event: Any, connections: int, key: str = "") -> Iterator[subprocess.Popen[str]]:
    """Callers without pause, in a process of their own, until ``paced.stop`` or the context is left."""
    address = urlsplit(node.url)
    headers = {"Authorization": f"Bearer {key or node.key}", "Content-Type": "application/json"}
    path = f"/v1/functions/{name}/invocations"
    request = load.request_text("POST", path, address.netloc, headers, json.dumps(event))
    pace = paced.Pace(str(address.hostname), int(address.port or 0), request, connections, LONG_S)
    process = paced.start(pace, priority=0)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def answered(node: Node, function: str, status: str = "ok") -> float:
    return node.metric("faas_invocations_total", function=function, status=status)


def test_redeploying_again_and_again_fails_no_call_and_leaves_no_old_answer(node: Node) -> None:
    def deploy(number: int) -> Acknowledged:
        version = node.deploy("load-roll", VERSION.format(number=number))["version"]
        return Acknowledged(version, time.perf_counter_ns())

    acknowledged = [deploy(0)]
    with calling(node, "load-roll", None, 6) as callers:
        wait_until(lambda: answered(node, "load-roll"), "calls are answered")
        acknowledged += [deploy(number) for number in range(1, REDEPLOYS + 1)]
        before = answered(node, "load-roll")
        wait_until(lambda: answered(node, "load-roll") > before + 20, "the last version answers")
        found = paced.stop(callers)
    node.delete("load-roll")
    assert found.failed == 0, (Counter(found.statuses), found.first_refusal)
    assert stale(found, acknowledged) == 0
    assert found.versions[-1] == acknowledged[-1].version
    assert set(found.versions) <= {each.version for each in acknowledged}
    assert len(set(found.versions)) > 2


def test_overload_serves_at_capacity_and_refuses_the_rest(make_node: Callable[..., Node]) -> None:
    node = make_node(queue_depth="4")
    node.start()
    node.deploy("load-over", SLEEPER, max_instances=2)
    with calling(node, "load-over", 0.02, 30) as callers:
        wait_until(lambda: answered(node, "load-over") >= 40, "calls are served while others are refused")
        found = paced.stop(callers)
    assert set(found.statuses) == {200, 429}
    assert len(instances(node, "load-over")) <= 2
    assert node.call("load-over", 0).status_code == 200, "and is as it was when it is over"
    node.settled()
    records = {row["status"]: row["invocations"] for row in node.get("/v1/usage", by="status")["rows"]}
    assert records == {"ok": len(found.took(200)) + 1, "rejected": len(found.took(429))}
    node.healthy()


def test_a_namespace_that_floods_is_refused_itself_and_not_its_neighbour(make_node: Callable[..., Node]) -> None:
    node = make_node(queue_depth="4")
    node.start()
    keys = {}
    for namespace in ("quiet", "noisy"):
        made = node.client.post("/v1/keys", json={"namespace": namespace, "scopes": ["admin"]})
        keys[namespace] = made.json()["secret"]
    noisy, quiet = ({"Authorization": f"Bearer {keys[each]}"} for each in ("noisy", "quiet"))
    for headers, source in ((noisy, SLEEPER), (quiet, HELLO)):
        node.client.headers.update(headers)
        node.deploy("same-name", source, max_instances=2)
    with calling(node, "same-name", 0.02, 40, keys["noisy"]) as flood:
        wait_until(lambda: answered(node, "same-name", "rejected"), "the flood is more than is served")
        answers = [node.call("same-name") for _ in range(30)]
        found = paced.stop(flood)
    assert [answer.status_code for answer in answers] == [200] * 30
    assert {answer.json() for answer in answers} == {"hello"}
    assert set(found.statuses) == {200, 429}


def test_a_node_told_to_end_finishes_what_it_has(make_node: Callable[..., Node]) -> None:
    """Every call that ran was answered; who came too late was told so; nothing that was taken on was dropped."""
    node = make_node()
    node.start()
    node.deploy("load-drain", SLEEPER)
    node.deploy("load-long", SLEEPER)
    with ThreadPoolExecutor(1) as thread, calling(node, "load-drain", 0.002, 8) as callers:
        wait_until(lambda: answered(node, "load-drain") > 20, "calls are answered")
        slow = thread.submit(at_once, node, "load-long", [1.5] * 6)
        wait_until(lambda: len([i for i in instances(node, "load-long") if i["state"] == "busy"]) == 6, "all six run")
        assert node.stop() == 0
        found = paced.finish(callers, 0)
        assert [answer.status_code for answer in slow.result()] == [200] * 6
    served, refused = len(found.took(200)), len(found.took(503))
    assert served > 20
    assert refused > 0, "the node served until the slow ones had ended, and refused new calls"
    assert set(found.statuses) <= {200, 503, paced.BROKEN}, "broken: connections cut at the very end, between calls"
    assert "going down" in found.first_refusal
    node.start()
    rows = node.get("/v1/usage", by="function,status")["rows"]
    counts = {(row["function"], row["status"]): row["invocations"] for row in rows}
    assert counts[("load-drain", "ok")] == served, "a call that ran and was not answered, or the reverse"
    assert counts[("load-long", "ok")] == 6
    assert {status for _, status in counts} <= {"ok", "rejected"}
