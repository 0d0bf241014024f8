"""The command lines that put a zygote into namespaces of its own, or into none.

Three ways, best first; ``ProcessEngine`` tries each once, for real, and takes the first that works:

- ROOT: the node is root. bubblewrap makes the namespaces with root's rights, then ``setpriv`` becomes a user that owns
  nothing and is not shared with any other sandbox.
- USER: the node is not root. A user namespace, in which the sandbox has one user; on the host that is the node's own.
- PLAIN: no bubblewrap. A child process with limits, its own process group, and whatever the node can see.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from faas.engines.identity import (
    ENVIRONMENT,
    HOSTNAME,
    OPEN_FILES_MAX,
    PIDS_TOP,
    RUNTIME_MOUNT,
    SHM_BYTES,
    SOCKET_MOUNT,
    SOCKET_NAME,
    STORE_MOUNT,
    TMP_BYTES,
)

# In the environment or the arguments of every process of a sandbox: how leftovers are told from strangers.
MARK = "FAAS_SANDBOX"
_UID_INSIDE = 1000
_ETC = ("ssl", "pki", "ca-certificates", "crypto-policies", "localtime", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
        "alternatives", "mime.types", "nsswitch.conf", "services", "protocols")  # fmt: skip
_ETC_NETWORK = ("resolv.conf", "hosts", "gai.conf", "host.conf")
# ulimit and the move into the control group are done by the shell itself, before it becomes the next program
_ENTER = (
    f"ulimit -c 0; ulimit -n {OPEN_FILES_MAX}; "
    'for group in $FAAS_CGROUPS; do echo 0 >"$group" || exit 97; done; unset FAAS_CGROUPS; exec "$@"'
)


class Way(StrEnum):
    ROOT = "bwrap-root"
    USER = "bwrap-user"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Machine:
    """What of this machine a sandbox is made from."""

    python: Path  # the interpreter, never the venv's
    prefix: Path
    runtime: Path  # directory with zygote.py and _vendor
    store: Path


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one sandbox: for ``subprocess.Popen`` (environment is whole, nothing is inherited)."""

    arguments: list[str]
    environment: dict[str, str]


def interpreter() -> tuple[Path, Path]:
    """The machine's own Python that this process runs on, and its prefix: not the virtual environment."""
    prefix = Path(sys.base_prefix).resolve()
    named = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = named if named.exists() else Path(getattr(sys, "_base_executable", sys.executable))
    return python.resolve(), prefix


def missing(way: Way) -> str:
    """Which tool ``way`` needs and this machine lacks; "" when none."""
    if way is not Way.PLAIN and shutil.which("bwrap") is None:
        return "bwrap"
    return "setpriv" if way is Way.ROOT and not _tool("setpriv") else ""


def command(
    way: Way,
    machine: Machine,
    program: Sequence[str],
    *,
    mark: str,
    uid: int | None,
    socket_dir: Path | None,
    tmp: Path | None,
    egress: bool,
    cgroups: Sequence[Path] = (),
    seccomp_fd: int | None = None,
    info_fd: int | None = None,
) -> Command:
    """Start ``program`` (arguments of the interpreter) the given way.

    ``cgroups`` are ``cgroup.procs`` files to enter first; ``tmp`` is the directory for temporary files in the PLAIN
    way; ``info_fd`` receives bubblewrap's JSON with the host's pid of the sandbox's first process.
    """
    environment = {"PATH": os.defpath, MARK: mark, "FAAS_CGROUPS": " ".join(map(str, cgroups))}
    enter = ["/bin/sh", "-c", _ENTER, "sh"]
    inside = {**ENVIRONMENT, MARK: mark}
    if way is Way.PLAIN:
        if socket_dir is not None:
            inside["FAAS_SOCKET"] = str(socket_dir / SOCKET_NAME)
        if tmp is not None:
            inside |= {"HOME": str(tmp), "TMPDIR": str(tmp)}
        own = [word.replace(RUNTIME_MOUNT, str(machine.runtime)) for word in program]
        # the zygote hides its environment from its own user (it is not dumpable), but not its arguments
        arguments = [*enter, *_become(uid), *_env(inside), str(machine.python), "-X", f"{MARK}={mark}", *own]
        return Command(arguments, environment)
    bwrap = shutil.which("bwrap") or "bwrap"
    arguments = [*enter, bwrap, *_namespaces(way, egress), *_files(machine, socket_dir, egress)]
    for name, value in inside.items():
        arguments += ["--setenv", name, value]
    if seccomp_fd is not None:
        arguments += ["--seccomp", str(seccomp_fd)]
    if info_fd is not None:
        arguments += ["--info-fd", str(info_fd)]
    change = _become(uid) if way is Way.ROOT else _process_limit()
    return Command([*arguments, "--", *change, str(machine.python), *program], environment)


