"""What /proc says of processes: who is below whom, and what they hold."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_GROUPS_WAIT_S = 0.5
_LOOK_AGAIN_S = 0.0005


@dataclass(frozen=True, slots=True)
class Seen:
    """A process at one moment. Pid and start together are never used twice."""

    pid: int
    parent: int
    state: str  # one letter, proc(5)
    started: int  # clock ticks since boot

    @property
    def ended(self) -> bool:
        return self.state in "ZXx"

    @property
    def runs(self) -> bool:
        return not self.ended and self.state not in "Tt"


def look(pid: int) -> Seen | None:
    """None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return Seen(pid, int(fields[1]), fields[0], int(fields[19]))


def tree(root: int) -> Iterator[Seen]:
    """The process ``root`` and all its descendants, each before its children are looked for; none if it is not there.

    Not one moment's picture: processes may fork and end meanwhile. But if each is stopped as it comes (and so can't
    reap), a child is overlooked only when its parent has just ended, and that one is there, dead.
    """
    found: set[int] = set()
    ahead = [root]
    parents: dict[int, list[int]] | None = None
    while ahead:
        pid = ahead.pop()
        seen = look(pid)
        if seen is None or pid in found:
            continue
        found.add(pid)
        yield seen
        below = _children(pid)
        if below is None:
            parents = _parents() if parents is None else parents
            below = parents.get(pid, [])
        ahead += below


def end_groups_below(root: int, pidfd: int) -> None:
    """Stop ``root``, which is where orphans go, and SIGKILL the process groups of its children, its own excepted.

    While it is stopped it reaps nobody, so each child, though it be dead, keeps its number and its group, and whatever
    forks on and on in that group ends with it, however fast it is. (What moves to another group at each fork may be
    faster.) Blocks until no child in a group of its own runs, or for ``_GROUPS_WAIT_S``. ``pidfd`` stands for ``root``.
    """
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        own = os.getpgid(root)
        end = time.monotonic() + _GROUPS_WAIT_S
        while time.monotonic() < end:
            signal.pidfd_send_signal(pidfd, 0)  # it is still there
            if (seen := look(root)) is not None and seen.runs:
                time.sleep(_LOOK_AGAIN_S)
                continue
            apart = {child: group for child in children(root) if (group := _group(child)) not in (0, own)}
            for group in set(apart.values()):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, signal.SIGKILL)
            if not any((seen := look(child)) is not None and not seen.ended for child in apart):
                return


def _group(pid: int) -> int:
    """0 when there is no such process."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def children(pid: int) -> list[int]:
    below = _children(pid)
    return _parents().get(pid, []) if below is None else below


def _children(pid: int) -> list[int] | None:
    """Of all its threads; None on a kernel that does not list them (CONFIG_PROC_CHILDREN)."""
    children: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - as strings
            try:
                children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
            except (FileNotFoundError, ProcessLookupError):
                if Path("/proc/self/task", str(threading.get_native_id()), "children").exists():
                    continue  # a thread that has ended
                return None
    except (FileNotFoundError, ProcessLookupError):
        return []
    return children


def _parents() -> dict[int, list[int]]:
    """Children by parent, from a look at every process there is: some milliseconds."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - as strings
        if name.isdigit() and (seen := look(int(name))) is not None:
            parents.setdefault(seen.parent, []).append(seen.pid)
    return parents


def parent(pid: int) -> int:
    """0 when there is no such process."""
    seen = look(pid)
    return seen.parent if seen is not None else 0


def memory_bytes(pids: Iterable[int]) -> int:
    """What processes hold together: private pages, and of shared ones their share (PSS).

    Of a process whose share this user may not know all resident pages count, shared ones in full.
    """
    return sum(_memory_bytes(pid) for pid in pids)


def _memory_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except PermissionError:
        try:
            return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
        except (FileNotFoundError, ProcessLookupError):
            return 0
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0
