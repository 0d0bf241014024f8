"""Carrying out the pool's commands: sandboxes booted, bound, resized and removed, instances forked and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from faas.invoker.run import Run
from faas.invoker.session import Session
from faas.model.errors import EngineUnavailable, FaasError, NoCapacity
from faas.pool.entities import THREADS_BESIDE_CALLS
from faas.pool.messages import (
    Abort,
    Bind,
    Boot,
    Cause,
    Command,
    Fork,
    InitFailed,
    Kill,
    Park,
    Recall,
    Remove,
    Resize,
    Resume,
    SandboxDown,
    SandboxLost,
    Stop,
)
from faas.pool.shares import Shares
from faas.ports import SandboxSpec
from faas.wire import Cancel as CancelFrame
from faas.wire import Drain, Http, Init, Invoke
from faas.wire import Fork as ForkFrame
from faas.wire import Kill as KillFrame

if TYPE_CHECKING:
    from faas.invoker.config import Attached
    from faas.invoker.invoker import Invoker

log = logging.getLogger(__name__)

MB = 1024 * 1024
SANDBOX_BASE_BYTES = 96 * MB  # beside its instances: zygote 32 MB, /tmp 64 MB
SANDBOX_BASE_PIDS = 512  # beside the threads its instances need: what functions start themselves
GENERIC_BYTES = 512 * MB


class Performer:
    """The hands of the invoker. Nothing here decides; what fails comes back as an event."""

    def __init__(self, owner: Invoker) -> None:
        self._owner = owner
        self._attached: dict[str, Attached] = {}
        self._shares = Shares()
        self._removing: set[str] = set()
        self._booting: dict[str, asyncio.Event] = {}  # the engine's calls under way; set when they are over

    def perform(self, command: Command, now: int) -> None:
        match command:
            case Boot():
                self._owner.spawn(self._boot(command))
            case Bind():
                self._bind(command, now)
            case Fork(sandbox, instances):
                self._fork(sandbox, instances)
            case Kill(instance):
                session = self._session_of(instance)
                if session is not None and session.control is not None:
                    session.control.send(KillFrame(instance))
            case Stop(instance):
                channel = self._owner.channels.get(instance)
                if channel is not None:
                    channel.send(Drain())
            case Recall(instance):
                session = self._session_of(instance)
                if session is not None:
                    session.recall(instance)
            case Abort(call, instance):
                channel = self._owner.channels.get(instance)
                if channel is not None:
                    channel.send(CancelFrame(call))
            case Resize(sandbox, memory_mb):
                self._owner.spawn(self._resize(sandbox, memory_mb))
            case Park(sandbox):
                self._owner.spawn(self._park(sandbox))
                self._reweigh(self._shares.drop(sandbox))
            case Resume(sandbox):
                self._resume(sandbox)
            case Remove(sandbox):
                if sandbox not in self._removing:  # one at a time, however often the pool asks
                    self._removing.add(sandbox)
                    self._owner.spawn(self._remove(sandbox))
            case _:
                raise AssertionError(f"not a command of the pool: {command!r}")

    def forget(self, key: str) -> None:
        """The version is not used here any more."""
        self._attached.pop(key, None)

    def invoke_frame(self, run: Run, deadline_unix_ns: int) -> Invoke:
        call, http = run.call, run.call.http
        request = None
        if http is not None:
            request = Http(
                http.method, http.path, http.raw_path, http.query, http.headers, http.source_ip, http.protocol
            )
        return Invoke(
            call.id,
            deadline_unix_ns,
            call.trigger.value,
            call.attempt,
            call.content_type,
            call.trace_parent,
            request,
            call.payload,
        )

    def _session_of(self, instance: str) -> Session | None:
        return self._owner.sessions.get(instance.partition("-")[0])

    # -- sandboxes --------------------------------------------------------------------------------------------------

    async def _boot(self, command: Boot) -> None:
        owner = self._owner
        session = Session(command.sandbox, owner.config.socket_root / command.sandbox, owner)
        owner.sessions[command.sandbox] = session
        over = self._booting[command.sandbox] = asyncio.Event()
        try:
            await session.listen()
            await owner.engine.boot(
                SandboxSpec(
                    id=command.sandbox,
                    runtime=command.flavour.runtime,
                    network=command.flavour.network,
                    socket_dir=session.directory,
                    memory_bytes=GENERIC_BYTES,
                )
            )
            session.booted.set()
            self._booted(command.sandbox, over)
            await self._dialled(session)
        except (FaasError, OSError) as error:
            self._booted(command.sandbox, over)
            log.error("sandbox %s could not be started: %s", command.sandbox, error)
            owner.apply(SandboxLost(command.sandbox, Cause.ENGINE, str(error)))

    def _booted(self, sandbox: str, over: asyncio.Event) -> None:
        over.set()
        self._booting.pop(sandbox, None)

    async def _dialled(self, session: Session) -> None:
        """A sandbox that ends, or goes astray, before it has dialled is missed by nobody else."""
        seconds = self._owner.config.dial_limit_s
        ended = asyncio.ensure_future(self._owner.engine.exited(session.id))
        dialled = asyncio.ensure_future(session.dialled.wait())
        try:
            await asyncio.wait([ended, dialled], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            over = ended.done()
        finally:
            ended.cancel()
            dialled.cancel()
        if session.control is None and not session.closed:
            how = "it ended before it dialled" if over else f"it did not dial within {seconds:g} s of its start"
            raise EngineUnavailable(how)

    def _bind(self, command: Bind, now: int) -> None:
        session = self._owner.sessions[command.sandbox]
        session.key = command.key
        session.bound_ns = now
        attached = self._attached.get(command.key)
        if attached is not None:
            self._init(session, attached, command.instances)
        else:
            self._owner.spawn(self._attach(session, command))

    async def _attach(self, session: Session, command: Bind) -> None:
        """First use of a version on this node: its code has to be fetched before the sandbox can be told of it."""
        try:
            attached = await self._owner.content.attach(self._owner.versions[command.key])
        except FaasError as error:
            reason = NoCapacity(f"the function's code could not be brought here: {error.message}")
            self._owner.apply(InitFailed(session.id, reason))
            return
        self._attached[command.key] = attached
        if not session.closed:
            self._init(session, attached, command.instances)

    def _init(self, session: Session, attached: Attached, instances: tuple[str, ...]) -> None:
        owner = self._owner
        version = owner.versions[session.key]
        manifest = version.manifest
        mount = owner.engine.store_mount
        assert session.control is not None
        session.control.send(
            Init(
                {
                    "namespace": version.namespace,
                    "function": version.name,
                    "version": version.version,
                    "arn": version.arn,
                    "entry": manifest.entry,
                    "handler": manifest.handler,
                    "code": f"{mount}/{attached.code}",
                    "layers": [f"{mount}/{layer}" for layer in attached.layers],
                    "env": dict(manifest.env),
                    "memory_mb": manifest.memory_mb,
                    "timeout_ms": manifest.timeout_ms,
                    "concurrency": manifest.concurrency,
                    "log_group": f"/faas/{version.namespace}/{version.name}",
                }
            )
        )
        if not instances:
            owner.spawn(self._resize(session.id, manifest.memory_mb))
        waiting = (*instances, *session.waiting)
        session.initialised = True
        session.waiting = ()
        self._fork(session.id, waiting)

    def _fork(self, sandbox: str, instances: tuple[str, ...]) -> None:
        session = self._owner.sessions[sandbox]
        if not session.initialised:
            session.waiting += instances
        elif instances and session.control is not None:
            session.expect(instances)
            session.control.send(ForkFrame(instances))

    async def _resize(self, sandbox: str, memory_mb: int) -> None:
        """The sandbox's own limit and weight, and with it the weights of its namespace's others."""
        session = self._owner.sessions.get(sandbox)
        version = self._owner.versions.get(session.key) if session is not None else None
        if version is None:
            return
        told = self._shares.settle(version.namespace, sandbox, memory_mb)
        own_mb, share = told.pop(sandbox)
        self._reweigh(told)
        await self._weigh(sandbox, own_mb, share)

    def _reweigh(self, told: dict[str, tuple[int, float]]) -> None:
        for sandbox, (memory_mb, share) in told.items():
            self._owner.spawn(self._weigh(sandbox, memory_mb, share))

    async def _weigh(self, sandbox: str, memory_mb: int, share: float) -> None:
        session = self._owner.sessions.get(sandbox)
        if session is None:
            return
        await session.booted.wait()  # a zygote may dial before the engine has said that its sandbox runs
        version = self._owner.versions.get(session.key)
        if version is None:
            return
        manifest, limit = version.manifest, memory_mb * MB + SANDBOX_BASE_BYTES
        instances = max(1, memory_mb // manifest.memory_mb)  # a zygote alone has work, too
        pids = SANDBOX_BASE_PIDS + instances * (manifest.concurrency + THREADS_BESIDE_CALLS)
        try:
            await self._owner.engine.resize(sandbox, limit, instances * (manifest.cpus or 0.0), share, pids)
        except EngineUnavailable as error:
            if sandbox in self._owner.sessions:
                log.warning("sandbox %s: its limits were not set: %s", sandbox, error)

    async def _park(self, sandbox: str) -> None:
        try:
            await self._owner.engine.freeze(sandbox)
        except EngineUnavailable as error:
            if sandbox in self._owner.sessions:
                log.warning("sandbox %s could not be frozen and runs on: %s", sandbox, error)

    def _resume(self, sandbox: str) -> None:
        """Thaw at once where that is a write to a file; what its zygote is sent meanwhile waits in the socket."""
        try:
            thawing = self._owner.engine.thaw(sandbox)
        except EngineUnavailable as error:
            self._owner.apply(SandboxLost(sandbox, Cause.ENGINE, str(error)))
        else:
            if thawing is not None:
                self._owner.spawn(self._thawed(sandbox, thawing))

    async def _thawed(self, sandbox: str, thawing: Awaitable[None]) -> None:
        try:
            await thawing
        except EngineUnavailable as error:
            log.error("sandbox %s could not be resumed: %s", sandbox, error)
            self._owner.apply(SandboxLost(sandbox, Cause.ENGINE, str(error)))

    async def _remove(self, sandbox: str) -> None:
        """Only what the engine has let go of is said to be down; else the pool asks again, and counts its memory."""
        session = self._owner.sessions.pop(sandbox, None)
        if session is not None:
            session.close()
        self._reweigh(self._shares.drop(sandbox))
        try:
            await self._owner.engine.remove(sandbox)
            if sandbox in self._booting:  # it may come into being yet
                await self._booting[sandbox].wait()
                await self._owner.engine.remove(sandbox)
        except EngineUnavailable as error:
            log.error("sandbox %s could not be removed: %s", sandbox, error)
        else:
            self._owner.apply(SandboxDown(sandbox, Cause.KILLED))
        finally:
            self._removing.discard(sandbox)
