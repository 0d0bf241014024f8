"""A sandbox's control group, read and written directly: 0.05 ms where asking an engine takes 16.

Three layouts: v2 (one hierarchy for all), v1 (one per controller: /sys/fs/cgroup/memory, pids, cpu, freezer), and v1
with a v2 hierarchy beside it that limits nothing and yet can freeze ("hybrid"). Of two freezers v2's is taken: what it
has frozen can still be killed, while under v1 the signal waits for the thaw.
Everything here is small file I/O on a kernel file system, so it may run on the event loop.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from faas.engines.freezer_file import FreezerFile, write

ROOT = Path("/sys/fs/cgroup")
HYBRID = "unified"  # where systemd and others mount the v2 hierarchy beside v1's
CONTROLLERS = ("memory", "pids", "cpu")
FREEZER = "freezer"  # a controller in v1; in v2 every group has one
CPU_PERIOD_US = 100_000
_CPU_QUOTA_US_MIN = 1000  # the kernel's
_SHARES_PER_CORE, _SHARES_MIN, _SHARES_MAX = 1024, 2, 262_144  # v1; a group that nobody gave shares has 1024
_WEIGHT_PER_CORE, _WEIGHT_MIN, _WEIGHT_MAX = 100, 1, 10_000  # v2; likewise 100
_EMPTY_WAIT_S = 2.0
_UNLIMITED = -1


def cpu_weight(share: float, *, unified: bool) -> int:
    """``cpu.weight`` (v2) or ``cpu.shares`` (v1) of a sandbox worth ``share`` cores (``faas.ports.cpu_share``).

    One core is what the kernel gives a group by default, so a sandbox of one core weighs as much as a neighbour that
    knows nothing of us: 1.0 -> 100 or 1024; 0.0724 (128 MB) -> 7 or 74; and never less than the kernel's least, 1 or 2.
    """
    if unified:
        return min(max(round(share * _WEIGHT_PER_CORE), _WEIGHT_MIN), _WEIGHT_MAX)
    return min(max(round(share * _SHARES_PER_CORE), _SHARES_MIN), _SHARES_MAX)


def cpu_quota_us(cpus: float) -> int:
    """Microseconds per ``CPU_PERIOD_US`` that ``cpus`` cores are, at least the kernel's least; 0 cores = no limit."""
    return max(int(cpus * CPU_PERIOD_US), _CPU_QUOTA_US_MIN) if cpus > 0 else _UNLIMITED


@dataclass(frozen=True, slots=True)
class Cgroup:
    """``paths`` maps controller to directory; on v2 all controllers share one."""

    paths: dict[str, Path]
    unified: bool
    may_limit: bool = True  # False: this process can only read it
    freezer: FreezerFile | None = None  # if this process may write it, as far as its mode says

    @property
    def directories(self) -> list[Path]:
        return sorted(set(self.paths.values()))

    # -- limits -----------------------------------------------------------------------------------------------------

    def limit(self, memory_bytes: int, cpus: float = 0.0, share: float = 0.0, pids: int = 0) -> None:
        """Set memory (no swap on top), CPU limit (0 = none), weight and pids (0 = as it is). Raises ``OSError``."""
        self._limit_cpu(cpus, share)
        if pids > 0 and "pids" in self.paths:
            _write(self.paths["pids"] / "pids.max", pids)
        memory = self.paths["memory"]
        if self.unified:
            _write(memory / "memory.max", memory_bytes)
            if (memory / "memory.swap.max").exists():
                _write(memory / "memory.swap.max", 0)
        else:
            self._limit_memory_v1(memory, memory_bytes)

    def _limit_cpu(self, cpus: float, share: float) -> None:
        cpu = self.paths.get("cpu")
        if cpu is None:
            return
        quota = cpu_quota_us(cpus)
        if share > 0:
            _write(cpu / ("cpu.weight" if self.unified else "cpu.shares"), cpu_weight(share, unified=self.unified))
        if self.unified:
            _write(cpu / "cpu.max", f"{quota if quota > 0 else 'max'} {CPU_PERIOD_US}")
        else:
            _write(cpu / "cpu.cfs_quota_us", quota)

    def _limit_memory_v1(self, memory: Path, memory_bytes: int) -> None:
        # memory + swap may never be below memory, so the order depends on the direction
        limits = [memory / "memory.limit_in_bytes", memory / "memory.memsw.limit_in_bytes"]
        if not limits[1].exists():  # kernel without swap accounting
            limits.pop()
        elif memory_bytes > int(limits[1].read_text()):
            limits.reverse()
        for path in limits:
            _write(path, memory_bytes)

    # -- what it holds ----------------------------------------------------------------------------------------------

    def memory_bytes(self) -> int:
        """What is charged to the group, the kernel's part too, less the file cache it would give back first.

        That is what ``docker stats`` and the kubelet call used. 0 when the group is gone.
        """
        memory = self.paths["memory"]
        try:
            used = int((memory / ("memory.current" if self.unified else "memory.usage_in_bytes")).read_text())
            counters = _counters(memory / "memory.stat")
        except OSError:
            return 0
        return max(used - counters["inactive_file" if self.unified else "total_inactive_file"], 0)

    def oom_kills(self) -> int:
        """Processes the kernel has killed here for want of memory; 0 when it does not say or the group is gone."""
        try:
            counters = _counters(self.paths["memory"] / ("memory.events" if self.unified else "memory.oom_control"))
        except OSError:
            return 0
        return counters.get("oom_kill", 0)

    def processes(self) -> set[int]:
        found: set[int] = set()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                found |= {int(line) for line in (directory / "cgroup.procs").read_text().split()}
        return found

    # -- stopping and ending it -------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL everything in the group, once nothing in it can fork any more: neither a bomb nor a chain outruns it.

        Frozen processes, too: v1's freezer keeps the signal from them, so they are thawed, and die of it at once.
        """
        with contextlib.suppress(KeyError, OSError):
            _write(self.paths["pids"] / "pids.max", 0)
        if not self._kill_at_once():
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self.freezer is not None:
            with contextlib.suppress(OSError):
                self.freezer.thaw()

    def _kill_at_once(self) -> bool:
        """By the kernel, where it has a file for that."""
        for directory in self.directories:
            with contextlib.suppress(OSError):
                _write(directory / "cgroup.kill", 1)
                return True
        return False

    def kill_frozen(self) -> None:
        """``kill``, if it is frozen or about to be: an engine that knows nothing of it would wait in vain."""
        with contextlib.suppress(OSError):
            if self.freezer is not None and self.freezer.is_asked():
                self.kill()

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


def may_freeze() -> bool:
    """Whether this process may use the kernel's freezer at all, as far as can be said without trying it on a group."""
    base = _bases().get(FREEZER)
    return base is not None and may_write(base)


