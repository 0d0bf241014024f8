"""Who a sandbox is on the host: a user id of its own, and the marks by which a node knows its own sandboxes again."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

UID_FIRST = 200_000
_RANGE = 50_000  # user ids per node
_RANGES = 40_000  # 200,000 + 40,000 x 50,000 still fits a signed 32-bit id

# What every engine gives a sandbox, so that code behaves the same on each.
TMP_BYTES = 64 * 1024**2
SHM_BYTES = 64 * 1024**2
PIDS_MAX = 512  # processes and threads until ``resize`` says otherwise
PIDS_TOP = 4096  # where only a limit set once can be had; more than ``resize`` is asked for
OPEN_FILES_MAX = 4096
HOSTNAME = "sandbox"
SOCKET_MOUNT = "/run/faas"
SOCKET_NAME = "node.sock"
STORE_MOUNT = "/opt/faas/store"
RUNTIME_MOUNT = "/opt/faas/runtime"
ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the sandbox's own
    "TMPDIR": "/tmp",  # noqa: S108
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "FAAS_SOCKET": f"{SOCKET_MOUNT}/{SOCKET_NAME}",
}
ZYGOTE = ("-I", "-S", "-B", f"{RUNTIME_MOUNT}/zygote.py")


def home_hash(home: Path) -> str:
    """Ten hex characters that tell one FAAS_HOME of this host from another."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:10]


class Uids:
    """Hands out user ids, one per living sandbox, from a range that depends on the node's home.

    So RLIMIT_NPROC, signals, /proc and files of one sandbox never reach another's, on this node or on one beside it.
    """

    def __init__(self, home: Path) -> None:
        self._first = UID_FIRST + zlib.crc32(str(home.resolve()).encode()) % _RANGES * _RANGE
        self._next = 0
        self._taken: set[int] = set()

    def take(self) -> int:
        for _ in range(_RANGE):
            uid = self._first + self._next
            self._next = (self._next + 1) % _RANGE
            if uid not in self._taken:
                self._taken.add(uid)
                return uid
        raise RuntimeError(f"{_RANGE} sandboxes at once")  # far beyond any memory budget

    def give_back(self, uid: int) -> None:
        self._taken.discard(uid)


def hand_over(socket_dir: Path, uid: int | None) -> None:
    """Let the sandbox's user, and nobody else where that can be had, reach the socket in ``socket_dir``.

    ``uid`` None: any user, since we may not give files away; the node's home, mode 0700, keeps others out.
    """
    entries = [socket_dir, *socket_dir.iterdir()]
    if uid is not None and os.geteuid() == 0:
        for path in entries:
            os.chown(path, uid, uid, follow_symlinks=False)
            path.chmod(0o500 if path.is_dir() else 0o600)
    else:
        for path in entries:
            path.chmod(0o711 if path.is_dir() else 0o666)
