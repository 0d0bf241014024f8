"""The zygote: first process of a sandbox. It has the user's module loaded, serves nothing, and forks instances.

Theory of operation
-------------------
One loop waits on the node's control connection, on the end of children (SIGCHLD writes to a pipe) and on the output
pipes of the instances. INIT makes the zygote the user's function, once and for ever; FORK makes instances, each of
which never comes back into this file; a child that has ended is cleared away completely (its process group, its
orphans, its output, its TMPDIR) before EXITED tells the node, so that EXITED means gone. Without the node there is no
reason to live: when the control connection is lost, everything is killed. If the node dies, the kernel kills a zygote
that has nothing to clear away; any other gets SIGTERM and ends what it has forked, whose orphans would be nobody's.

The user's code runs in this process while it is imported. It may leave signal handlers, threads, children and open
files behind; what must not be is that a child forked by it speaks to the node, hence ``_after_user_fork``.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time

# The C half of ``signal``; the other is enums.
from _signal import (  # type: ignore[import-not-found]
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGINT,
    SIGKILL,
    SIGTERM,
    getsignal,
    set_wakeup_fd,
    signal,
)

from . import codec, logs, process, reaper
from .channel import Channel
from .failures import Failure, failure
from .instance import Instance, template
from .loader import IN_TURN, Function, load, roots
from .output import Lines, Output, last_words, log_frames
from .pump import Gauge, Pump, Slots
from .spare import QUIET_MS, Door, rehearse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

EXIT_NO_FORK = 75  # what EXITED says of an instance that could not be made
EXIT_BROKEN = 70
_SIGNALS = (SIGCHLD, SIGINT, SIGTERM)


class Child:
    """What the zygote knows about one instance, or, while ``id`` is "", about the spare."""

    __slots__ = ("door", "id", "pid", "pump")

    def __init__(self, instance_id: str, pid: int, pump: Pump, door: Door | None) -> None:
        self.id = instance_id
        self.pid = pid
        self.pump = pump
        self.door = door


class Zygote:
    def __init__(self, path: str) -> None:
        self._path = path
        self._tmp = os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - the sandbox's own
        self._channel = Channel.dial(path)
        self._output = Output()
        self._slots = Slots()
        self._poll = select.poll()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll.register(self._channel, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        self._children: dict[int, Child] = {}
        self._spare: Child | None = None
        self._fork_ahead = False  # a spare once it is quiet; one try between two changes
        self._readers: dict[int, Pump] = {}
        self._template: Instance | None = None  # what every instance starts as, once there is a function
        self._config: dict[str, Any] = {}
        self._user_signals: dict[int, Any] = {}
        self._armed: dict[int, Any] = {}
        self._collect = True
        self._draining = False
        self._recalls = False  # invocations can be taken back from instances
        self._forking = False
        self._minding = False  # there is something to clear away when the node dies
        self._instance: Instance | None = None

    def run(self) -> None:
        self._arm()
        os.register_at_fork(after_in_child=self._after_user_fork)
        gc.collect()
        gc.freeze()  # now, so that the collection after the user's import has only the user's objects to look at
        info = {"runtime": "python", "language": sys.version.split()[0]}
        self._send(codec.encode(codec.HELLO, codec.PROTOCOL, "zygote", "", os.getpid(), info))
        while not (self._draining and not self._children):
            wants_spare = self._fork_ahead and not self._children and not self._draining
            ready = self._poll.poll(QUIET_MS if wants_spare else None)
            if not ready and wants_spare:
                self._make_spare()
            for descriptor, _ in ready:
                if descriptor == self._wake_read:
                    self._drain_wakeups()
                elif descriptor in self._readers:
                    self._read_output(descriptor)
                elif descriptor == self._channel.fileno():
                    self._control()
            self._reap()
        self._end(0)

    def _control(self) -> None:
        frames = self._channel.available()
        if frames is None:
            self._end(0)
            return
        for frame in frames:
            kind = frame[0]
            if kind == codec.FORK:
                for instance_id in frame[1]:
                    self._fork(instance_id)
            elif kind == codec.KILL:
                for child in self._children.values():
                    if child.id == frame[1]:
                        reaper.kill(child.pid)
                        reaper.kill_group(child.pid)
            elif kind == codec.RECALL:
                self._recall(frame[1], frame[2])
            elif kind == codec.INIT:
                self._init(frame[1])
            elif kind == codec.DRAIN:
                self._draining = True
                if self._spare is not None:
                    reaper.kill(self._spare.pid)

    def _send(self, data: bytes) -> None:
        try:
            self._channel.send(data)
        except OSError:  # the node is gone
            self._end(0)

    # -- becoming a function -----------------------------------------------------------------------------------------

    def _init(self, config: dict[str, Any]) -> None:
        began_ns = time.monotonic_ns()
        self._config = config
        self._output.channel = self._channel
        self._output.install()
        try:
            process.limit_import(int(config["memory_mb"]))
            function = self._load(config)
            info = self._settle(function)
        except Failure as told:
            process.unlimit()  # now, to have room for saying what went wrong
            self._output.flush()
            self._send(codec.encode(codec.ERROR, "", told.kind, told.error_type, told.message, told.traceback, 0, 0))
            self._end(1)
            return
        finally:
            process.unlimit()
        process.limit_instances(int(config["memory_mb"]), self._template.threads if self._template is not None else 0)
        self._fork_ahead = True
        self._send(codec.encode(codec.READY, time.monotonic_ns() - began_ns, info))

    def _load(self, config: dict[str, Any]) -> Function:
        """Import with descriptors 1 and 2 in memory files, whose lines are sent afterwards."""
        pid = os.getpid()
        files = [os.memfd_create(name) for name in ("stdout", "stderr")]
        before = [os.dup(1), os.dup(2)]
        for number, file in enumerate(files, start=1):
            os.dup2(file, number)
        logs.watch(self._output)
        try:
            return load(config)
        finally:
            if os.getpid() != pid:  # the module forked, and this is the child that came back from the import
                os._exit(0)
            self._output.flush()
            for number, (file, old, stream) in enumerate(
                zip(files, before, ("stdout", "stderr"), strict=True), start=1
            ):
                os.dup2(old, number)
                os.close(old)
                self._send_file(file, stream)

    def _send_file(self, file: int, stream: str) -> None:
        lines, at = Lines(), 0
        while data := os.pread(file, codec.CHUNK_BYTES_MAX, at):
            at += len(data)
            self._send(log_frames("", stream, lines.feed(data)))
        self._send(log_frames("", stream, lines.end()))
        os.close(file)

    def _settle(self, function: Function) -> dict[str, str]:
        """After the import: hooks, garbage, signals; what there is to say about the function."""
        info = {"kind": function.kind, "handler": codec.clean(function.name, codec.INFO_CHARS_MAX)}
        try:
            for hook, arguments, named in reversed(_hooks("get_before_snapshot")):
                hook(*arguments, **named)
        except BaseException as error:  # noqa: BLE001 - told like anything else that fails in the import
            raise failure(error, roots(self._config)) from None
        threading = sys.modules.get("threading")
        if threading is not None and threading.active_count() > 1:
            self._output.emit(
                "WARNING",
                ["threads started while the module was imported do not exist in instances; start them on first use"],
            )
        self._template = template(function, self._config, self._output)
        # What is asynchronous takes invocations from an event loop, and what is shared several at once: not in turn.
        self._recalls = not self._template.is_shared and function.kind in IN_TURN and process.join_barriers()
        if self._recalls:
            info["recall"] = "1"
        self._collect = gc.isenabled()
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing here makes garbage, and a collection would touch pages that instances share
        for number in _SIGNALS:  # what the import did not touch is ours, and not for instances to inherit
            handler = getsignal(number)
            self._user_signals[number] = SIG_DFL if handler is self._armed[number] else handler
        self._arm()
        self._mind(bool(reaper.children()))
        return info

    def _mind(self, minding: bool) -> None:
        if minding is not self._minding:
            self._minding = minding
            process.die_with_node(SIGTERM if minding else SIGKILL)

    def _arm(self) -> None:
        signal(SIGCHLD, lambda *_: None)
        signal(SIGINT, SIG_IGN)
        signal(SIGTERM, lambda *_: self._end(143))
        self._armed = {number: getsignal(number) for number in _SIGNALS}
        set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    # -- instances ---------------------------------------------------------------------------------------------------

    def _fork(self, instance_id: str) -> None:
        if self._template is None or self._draining:
            self._send(codec.encode(codec.EXITED, instance_id, EXIT_NO_FORK, None, 0, 0))
            return
        spare, self._spare = self._spare, None
        self._mind(True)  # a spare alone is nothing to mind: it sleeps, and dies with its zygote
        if spare is not None and spare.door is not None and spare.door.tell(instance_id):
            spare.id, spare.door = instance_id, None
        else:
            self._new_child(instance_id, None)

    def _make_spare(self) -> None:
        self._fork_ahead = False
        try:
            door = Door()
        except OSError:  # no descriptor left
            return
        self._spare = self._new_child("", door)

    def _new_child(self, instance_id: str, door: Door | None) -> Child | None:
        """Fork an instance; with a ``door``, a spare. None when that is not possible, which the node has been told."""
        try:
            at = self._slots.take()
        except IndexError:
            self._could_not_fork(instance_id, "too many instances")
            return None
        pump = None
        try:
            pump = Pump(self._slots, at)
            self._forking = True
            pid = os.fork()
        except OSError as error:  # no process, no memory or no descriptor left
            self._slots.give_back(at)
            if pump is not None:
                pump.close()
            if door is not None:
                door.close()
            self._could_not_fork(instance_id, str(error))
            return None
        finally:
            self._forking = False
        if pid == 0:
            self._become(instance_id, pump, door)
        if door is not None:
            door.half()
        pump.forget_write_ends()
        for descriptor in pump.read_ends:
            self._readers[descriptor] = pump
            self._poll.register(descriptor, select.POLLIN)
        child = self._children[pid] = Child(instance_id, pid, pump, door)
        return child

    def _recall(self, instance_id: str, upto: int) -> None:
        for child in self._children.values():
            if child.id == instance_id:
                begun = self._slots.recall(child.pump.at, upto, process.barrier) if self._recalls else upto
                self._send(codec.encode(codec.RECALLED, instance_id, begun))

    def _could_not_fork(self, instance_id: str, why: str) -> None:
        if not instance_id:  # nobody has asked for a spare
            return
        line = f"an instance could not be started: {why}"
        self._send(log_frames("", "ERROR", [line]))
        self._send(codec.encode(codec.EXITED, instance_id, EXIT_NO_FORK, None, 0, 0))

    def _become(self, instance_id: str, pump: Pump, door: Door | None) -> None:
        """In the child: be instance ``instance_id``, or who it is at the ``door``, and never return."""
        code = EXIT_BROKEN
        try:
            process.isolate(self._channel.pid)
            self._leave_zygote(pump)
            process.new_entropy()
            assert self._template is not None
            self._output.channel = None  # what the hooks print goes by the descriptors
            instance = self._instance = self._template
            gauge = Gauge(self._slots, pump.at, pump.read_ends)
            if door is not None:
                rehearse(instance, gauge, self._tmp)
                instance_id = door.wait()
            process.own_tmpdir(self._tmp, instance_id)
            instance.become(instance_id, gauge)
            instance.restore(_hooks("get_after_restore"))
            if self._collect:
                gc.enable()
            instance.open(Channel.dial(self._path))
            code = instance.serve()
        except BaseException as error:  # noqa: BLE001 - last resort: say it where the zygote will find it
            last_words(failure(error).traceback)
        finally:
            os._exit(code)

    def _leave_zygote(self, pump: Pump) -> None:
        """Let go of what belongs to the zygote or to other instances; put descriptors 1 and 2 on the pipes."""
        set_wakeup_fd(-1)
        for number, handler in self._user_signals.items():
            signal(number, SIG_DFL if handler is None else handler)
        self._channel.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        for other in self._children.values():
            other.pump.close()
        for number, descriptor in enumerate(pump.write_ends, start=1):
            os.dup2(descriptor, number)
        pump.forget_write_ends()

    def _after_user_fork(self) -> None:
        """Runs in every forked child. Unless it is an instance, it has no business with the node."""
        if self._forking:
            return
        self._output.disown()
        if self._instance is not None:
            self._instance.abandon()
        else:
            set_wakeup_fd(-1)
            self._channel.close()

    # -- the end of instances ----------------------------------------------------------------------------------------

    def _drain_wakeups(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _read_output(self, descriptor: int) -> None:
        if not self._readers[descriptor].read(descriptor, self._send):
            self._poll.unregister(descriptor)
            del self._readers[descriptor]

    def _reap(self) -> None:
        while (pid := reaper.ended()) is not None:
            child = self._children.pop(pid, None)
            if child is None:
                os.waitpid(pid, 0)
            else:
                self._clear_away(child)

    def _clear_away(self, child: Child) -> None:
        reaper.kill_group(child.pid)
        _, status, usage = os.wait4(child.pid, 0)
        if not reaper.sweep(set(self._children)):
            self._end(EXIT_BROKEN)  # a fork bomb that outruns us goes with the sandbox
        for descriptor in child.pump.read_ends:
            if self._readers.pop(descriptor, None) is not None:
                self._poll.unregister(descriptor)
        child.pump.drain(self._send)
        child.pump.close()
        self._slots.give_back(child.pump.at)
        if child is self._spare:
            self._spare = None
        if not child.id:
            return
        self._fork_ahead = True
        if not self._children:
            self._mind(bool(reaper.children()))
        process.remove_tree(f"{self._tmp}/{child.id}")
        exited = os.WIFEXITED(status)
        self._send(
            codec.encode(
                codec.EXITED,
                child.id,
                os.WEXITSTATUS(status) if exited else None,
                None if exited else os.WTERMSIG(status),
                usage.ru_maxrss * 1024,
                int((usage.ru_utime + usage.ru_stime) * 1e9),
            )
        )

    def _end(self, code: int) -> None:
        """Kill everything below and exit."""
        for child in self._children.values():
            reaper.kill(child.pid)
            reaper.kill_group(child.pid)
        outrun = not reaper.sweep(set())
        for child in self._children.values():
            if child.id:
                process.remove_tree(f"{self._tmp}/{child.id}")
        if outrun:
            reaper.end_group()
        os._exit(code)


def _hooks(getter: str) -> list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    """The hooks of ``snapshot_restore_py``, when the user's module has loaded it."""
    module = sys.modules.get("snapshot_restore_py")
    return list(getattr(module, getter)()) if module is not None else []


def main(path: str) -> None:
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    process.protect_zygote()
    process.limit_stacks()
    Zygote(path).run()
