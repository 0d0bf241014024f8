"""Concurrent callers of several functions, and a book of what each of them was told, to hold against the ledger.

Every call ends in one of three ways: *answered* (status and invocation id are known, and so what was billed), *cut*
(the answer began, its end did not come), *lost* (no answer). Lost and cut calls are only right when the node was
killed meanwhile, when the caller itself left, or, for a stream, when its instance died.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace

import httpx2

from tests.e2e.node import HANG_S, Node

FUNCTIONS = {
    "kills-hello": "def handler(event, context):\n    return [event, context.invocation_id]\n",
    "kills-sleeper": (
        "import time\ndef handler(event, context):\n    time.sleep(0.02)\n    return [event, context.invocation_id]\n"
    ),
    "kills-stream": (
        "import time\ndef handler(event, context):\n    for n in range(5):\n        yield f'{event}:{n}\\n'\n"
        "        time.sleep(0.005)\n"
    ),
    "kills-crasher": (
        "import os\ndef handler(event, context):\n    if event % 3 == 0:\n        os._exit(3)\n"
        "    if event % 3 == 1:\n        os.kill(os.getpid(), 9)\n    return [event, context.invocation_id]\n"
    ),
}
STREAM, CRASHER = "kills-stream", "kills-crasher"
WEIGHTS = [5, 5, 3, 1]
RECORDED_AS = {
    200: {"ok"},
    429: {"rejected"},
    500: {"function_error"},
    502: {"crashed", "oom"},
    503: {"rejected", "platform_error"},
    504: {"timeout"},
}
LEAVES = 0.01  # of the callers hang up soon after asking


@dataclass(frozen=True)
class Told:
    """What a caller knows of a call that was answered, or whose answer began."""

    invocation: str
    function: str
    status: int
    billed_ms: int | None  # None: a stream, whose cost is known only after its end
    whole: bool = True  # False: a stream that broke off, its instance being dead


@dataclass
class Book:
    sent: int = 0
    answered: dict[str, Told] = field(default_factory=dict)
    cut: dict[str, Told] = field(default_factory=dict)  # the node was killed, or the caller left
    lost: int = 0
    left: int = 0
    refused: int = 0  # answered before a call was made of it: no id, no record
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def summary(self) -> str:
        by_status = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        return f"{self.sent} calls ({by_status}; {self.lost} lost, {len(self.cut)} cut, {self.left} left)"


class Load:
    """``callers`` tasks that call until ``stop``. While ``paused`` is set (the node is down) nobody asks."""

    def __init__(self, node: Node, seed: int, callers: int) -> None:
        self.node = node
        self.book = Book()
        self.node_kills = 0  # counted just before the kill
        self._seed = seed
        self._up = asyncio.Event()
        self._stopping = False
        self._callers = callers
        self._clients: list[httpx2.AsyncClient] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self.reconnect()
        self._tasks = [
            asyncio.create_task(self._caller(random.Random(f"{self._seed}/{n}"))) for n in range(self._callers)
        ]

    async def reconnect(self) -> None:
        """The node is up, perhaps at another address."""
        limits = httpx2.Limits(max_connections=200, keepalive_expiry=2)
        self._clients.append(
            httpx2.AsyncClient(
                base_url=self.node.url, headers=self.node.headers, timeout=HANG_S, trust_env=False, limits=limits
            )
        )
        self._up.set()

    async def node_dies(self) -> None:
        """To be called before the node is killed; from now on calls may be lost, and no new ones are made."""
        self.node_kills += 1
        self._up.clear()

    async def stop(self) -> None:
        self._stopping = True
        self._up.set()
        async with asyncio.timeout(2 * HANG_S):
            await asyncio.gather(*self._tasks)
        for client in self._clients:
            await client.aclose()

    async def _caller(self, rng: random.Random) -> None:
        names = list(FUNCTIONS)
        while not self._stopping:
            await self._up.wait()
            if self._stopping:
                return
            name = rng.choices(names, WEIGHTS)[0]
            event = rng.randrange(1_000_000)
            kills = self.node_kills
            self.book.sent += 1
            leaving = rng.random() < LEAVES
            try:
                async with asyncio.timeout(rng.uniform(0, 0.02) if leaving else HANG_S):
                    await self._call(name, event, kills, leaving)
            except TimeoutError:
                if leaving:
                    self.book.left += 1
                else:
                    self.book.wrong.append(f"{name}({event}) hung")
            except httpx2.TransportError as error:
                self.book.lost += 1
                if kills == self.node_kills:
                    self.book.wrong.append(f"{name}({event}) was lost though the node lived: {error!r}")
            await asyncio.sleep(0)

    async def _call(self, name: str, event: int, kills: int, leaving: bool) -> None:
        async with self._clients[-1].stream("POST", f"/v1/functions/{name}/invocations", json=event) as response:
            invocation = response.headers.get("faas-invocation-id", "")
            billed = response.headers.get("faas-billed-ms")
            told = Told(
                invocation,
                name,
                response.status_code,
                int(billed) if billed is not None else None,
            )
            if invocation in self.book.answered or invocation in self.book.cut:
                self.book.wrong.append(f"the invocation id {invocation} was given twice")
            if invocation:
                self.book.cut[invocation] = told  # until its end is seen
            try:
                body = await response.aread()
            except httpx2.TransportError as error:
                if name == STREAM and response.status_code == 200 and kills == self.node_kills:
                    self._end(replace(told, whole=False))  # its instance died: HTTP has no clearer way to say so
                    return
                if kills == self.node_kills:
                    self.book.wrong.append(f"{name}({event}) broke off though the node lived: {error!r}")
                return
        self._end(told)
        self._check(told, event, body)

    def _end(self, told: Told) -> None:
        self.book.statuses[told.status] += 1
        if told.invocation:
            del self.book.cut[told.invocation]
            self.book.answered[told.invocation] = told
        else:
            self.book.refused += 1

    def _check(self, told: Told, event: int, body: bytes) -> None:
        """An answer is the right one; an error is a clean one."""
        wrong = self.book.wrong.append
        if told.status == 200:
            if told.function == STREAM:
                if body != b"".join(f"{event}:{n}\n".encode() for n in range(5)):
                    wrong(f"{told}: not the whole stream: {body[:200]!r}")
            elif body.replace(b" ", b"") != f'[{event},"{told.invocation}"]'.encode():
                wrong(f"{told}: not this call's answer: {body[:200]!r}")
        elif told.status not in RECORDED_AS or b'"code"' not in body:
            wrong(f"{told}: no clean error: {body[:300]!r}")
        elif told.status == 500 or (told.status != 502 and told.invocation == "" and told.status != 503):
            wrong(f"{told}: an error nobody made: {body[:300]!r}")
