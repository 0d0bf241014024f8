"""A node that stops while it delivers to a receiver that does not answer."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import pytest

from faas.events.destinations import INVOCATION, URL
from faas.model.errors import NoCapacity
from faas.model.message import WEBHOOKS, Delivery, Message, QueueName
from faas.stores.redis_client import Client
from faas.stores.webhooks import RedisWebhookSecrets
from faas.triggers.webhook_work import ATTEMPT_S, Webhooks
from tests.hooks import CERTIFICATE

pytestmark = pytest.mark.anyio


class Clock:
    def unix_ns(self) -> int:
        return time.time_ns()


async def test_an_attempt_under_way_does_not_hold_the_node_up(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as none: the message is put back, and delivered again under the same id."""
    called = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read()
        writer.close()

    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    server = await asyncio.start_server(mute, "127.0.0.1", 0, ssl=context)
    calls: Any = None  # nothing is noted of what was not tried
    webhooks = Webhooks(RedisWebhookSecrets(client), calls, Clock(), anywhere=True)
    made = webhooks.for_queue(QueueName("default", WEBHOOKS))
    assert made is not None
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    message = Message("1" * 32, b"{}", attributes={URL: url, INVOCATION: "2" * 32})
    async with server:
        task = asyncio.ensure_future(made[1].perform([Delivery(message, "r", 1, time.time_ns() // 1_000_000, 0)]))
        try:
            async with asyncio.timeout(ATTEMPT_S - 1):
                await called.wait()
                webhooks.leave()
                with pytest.raises(NoCapacity):
                    await task
        finally:
            task.cancel()
            await webhooks.close()
