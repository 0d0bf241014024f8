"""A node's side of one sandbox, just enough to look into it: what the engine suites drive a real zygote with."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from faas.ports import Engine, SandboxSpec

MB = 1024**2
HELLO, INIT, FORK, READY, INVOKE, RESULT, ERROR = 1, 2, 3, 4, 8, 16, 17
PROBE = "def handler(event, context):\n    scope = {}\n    exec(event, scope)\n    return scope.get('answer')\n"
_HEADER = struct.Struct(">I")
_WAIT_S = 30


def new_id() -> str:
    """A sandbox's id, as the node makes them: an engine knows a container by it, whichever test run it belongs to."""
    return f"s{secrets.token_hex(8)}"


class Gone(Exception):
    """The other end closed: that process is dead."""


@dataclass
class Channel:
    """One connection from a sandbox: whole frames as lists."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def receive(self) -> list[Any]:
        try:
            (size,) = _HEADER.unpack(await self.reader.readexactly(4))
            frame: list[Any] = msgpack.unpackb(await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Gone from error
        return frame

    async def until(self, *kinds: int) -> list[Any]:
        async with asyncio.timeout(_WAIT_S):
            while True:
                frame = await self.receive()
                if frame[0] in kinds:
                    return frame

    async def send(self, *frame: Any) -> None:
        body = msgpack.packb(frame)
        self.writer.write(_HEADER.pack(len(body)) + body)
        await self.writer.drain()


@dataclass
class Dialled:
    """A listening socket directory and whoever dialled it."""

    spec: SandboxSpec
    waiting: asyncio.Queue[Channel] = field(default_factory=asyncio.Queue)
    server: asyncio.Server | None = None
    channels: list[Channel] = field(default_factory=list)

    async def listen(self) -> None:
        self.spec.socket_dir.mkdir(parents=True)
        self.server = await asyncio.start_unix_server(self._connected, self.spec.socket_dir / "node.sock")

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        channel = Channel(reader, writer)
        self.channels.append(channel)
        self.waiting.put_nowait(channel)

    async def accept(self) -> tuple[Channel, list[Any]]:
        """The next process that says HELLO."""
        async with asyncio.timeout(_WAIT_S):
            channel = await self.waiting.get()
        return channel, await channel.until(HELLO)

    async def close(self) -> None:
        if self.server is not None:
            self.server.close()
        for channel in self.channels:
            channel.writer.close()
            with contextlib.suppress(ConnectionError):
                await channel.writer.wait_closed()


@dataclass
class Probe:
    """A booted sandbox whose function runs what it is told: ``await probe.ask("answer = 1 + 1")``."""

    engine: Engine
    dialled: Dialled
    zygote: Channel
    instances: int = 0

    @property
    def id(self) -> str:
        return self.dialled.spec.id

    async def instance(self) -> Channel:
        self.instances += 1
        await self.zygote.send(FORK, [f"{self.id}-{self.instances}"])
        channel, hello = await self.dialled.accept()
        assert hello[2:4] == ["instance", f"{self.id}-{self.instances}"]
        return channel

    async def ask(self, source: str, channel: Channel | None = None) -> Any:
        """Run ``source`` in an instance (a new one if none is given); its ``answer``. ``Gone`` when it died."""
        instance = channel or await self.instance()
        payload = json.dumps(textwrap.dedent(source)).encode()
        await instance.send(INVOKE, "0" * 32, 2**62, "direct", 1, "application/json", "", None, payload)
        frame = await instance.until(RESULT, ERROR)
        assert frame[0] == RESULT, frame
        return json.loads(frame[-1])


def write_probe(store: Path, name: str) -> str:
    """Put the probing function into the content store; its directory's name."""
    code = store / name
    code.mkdir(mode=0o755)
    (code / "probe.py").write_text(PROBE)
    (code / "probe.py").chmod(0o644)
    return name


async def bind(engine: Engine, dialled: Dialled, code: str) -> Probe:
    """Wait for the zygote and give it the probing function."""
    zygote, hello = await dialled.accept()
    assert hello[1:4] == [1, "zygote", ""]
    config = {
        "namespace": "default", "function": "probe", "version": 1, "arn": "arn:faas:default:function:probe:1",
        "entry": "probe", "handler": "", "code": f"{engine.store_mount}/{code}", "layers": [], "env": {},
        "memory_mb": 128, "timeout_ms": 30_000, "concurrency": 1, "log_group": "/faas/default/probe",
    }  # fmt: skip
    await zygote.send(INIT, config)
    ready = await zygote.until(READY, ERROR)
    assert ready[0] == READY, ready
    return Probe(engine, dialled, zygote)


def peer(channel: Channel) -> tuple[int, int]:
    """The host's pid and uid of the process at the other end, from the kernel."""
    end: socket.socket = channel.writer.get_extra_info("socket")
    pid, uid, _ = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


async def closed(channel: Channel) -> None:
    """Wait until the process at the other end is gone."""
    async with asyncio.timeout(30):
        with contextlib.suppress(Gone):
            while True:
                await channel.receive()


def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, **options)
