"""Warnings of budgets, from the threshold to a receiver that checks the signature: once, or again until it is taken."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from faas.billing.notices import TRIES_MAX, Notice
from faas.gateway.notifier import CLAIM_MS, Notifier
from faas.model.budget import Webhook
from faas.model.webhook import secret_of
from faas.stores.memory import MemoryLedger, MemoryRegistry
from faas.stores.memory_budgets import MemoryBudgets
from tests.usage_samples import FixedClock

pytestmark = pytest.mark.anyio
KEY = b"k" * 32
NOTICE = Notice("bn_1", "default", '{"type":"x","data":{"ö":1}}')


@dataclass
class Receiver:
    """A real server on a port of its own; ``answers`` are statuses, the last one for ever."""

    answers: list[int]
    url: str = ""
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            lines = [line.partition(": ") for line in head.decode().split("\r\n")[1:]]
            headers = {name.lower(): value for name, _, value in lines}
            while len(body) < int(headers["content-length"]):
                body += await stream.receive()
            self.got.append((headers, body))
            status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await stream.send(
                b"HTTP/1.1 %d X\r\nlocation: /\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status
            )

    def check(self) -> None:
        """Every attempt has the same id and body, and a signature of its own time."""
        for headers, body in self.got:
            assert (headers["webhook-id"], body.decode()) == (NOTICE.id, NOTICE.body)
            signed = f"{NOTICE.id}.{headers['webhook-timestamp']}.".encode() + body
            made = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
            assert headers["webhook-signature"] == f"v1,{made}"


@asynccontextmanager
async def receiving(*answers: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(list(answers))
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        port = listener.extra(SocketAttribute.local_port)
        receiver.url = f"http://127.0.0.1:{port}/"
        group.start_soon(listener.serve, receiver.serve)
        yield receiver
        group.cancel_scope.cancel()


class Sender:
    def __init__(self, url: str) -> None:
        self.clock = FixedClock()
        self.store = MemoryBudgets(MemoryRegistry(), MemoryLedger())
        self.notifier = self.started(url)

    def started(self, url: str) -> Notifier:
        notifier = Notifier(self.store, self.clock)
        notifier.webhooks = {"default": Webhook(url=url, secret=secret_of(KEY))}
        return notifier

    async def state(self) -> str:
        return (await self.store.states([NOTICE.id]))[NOTICE.id]


async def test_it_is_sent_once_however_often_it_is_posted() -> None:
    async with receiving(204) as receiver:
        sender = Sender(receiver.url)
        for _ in range(3):
            await sender.notifier.post(NOTICE)
        assert [await sender.notifier.send_one() for _ in range(2)] == [True, False]
        assert (len(receiver.got), await sender.state()) == (1, "sent")
        assert receiver.got[0][0]["webhook-timestamp"] == str(sender.clock.unix_ns() // 10**9)
        receiver.check()
        await sender.notifier.close()


async def test_it_is_sent_again_after_longer_and_longer_until_it_is_taken() -> None:
    async with receiving(500, 302, 200) as receiver:
        sender = Sender(receiver.url)
        await sender.notifier.post(NOTICE)
        waits_ms: list[int] = []
        while await sender.state() == "due":
            before_ns = sender.clock.now_ns
            while not await sender.notifier.send_one():
                sender.clock.now_ns += 100_000_000
            waits_ms.append((sender.clock.now_ns - before_ns) // 1_000_000)
        assert await sender.state() == "sent"
        assert waits_ms[0] == 0
        assert 1_000 <= waits_ms[1] <= 2_100
        assert 2_000 <= waits_ms[2] <= 4_100
        receiver.check()
        assert len({headers["webhook-timestamp"] for headers, _ in receiver.got}) == 3
        await sender.notifier.close()


async def test_it_is_given_up_in_the_end_or_when_the_receiver_is_gone() -> None:
    async with receiving(500) as receiver:
        sender = Sender(receiver.url)
        await sender.notifier.post(NOTICE)
        for _ in range(TRIES_MAX):
            assert await sender.state() == "due"
            assert await sender.notifier.send_one()
            sender.clock.now_ns += 3_600 * 10**9
        assert (await sender.state(), await sender.notifier.send_one()) == ("failed", False)
        assert len(receiver.got) == TRIES_MAX
        await sender.notifier.close()
    async with receiving(410) as receiver:
        sender = Sender(receiver.url)
        await sender.notifier.post(NOTICE)
        await sender.notifier.send_one()
        assert await sender.state() == "failed"
        await sender.notifier.close()


async def test_a_node_that_dies_while_it_sends_loses_nothing() -> None:
    async with receiving(200) as receiver:
        sender = Sender(receiver.url)
        await sender.notifier.post(NOTICE)
        now_ms = sender.clock.unix_ns() // 1_000_000
        assert await sender.store.claim(now_ms, now_ms + CLAIM_MS) is not None  # it has it, and is no more
        successor = sender.started(receiver.url)
        assert not await successor.send_one()
        sender.clock.now_ns += CLAIM_MS * 1_000_000
        assert await successor.send_one()
        assert (len(receiver.got), await sender.state()) == (1, "sent")
        await successor.close()


async def test_nobody_there_is_trouble_like_any_other() -> None:
    sender = Sender("http://127.0.0.1:1/")
    await sender.notifier.post(NOTICE)
    assert await sender.notifier.send_one()
    assert await sender.state() == "due"
    sender.notifier.webhooks = {}
    sender.clock.now_ns += 10 * 10**9
    assert await sender.notifier.send_one()
    assert await sender.state() == "failed", "there is nobody to tell any more"
    await sender.notifier.close()
