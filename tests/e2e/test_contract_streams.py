"""Streamed responses and logs: what arrives while a call runs, and what is kept of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.node import HANG_S, Node
from tests.e2e.processes import wait_until

STREAMS = """
import asyncio, os, time

def handler(event, context):
    if "gate" in event:
        return gated(event["gate"])
    if event.get("raise"):
        return failing()
    return ("line %d\\n" % n for n in range(event["lines"]))

def gated(path):
    yield "first"
    time.sleep(1.5)
    yield b"second"

def failing():
    yield "begun"
    raise ValueError("half-way")
"""

ASYNC = """
import asyncio

async def handler(event, context):
    for n in range(3):
        yield str(n)
        await asyncio.sleep(0)
"""

LOGS = """
import logging, os, sys
print("while loading")
log = logging.getLogger("mine")

def handler(event, context):
    print("out", event)
    print("err", event, file=sys.stderr)
    log.warning("warned %s", event)
    os.write(1, b"raw %d\\n" % event)
    print("no end", end="")
    return event
"""


@pytest.fixture(scope="module")
def streams(node: Node) -> Iterator[str]:
    node.deploy("contract-streams", STREAMS)
    yield "contract-streams"
    node.delete("contract-streams")


@pytest.fixture(scope="module")
def logs(node: Node) -> Iterator[str]:
    node.deploy("contract-logs", LOGS)
    yield "contract-logs"
    node.delete("contract-logs")


def test_a_stream_arrives_while_it_is_made(node: Node, streams: str) -> None:
    path = f"/v1/functions/{streams}/invocations"
    with node.client.stream("POST", path, json={"gate": 1}) as response:
        assert response.status_code == 200
        assert len(response.headers["faas-invocation-id"]) == 32
        pieces = response.iter_bytes()
        assert next(pieces) == b"first"
        listed = node.get(f"/v1/functions/{streams}/instances")
        assert response.headers["faas-invocation-id"] in json.dumps(listed)  # it runs still
        assert b"".join(pieces) == b"second"
    record = node.record(response)
    assert record["status"] == "ok"
    assert record["bytes_out"] == len("firstsecond")
    assert record["billed_ms"] >= 1500


def test_a_long_stream_is_whole(node: Node, streams: str) -> None:
    response = node.call(streams, {"lines": 5000})
    assert response.text == "".join(f"line {n}\n" for n in range(5000))


def test_streams_through_the_http_trigger_and_async(node: Node) -> None:
    node.deploy("contract-async-stream", ASYNC)
    assert node.fetch("/fn/contract-async-stream").text == "012"
    node.delete("contract-async-stream")


def test_a_stream_that_fails_is_cut_short_and_recorded(node: Node, streams: str) -> None:
    path = f"/v1/functions/{streams}/invocations"
    with node.client.stream("POST", path, json={"raise": True}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx2.RemoteProtocolError):
            response.read()
    record = node.record(response)
    assert record["status"] == "function_error"
    assert record["error"]["error_type"] == "ValueError"
    assert node.call(streams, {"lines": 1}).text == "line 0\n"


def test_a_caller_who_leaves_a_stream_harms_nobody(node: Node, streams: str) -> None:
    path = f"/v1/functions/{streams}/invocations"
    with node.client.stream("POST", path, json={"gate": 1}) as response:
        assert next(response.iter_bytes()) == b"first"
    assert node.call(streams, {"lines": 1}).text == "line 0\n"
    assert node.record(response)["function"] == streams


def lines(node: Node, name: str, **query: Any) -> list[dict[str, Any]]:
    return list(node.get(f"/v1/functions/{name}/logs", **query)["lines"])


def test_lines_carry_their_invocation(node: Node, logs: str) -> None:
    ids = [node.call(logs, n).headers["faas-invocation-id"] for n in (11, 22)]
    for n, invocation in zip((11, 22), ids, strict=True):
        wanted = {f"out {n}", f"err {n}", f"raw {n}", "no end"}
        wait_until(lambda w=wanted, i=invocation: w <= texts(node, logs, i), f"{wanted} are in the log")  # type: ignore[misc]
        mine = lines(node, logs, invocation=invocation)
        assert {line["invocation_id"] for line in mine} == {invocation}
        assert any(f"warned {n}" in line["text"] for line in mine)
        streams = {line["text"]: line["stream"] for line in mine}
        assert streams[f"out {n}"] == "stdout"
        assert streams[f"err {n}"] == "stderr"
    assert any(line["text"] == "while loading" for line in lines(node, logs))


def texts(node: Node, name: str, invocation: str) -> set[str]:
    return {line["text"] for line in lines(node, name, invocation=invocation)}


def test_following_sees_lines_as_they_come(node: Node, logs: str) -> None:
    seen: list[str] = []
    following = threading.Event()

    def follow() -> None:
        with (
            httpx2.Client(base_url=node.url, headers=node.headers, timeout=HANG_S, trust_env=False) as client,
            client.stream("GET", f"/v1/functions/{logs}/logs", params={"follow": "1"}) as response,
        ):
            assert response.headers["content-type"].startswith("text/event-stream")
            following.set()
            for line in response.iter_lines():
                seen.append(line)
                if "out 4711" in line:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    assert following.wait(20)
    wait_until(lambda: node.call(logs, 4711).status_code == 200 and not thread.is_alive(), "the line was followed")
    event = next(line for line in seen if "out 4711" in line)
    assert event.startswith("data:")
    assert len(json.loads(event.removeprefix("data:"))["invocation_id"]) == 32
