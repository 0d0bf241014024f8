"""From nothing to many instances and back: starts, limits, versions, restarts, dependencies, forks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from tests.e2e.node import HANG_S, Node, code
from tests.e2e.processes import wait_until

HELLO = "def handler(event, context):\n    return 'hello'\n"
SLOW = "import os, time\ndef handler(event, context):\n    time.sleep(event)\n    return os.getpid()\n"


def at_once(node: Node, name: str, events: list[Any]) -> list[httpx2.Response]:
    """All calls open at the same time."""
    limits = httpx2.Limits(max_connections=len(events))
    with (
        httpx2.Client(
            base_url=node.url, headers=node.headers, timeout=HANG_S, trust_env=False, limits=limits
        ) as client,
        ThreadPoolExecutor(len(events)) as threads,
    ):
        path = f"/v1/functions/{name}/invocations"
        return list(threads.map(lambda event: client.post(path, json=event), events))


def sandboxes(node: Node, name: str) -> list[dict[str, Any]]:
    return list(node.get(f"/v1/functions/{name}/instances")["sandboxes"])


def instances(node: Node, name: str) -> list[dict[str, Any]]:
    return [instance for sandbox in sandboxes(node, name) for instance in sandbox["instances"]]


def test_the_kinds_of_start(node: Node) -> None:
    node.deploy("life-starts", HELLO, keep_alive="1s")
    wait_until(lambda: not sandboxes(node, "life-starts"), "what the deploy loaded is gone again")
    first = node.call("life-starts")
    assert first.headers["faas-start"] in ("cold", "prewarmed")
    second = node.call("life-starts")
    assert second.headers["faas-start"] == "warm"
    assert "init;dur=0.000" in second.headers["server-timing"]
    node.delete("life-starts")


def test_down_to_zero_and_up_again(node: Node) -> None:
    node.deploy("life-zero", HELLO, keep_alive="1s")
    node.call("life-zero")
    assert sandboxes(node, "life-zero")
    wait_until(lambda: not sandboxes(node, "life-zero"), "it is scaled to zero", 30)
    others = node.metric("faas_sandboxes") - node.metric("faas_sandboxes", state="removed")
    wait_until(lambda: len(node.sandboxes()) == others, "no more processes than sandboxes", 30)
    assert node.call("life-zero").json() == "hello"
    node.delete("life-zero")


def test_a_hundred_at_once_from_zero(node: Node) -> None:
    node.deploy("life-burst", SLOW)
    node.delete("life-burst")
    node.deploy("life-burst", SLOW, memory="64MB")
    answers = at_once(node, "life-burst", [0.1] * 100)
    assert [answer.status_code for answer in answers] == [200] * 100
    assert len({answer.headers["faas-invocation-id"] for answer in answers}) == 100
    assert len({answer.json() for answer in answers}) > 1
    node.delete("life-burst")


def test_no_more_than_max_instances(node: Node) -> None:
    node.deploy("life-max", SLOW, max_instances=2)
    answers = at_once(node, "life-max", [0.1] * 12)
    assert [answer.status_code for answer in answers] == [200] * 12
    assert len({(answer.json(), answer.headers["faas-version"]) for answer in answers}) <= 2
    assert len(instances(node, "life-max")) <= 2
    node.delete("life-max")


def test_min_instances_are_kept(node: Node) -> None:
    node.deploy("life-min", HELLO, min_instances=2, keep_alive="0s")

    def idle() -> bool:
        return [instance["state"] for instance in instances(node, "life-min")] == ["idle", "idle"]

    wait_until(idle, "two instances are there without a call")
    assert node.call("life-min").headers["faas-start"] == "warm"
    wait_until(idle, "they stay")
    node.delete("life-min")


def test_a_full_queue_is_429_at_once(make_node: Callable[..., Node]) -> None:
    node = make_node(queue_depth="3")
    node.start()
    node.deploy("life-full", SLOW, max_instances=1)
    answers = at_once(node, "life-full", [0.5] * 12)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(answers) - len(refused) == 4  # one runs, three wait
    for answer in refused:
        assert code(answer) == (429, "throttled")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["faas-billed-ms"] == "0"
        assert node.record(answer)["status"] == "rejected"


def test_versions(node: Node) -> None:
    first = node.deploy("life-versions", "def handler(e, c): return c.function_version, 'one'")
    second = node.deploy("life-versions", "def handler(e, c): return c.function_version, 'two'")
    assert (first["version"], second["version"]) == (1, 2)
    assert node.call("life-versions").json() == ["2", "two"]
    assert node.call("life-versions@1").json() == ["1", "one"]
    assert node.call("life-versions@2").headers["faas-version"] == "2"
    assert node.call("life-versions@latest").json() == ["2", "two"]
    assert node.fetch("/fn/life-versions@1").json() == ["1", "one"]
    assert code(node.call("life-versions@3")) == (404, "not-found")
    node.delete("life-versions")


def test_changed_settings_make_a_version(node: Node) -> None:
    node.deploy("life-patch", "import os\ndef handler(e, c): return os.environ.get('SIZE')", env={"SIZE": "1"})
    response = node.client.patch("/v1/functions/life-patch", json={"env": {"SIZE": "2"}})
    assert response.status_code == 200, response.text
    assert response.json()["version"] == 2
    assert node.call("life-patch").json() == "2"
    assert code(node.client.patch("/v1/functions/life-patch", json={"memory": "1MB"})) == (422, "invalid-manifest")
    node.delete("life-patch")


def test_redeploying_under_load_loses_no_call(node: Node) -> None:
    node.deploy("life-roll", SLOW)
    with ThreadPoolExecutor(1) as thread:
        calls = thread.submit(at_once, node, "life-roll", [0.3] * 10)
        assert node.deploy("life-roll", SLOW + "# two\n")["version"] == 2
        assert [answer.status_code for answer in calls.result()] == [200] * 10
    node.delete("life-roll")


def test_a_deleted_function_is_gone(node: Node) -> None:
    node.deploy("life-gone", HELLO)
    assert node.call("life-gone").status_code == 200
    node.delete("life-gone")
    assert code(node.call("life-gone")) == (404, "not-found")
    assert code(node.fetch("/fn/life-gone")) == (404, "not-found")
    assert code(node.client.get("/v1/functions/life-gone")) == (404, "not-found")
    assert code(node.client.delete("/v1/functions/life-gone")) == (404, "not-found")
    wait_until(lambda: node.metric("faas_instances", state="busy") == 0, "nothing of it runs")
    assert node.deploy("life-gone", HELLO)["version"] == 2  # numbers are not used again
    node.delete("life-gone")


def test_a_restart_keeps_functions_keys_and_usage(make_node: Callable[..., Node]) -> None:
    node = make_node()
    node.start()
    key = node.key
    node.deploy("life-kept", HELLO)
    answers = [node.call("life-kept") for _ in range(5)]
    for step in (node.stop, node.kill):
        step()
        node.start()
        assert node.key == key
        answers.append(node.call("life-kept"))
        assert answers[-1].json() == "hello"
        assert [each["name"] for each in node.get("/v1/functions")["functions"]] == ["life-kept"]
        node.settled()
        [row] = node.get("/v1/usage", by="function")["rows"]
        assert row["function"] == "life-kept"
        assert row["invocations"] == len(answers)
        assert row["billed_ms"] == sum(int(answer.headers["faas-billed-ms"]) for answer in answers)
    for answer in answers:
        assert node.record(answer)["billed_ms"] == int(answer.headers["faas-billed-ms"])


def test_dependencies_are_installed(node: Node) -> None:
    source = """
        # /// script
        # requires-python = ">=3.11"
        # dependencies = ["six==1.16.0", "msgpack==1.0.8"]
        # ///
        import msgpack, six

        def handler(event, context):
            return [six.__version__, list(msgpack.version), msgpack.unpackb(msgpack.packb(event))]
        """
    node.deploy("life-six", source)
    assert node.call("life-six", {"a": 1}).json() == ["1.16.0", [1, 0, 8], {"a": 1}]
    node.delete("life-six")


def test_the_runtimes_own_modules_are_not_in_the_way(node: Node) -> None:
    source = """
        import importlib.util, sys

        def handler(event, context):
            return [importlib.util.find_spec("msgpack") is None, [m for m in sys.modules if "faas" in m.lower()]]
        """
    node.deploy("life-clean", source)
    assert node.call("life-clean").json()[0] is True
    node.delete("life-clean")


def test_modules_of_the_functions_own_may_have_any_name(node: Node) -> None:
    files = {
        "main.py": "import msgpack, wire, instance, zygote, frames, context as ours\n"
        "def handler(event, context): return [msgpack.A, wire.A, instance.A, zygote.A, frames.A, ours.A]\n",
        **{f"{name}.py": f"A = {name!r}\n" for name in ("msgpack", "wire", "instance", "zygote", "frames", "context")},
    }
    response = node.put("life-names", files, {"entry": "main"})
    assert response.status_code == 201, response.text
    assert node.call("life-names").json() == ["msgpack", "wire", "instance", "zygote", "frames", "context"]
    node.delete("life-names")


def test_forks_do_not_share_their_randomness(node: Node) -> None:
    source = """
        import os, random, secrets, ssl, time, uuid
        random.random()

        def handler(event, context):
            time.sleep(0.2)
            return [os.getpid(), random.random(), secrets.token_hex(4), str(uuid.uuid4())]
        """
    node.deploy("life-random", source)
    answers = [answer.json() for answer in at_once(node, "life-random", [0] * 6)]
    processes = len({answer[0] for answer in answers})
    assert processes > 1
    for position in (1, 2, 3):
        assert len({answer[position] for answer in answers}) == len(answers)
    node.delete("life-random")


def test_snapshot_hooks_run_around_the_fork(node: Node) -> None:
    source = """
        # /// script
        # requires-python = ">=3.11"
        # dependencies = ["snapshot-restore-py"]
        # ///
        import os
        from snapshot_restore_py import register_after_restore, register_before_snapshot

        SEEN = []
        register_before_snapshot(lambda: SEEN.append(["before", os.getpid()]))
        register_after_restore(lambda: SEEN.append(["after", os.getpid()]))

        def handler(event, context):
            return [SEEN, os.getpid()]
        """
    node.deploy("life-hooks", source)
    seen, pid = node.call("life-hooks").json()
    assert [name for name, _ in seen] == ["before", "after"]
    assert seen[0][1] != pid
    assert seen[1][1] == pid
    node.delete("life-hooks")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json"])
def test_routes_of_the_node(node: Node, path: str) -> None:
    assert node.client.get(path).status_code == 200
