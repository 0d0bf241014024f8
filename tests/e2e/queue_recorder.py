"""What handlers did, as they say it themselves over TCP: the effects that a campaign of kills counts.

An instance keeps one connection. It says a batch's ids in one line, and goes on when it reads that they are written
down: from then on the effect has happened, whatever becomes of the instance, its node or the acknowledgement.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

HANDLER = '''
import json
import socket

there = None


def did(ids):
    """Have it written down; an instance whose node is gone fails here at the latest."""
    global there
    if there is None:
        there = socket.create_connection(("127.0.0.1", {port}), timeout=5).makefile("rwb")
    there.write(json.dumps(ids).encode() + b"\\n")
    there.flush()
    if there.readline() != b"ok\\n":
        raise ConnectionError("the recorder is gone")


def handler(event, context):
    failures, done = [], []
    for record in event["Records"]:
        number, first = int(record["body"]), record["attributes"]["ApproximateReceiveCount"] == "1"
        if number % {poison} == 7 or first and number % {poison} == 13:
            failures.append({{"itemIdentifier": record["messageId"]}})
        elif first and number % {raising} == 77:
            raise ValueError("the whole batch, once")
        else:
            done.append(number)
    did(done)
    return {{"batchItemFailures": failures}}
'''
POISON = 1000  # of so many messages one never succeeds, and one succeeds the second time
RAISING = 5000  # of so many one fails its whole batch the first time


def handler(port: int) -> str:
    return HANDLER.format(port=port, poison=POISON, raising=RAISING)


def hopeless(number: int) -> bool:
    return number % POISON == 7


class Effect(NamedTuple):
    line: int  # connection
    batch: int  # 1, 2, 3... on its connection
    at: float  # monotonic


@dataclass
class Recorder:
    effects: dict[int, list[Effect]] = field(default_factory=lambda: defaultdict(list))
    batches: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # by connection
    ended: dict[int, float] = field(default_factory=dict)  # when the connection closed, monotonic
    port: int = 0
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._hear, "127.0.0.1", 0, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = len(self.ended) + len(self.batches) + 1
        while line in self.batches:
            line += 1
        self.batches[line] = 0
        try:
            while said := await reader.readline():
                if not said.endswith(b"\n"):
                    break
                self.batches[line] += 1
                effect = Effect(line, self.batches[line], time.monotonic())
                for number in json.loads(said):
                    self.effects[number].append(effect)
                writer.write(b"ok\n")
        except ConnectionError:
            pass
        finally:
            self.ended[line] = time.monotonic()
            writer.close()
