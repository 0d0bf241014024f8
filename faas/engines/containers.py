"""What is asked of the container engine, one blocking call each: for threads."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.types import LogConfig, Ulimit

from faas.engines import cgroup
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
)
from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec

_LOG_LINES = 40


class ImageGone(EngineUnavailable):
    """Somebody has removed it; it can be made again."""


@dataclass(frozen=True, slots=True)
class State:
    """``pid``: its first process on the host of the engine, 0 when it has ended."""

    container: str
    running: bool
    paused: bool
    pid: int


class Containers:
    """Sandboxes' containers on the engine behind ``api``. Errors are the SDK's, but for those said in words here."""

    def __init__(self, api: docker.APIClient, labels: dict[str, str], store: Path, oci_runtime: str) -> None:
        self.api = api
        self._labels = labels
        self._store = store
        self._oci_runtime = oci_runtime

    def create_and_start(self, image: str, spec: SandboxSpec, uid: int, network: str) -> State:
        try:
            created = self.api.create_container(
                image,
                entrypoint=["python3", *ZYGOTE],
                name=container_name(spec.id),
                hostname=HOSTNAME,
                user=f"{uid}:{uid}",
                environment=ENVIRONMENT,
                labels={**self._labels, "faas.sandbox": spec.id},
                host_config=self._host_config(spec, network),
            )
        except docker.errors.ImageNotFound:
            raise ImageGone(f"the image {image} is gone from the engine: run `faas runtime build python`") from None
        container = str(created["Id"])
        self.api.start(container)
        return self.state(container)

    def _host_config(self, spec: SandboxSpec, network: str) -> dict[str, Any]:
        config: dict[str, Any] = self.api.create_host_config(
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
            cpu_period=cgroup.CPU_PERIOD_US,  # and not nano_cpus, which the engine will not let anyone change later
            cpu_quota=cgroup.cpu_quota_us(spec.cpus),
        )
        return config

    def state(self, container: str) -> State:
        """Raises ``docker.errors.NotFound``."""
        found = self.api.inspect_container(container)
        state = found["State"]
        return State(str(found["Id"]), bool(state["Running"]), bool(state["Paused"]), int(state["Pid"]))

    def look_up(self, container: str) -> State | None:
        try:
            return self.state(container)
        except docker.errors.NotFound:
            return None

    def update(self, container: str, memory_bytes: int, cpus: float, share: float, pids: int) -> None:
        """``pids`` 0 = as it is. Not by the SDK's ``update_container``, which knows no limit of processes."""
        changes = {
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
            "CpuShares": cgroup.cpu_weight(share, unified=False),  # the engine knows v1's unit only and converts it
            "CpuPeriod": cgroup.CPU_PERIOD_US,
            "CpuQuota": cgroup.cpu_quota_us(cpus),
            **({"PidsLimit": pids} if pids > 0 else {}),
        }
        url = f"{self.api.base_url}/v{self.api.api_version}/containers/{container}/update"
        try:
            self.api.post(url, json=changes, timeout=self.api.timeout).raise_for_status()
        except requests.exceptions.HTTPError as error:
            docker.errors.create_api_error_from_http_exception(error)

    def read_memory(self, container: str) -> int:
        """As ``Cgroup.memory_bytes`` has it, whichever layout the engine's host has; 0 when it does not say.

        Takes up to a second: the engine looks as often, and answers when it has looked next.
        """
        memory = self.api.stats(container, stream=False, one_shot=True).get("memory_stats", {})
        counters = memory.get("stats", {})
        cache = counters.get("total_inactive_file", counters.get("inactive_file", 0))
        return max(int(memory.get("usage", 0)) - int(cache), 0)

    def remove(self, container: str) -> None:
        """Kill and remove; what is gone already, or is being removed by somebody else, is no error."""
        try:
            self.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409:  # 409: someone else is removing it right now
                raise
            if "paused" in str(error.explanation):  # engines that will not kill what they have paused
                with contextlib.suppress(docker.errors.APIError):
                    self.api.unpause(container)
                self.api.remove_container(container, force=True, v=True)

    def remove_leftover(self, container: str) -> None:
        """``remove`` for a container that a node may have frozen without the engine's knowing, and then died."""
        with contextlib.suppress(docker.errors.NotFound):
            state = self.state(container)
            group = cgroup.of_process(state.pid, state.container) if state.pid > 0 else None
            if group is not None:
                group.kill_frozen()
        self.remove(container)

    def find_leftovers(self) -> list[str]:
        """Every container that carries this node's labels, running or not."""
        labels = [f"{key}={value}" for key, value in self._labels.items()]
        return [str(each["Id"]) for each in self.api.containers(all=True, filters={"label": labels})]

    def read_logs(self, container: str) -> str:
        return bytes(self.api.logs(container, tail=_LOG_LINES)).decode(errors="replace").strip()


def container_name(sandbox_id: str) -> str:
    return f"faas-{sandbox_id}"
