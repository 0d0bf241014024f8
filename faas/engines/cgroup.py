"""A sandbox's control group, read and written directly: 0.05 ms where asking an engine takes 16.

Both layouts: v1 (one hierarchy per controller under /sys/fs/cgroup/memory, pids, cpu) and v2 (one for all).
Everything here is small file I/O on a kernel file system, so it may run on the event loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "pids", "cpu")
CPU_PERIOD_US = 100_000
_EMPTY_WAIT_S = 2.0
_UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Cgroup:
    """``paths`` maps controller to directory; on v2 all controllers share one."""

    paths: dict[str, Path]
    unified: bool

    @property
    def directories(self) -> list[Path]:
        return sorted(set(self.paths.values()))

    def limit(self, memory_bytes: int, cpus: float = 0.0) -> None:
        """Set the memory limit (no swap on top) and the CPU limit (0 = none). Raises ``OSError``."""
        memory = self.paths["memory"]
        if self.unified:
            _write(memory / "memory.max", memory_bytes)
            if (memory / "memory.swap.max").exists():
                _write(memory / "memory.swap.max", 0)
        else:
            self._limit_memory_v1(memory, memory_bytes)
        cpu = self.paths.get("cpu")
        if cpu is None:
            return
        quota = int(cpus * CPU_PERIOD_US) if cpus > 0 else None
        if self.unified:
            _write(cpu / "cpu.max", f"{'max' if quota is None else quota} {CPU_PERIOD_US}")
        else:
            _write(cpu / "cpu.cfs_quota_us", _UNLIMITED if quota is None else quota)

    def _limit_memory_v1(self, memory: Path, memory_bytes: int) -> None:
        # memory + swap may never be below memory, so the order depends on the direction
        limits = [memory / "memory.limit_in_bytes", memory / "memory.memsw.limit_in_bytes"]
        if not limits[1].exists():  # kernel without swap accounting
            limits.pop()
        elif memory_bytes > int(limits[1].read_text()):
            limits.reverse()
        for path in limits:
            _write(path, memory_bytes)

    def limit_pids(self, pids_max: int) -> None:
        if "pids" in self.paths:
            _write(self.paths["pids"] / "pids.max", pids_max)

    def oom_kills(self) -> int:
        """Processes the kernel has killed here for want of memory; 0 when it does not say or the group is gone."""
        memory = self.paths["memory"]
        try:
            text = (memory / ("memory.events" if self.unified else "memory.oom_control")).read_text()
        except OSError:
            return 0
        counters = dict(line.split(maxsplit=1) for line in text.splitlines() if " " in line)
        return int(counters.get("oom_kill", 0))

    def processes(self) -> set[int]:
        found: set[int] = set()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (directory / "cgroup.procs").read_text().split()}
        return found

    def kill(self) -> None:
        """SIGKILL everything in the group; a fork bomb can't outrun it, since pids.max is already used up."""
        for directory in self.directories:
            if (directory / "cgroup.kill").exists():
                with contextlib.suppress(OSError):
                    _write(directory / "cgroup.kill", 1)
                return
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def remove(self, wait_s: float = _EMPTY_WAIT_S) -> bool:
        """Kill what is left and remove the group; blocks until it is empty, at most ``wait_s``. True when gone."""
        end = time.monotonic() + wait_s
        while True:
            self.kill()
            for directory in self.directories:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            if not any(directory.exists() for directory in self.directories):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.002)


# -- finding and making ---------------------------------------------------------------------------------------------


def is_unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def of_process(pid: int, must_contain: str) -> Cgroup | None:
    """The group of ``pid``, if this process may write it and its path contains ``must_contain``.

    The latter guards against a pid of another pid namespace (an engine in a virtual machine, a node in a container).
    """
    try:
        entries = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths: dict[str, Path] = {}
    unified = is_unified()
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if must_contain not in path:
            continue
        for controller in CONTROLLERS:
            if unified and not controllers:
                paths[controller] = ROOT / path.lstrip("/")
            elif not unified and controller in controllers.split(","):
                paths[controller] = ROOT / controller / path.lstrip("/")
    found = Cgroup(paths, unified)
    limit = "memory.max" if unified else "memory.limit_in_bytes"
    if "memory" not in paths or not os.access(paths["memory"] / limit, os.W_OK):
        return None
    return found


def make(parent: str, name: str) -> Cgroup:
    """A new group ``PARENT/NAME`` under the root. Raises ``OSError`` where this process may not do that."""
    if is_unified():
        directory = ROOT / parent / name
        directory.parent.mkdir(exist_ok=True)
        wanted = " ".join(f"+{controller}" for controller in CONTROLLERS)
        for above in (ROOT, directory.parent):
            _write(above / "cgroup.subtree_control", wanted)
        directory.mkdir()
        return Cgroup(dict.fromkeys(CONTROLLERS, directory), unified=True)
    made: dict[str, Path] = {}
    try:
        for controller in CONTROLLERS:
            if (ROOT / controller).is_dir():
                directory = ROOT / controller / parent / name
                directory.mkdir(parents=True)
                made[controller] = directory
        if "memory" not in made:
            raise FileNotFoundError("there is no memory controller")
    except OSError:
        for directory in made.values():
            directory.rmdir()
        raise
    return Cgroup(made, unified=False)


def children(parent: str) -> dict[str, Cgroup]:
    """Groups under ``parent`` by name: what an earlier run made and did not remove."""
    unified = is_unified()
    bases = {controller: ROOT / parent if unified else ROOT / controller / parent for controller in CONTROLLERS}
    found: dict[str, dict[str, Path]] = {}
    for controller, base in bases.items():
        if base.is_dir():
            for directory in base.iterdir():
                if directory.is_dir():
                    found.setdefault(directory.name, {})[controller] = directory
    return {name: Cgroup(paths, unified) for name, paths in found.items()}


def remove_parent(parent: str) -> None:
    """Remove the empty parent group; leaves it when something is in it."""
    bases = {ROOT / parent} if is_unified() else {ROOT / controller / parent for controller in CONTROLLERS}
    for base in bases:
        with contextlib.suppress(OSError):
            base.rmdir()


def _write(path: Path, value: int | str) -> None:
    path.write_text(str(value))