def holds(pid: int, part: str) -> bool:
    """Whether ``pid`` is a process whose group's path contains ``part``, a container's id say.

    Guards against a number of another pid namespace: an engine in a virtual machine, a node in a container.
    """
    return bool(_memberships(pid, part))


def of_process(pid: int, must_contain: str) -> Cgroup | None:
    """The group of ``pid``, if its path contains ``must_contain`` (see ``holds``) and this process can read it.

    An ordinary user who may use the engine sees what its containers hold, and has to ask the engine for all else.
    """
    members = _memberships(pid, must_contain)
    unified = is_unified()
    if unified:
        directory = ROOT / members.get("", "").lstrip("/")
        paths = dict.fromkeys((*CONTROLLERS, FREEZER), directory) if "" in members else {}
    else:
        paths = {name: ROOT / name / members[name].lstrip("/") for name in (*CONTROLLERS, FREEZER) if name in members}
        beside = ROOT / HYBRID / members.get("", "").lstrip("/")
        if "" in members and (beside / "cgroup.freeze").exists():
            paths[FREEZER] = beside
    limit = "memory.max" if unified else "memory.limit_in_bytes"
    if "memory" not in paths or not os.access(paths["memory"] / limit, os.R_OK):
        return None
    return Cgroup(paths, unified, may_write(paths["memory"] / limit), _freezer(paths))


def make(parent: str, name: str) -> Cgroup:
    """A new group ``PARENT/NAME`` under the root. Raises ``OSError`` where this process may not do that."""
    if is_unified():
        directory = ROOT / parent / name
        directory.parent.mkdir(exist_ok=True)
        wanted = " ".join(f"+{controller}" for controller in CONTROLLERS)
        for above in (ROOT, directory.parent):
            _write(above / "cgroup.subtree_control", wanted)
        directory.mkdir()
        paths = dict.fromkeys((*CONTROLLERS, FREEZER), directory)
        return Cgroup(paths, unified=True, freezer=_freezer(paths))
    made: dict[str, Path] = {}
    try:
        for controller, base in _bases().items():
            directory = base / parent / name
            try:
                directory.mkdir(parents=True)
            except OSError:
                if controller != FREEZER:  # which can be done without
                    raise
            else:
                made[controller] = directory
        if "memory" not in made:
            raise FileNotFoundError("there is no memory controller")
    except OSError:
        for directory in made.values():
            directory.rmdir()
        raise
    return Cgroup(made, unified=False, freezer=_freezer(made))


def children(parent: str) -> dict[str, Cgroup]:
    """Groups under ``parent`` by name: what an earlier run made and did not remove."""
    found: dict[str, dict[str, Path]] = {}
    for controller, base in _bases().items():
        if (base / parent).is_dir():
            for directory in (base / parent).iterdir():
                if directory.is_dir():
                    found.setdefault(directory.name, {})[controller] = directory
    return {name: Cgroup(paths, is_unified(), freezer=_freezer(paths)) for name, paths in found.items()}


def remove_parent(parent: str) -> None:
    """Remove the empty parent group; leaves it when something is in it."""
    for base in set(_bases().values()):
        with contextlib.suppress(OSError):
            (base / parent).rmdir()


def _bases() -> dict[str, Path]:
    """The root of each hierarchy that groups are made in, by controller."""
    if is_unified():
        return dict.fromkeys((*CONTROLLERS, FREEZER), ROOT)
    bases = {name: ROOT / name for name in (*CONTROLLERS, FREEZER) if (ROOT / name).is_dir()}
    if (ROOT / HYBRID / "cgroup.controllers").exists():
        bases[FREEZER] = ROOT / HYBRID
    return bases


def _memberships(pid: int, part: str) -> dict[str, str]:
    """Path of the process's group per v1 controller and, under "", in v2; only those that contain ``part``."""
    try:
        entries = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if part in path:
            found |= dict.fromkeys(controllers.split(","), path)
    return found


def may_write(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _freezer(paths: dict[str, Path]) -> FreezerFile | None:
    file = FreezerFile.of(paths[FREEZER]) if FREEZER in paths else None
    return file if file is not None and may_write(Path(file.asked)) else None


def _counters(path: Path) -> dict[str, int]:
    """A file of lines "name value"."""
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def _write(path: Path, value: int | str) -> None:
    write(path, str(value).encode())