def sentence(way: Way, *, own_user: bool, limited: bool, refused: Sequence[str]) -> str:
    """What the chosen way keeps apart and what it does not, and why none better was taken."""
    limits = "" if limited else "; no limit of memory or processor time, for lack of a control group the node may write"
    if way is Way.PLAIN:
        user = "a user of its own" if own_user else "root" if os.geteuid() == 0 else "the node's user"
        return (
            f"NOT ISOLATED: every sandbox is a plain child process and runs as {user}{limits}; deploy only code"
            f" you trust, or install bubblewrap or Docker ({'; '.join(dict.fromkeys(refused)) or 'as asked for'})"
        )
    user = "a user of its own" if way is Way.ROOT else "on this host the node's user: it can list the store"
    return (
        f"every sandbox is a set of namespaces made by bubblewrap: {user}, no capabilities, read-only files, no"
        f" network{limits}; functions that ask for egress share this host's network"
    )


def _become(uid: int | None) -> list[str]:
    """Become ``uid``, and die with the parent: asked for again here, since a change of user takes that back."""
    setpriv = _tool("setpriv")
    if not setpriv:
        return []
    user = [] if uid is None else ["--reuid", str(uid), "--regid", str(uid), "--clear-groups", "--inh-caps=-all"]
    return [setpriv, *user, "--no-new-privs", "--pdeathsig", "KILL", "--"]


def _process_limit() -> list[str]:
    """Counted per user namespace, so it must be set inside."""
    prlimit = _tool("prlimit")
    return [prlimit, f"--nproc={PIDS_TOP}", "--"] if prlimit else []


def _tool(name: str) -> str:
    """Where a system tool is, as seen from inside as well: not what PATH may say; "" when it is not there."""
    return shutil.which(name, path="/usr/bin:/bin:/usr/sbin:/sbin") or ""


def _env(variables: Mapping[str, str]) -> list[str]:
    return [_tool("env"), "-i", *(f"{name}={value}" for name, value in variables.items())]


def _namespaces(way: Way, egress: bool) -> list[str]:
    words = ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", HOSTNAME]
    words += ["--as-pid-1", "--die-with-parent", "--new-session", "--clearenv"]
    if not egress:
        words.append("--unshare-net")
    if way is Way.USER:
        words += ["--unshare-user", "--disable-userns", "--uid", str(_UID_INSIDE), "--gid", str(_UID_INSIDE)]
    else:  # just what setpriv needs to become someone else; that change drops them
        words += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    return words


def _files(machine: Machine, socket_dir: Path | None, egress: bool) -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for name in _ETC + (_ETC_NETWORK if egress else ()):
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    words += ["--proc", "/proc", "--dev", "/dev"]
    words += ["--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm"]  # noqa: S108 - the sandbox's own
    words += ["--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp"]  # noqa: S108
    binds = [(machine.runtime, Path(RUNTIME_MOUNT)), (machine.store, Path(STORE_MOUNT))]
    if not machine.prefix.is_relative_to("/usr"):
        binds.append((machine.prefix, machine.prefix))
    if socket_dir is not None:
        binds.append((socket_dir, Path(SOCKET_MOUNT)))
    for source, target in binds:
        for parent in reversed(target.parents[:-1]):  # else made with mode 0700 when the source is not for everyone
            words += ["--perms", "0755", "--dir", str(parent)]
        words += ["--ro-bind", str(source), str(target)]
    return [*words, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108
