"""RabbitMQ: a consumer with manual acknowledgement on a queue that exists. Nodes share the queue as consumers do.

A message is told from others by its ``message_id`` together with its body, since nothing makes publishers choose ids
that are unique. Without an id, one that is handed out twice is twice in our queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import FieldTable

from faas.model.connection import masked
from faas.model.manifest import QueueSource
from faas.model.message import Message
from faas.triggers.connectors.pump import BATCH
from faas.triggers.connectors.source import (
    CONNECT_TIMEOUT_S,
    FETCH_WAIT_S,
    Foreign,
    SourceFailed,
    message_of,
    text_of,
)

_PROPERTIES = ("message_id", "correlation_id", "reply_to", "type", "app_id", "content_encoding", "timestamp")


class RabbitMQSource:
    """``Source``. At most ``BATCH`` messages are with us and not acknowledged."""

    def __init__(self, url: str, source: QueueSource, name: str) -> None:
        self._url = url
        self._source = source
        self._name = name  # shown in RabbitMQ's own tools
        self._connection: AbstractConnection | None = None
        self._inbox: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()  # None: no more will come
        self._held: list[AbstractIncomingMessage] = []

    async def open(self) -> None:
        self._inbox, self._held = asyncio.Queue(), []
        with self._edge():
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                properties: FieldTable = {"connection_name": self._name}
                self._connection = await aio_pika.connect(self._url, client_properties=properties)
                channel = await self._connection.channel(publisher_confirms=False)
                channel.close_callbacks.add(self._ended)
                below = await channel.get_underlay_channel()
                below.on_consumer_cancel_callbacks.add(self._ended)  # the queue was deleted
                await channel.set_qos(prefetch_count=BATCH)
                queue = await channel.get_queue(self._source.queue, ensure=True)
                await queue.consume(self._arrived)

    async def fetch(self, count: int) -> Sequence[Foreign]:
        found: list[AbstractIncomingMessage] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FETCH_WAIT_S):
                found.append(self._live(await self._inbox.get()))
        while len(found) < count and not self._inbox.empty():
            found.append(self._live(self._inbox.get_nowait()))
        return [Foreign(self._message(each), each) for each in found]

    async def done(self, taken: Sequence[Foreign]) -> None:
        with self._edge():
            if not self._held:
                await taken[-1].token.ack(multiple=True)
                return
            for foreign in taken:
                await foreign.token.ack()

    async def refuse(self, foreign: Foreign) -> None:
        """It stays unacknowledged with us, and in the queue."""
        self._held.append(foreign.token)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await connection.close()

    async def _arrived(self, message: AbstractIncomingMessage) -> None:
        self._inbox.put_nowait(message)

    def _ended(self, *_: object) -> None:
        self._inbox.put_nowait(None)

    def _live(self, message: AbstractIncomingMessage | None) -> AbstractIncomingMessage:
        if message is None:
            raise SourceFailed(f"RabbitMQ has closed the channel, or the queue {self._source.queue} is gone")
        return message

    def _message(self, message: AbstractIncomingMessage) -> Message:
        headers = {key: text_of(value) for key, value in message.headers.items()}
        properties = {key: text_of(getattr(message, key)) for key in _PROPERTIES if getattr(message, key) is not None}
        place = {
            "queue": self._source.queue,
            "exchange": message.exchange or "",
            "routing_key": message.routing_key or "",
        }
        return message_of(
            self._source,
            message.body,
            {**headers, **properties, **place},
            content_type=message.content_type or "",
            stable=(self._source.queue, message.message_id, message.body) if message.message_id else (),
        )

    @contextlib.contextmanager
    def _edge(self) -> Iterator[None]:
        try:
            yield
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            words = str(error) or type(error).__name__
            raise SourceFailed(f"RabbitMQ at {masked(self._url)}: {words}") from error
