"""Which engine a node uses: what the setting says, or the best that works here."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from faas.engines import image
from faas.engines.docker import DockerEngine
from faas.engines.docker_client import connect
from faas.engines.process import ProcessEngine
from faas.model.errors import EngineUnavailable

PROBE_TIMEOUT_S = 2


@dataclass(frozen=True, slots=True)
class Selected:
    """An engine that has started, and why it is this one, in a sentence for people."""

    engine: DockerEngine | ProcessEngine
    reason: str


async def select(
    setting: str,
    node_id: str,
    home: Path,
    store: Path,
    *,
    oci_runtime: str = "",
    blocked: tuple[str, ...] = (),
    progress: image.Progress = image.silent,
) -> Selected:
    """Start the engine that ``setting`` ("auto", "docker" or "process") names.

    "auto": Docker if an engine answers within ``PROBE_TIMEOUT_S`` and the runtime image is there or can be made, else
    processes. ``store`` is the content store, made here if it is not there. Raises ``EngineUnavailable``.
    """
    await asyncio.to_thread(_make_store, store)
    if setting == "process":
        return await _process(node_id, home, store, "FAAS_ENGINE=process")
    if setting not in ("auto", "docker"):
        raise EngineUnavailable(f"FAAS_ENGINE is {setting}: it can be auto, docker or process")
    docker = DockerEngine(node_id, home, store, oci_runtime=oci_runtime, blocked=blocked, progress=progress)
    try:
        if setting == "auto":
            await asyncio.to_thread(probe_docker)
        await docker.start()
    except EngineUnavailable as error:
        await docker.close()
        if setting == "docker":
            raise
        return await _process(node_id, home, store, f"no Docker: {error.message}")
    return Selected(docker, "FAAS_ENGINE=docker" if setting == "docker" else "a Docker engine answers")


def probe_docker() -> str:
    """The version of the engine that answers; raises ``EngineUnavailable``. Blocks at most ``PROBE_TIMEOUT_S``."""
    client = connect(timeout_s=PROBE_TIMEOUT_S)
    try:
        return str(client.version()["Version"])
    finally:
        client.close()


def _make_store(store: Path) -> None:
    store.mkdir(parents=True, exist_ok=True)
    store.chmod(0o711)


async def _process(node_id: str, home: Path, store: Path, reason: str) -> Selected:
    engine = ProcessEngine(node_id, home, store)
    await engine.start()
    return Selected(engine, reason)
