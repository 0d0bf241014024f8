"""NATS JetStream: a durable pull consumer with explicit acknowledgement. Nodes share it, and its place in the stream.

The consumer is made when it is not there, begins with the oldest message, and stays when the trigger goes: who deletes
it (``nats consumer rm``) begins anew. A message is told from others by stream, sequence and time of storage.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.client import JetStreamContext

from faas.model.connection import masked
from faas.model.manifest import QueueSource
from faas.model.message import Message, QueueName
from faas.triggers.connectors.source import (
    CONNECT_TIMEOUT_S,
    FETCH_WAIT_S,
    Foreign,
    SourceFailed,
    digest,
    message_of,
)

ACK_WAIT_S: Final = 60.0  # what a dead node had comes again after so long
ORDERED_ACK_WAIT_S: Final = 10.0  # and where order matters, everything else waits for it
REFUSED_DELAY_S: Final = 300.0


class NatsSource:
    """``Source``."""

    def __init__(self, url: str, source: QueueSource, queue: QueueName) -> None:
        self._url = url
        self._source = source
        self._name = f"faas {queue}"
        kind = digest(str(queue), source.stream, source.subject, "ordered" if source.group_by else "")[:8]
        self.durable = f"faas-{queue.namespace}-{queue.name}-{kind}"
        self._client: Client | None = None
        self._pulling: JetStreamContext.PullSubscription | None = None

    async def open(self) -> None:
        source = self._source
        with self._edge():
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._client = await nats.connect(
                    self._url.split(","), name=self._name, allow_reconnect=False, error_cb=_unheard
                )
                stream = self._client.jetstream()
                ack_wait_s = ORDERED_ACK_WAIT_S if source.group_by else ACK_WAIT_S
                config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=ack_wait_s)
                self._pulling = await stream.pull_subscribe(
                    source.subject or ">", durable=self.durable, stream=source.stream, config=config
                )
                info = await self._pulling.consumer_info()
            if source.group_by and info.num_ack_pending:
                await asyncio.sleep(ORDERED_ACK_WAIT_S)  # they are handed out again before any other

    async def fetch(self, count: int) -> Sequence[Foreign]:
        assert self._client is not None
        assert self._pulling is not None
        found: list[Msg] = []
        with self._edge():
            if not self._client.is_connected:
                raise SourceFailed("the connection is closed")
            with contextlib.suppress(nats.errors.TimeoutError):
                found = await self._pulling.fetch(count, timeout=FETCH_WAIT_S)
        return [Foreign(self._message(each), each) for each in found]

    async def done(self, taken: Sequence[Foreign]) -> None:
        assert self._client is not None
        with self._edge():
            for foreign in taken:
                await foreign.token.ack()
            await self._client.flush(timeout=int(CONNECT_TIMEOUT_S))

    async def refuse(self, foreign: Foreign) -> None:
        """It stays in the stream, and is handed out again later."""
        with self._edge():
            await foreign.token.nak(delay=REFUSED_DELAY_S)

    async def close(self) -> None:
        client, self._client, self._pulling = self._client, None, None
        if client is not None:
            with contextlib.suppress(Error, OSError, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await client.close()

    def _message(self, message: Msg) -> Message:
        meta = message.metadata
        place = {
            "stream": meta.stream,
            "subject": message.subject,
            "sequence": str(meta.sequence.stream),
            "time": meta.timestamp.isoformat(),
        }
        headers = dict(message.headers or {})
        return message_of(
            self._source,
            message.data,
            {**headers, **place},
            content_type=next((value for key, value in headers.items() if key.lower() == "content-type"), ""),
            stable=(place["stream"], place["sequence"], place["time"]),
        )

    @contextlib.contextmanager
    def _edge(self) -> Iterator[None]:
        try:
            yield
        except (Error, OSError, TimeoutError) as error:
            words = str(error) or type(error).__name__
            raise SourceFailed(f"NATS at {masked(self._url)}: {words}") from error


async def _unheard(_: Exception) -> None:
    """What goes wrong comes back from the call that it concerns."""
