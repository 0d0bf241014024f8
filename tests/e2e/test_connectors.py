"""A function that is fed from NATS and Redis, on a real node that is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import nats
import pytest
import redis

from tests.contract.conftest import need
from tests.contract.foreign import Nats, connectable, find_nats
from tests.contract.valkeys import running_valkey
from tests.e2e.node import Node, code
from tests.e2e.processes import wait_until

SOURCE = """
import json

def handler(event, context):
    print(json.dumps(sorted(record["body"] for record in event["Records"])))
"""


@pytest.fixture
def servers() -> Iterator[tuple[Nats, str]]:
    if find_nats() is None:
        need("NATS is not installed (Debian: nats-server)")
    server = Nats()
    server.start()
    with contextlib.closing(server), running_valkey() as url:
        yield server, url


def test_messages_of_others_reach_a_function_also_after_a_kill(servers: tuple[Nats, str]) -> None:
    server, valkey = servers
    node = Node("process", connections=f"nats={server.url} redis={valkey}")
    try:
        node.start()
        refused = node.put("lost", {"lost.py": SOURCE}, {"queue": [queue("a", connection="rabbit", queue="q")]})
        assert code(refused) == (422, "invalid-manifest")
        assert "(there is: nats, redis); FAAS_CONNECTIONS names them" in refused.text
        asyncio.run(publish(server.url, b"by stream"))
        queues = [queue("orders", connection="nats", stream="ORDERS"), queue("jobs", connection="redis", list="jobs")]
        node.deploy("taker", SOURCE, queue=queues)
        with redis.Redis(unix_socket_path=connectable(valkey)) as client:
            client.lpush("jobs", "by list")
            wait_until(lambda: said(node) >= {"by stream", "by list"}, "both have come", 60)
            node.kill()
            client.lpush("jobs", "while down")
            asyncio.run(publish(server.url, b"meanwhile"))
            node.start()
            wait_until(lambda: said(node) >= {"while down", "meanwhile"}, "the rest has come", 60)
    finally:
        node.close()


def queue(name: str, **source: str) -> dict[str, object]:
    return {"name": name, "source": source}


def said(node: Node) -> set[str]:
    """What the function has printed so far."""
    text = node.client.get("/v1/functions/taker/logs").text
    return {each for each in ("by stream", "by list", "while down", "meanwhile") if each in text}


async def publish(url: str, body: bytes) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    with contextlib.suppress(nats.js.errors.BadRequestError):
        await stream.add_stream(name="ORDERS", subjects=["orders.*"])
    await stream.publish("orders.eu", body)
    await client.close()
