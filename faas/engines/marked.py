"""Finding the processes that carry our mark, and killing those and no others."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from faas.engines.bubblewrap import MARK

_GONE_WAIT_S = 2.0
_LOOKS = 200


def kill(prefix: str) -> int:
    """SIGKILL every process whose mark begins with ``prefix``, with its group, and those they fork meanwhile; how many.

    A process is opened before it is looked at, so the signal reaches the very process that carries the mark,
    whatever happens to its number. Blocks until they are gone, at most ``_GONE_WAIT_S``.
    """
    wanted = f"{MARK}={prefix}".encode()
    killed: set[int] = set()
    end = time.monotonic() + _GONE_WAIT_S
    while True:
        found = {pid for pid in itertools.chain(_youngest(), _pids()) if _kill_if_marked(pid, wanted)}
        killed |= found
        if not found or time.monotonic() > end:
            return len(killed)
        time.sleep(0.005)


def _youngest() -> Iterator[int]:
    """The newest process of the machine, a number of times: of processes that fork and exit in a chain each is gone
    before a list of all has been gone through, and each is the newest while it lives. 2 ms."""
    last = 0
    loads = os.open("/proc/loadavg", os.O_RDONLY)  # its last word is a pid
    try:
        for _ in range(_LOOKS):
            newest = int(os.pread(loads, 128, 0).split()[-1])
            if newest != last:
                yield newest
            last = newest
    finally:
        os.close(loads)


def _pids() -> list[int]:
    own = os.getpid()
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and path.name != str(own)]


def _is_marked(pid: int, wanted: bytes) -> bool:
    """Marked as an option of the interpreter, which anyone may see, or in the environment, which not all let us."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if any(option == b"-X" and value.startswith(wanted) for option, value in itertools.pairwise(arguments)):
        return True
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except PermissionError:
        return False
    return any(variable.startswith(wanted) for variable in variables)


def _kill_if_marked(pid: int, wanted: bytes) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        if not _is_marked(pid, wanted):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGSTOP)  # a group with it in it is nobody else's
            _kill_group(os.getpgid(pid), descriptor)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except OSError:  # gone, or somebody else's
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _kill_group(group: int, descriptor: int) -> None:
    """The group was that of the process behind ``descriptor``, if that is still there."""
    signal.pidfd_send_signal(descriptor, 0)
    if group != os.getpgrp():
        os.killpg(group, signal.SIGKILL)
