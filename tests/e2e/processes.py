"""What runs on this machine, from /proc: to kill parts of a node and to see that nothing of it is left.

A process is told by its id *and* its start time, so that an id given again is not mistaken for the old process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

ZYGOTE_SCRIPT = "zygote.py"


class Process(NamedTuple):
    pid: int
    started: int  # clock ticks since boot
    parent: int
    name: str
    command: str

    @property
    def alive(self) -> bool:
        found = read(self.pid)
        return found is not None and found.started == self.started

    @property
    def age_s(self) -> float:
        up_s = float(Path("/proc/uptime").read_text().split()[0])
        return up_s - self.started / os.sysconf("SC_CLK_TCK")

    def kill(self, number: int = signal.SIGKILL) -> bool:
        """False when it was gone already."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True


class Sandbox(NamedTuple):
    zygote: Process
    instances: tuple[Process, ...]


def read(pid: int) -> Process | None:
    """None when there is no such process, or only its corpse."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    name, _, rest = status.partition("(")[2].rpartition(")")
    fields = rest.split()
    if fields[0] in "ZX":
        return None
    return Process(pid, int(fields[19]), int(fields[1]), name, command)


def everything() -> list[Process]:
    found = [read(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process for process in found if process is not None]


def below(roots: Iterable[int], among: Iterable[Process]) -> list[Process]:
    """Every descendant of ``roots``, parents first."""
    children: dict[int, list[Process]] = {}
    for process in among:
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = list(roots)
    while waiting:
        mine = children.get(waiting.pop(0), [])
        found += mine
        waiting += [process.pid for process in mine]
    return found


def sandboxes(candidates: Iterable[Process]) -> list[Sandbox]:
    """Zygotes among ``candidates``, each with the processes directly below it."""
    runtime = {p.pid: p for p in candidates if ZYGOTE_SCRIPT in p.command and p.name != "bwrap"}
    zygotes = [p for p in runtime.values() if p.parent not in runtime]
    return [Sandbox(z, tuple(p for p in runtime.values() if p.parent == z.pid)) for z in zygotes]


def memory_bytes(pid: int) -> int:
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def wait_until(true: Callable[[], object], what: str, wait_s: float = 20.0) -> None:
    """Look again and again; an ``AssertionError`` says what did not come true. A bound on hanging, not on speed."""
    limit = time.monotonic() + wait_s
    while not true():
        assert time.monotonic() < limit, f"after {wait_s:g} s it is still not so: {what}"
        time.sleep(0.05)


def sockets(pid: int) -> set[Path]:
    """The files of the unix sockets this process listens on."""
    mine = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(str(entry.readlink()))
        except FileNotFoundError:
            continue
    found = set()
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/") and f"socket:[{fields[6]}]" in mine:
            found.add(Path(fields[7]))
    return {path for path in found if path.exists()}
