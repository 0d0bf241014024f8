"""Sandboxes as containers of a Docker engine (the README's table says what is locked).

The SDK blocks, so it runs in a few threads of its own; the event loop only ever writes cgroup files. Contract beyond
the port's: a ``boot`` that is cancelled leaves nothing; ``remove`` waits for a boot of the same sandbox that is still
under way; every object made in the engine carries the labels ``faas.node`` and ``faas.home``, and a starting node
removes what carries both of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from faas.engines import cgroup, freezer, image, proc
from faas.engines.asked_limits import AskedLimits, Wanted
from faas.engines.containers import Containers, ImageGone, State, container_name
from faas.engines.docker_client import connect, engine_address, translated
from faas.engines.egress import EgressNetwork
from faas.engines.freezer import AskedFreezer, Freezer, Freezing, GroupFreezer
from faas.engines.identity import STORE_MOUNT, Uids, hand_over, home_hash
from faas.engines.watch import Watch
from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec, cpu_share
from faas.waiting import either

if TYPE_CHECKING:
    from faas.engines.pauses import Pauses

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 8
_AT_ONCE_MAX = 4  # boots and removals; more only queue up inside the engine
_CALL_TIMEOUT_S = 60
_MB = 1024 * 1024
_LOOK_AGAIN_S, _LOOK_AGAIN_S_MAX = 0.05, 2.0


@dataclass(slots=True)
class _Sandbox:
    uid: int
    boot: asyncio.Task[None] | None = None
    removal: asyncio.Task[None] | None = None
    container: str = ""
    pid: int = 0  # of its first process, if this node can see it
    group: cgroup.Cgroup | None = None
    freezer: Freezer | None = None
    limits: AskedLimits | None = None  # where its group cannot be written
    watch: Watch | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class DockerEngine(Freezing):
    """``faas.ports.Engine`` on the engine at ``DOCKER_HOST`` (a unix socket), default ``/var/run/docker.sock``.

    ``store`` is mounted read-only into every sandbox; ``oci_runtime`` names another runtime the engine knows, "runsc"
    say; ``blocked`` are addresses that functions with egress must not reach; ``progress`` hears of image building;
    ``direct`` False leaves control groups and processes of containers alone and asks the engine for everything, as has
    to be done where the node sees neither (it runs in a container itself, say), which is found out by itself.
    """

    name = "docker"
    store_mount = STORE_MOUNT
    python_version = image.PYTHON_VERSION

    def __init__(
        self,
        node_id: str,
        home: Path,
        store: Path,
        *,
        oci_runtime: str = "",
        blocked: tuple[str, ...] = (),
        progress: image.Progress = image.silent,
        direct: bool = True,
    ) -> None:
        self._store = store
        self._oci_runtime = oci_runtime
        self._direct = direct
        self._blocked = blocked
        self._progress = progress
        self._home = home_hash(home)
        self._labels = {"faas.node": node_id, "faas.home": self._home}
        self._uids = Uids(home)
        self._sandboxes: dict[str, _Sandbox] = {}
        self._abandoned: set[asyncio.Task[None]] = set()
        self._image = ""
        self._egress: EgressNetwork | None = None
        self._egress_lock = asyncio.Lock()
        self._limit = asyncio.Semaphore(_AT_ONCE_MAX)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        self._engine: Containers | None = None
        self._pauses: Pauses | None = None
        self.freezer = freezer.DIRECT if direct and cgroup.may_freeze() else freezer.API  # each boot shows it again
        self.isolation = (
            "every sandbox is a container: own user, no capabilities, read-only root, default seccomp, no network"
            " unless the function asks for it" + (f", run by {oci_runtime}" if oci_runtime else "")
        )

    # -- port -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._image:
            return
        await self._thread(self._connect)
        built = await self._thread(image.build, self._progress)
        await self._remove_leftovers()
        self._image = built.tag

    async def boot(self, spec: SandboxSpec) -> None:
        if not self._image:
            raise EngineUnavailable("the docker engine was not started")
        if spec.runtime != "python":
            raise EngineUnavailable(f"there is no image for the runtime {spec.runtime}: only python is built in")
        if spec.id in self._sandboxes:
            raise EngineUnavailable(f"the sandbox {spec.id} exists already")
        sandbox = self._sandboxes[spec.id] = _Sandbox(self._uids.take())
        sandbox.boot = asyncio.create_task(self._boot(spec, sandbox))
        try:
            await asyncio.shield(sandbox.boot)
        except BaseException:  # failed, or we are cancelled while the engine works on it: either way nothing may stay
            self._abandon(spec.id)
            raise

    async def exited(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        if sandbox.boot is not None and not sandbox.boot.done():
            await asyncio.wait([sandbox.boot])
        if sandbox.watch is not None:
            await sandbox.watch.ended.wait()
            return
        pause_s = _LOOK_AGAIN_S  # nothing tells a node that can't see the process; most that end early do so at once
        while sandbox.container and not sandbox.gone.is_set():
            state = await self._thread(self._containers.look_up, sandbox.container)
            if state is None or not state.running:
                return
            await either(sandbox.gone, pause_s)
            pause_s = min(2 * pause_s, _LOOK_AGAIN_S_MAX)

    async def resize(
        self, sandbox_id: str, memory_bytes: int, cpus: float = 0.0, share: float = 0.0, pids: int = 0
    ) -> None:
        sandbox = self._living(sandbox_id)
        assert sandbox.limits is not None
        weight = share or cpu_share(memory_bytes // _MB)
        if sandbox.group is not None and sandbox.group.may_limit:
            try:
                sandbox.group.limit(memory_bytes, cpus, weight, pids)
            except FileNotFoundError:
                raise EngineUnavailable(f"the sandbox {sandbox_id} has ended") from None
            except OSError as error:
                log.info("cgroup of %s: %s; asking the engine instead", sandbox_id, error)
            else:
                sandbox.limits.forget()
                return
        await sandbox.limits.set(Wanted(memory_bytes, cpus, weight, pids))

    def freezer_of(self, sandbox_id: str) -> Freezer:
        found = self._living(sandbox_id).freezer
        assert found is not None
        return found

    async def memory_bytes(self, sandbox_id: str) -> int:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.container:
            return 0
        if sandbox.group is not None:
            return sandbox.group.memory_bytes()
        try:
            return await self._thread(self._containers.read_memory, sandbox.container)
        except EngineUnavailable:
            return 0

    def oom_kills(self, sandbox_id: str) -> int:
        sandbox = self._sandboxes.get(sandbox_id)
        return sandbox.group.oom_kills() if sandbox is not None and sandbox.group is not None else 0

    async def remove(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        if sandbox.removal is None:  # one removal, however many ask for it; if it fails, the next asks again
            sandbox.removal = asyncio.create_task(self._remove(sandbox_id, sandbox))
        await asyncio.shield(sandbox.removal)

    async def close(self) -> None:
        if self._engine is not None:
            results = await asyncio.gather(
                *(self.remove(each) for each in list(self._sandboxes)), return_exceptions=True
            )
            while self._abandoned:
                await asyncio.wait(self._abandoned)
            try:
                if self._egress is not None:
                    await self._thread(self._egress.remove)
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
            finally:
                await self._thread(self._engine.api.close)
                if self._pauses is not None:
                    await self._pauses.close()
                self._engine, self._egress, self._image, self._pauses = None, None, "", None
        self._threads.shutdown(wait=False)

    # -- beyond the port --------------------------------------------------------------------------------------------

    async def output(self, sandbox_id: str) -> str:
        """The last lines the sandbox's zygote itself wrote: why it did not come up, if it did not. "" when unknown."""
        try:
            return await self._thread(self._containers.read_logs, container_name(sandbox_id))
        except EngineUnavailable:
            return ""

    def overhead_bytes(self, sandbox_id: str) -> int:
        """What the engine itself holds for the sandbox, outside its control group: the share (PSS) of its shim, which
        is the parent of its first process. 0 when that can't be seen from here. Reads a process's map: 0.3 ms."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.pid:
            return 0
        return proc.memory_bytes([proc.parent(sandbox.pid)])

    # -- on the loop ------------------------------------------------------------------------------------------------

    async def _boot(self, spec: SandboxSpec, sandbox: _Sandbox) -> None:
        hand_over(spec.socket_dir, sandbox.uid)
        network = await self._network(spec.network)
        async with self._limit:
            create = self._containers.create_and_start
            try:
                state = await self._thread(create, self._image, spec, sandbox.uid, network)
            except ImageGone as error:
                log.warning("%s; making it again", error.message.partition(":")[0])
                self._image = (await self._thread(image.build, self._progress)).tag
                state = await self._thread(create, self._image, spec, sandbox.uid, network)
            self._take_hold(sandbox, state)
            if self._egress is not None and spec.network == "egress":
                await self._thread(self._egress.isolate_ports)

    def _take_hold(self, sandbox: _Sandbox, state: State) -> None:
        """Find out what of the new container this node can reach by itself."""
        sandbox.container = state.container
        if self._direct and state.pid > 0:
            sandbox.watch = Watch.of(state.pid, lambda: cgroup.holds(state.pid, state.container))
            if sandbox.watch is not None:
                sandbox.pid, sandbox.group = state.pid, cgroup.of_process(state.pid, state.container)
        file = sandbox.group.freezer if sandbox.group is not None else None
        if file is not None and file.works():
            sandbox.freezer = GroupFreezer(file)
        else:
            asked = self._asked()
            sandbox.freezer = AskedFreezer(
                partial(asked.pause, state.container), partial(asked.resume, state.container)
            )
        sandbox.limits = AskedLimits(
            lambda *limits: self._thread(self._containers.update, state.container, *limits), sandbox.freezer.settled
        )
        self.freezer = sandbox.freezer.way

    def _asked(self) -> Pauses:
        if self._pauses is None:
            from faas.engines.pauses import Pauses  # 0.1 s that a node which writes the freezers itself need not wait

            socket, version = engine_address().removeprefix("unix://"), self._containers.api.api_version
            self._pauses = Pauses(socket, version, _CALL_TIMEOUT_S)
        return self._pauses

    def _living(self, sandbox_id: str) -> _Sandbox:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.container:
            raise EngineUnavailable(f"there is no sandbox {sandbox_id}")
        return sandbox

    async def _remove(self, sandbox_id: str, sandbox: _Sandbox) -> None:
        if sandbox.boot is not None and not sandbox.boot.done():
            await asyncio.wait([sandbox.boot])
        if sandbox.group is not None:
            sandbox.group.kill_frozen()
        if sandbox.freezer is not None:
            sandbox.freezer.release()
        try:
            async with self._limit:
                await self._thread(self._containers.remove, container_name(sandbox_id))
        except BaseException:
            sandbox.removal = None
            raise
        if sandbox.watch is not None:
            sandbox.watch.close()
        sandbox.gone.set()
        del self._sandboxes[sandbox_id]
        self._uids.give_back(sandbox.uid)

    def _abandon(self, sandbox_id: str) -> None:
        task = asyncio.create_task(self._remove_quietly(sandbox_id))
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

    async def _remove_quietly(self, sandbox_id: str) -> None:
        try:
            await self.remove(sandbox_id)
        except EngineUnavailable as error:
            log.warning("sandbox %s, whose boot was given up, may be left: %s", sandbox_id, error)

    async def _network(self, kind: str) -> str:
        if kind != "egress":
            return "none"
        async with self._egress_lock:
            if self._egress is None:
                egress = EgressNetwork(self._containers.api, self._home, self._labels, self._blocked)
                await self._thread(egress.ensure)
                if not egress.guarded:
                    self.isolation += "; functions with egress can reach this host's public services (no root)"
                self._egress = egress
            return self._egress.name

    async def _remove_leftovers(self) -> None:
        left = await self._thread(self._containers.find_leftovers)
        if left:
            self._progress(f"removing {len(left)} sandboxes of an earlier run")
            await asyncio.gather(*(self._thread(self._containers.remove_leftover, container) for container in left))
        await self._thread(EgressNetwork(self._containers.api, self._home, self._labels, self._blocked).remove)

    # -- in threads -------------------------------------------------------------------------------------------------

    async def _thread(self, call: Callable[..., T], *arguments: Any) -> T:
        def guarded() -> T:
            with translated(call.__name__.strip("_").replace("_", " ")):
                return call(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    @property
    def _containers(self) -> Containers:
        if self._engine is None:
            raise EngineUnavailable("the docker engine was not started or is closed")
        return self._engine

    def _connect(self) -> None:
        if self._engine is None:
            self._engine = Containers(connect(timeout_s=_CALL_TIMEOUT_S), self._labels, self._store, self._oci_runtime)
