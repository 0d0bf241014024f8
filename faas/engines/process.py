"""Sandboxes as processes, for machines without a container engine: bubblewrap's namespaces, or plain children.

Contract beyond the port's: ``isolation`` says aloud what the chosen way does and does not keep apart. Sandboxes die
with the node, however it dies (parent-death signal), as far as the kernel lets that be: of plain children the zygote
ends what it has forked. What still outlives the node is found by its mark or by its control group, and killed when the
node starts again. Nothing else is ever signalled: a process is opened (pidfd) before its mark is read, so no reused pid
can be hit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from faas.engines import cgroup, freezer, marked, proc, seccomp
from faas.engines.bubblewrap import Command, Machine, Way, command, interpreter, missing, sentence
from faas.engines.freezer import Freezer, Freezing, GroupFreezer, SignalFreezer
from faas.engines.identity import PIDS_MAX, STORE_MOUNT, ZYGOTE, Uids, hand_over, home_hash
from faas.engines.runtime_tree import cached_tree
from faas.engines.watch import collect
from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec, cpu_share
from faas.waiting import either

log = logging.getLogger(__name__)

_MB = 1024 * 1024
_PROBE_TIMEOUT_S = 20
_BOOT_TIMEOUT_S = 20
_EXIT_TIMEOUT_S = 10
_PROBE = ("-I", "-S", "-c", "import os, sys; os.stat(sys.argv[1]); os.stat(sys.argv[2])")


@dataclass(slots=True)
class _Sandbox:
    mark: str
    uid: int | None
    group: cgroup.Cgroup | None
    tmp: Path | None
    process: subprocess.Popen[bytes] | None = None
    first_pid: int = 0  # the zygote: its death is everybody's, and it is every orphan's parent
    first_pidfd: int = -1
    freezer: Freezer | None = None
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    info: bytearray = field(default_factory=bytearray)
    informed: asyncio.Event = field(default_factory=asyncio.Event)
    output: bytearray = field(default_factory=bytearray)


class ProcessEngine(Freezing):
    """``faas.ports.Engine`` without a container engine. ``way`` "auto" takes the best that works here.

    ``cgroups`` False makes no control groups, as where the node may not: no limits, and sandboxes stopped by signal.
    """

    name = "process"

    def __init__(self, node_id: str, home: Path, store: Path, *, way: str = "auto", cgroups: bool = True) -> None:
        self._wanted = [Way(way)] if way != "auto" else _ways()
        self._base = home
        self._home = home_hash(home)
        self._mark = f"{self._home}.{node_id}"
        self._parent = f"faas-{self._home}-{node_id}"
        self._store = store
        self._uids = Uids(home)
        self._sandboxes: dict[str, _Sandbox] = {}
        self._machine: Machine | None = None
        self._filter = seccomp.program(os.uname().machine)
        self._cgroups = cgroups
        self.freezer = freezer.SIGNAL
        self._own_user = False
        self.way = self._wanted[-1]
        self.isolation = "not started"
        self.store_mount = STORE_MOUNT
        self.python_version = f"{sys.version_info.major}.{sys.version_info.minor}"

    # -- port -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        if self._machine is not None:
            return
        await asyncio.to_thread(self._remove_leftovers)
        python, prefix = interpreter()
        runtime = await asyncio.to_thread(cached_tree, self._base / "runtime", self.python_version)
        machine = Machine(python, prefix, runtime.resolve(), self._store.resolve())
        self._cgroups = self._cgroups and await asyncio.to_thread(self._try_cgroup)
        refused: list[str] = []
        for way in self._wanted:
            why = await asyncio.to_thread(self._try, way, machine)
            if not why:
                self.way, self._machine = way, machine
                self.isolation = sentence(way, own_user=self._own_user, limited=self._cgroups, refused=refused)
                self.store_mount = str(machine.store) if way is Way.PLAIN else STORE_MOUNT
                return
            refused.append(why)
        cgroup.remove_parent(self._parent)
        raise EngineUnavailable(f"no sandbox can be made of processes here ({'; '.join(refused)})")

    async def boot(self, spec: SandboxSpec) -> None:
        if self._machine is None:
            raise EngineUnavailable("the process engine was not started")
        if spec.runtime != "python":
            raise EngineUnavailable(f"the process engine has no runtime {spec.runtime}: only python is built in")
        if spec.id in self._sandboxes:
            raise EngineUnavailable(f"the sandbox {spec.id} exists already")
        uid = self._uids.take() if self._own_user else None
        sandbox = self._sandboxes[spec.id] = _Sandbox(f"{self._mark}.{spec.id}", uid, None, None)
        try:
            hand_over(spec.socket_dir, uid)
            self._prepare(spec, sandbox)
            self._launch(spec, sandbox, self._machine)
            await self._running(sandbox)
            sandbox.freezer = _freezer(sandbox)
        except BaseException as error:
            words = bytes(sandbox.output).decode(errors="replace").strip()
            await asyncio.shield(self.remove(spec.id))
            if isinstance(error, OSError | TimeoutError):
                raise EngineUnavailable(
                    f"a sandbox could not be started: {error or 'it took too long'} {words}"
                ) from error
            raise

    async def exited(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is not None:
            await sandbox.exited.wait()

    async def resize(
        self, sandbox_id: str, memory_bytes: int, cpus: float = 0.0, share: float = 0.0, pids: int = 0
    ) -> None:
        sandbox = self._living(sandbox_id)
        if sandbox.group is not None:
            try:
                sandbox.group.limit(memory_bytes, cpus, share or cpu_share(memory_bytes // _MB), pids)
            except OSError as error:
                raise EngineUnavailable(f"the sandbox {sandbox_id} could not be resized: {error}") from error

    def freezer_of(self, sandbox_id: str) -> Freezer:
        found = self._living(sandbox_id).freezer
        assert found is not None
        return found

    async def memory_bytes(self, sandbox_id: str) -> int:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.process is None:
            return 0
        if sandbox.group is not None:
            return sandbox.group.memory_bytes()
        outermost = sandbox.process.pid
        return await asyncio.to_thread(lambda: proc.memory_bytes(seen.pid for seen in proc.tree(outermost)))

    def oom_kills(self, sandbox_id: str) -> int:
        sandbox = self._sandboxes.get(sandbox_id)
        return sandbox.group.oom_kills() if sandbox is not None and sandbox.group is not None else 0

    async def remove(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        if self.way is Way.PLAIN and sandbox.group is None and sandbox.first_pidfd >= 0:
            await asyncio.to_thread(proc.end_groups_below, sandbox.first_pid, sandbox.first_pidfd)
        self._kill(sandbox)
        if sandbox.process is not None and not await either(sandbox.exited, _EXIT_TIMEOUT_S):
            raise EngineUnavailable(f"the sandbox {sandbox_id} does not die: is its disk or network stuck?")
        await asyncio.to_thread(self._clean, sandbox)
        if self._sandboxes.pop(sandbox_id, None) is not None:
            sandbox.exited.set()
            if sandbox.uid is not None:
                self._uids.give_back(sandbox.uid)
            if sandbox.first_pidfd >= 0:
                os.close(sandbox.first_pidfd)

    async def close(self) -> None:
        await asyncio.gather(*(self.remove(each) for each in list(self._sandboxes)))
        await asyncio.to_thread(cgroup.remove_parent, self._parent)
        self._machine = None

    # -- beyond the port --------------------------------------------------------------------------------------------

    async def output(self, sandbox_id: str) -> str:
        """The first of what the sandbox's zygote itself wrote: why it did not come up, if it did not."""
        sandbox = self._sandboxes.get(sandbox_id)
        return bytes(sandbox.output).decode(errors="replace").strip() if sandbox is not None else ""

    def _living(self, sandbox_id: str) -> _Sandbox:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None or sandbox.freezer is None:
            raise EngineUnavailable(f"there is no sandbox {sandbox_id}")
        return sandbox

    # -- choosing a way ---------------------------------------------------------------------------------------------

    def _try(self, way: Way, machine: Machine) -> str:
        """Start the interpreter this way, once; "" when that works, else why not."""
        tool = missing(way)
        if tool:
            return f"{tool} is not installed"
        uids: list[int | None] = [None]
        if os.geteuid() == 0:
            if way is Way.ROOT:
                uids = [self._uids.take()]
            elif way is Way.PLAIN and shutil.which("setpriv"):
                uids = [self._uids.take(), None]
        why = ""
        for uid in uids:
            why = self._probe(way, machine, uid)
            if uid is not None:
                self._uids.give_back(uid)
            if not why:
                self._own_user = uid is not None
                break
        return why

    def _probe(self, way: Way, machine: Machine, uid: int | None) -> str:
        plain = way is Way.PLAIN
        seen = (str(machine.runtime / "zygote.py"), str(machine.store)) if plain else (ZYGOTE[-1], STORE_MOUNT)
        filter_fd = self._filter_fd(way)
        probe = command(
            way, machine, [*_PROBE, *seen], mark=f"{self._mark}.probe", uid=uid, socket_dir=None, tmp=None,
            egress=False, seccomp_fd=filter_fd,
        )  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603
                probe.arguments, env=probe.environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True,
                timeout=_PROBE_TIMEOUT_S, check=False, pass_fds=[] if filter_fd is None else [filter_fd],
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            return str(error)
        finally:
            if filter_fd is not None:
                os.close(filter_fd)
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return "" if done.returncode == 0 else (said[-1] if said else f"exit code {done.returncode}")

    def _try_cgroup(self) -> bool:
        try:
            group = cgroup.make(self._parent, "probe")
        except OSError:
            return False
        if group.freezer is not None and group.freezer.works():
            self.freezer = freezer.DIRECT
        return group.remove()

    # -- starting one -----------------------------------------------------------------------------------------------

    def _prepare(self, spec: SandboxSpec, sandbox: _Sandbox) -> None:
        if self._cgroups:
            sandbox.group = cgroup.make(self._parent, spec.id)
            sandbox.group.limit(spec.memory_bytes, spec.cpus, pids=PIDS_MAX)
        if self.way is Way.PLAIN:
            sandbox.tmp = self._base / "tmp" / spec.id
            sandbox.tmp.mkdir(parents=True, mode=0o700)
            if sandbox.uid is not None:
                os.chown(sandbox.tmp, sandbox.uid, sandbox.uid)

    def _launch(self, spec: SandboxSpec, sandbox: _Sandbox, machine: Machine) -> None:
        """Fork here, in the loop's thread: the parent-death signal follows the thread that forked, not the process."""
        loop = asyncio.get_running_loop()
        output_read, output_write = os.pipe()
        info_read, info_write = os.pipe()
        filter_fd = self._filter_fd(self.way)
        passed = [info_write] if filter_fd is None else [info_write, filter_fd]
        try:
            start = self._command(spec, sandbox, machine, filter_fd, info_write)
            sandbox.process = subprocess.Popen(  # noqa: S603
                start.arguments, env=start.environment, cwd="/", stdin=subprocess.DEVNULL, stdout=output_write,
                stderr=output_write, start_new_session=True, pass_fds=passed,
            )  # fmt: skip
        except BaseException:
            os.close(output_read)
            os.close(info_read)
            raise
        finally:
            os.close(output_write)
            for descriptor in passed:
                os.close(descriptor)
        collect(loop, output_read, sandbox.output, None)
        collect(loop, info_read, sandbox.info, sandbox.informed)
        pidfd = os.pidfd_open(sandbox.process.pid)
        loop.add_reader(pidfd, _reap, loop, pidfd, sandbox)

    def _command(
        self, spec: SandboxSpec, sandbox: _Sandbox, machine: Machine, filter_fd: int | None, info_fd: int
    ) -> Command:
        return command(
            self.way, machine, ZYGOTE, mark=sandbox.mark, uid=sandbox.uid, socket_dir=spec.socket_dir.resolve(),
            tmp=sandbox.tmp, egress=spec.network == "egress", seccomp_fd=filter_fd, info_fd=info_fd,
            cgroups=[each / "cgroup.procs" for each in sandbox.group.directories] if sandbox.group is not None else [],
        )  # fmt: skip

    async def _running(self, sandbox: _Sandbox) -> None:
        """Until bubblewrap has built the namespaces and names the first process in them."""
        if self.way is Way.PLAIN:
            assert sandbox.process is not None
            sandbox.first_pid = sandbox.process.pid
            sandbox.first_pidfd = os.pidfd_open(sandbox.first_pid)  # ours: its number is not free before it is reaped
            return
        async with asyncio.timeout(_BOOT_TIMEOUT_S):
            await sandbox.informed.wait()
        if not sandbox.info:
            await either(sandbox.exited, _EXIT_TIMEOUT_S)
            raise OSError("bubblewrap gave up")
        sandbox.first_pid = int(json.loads(bytes(sandbox.info))["child-pid"])
        sandbox.first_pidfd = os.pidfd_open(sandbox.first_pid)

    def _filter_fd(self, way: Way) -> int | None:
        if self._filter is None or way is Way.PLAIN:
            return None
        descriptor = os.memfd_create("seccomp")
        os.write(descriptor, self._filter)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    # -- ending one -------------------------------------------------------------------------------------------------

    def _kill(self, sandbox: _Sandbox) -> None:
        if self.way is not Way.PLAIN and sandbox.first_pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(sandbox.first_pidfd, signal.SIGKILL)
            # bubblewrap outside waits for it, and so leaves no zombie to whoever is this machine's init
        else:
            if sandbox.group is not None:
                sandbox.group.kill()
            if sandbox.process is not None and sandbox.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(sandbox.process.pid, signal.SIGKILL)
        if sandbox.freezer is not None:
            sandbox.freezer.release()

    def _clean(self, sandbox: _Sandbox) -> None:
        if sandbox.group is None and sandbox.process is not None:
            marked.kill(sandbox.mark)
        if sandbox.group is not None and not sandbox.group.remove():
            log.warning("the control group of %s could not be removed", sandbox.mark)
        if sandbox.tmp is not None:
            shutil.rmtree(sandbox.tmp, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for group in cgroup.children(self._parent).values():
            group.remove()
        killed = marked.kill(self._mark + ".")
        if killed:
            log.info("killed %d processes of an earlier run", killed)


def _freezer(sandbox: _Sandbox) -> Freezer:
    file = sandbox.group.freezer if sandbox.group is not None else None
    if file is not None and file.works():
        return GroupFreezer(file)
    return SignalFreezer(sandbox.first_pid, sandbox.first_pidfd)


def _ways() -> list[Way]:
    return [Way.ROOT, Way.USER, Way.PLAIN] if os.geteuid() == 0 else [Way.USER, Way.PLAIN]


def _reap(loop: asyncio.AbstractEventLoop, pidfd: int, sandbox: _Sandbox) -> None:
    loop.remove_reader(pidfd)
    os.close(pidfd)
    if sandbox.process is not None:
        sandbox.process.wait()
    sandbox.exited.set()
