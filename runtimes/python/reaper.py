"""The zygote as parent of all: everything that an instance leaves behind becomes its child, and is killed."""

# pathlib and contextlib would cost more to import than all of this file:
# ruff: noqa: PTH123, PTH208, SIM105
from __future__ import annotations

import os
import time

_SIGKILL, _SIGSTOP = 9, 19
SWEEPS_MAX = 8
FREEZES_MAX = 64
WAIT_S = 2.0


def kill(pid: int, signal: int = _SIGKILL) -> None:
    try:
        os.kill(pid, signal)
    except (ProcessLookupError, PermissionError):
        pass


def kill_group(pid: int) -> None:
    """The process group ``pid``: at once, so that a fork bomb in it has no way out."""
    try:
        os.killpg(pid, _SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def kill_with_group(pid: int) -> None:
    """A child, dead or not, and its process group, if that is not ours: what forks on and on in it has no way out."""
    try:
        group = os.getpgid(pid)
    except OSError:
        group = 0
    if group > 1 and group != os.getpgrp():
        kill_group(group)
    kill(pid)


def end_group() -> None:
    """Our own process group, this process included, if it is ours alone."""
    if os.getpgrp() == os.getpid():
        kill_group(os.getpid())


def ended() -> int | None:
    """Pid of a child that has ended and is not reaped (so the number is still its own); None when there is none."""
    try:
        info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return info.si_pid if info is not None else None


def sweep(live: set[int]) -> bool:
    """Kill and reap every child that is neither in ``live`` nor in the session of one that is, until none is left.

    False when they multiply faster than they can be killed, even after having been stopped first.
    """
    for _ in range(SWEEPS_MAX):
        strays = [pid for pid in children() if not _belongs(pid, live)]
        if not strays:
            return True
        _finish(strays)
    for _ in range(FREEZES_MAX):
        strays = _strays_below(live)
        if not strays:
            return True
        for pid in strays:
            kill(pid, _SIGSTOP)
        if not set(_strays_below(live)) - set(strays):
            _finish(strays)
    return False


def children() -> list[int]:
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # a kernel without it
        return [pid for pid, parent in _parents().items() if parent == me]


def _belongs(pid: int, live: set[int]) -> bool:
    if pid in live:
        return True
    try:
        return os.getsid(pid) in live
    except OSError:
        return False


def _finish(pids: list[int]) -> None:
    for pid in pids:
        kill_with_group(pid)
    until = time.monotonic() + WAIT_S
    left = set(pids)
    while left and time.monotonic() < until:
        for pid in list(left):
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # a grandchild: whoever is its parent, or we in the next round
                done = pid
            if done:
                left.discard(pid)
        if left:
            time.sleep(0.0005)


def _parents() -> dict[int, int]:
    """Parent of every process that can be seen."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    return parents


def _strays_below(live: set[int]) -> list[int]:
    """All descendants of this process that no live instance has to do with."""
    parents = _parents()
    me = os.getpid()
    strays = []
    for pid in parents:
        above: list[int] = []
        at = pid
        while at in parents and at != me and len(above) < 4096:
            above.append(at)
            at = parents[at]
        if at == me and above and not any(_belongs(each, live) for each in above):
            strays.append(pid)
    return strays
