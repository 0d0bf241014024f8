"""A sandbox played by a test: dials the node's socket and says what the test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]

from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec, cpu_share
from faas.wire import Exited, Frame, Hello, Ready, Recalled, Result, encode

INIT, FORK, INVOKE, KILL, DRAIN, RECALL = 2, 3, 8, 10, 11, 12
HELLO_INFO = {"runtime": "python", "language": "3.11.2"}

Answer = Callable[["FakeInstance", str, bytes], Awaitable[None]]


async def echo(instance: FakeInstance, call: str, payload: bytes) -> None:
    """Answer with what came."""
    instance.send(answer_to(call, payload))


def answer_to(call: str, payload: bytes) -> Result:
    return Result(call, 200, ((b"content-type", b"application/json"),), 2000, 1000, 1 << 20, payload)


class Peer:
    """One connection to the node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, socket_dir: Path) -> Peer:
        return cls(*await asyncio.open_unix_connection(str(socket_dir / "node.sock")))

    def send(self, frame: Frame) -> None:
        self.writer.write(encode(frame))

    def send_bytes(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self) -> list[Any] | None:
        """The next frame as a list, kind first; None at the end."""
        try:
            (size,) = struct.unpack(">I", await self.reader.readexactly(4))
            frame: list[Any] = msgpack.unpackb(await self.reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return frame

    def close(self) -> None:
        self.writer.close()


class FakeInstance:
    """Serves invocations one after another with ``answer``."""

    def __init__(self, identity: str, peer: Peer, answer: Answer, running: asyncio.Event) -> None:
        self.id = identity
        self.peer = peer
        self.running = running
        self.answer = answer
        self.send = peer.send
        self.begun = 0  # INVOKEs, counting those that were taken back before it came to them
        self.taken_back: set[int] = set()

    async def serve(self) -> None:
        while (frame := await self.peer.receive()) is not None:
            await self.running.wait()
            if frame[0] == INVOKE:
                self.begun += 1
                if self.begun not in self.taken_back:
                    await self.answer(self, frame[1], frame[-1])
            elif frame[0] == DRAIN:
                break
        self.peer.close()


class FakeSandbox:
    """A zygote that loads at once and forks by dialling. ``answer`` is what its instances do."""

    def __init__(self, spec: SandboxSpec, answer: Answer) -> None:
        self.spec = spec
        self.answer = answer
        self.control: Peer | None = None
        self.instances: dict[str, FakeInstance] = {}
        self.init: dict[str, Any] = {}
        self.running = asyncio.Event()  # cleared while frozen
        self.running.set()
        self.on_init: Callable[[FakeSandbox], Frame] = lambda _sandbox: Ready(1_000_000, {"kind": "sync"})
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        self.control = await Peer.dial(self.spec.socket_dir)
        self.control.send(Hello(1, "zygote", "", 1, HELLO_INFO))
        while (frame := await self.control.receive()) is not None:
            await self.running.wait()
            if frame[0] == INIT:
                self.init = frame[1]
                self.control.send(self.on_init(self))
            elif frame[0] == FORK:
                for identity in frame[1]:
                    self.spawn(self.fork(identity))
            elif frame[0] == KILL:
                self.exit(frame[1], signal=9)
            elif frame[0] == RECALL and frame[1] in self.instances:
                instance = self.instances[frame[1]]
                instance.taken_back.update(range(instance.begun + 1, frame[2] + 1))
                self.control.send(Recalled(instance.id, instance.begun))

    def spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def fork(self, identity: str) -> None:
        peer = await Peer.dial(self.spec.socket_dir)
        peer.send(Hello(1, "instance", identity, 2, {}))
        instance = self.instances[identity] = FakeInstance(identity, peer, self.answer, self.running)
        await instance.serve()
        self.exit(identity, code=0)

    def exit(self, identity: str, code: int | None = None, signal: int | None = None) -> None:
        """The instance ends; the zygote says how."""
        instance = self.instances.pop(identity, None)
        if instance is not None and self.control is not None:
            self.control.send(Exited(identity, code, signal, 0, 0))
            instance.peer.close()

    async def stop(self) -> None:
        if self.control is not None:
            self.control.close()
        for instance in self.instances.values():
            instance.peer.close()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class FakeEngine:
    """``faas.ports.Engine`` whose sandboxes are ``FakeSandbox`` on real sockets."""

    name = "fake"
    isolation = "none: it is a test"
    store_mount = "/store"
    freezer = "direct"

    def __init__(self, answer: Answer = echo) -> None:
        self.answer = answer
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.removed: list[str] = []
        self.sizes: dict[str, int] = {}
        self.shares: dict[str, float] = {}
        self.cpus: dict[str, float] = {}
        self.pids: dict[str, int] = {}
        self.memory: dict[str, int] = {}
        self.ooms: dict[str, int] = {}
        self.boot_error: Exception | None = None
        self.remove_error: Exception | None = None
        self.may_boot = asyncio.Event()  # cleared: its boot calls hang
        self.may_boot.set()
        self.may_remove = asyncio.Event()  # cleared: its removals hang
        self.may_remove.set()
        self.removals = 0  # asked for
        self.prepare: Callable[[FakeSandbox], None] = lambda _sandbox: None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        return None

    async def boot(self, spec: SandboxSpec) -> None:
        if self.boot_error is not None:
            raise self.boot_error
        await self.may_boot.wait()
        sandbox = self.sandboxes[spec.id] = FakeSandbox(spec, self.answer)
        self.prepare(sandbox)
        self._tasks[spec.id] = asyncio.ensure_future(sandbox.run())

    async def exited(self, sandbox_id: str) -> None:
        task = self._tasks.get(sandbox_id)
        if task is not None:
            await asyncio.wait([task])

    async def resize(
        self, sandbox_id: str, memory_bytes: int, cpus: float = 0.0, share: float = 0.0, pids: int = 0
    ) -> None:
        self.sizes[sandbox_id] = memory_bytes
        self.shares[sandbox_id] = share or cpu_share(memory_bytes // 2**20)
        self.cpus[sandbox_id] = cpus
        self.pids[sandbox_id] = pids

    async def freeze(self, sandbox_id: str) -> None:
        self._living(sandbox_id).running.clear()

    def thaw(self, sandbox_id: str) -> Awaitable[None] | None:
        self._living(sandbox_id).running.set()
        return None

    async def memory_bytes(self, sandbox_id: str) -> int:
        return self.memory.get(sandbox_id, 0)

    def oom_kills(self, sandbox_id: str) -> int:
        return self.ooms.get(sandbox_id, 0)

    async def remove(self, sandbox_id: str) -> None:
        self.removals += 1
        await self.may_remove.wait()
        if self.remove_error is not None:
            raise self.remove_error
        sandbox = self.sandboxes.pop(sandbox_id, None)
        if sandbox is None:
            return
        self.removed.append(sandbox_id)
        await sandbox.stop()
        self._tasks.pop(sandbox_id).cancel()

    async def close(self) -> None:
        for identity in list(self.sandboxes):
            await self.remove(identity)

    def _living(self, sandbox_id: str) -> FakeSandbox:
        if sandbox_id not in self.sandboxes:
            raise EngineUnavailable(f"there is no sandbox {sandbox_id}")
        return self.sandboxes[sandbox_id]
