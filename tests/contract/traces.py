"""Looking for what an engine may have left on the machine, without asking that engine."""

from __future__ import annotations

import contextlib
from pathlib import Path

from faas.engines import cgroup
from faas.engines.bubblewrap import MARK
from faas.engines.docker import DockerEngine
from faas.engines.docker_client import connect
from faas.engines.process import ProcessEngine


def containers(engine: object) -> list[str]:
    """Names of containers with the labels of that engine's node, running or not."""
    if not isinstance(engine, DockerEngine):
        return []
    client = connect()
    try:
        labels = [f"{key}={value}" for key, value in engine._labels.items()]
        return [name for each in client.containers(all=True, filters={"label": labels}) for name in each["Names"]]
    finally:
        client.close()


def processes(engine: object) -> list[int]:
    """Pids that carry the mark of that engine's node."""
    if not isinstance(engine, ProcessEngine):
        return []
    wanted = f"{MARK}={engine._mark}.".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        said = b""
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                said += (path / name).read_bytes()
        if wanted in said and alive(int(path.name)):
            found.append(int(path.name))
    return found


def groups(engine: object) -> list[str]:
    return list(cgroup.children(engine._parent)) if isinstance(engine, ProcessEngine) else []


def alive(pid: int) -> bool:
    """A zombie is not: it waits for its parent, which may be the machine's init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def remains(engine: object) -> list[str | int]:
    """Whatever of this engine's node still exists on the machine: containers, processes, control groups."""
    return [*containers(engine), *processes(engine), *groups(engine)]
