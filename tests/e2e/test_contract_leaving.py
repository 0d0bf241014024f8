"""Callers that hang up while their call runs: what becomes of it is the function's setting."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.node import Node
from tests.e2e.processes import wait_until
from tests.e2e.test_contract_life import instances

SLOW = """
import time

def handler(event, context):
    if event == "wait":
        time.sleep(60)
    return ticking() if event == "stream" else "done"

def ticking():
    while True:
        yield "tick"
        time.sleep(0.02)
"""

TOGETHER = """
import asyncio

async def handler(event, context):
    await asyncio.sleep(event)
    return "done"
"""


@pytest.fixture(scope="module")
def slow(node: Node) -> Iterator[str]:
    node.deploy("leaving-slow", SLOW, on_disconnect="cancel")
    yield "leaving-slow"
    node.delete("leaving-slow")


def running(node: Node, name: str) -> list[str]:
    return [call for each in instances(node, name) for call in each["invocations"]]


def hang_up(node: Node, name: str, event: str, *, chunked: bool = False) -> str:
    """Call, and close the socket once the call runs; its id."""
    at, others = urlsplit(node.url), set(running(node, name))
    length = "transfer-encoding: chunked" if chunked else f"content-length: {len(event)}"
    body = f"{len(event):x}\r\n{event}\r\n0\r\n\r\n" if chunked else event
    with socket.create_connection((str(at.hostname), int(at.port or 0))) as caller:
        caller.sendall(
            f"POST /v1/functions/{name}/invocations HTTP/1.1\r\nhost: {at.netloc}\r\n"
            f"authorization: Bearer {node.key}\r\ncontent-type: application/json\r\n{length}\r\n\r\n{body}".encode()
        )
        wait_until(lambda: {*running(node, name)} - others, "the call runs")
        (call,) = {*running(node, name)} - others
        if event == '"stream"':
            assert b"tick" in caller.recv(65536) or b"tick" in caller.recv(65536)
    return call


def record(node: Node, call: str) -> dict[str, Any]:
    path = f"/v1/invocations/{call}"
    wait_until(lambda: node.client.get(path).status_code == 200, "the call has ended and is on record")
    return dict(node.get(path))


@pytest.mark.parametrize("way", ["short", "long", "stream"])
def test_a_call_whose_caller_hangs_up_is_stopped(node: Node, slow: str, way: str) -> None:
    assert node.call(slow, "warm").json() == "done"
    event = '"stream"' if way == "stream" else '"wait"'
    found = record(node, hang_up(node, slow, event, chunked=way == "long"))
    assert (found["status"], found["error"]["code"]) == ("timeout", "cancelled")
    assert 1 <= found["billed_ms"] < 30_000
    assert node.call(slow, "next").json() == "done"


def test_one_that_shares_its_instance_leaves_its_neighbour_alone(node: Node) -> None:
    node.deploy("leaving-shared", TOGETHER, concurrency=2, max_instances=1, on_disconnect="cancel")
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(node.call, "leaving-shared", 1)
        wait_until(lambda: running(node, "leaving-shared"), "the neighbour runs")
        left = record(node, hang_up(node, "leaving-shared", "60"))
        assert left["error"]["code"] == "cancelled"
        assert beside.result().json() == "done"
    assert node.call("leaving-shared", 0).json() == "done"
    node.delete("leaving-shared")


def test_by_default_it_is_finished_and_billed_in_full(node: Node) -> None:
    node.deploy("leaving-finish", TOGETHER)
    found = record(node, hang_up(node, "leaving-finish", "0.5"))
    assert (found["status"], found["billed_ms"] >= 500) == ("ok", True)
    node.delete("leaving-finish")
