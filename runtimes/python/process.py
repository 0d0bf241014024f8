"""What the kernel is asked for on behalf of a process: its protection, its limits, its own corner."""

# pathlib and contextlib would cost more to import than all of this file:
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH123, SIM105
from __future__ import annotations

import _thread
import ctypes
import os
import resource
import sys

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36
_SIGKILL = 9
_MB = 1024 * 1024
DATA_SLACK_BYTES = 32 * _MB
DATA_RESERVE_BYTES = 16 * _MB  # between the soft and the hard limit: room to say that memory ran out
NPROC_MAX = 4096
THREAD_STACK_BYTES = _MB  # as CPython on Alpine; the usual 8 MB would count against RLIMIT_DATA in full
_libc = ctypes.CDLL(None)
_prctl, _syscall = _libc.prctl, _libc.syscall
_MEMBARRIER = 324 if os.uname().machine == "x86_64" else 283  # 283 wherever numbers are the kernel's generic ones
_GLOBAL_EXPEDITED, _REGISTER_GLOBAL_EXPEDITED = 2, 4


def protect_zygote() -> None:
    """Not to be traced by instances; all orphans come to it, also when it is not PID 1."""
    _prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if os.getpid() != 1:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_node(signal: int) -> None:
    """What the kernel sends the zygote when the node has died. PID 1 of a container ends with its container."""
    if os.getpid() != 1:
        _prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)


def limit_stacks() -> None:
    """Of threads that Python code starts; a function may ask for more (``threading.stack_size``)."""
    _thread.stack_size(THREAD_STACK_BYTES)


def join_barriers() -> bool:
    """Have this process and its children take part in each other's ``barrier``; False where the kernel can't."""
    return bool(_syscall(_MEMBARRIER, _REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0 and barrier())


def barrier() -> bool:
    """A full memory barrier on every processor where one of them runs: membarrier(2)."""
    return bool(_syscall(_MEMBARRIER, _GLOBAL_EXPEDITED, 0, 0) == 0)


def data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def limit_import(memory_mb: int) -> None:
    """The function's memory limit while its module is imported; ``unlimit`` takes it back."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = data_bytes() + memory_mb * _MB + DATA_SLACK_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


def unlimit() -> None:
    """Lift the soft limit to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def limit_instances(memory_mb: int, threads: int) -> None:
    """Called in the zygote once it is the user's function; its instances inherit the limits.

    That costs nothing per fork. The memory limit is for what an instance adds to what the zygote has; the stacks of
    ``threads`` threads of ours, which count in full and are hardly used, come on top.
    """
    limit = data_bytes() + memory_mb * _MB + DATA_SLACK_BYTES + threads * THREAD_STACK_BYTES
    _lower(resource.RLIMIT_DATA, limit, limit + DATA_RESERVE_BYTES)
    _lower(resource.RLIMIT_CORE, 0, 0)
    if os.getpid() != 1:  # PID 1 has a container with a limit of its own
        _lower(resource.RLIMIT_NPROC, NPROC_MAX, NPROC_MAX)


def isolate(parent: int) -> None:
    """In a new instance: it dies with its zygote, leads a session, is the OOM killer's first choice."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    # A process that is not dumpable may not write its own oom_score_adj, nor open /dev/stdout.
    _prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, b"1000")
        os.close(descriptor)
    except OSError:  # no /proc, or a kernel that says no: the zygote is then as likely a victim
        pass
    os.setsid()


def _lower(which: int, soft: int, hard: int) -> None:
    _, now = resource.getrlimit(which)
    if now >= 0:
        soft, hard = min(soft, now), min(hard, now)
    resource.setrlimit(which, (soft, hard))


def new_entropy() -> None:
    """Generators that were seeded in the zygote would give every instance the same numbers.

    ``random`` sees to its own; ``secrets`` and ``uuid`` ask the kernel each time.
    """
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None and hasattr(numpy_random, "seed"):
        numpy_random.seed()


def own_tmpdir(base: str, instance_id: str) -> str:
    """Make the instance's TMPDIR and point everything at it. "" when there is no room for one."""
    path = f"{base}/{instance_id}"
    try:
        os.mkdir(path, 0o700)
    except OSError:
        return ""
    os.environ["TMPDIR"] = path
    tempfile = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile.tempdir = None  # type: ignore[attr-defined]
    return path


def remove_tree(top: str) -> None:
    """Remove a directory that hostile code has filled: any depth, any mode, no link followed, nothing raised.

    Directories are moved up to ``top`` before they are opened, so that no path grows and nothing recurses.
    """
    pending, serial = [top], 0
    while pending:
        path = pending.pop()
        try:
            os.chmod(path, 0o700)
            entries = list(os.scandir(path))
        except OSError:
            continue
        for entry in entries:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                    continue
                serial += 1
                moved = f"{top}/.{serial}.{os.getpid()}"
                os.chmod(entry.path, 0o700)
                os.rename(entry.path, moved)
                pending.append(moved)
            except OSError:
                continue
        if path != top:
            _rmdir(path)
    _rmdir(top)


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass
