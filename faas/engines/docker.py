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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import docker
import docker.errors
from docker.types import LogConfig, Ulimit

from faas.engines import cgroup, image
from faas.engines.docker_client import connect, translated
from faas.engines.egress import EgressNetwork
from faas.engines.identity import (
    ENVIRONMENT,
    HOSTNAME,
    OPEN_FILES_MAX,
    PIDS_MAX,
    SHM_BYTES,
    SOCKET_MOUNT,
    STORE_MOUNT,
    TMP_BYTES,
    ZYGOTE,
    Uids,
    hand_over,
    home_hash,
)
from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 8
_AT_ONCE_MAX = 4  # boots and removals; more only queue up inside the engine
_CALL_TIMEOUT_S = 60
_LOG_LINES = 40


@dataclass(slots=True)
class _Sandbox:
    uid: int
    boot: asyncio.Task[None] | None = None
    removal: asyncio.Task[None] | None = None
    container: str = ""
    group: cgroup.Cgroup | None = None


class DockerEngine:
    """``faas.ports.Engine`` on the engine at ``DOCKER_HOST`` (a unix socket), default ``/var/run/docker.sock``.

    ``store`` is mounted read-only into every sandbox; ``oci_runtime`` names another runtime the engine knows, "runsc"
    say; ``blocked`` are addresses that functions with egress must not reach; ``progress`` hears of image building.
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
    ) -> None:
        self._store = store
        self._oci_runtime = oci_runtime
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
        self._client: docker.APIClient | None = None
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

    async def resize(self, sandbox_id: str, memory_bytes: int, cpus: float = 0.0) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or not sandbox.container:
            raise EngineUnavailable(f"there is no sandbox {sandbox_id} to resize")
        if sandbox.group is not None:
            try:
                sandbox.group.limit(memory_bytes, cpus)
            except FileNotFoundError:
                raise EngineUnavailable(f"the sandbox {sandbox_id} has ended") from None
            except OSError as error:
                log.info("cgroup of %s: %s; asking the engine instead", sandbox_id, error)
            else:
                return
        await self._thread(self._update, sandbox.container, memory_bytes, cpus)

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
        if self._client is not None:
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
                await self._thread(self._client.close)
                self._client, self._egress, self._image = None, None, ""
        self._threads.shutdown(wait=False)

    # -- beyond the port --------------------------------------------------------------------------------------------

    async def output(self, sandbox_id: str) -> str:
        """The last lines the sandbox's zygote itself wrote: why it did not come up, if it did not. "" when unknown."""
        try:
            return await self._thread(self._logs, _container_name(sandbox_id))
        except EngineUnavailable:
            return ""

    # -- on the loop ------------------------------------------------------------------------------------------------

    async def _boot(self, spec: SandboxSpec, sandbox: _Sandbox) -> None:
        hand_over(spec.socket_dir, sandbox.uid)
        network = await self._network(spec.network)
        async with self._limit:
            sandbox.container, sandbox.group = await self._thread(self._create_and_start, spec, sandbox.uid, network)
            if self._egress is not None and spec.network == "egress":
                await self._thread(self._egress.isolate_ports)

    async def _remove(self, sandbox_id: str, sandbox: _Sandbox) -> None:
        if sandbox.boot is not None and not sandbox.boot.done():
            await asyncio.wait([sandbox.boot])
        try:
            async with self._limit:
                await self._thread(self._force_remove, _container_name(sandbox_id))
        except BaseException:
            sandbox.removal = None
            raise
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
                egress = EgressNetwork(self._api, self._home, self._labels, self._blocked)
                await self._thread(egress.ensure)
                if not egress.guarded:
                    self.isolation += "; functions with egress can reach this host's public services (no root)"
                self._egress = egress
            return self._egress.name

    async def _remove_leftovers(self) -> None:
        left = await self._thread(self._labelled)
        if left:
            self._progress(f"removing {len(left)} sandboxes of an earlier run")
            await asyncio.gather(*(self._thread(self._force_remove, container) for container in left))
        await self._thread(EgressNetwork(self._api, self._home, self._labels, self._blocked).remove)

    # -- in threads -------------------------------------------------------------------------------------------------

    async def _thread(self, call: Callable[..., T], *arguments: Any) -> T:
        def guarded() -> T:
            with translated(call.__name__.strip("_").replace("_", " ")):
                return call(*arguments)

        return await asyncio.get_running_loop().run_in_executor(self._threads, guarded)

    @property
    def _api(self) -> docker.APIClient:
        if self._client is None:
            raise EngineUnavailable("the docker engine was not started or is closed")
        return self._client

    def _connect(self) -> None:
        if self._client is None:
            self._client = connect(timeout_s=_CALL_TIMEOUT_S)

    def _create_and_start(self, spec: SandboxSpec, uid: int, network: str) -> tuple[str, cgroup.Cgroup | None]:
        try:
            created = self._api.create_container(
                self._image,
                entrypoint=["python3", *ZYGOTE],
                name=_container_name(spec.id),
                hostname=HOSTNAME,
                user=f"{uid}:{uid}",
                environment=ENVIRONMENT,
                labels={**self._labels, "faas.sandbox": spec.id},
                host_config=self._host_config(spec, network),
            )
        except docker.errors.ImageNotFound:
            raise EngineUnavailable(
                f"the image {self._image} is gone from the engine: run `faas runtime build python`"
            ) from None
        container = str(created["Id"])
        self._api.start(container)
        pid = int(self._api.inspect_container(container)["State"]["Pid"])
        return container, cgroup.of_process(pid, container) if pid > 0 else None

    def _host_config(self, spec: SandboxSpec, network: str) -> dict[str, Any]:
        config: dict[str, Any] = self._api.create_host_config(
            binds={
                str(spec.socket_dir.resolve()): {"bind": SOCKET_MOUNT, "mode": "ro"},  # connecting needs no more
                str(self._store.resolve()): {"bind": STORE_MOUNT, "mode": "ro"},
            },
            read_only=True,
            tmpfs={"/tmp": f"size={TMP_BYTES},mode=1777,nosuid,nodev,exec"},  # noqa: S108 - inside the sandbox
            shm_size=SHM_BYTES,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            pids_limit=PIDS_MAX,
            mem_limit=spec.memory_bytes,
            memswap_limit=spec.memory_bytes,
            ulimits=[
                Ulimit(name="nofile", soft=OPEN_FILES_MAX, hard=OPEN_FILES_MAX),
                Ulimit(name="core", soft=0, hard=0),
            ],
            network_mode=network,
            ipc_mode="private",
            log_config=LogConfig(type="json-file", config={"max-size": "1m", "max-file": "1"}),
            runtime=self._oci_runtime or None,
            **_cpu(spec.cpus),
        )
        return config

    def _update(self, container: str, memory_bytes: int, cpus: float) -> None:
        self._api.update_container(container, mem_limit=memory_bytes, memswap_limit=memory_bytes, **_cpu(cpus))

    def _force_remove(self, container: str) -> None:
        try:
            self._api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # 409: someone else is removing it right now
                raise

    def _labelled(self) -> list[str]:
        labels = [f"{key}={value}" for key, value in self._labels.items()]
        return [str(each["Id"]) for each in self._api.containers(all=True, filters={"label": labels})]

    def _logs(self, container: str) -> str:
        return bytes(self._api.logs(container, tail=_LOG_LINES)).decode(errors="replace").strip()


def _container_name(sandbox_id: str) -> str:
    return f"faas-{sandbox_id}"


def _cpu(cpus: float) -> dict[str, Any]:
    """Period and quota, and not ``nano_cpus``, which the engine will not let anyone change afterwards."""
    return {"cpu_period": cgroup.CPU_PERIOD_US, "cpu_quota": int(cpus * cgroup.CPU_PERIOD_US) if cpus > 0 else -1}
