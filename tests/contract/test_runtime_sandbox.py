"""The life of a sandbox: what instances share and don't, what is left of them when they end."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from faas.wire import Drain, Exited, Fork, Kill, Log, Result
from tests.contract.runtime_node import VENDOR, Gone, Node, below, serving, wait_for


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# -- instances ------------------------------------------------------------------------------------------------------


def test_instances_differ_where_they_must() -> None:
    source = """
        import os, random, secrets, tempfile, uuid, resource, numpy.random
        tempfile.gettempdir()
        def handler(event, context):
            return {
                "random": random.random(), "uuid": str(uuid.uuid4()), "tmp": tempfile.gettempdir(),
                "sid": os.getsid(0), "pgid": os.getpgid(0), "numpy": numpy.random.seeded,
            }
        """
    with Node() as node:
        node.write(
            "numpy/random.py",
            "import os\nseeded = ''\ndef seed():\n    global seeded\n    seeded = os.urandom(8).hex()",
        )
        node.write("numpy/__init__.py", "")
        node.bind(source)
        peers = [node.fork() for _ in range(3)]
        seen = [peer.call() for peer in peers]
        for key in seen[0]:
            assert len({each[key] for each in seen}) == 3, key
        for peer, each in zip(peers, seen, strict=True):
            assert each["sid"] == each["pgid"] == peer.hello.pid
            assert each["tmp"] == str(node.tmp / peer.hello.instance_id)


def test_the_limits_of_an_instance() -> None:
    source = """
        import resource, os
        def handler(event, context):
            return {
                "core": resource.getrlimit(resource.RLIMIT_CORE), "data": resource.getrlimit(resource.RLIMIT_DATA),
                "nproc": resource.getrlimit(resource.RLIMIT_NPROC)[0],
                "oom": int(open("/proc/self/oom_score_adj").read()), "umask": os.umask(0),
                "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")), "stdout": os.path.exists("/dev/stdout"),
            }
        """
    with Node() as node:
        node.bind(source, memory_mb=100)
        node.fork()
        seen = node.fork().call()
        assert seen["core"] == [0, 0]
        assert seen["nproc"] <= 4096
        assert 100 << 20 < seen["data"][0] < seen["data"][1] < 200 << 20
        assert seen["oom"] == 1000
        assert len(seen["fds"]) <= 8, "descriptors of the zygote or of other instances have leaked"
        assert Path(f"/proc/{node.process.pid}/oom_score_adj").read_text().strip() != "1000"


def test_snapshot_hooks_run_around_the_fork() -> None:
    source = """
        from snapshot_restore_py import register_after_restore, register_before_snapshot
        ran = []
        @register_before_snapshot
        def first(): ran.append("before-1")
        register_before_snapshot(lambda x, y: ran.append(f"before-{x}{y}"), 2, y=3)
        @register_after_restore
        def after(): ran.append("after-1"); print("restored")
        register_after_restore(lambda x: ran.append(f"after-{x}"), 2)
        def handler(event, context): return ran
        """
    with Node() as node:
        node.bind(source)
        for _ in range(2):
            peer = node.fork()
            assert peer.call() == ["before-23", "before-1", "after-1", "after-2"]
            (line,) = node.log_lines(1)
            assert (line.invocation_id, line.stream, line.text) == ("", "stdout", "restored")


def test_the_users_own_snapshot_restore_py_is_used() -> None:
    source = """
        import snapshot_restore_py
        def handler(event, context): return snapshot_restore_py.__version__
        """
    with Node() as node:
        node.bind(source, layers=[str(VENDOR)])
        assert node.fork().call() == "1.0.0"


def test_a_restore_hook_that_fails() -> None:
    source = """
        from snapshot_restore_py import register_after_restore
        register_after_restore(lambda: 1 / 0)
        def handler(event, context): return 1
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        frame = peer.error()
        assert (frame.kind, frame.error_type) == ("exit", "ZeroDivisionError")
        assert peer.closed()
        assert node.exited().exit_code == 1


# -- ends -----------------------------------------------------------------------------------------------------------

LEFTOVERS = """
    import os, subprocess, sys, time
    def handler(event, context):
        if event == "idle": return None
        same_group = subprocess.Popen(["sleep", "1000"]).pid
        own_session = subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
        read, write = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.setsid()
                os.write(write, str(os.getpid()).encode())
                time.sleep(1000)
            os._exit(0)
        os.wait()
        daemon = int(os.read(read, 20))
        tmp = os.environ["TMPDIR"]
        os.makedirs(tmp + "/deep" + "/x" * 50)
        open(tmp + "/deep/file", "w").write("x" * 100000)
        os.symlink("/etc", tmp + "/link")
        os.mkdir(tmp + "/locked", 0)
        return [same_group, own_session, daemon]
    """


@pytest.mark.parametrize("end", ["kill", "drain", "close"])
def test_nothing_is_left_of_an_instance(end: str) -> None:
    with Node() as node:
        node.bind(LEFTOVERS)
        peer, neighbour = node.fork(), node.fork()
        left = peer.call()
        assert all(alive(pid) for pid in left)
        if end == "kill":
            node.zygote.send(Kill(peer.hello.instance_id))
        elif end == "drain":
            peer.send(Drain())
        else:
            peer.socket.close()
        frame = node.exited()
        assert frame.instance_id == peer.hello.instance_id
        assert (frame.exit_code, frame.signal) == ((None, 9) if end == "kill" else (0, None))
        assert not any(alive(pid) for pid in left)
        assert [path.name for path in node.tmp.iterdir()] == [neighbour.hello.instance_id]
        assert neighbour.call("idle") is None


def test_what_a_neighbour_started_survives() -> None:
    source = """
        import os, subprocess
        def handler(event, context):
            shell = "sleep 1000 & echo $!"
            return int(subprocess.run(["sh", "-c", shell], stdout=subprocess.PIPE).stdout.readline()) if event else 0
        """
    source = source.replace("subprocess.run", "subprocess.Popen")
    with Node() as node:
        node.bind(source)
        staying, going = node.fork(), node.fork()
        child = staying.call(1)
        node.zygote.send(Kill(going.hello.instance_id))
        node.exited()
        assert alive(child)
        node.zygote.send(Kill(staying.hello.instance_id))
        node.exited()
        assert not alive(child)


@pytest.mark.parametrize("own_session", [False, True])
def test_a_fork_bomb_dies_with_its_instance(own_session: bool) -> None:
    source = f"""
        import os, time
        def bomb(depth):
            if {own_session}: os.setsid()
            for _ in range(3):
                try:
                    if os.fork() == 0:
                        bomb(depth + 1) if depth < 3 else time.sleep(1000)
                except OSError: pass
            time.sleep(1000)
        def handler(event, context):
            if event == "fine": return 1
            print("armed")
            if os.fork() == 0: bomb(0)
            time.sleep(1000)
        """
    with Node() as node:
        node.bind(source)
        peer, neighbour = node.fork(), node.fork()
        peer.invoke(b'"x"')
        while not peer.logs():
            peer.pump()
        node.zygote.send(Kill(peer.hello.instance_id))
        assert node.exited().signal == 9
        assert below(node) == [neighbour.hello.pid]
        assert neighbour.call("fine") == 1


def test_killing_an_instance_that_is_gone_is_no_error() -> None:
    with Node() as node:
        node.bind("def handler(event, context): return 1")
        peer = node.fork()
        node.zygote.send(Kill(peer.hello.instance_id), Kill("never-was"))
        node.exited()
        node.zygote.send(Kill(peer.hello.instance_id))
        assert node.fork().call() == 1


def test_draining() -> None:
    source = """
        import atexit, time
        atexit.register(print, "bye")
        def handler(event, context):
            print("in")
            time.sleep(event)
            return "finished"
        """
    with Node() as node:
        node.bind(source)
        busy, idle = node.fork(), node.fork()
        busy.invoke(b"0.3")
        busy.send(Drain())
        idle.send(Drain())
        node.zygote.send(Drain())
        node.zygote.send_raw(b"\x00\x00\x00\x08\x92\x03\x91\xa4late")  # a FORK that crosses the DRAIN
        assert json.loads(busy.expect(Result).payload) == "finished"
        assert busy.closed()
        assert busy.logs() == [("stdout", "in"), ("stdout", "bye")]
        ends = [node.zygote.expect(Exited) for _ in range(3)]
        assert {(each.instance_id, each.exit_code) for each in ends} == {("late", 75), ("s1-1", 0), ("s1-2", 0)}
        assert node.process.wait(20) == 0


@pytest.mark.parametrize("how", ["close", "SIGTERM", "SIGKILL"])
def test_the_end_of_the_zygote_is_the_end_of_all(how: str) -> None:
    with Node() as node:
        node.bind("import time\ndef handler(event, context): time.sleep(event)")
        busy, idle = node.fork(), node.fork()
        busy.invoke(b"1000")
        if how == "close":
            node.zygote.socket.close()
        else:
            node.process.send_signal(getattr(signal, how))
        assert node.process.wait(20) == {"close": 0, "SIGTERM": 143, "SIGKILL": -9}[how]
        wait_for(lambda: not alive(busy.hello.pid) and not alive(idle.hello.pid))
        if how != "SIGKILL":
            assert list(node.tmp.iterdir()) == []


def test_the_zygote_reaps_everything_that_lands_on_it() -> None:
    source = """
        import os
        def handler(event, context):
            for _ in range(event):
                if os.fork() == 0:
                    if os.fork() == 0: os._exit(0)
                    os._exit(0)
                os.wait()
            return event
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        assert peer.call(20) == 20
        wait_for(lambda: below(node) == [peer.hello.pid])
        assert node.fork().call(0) == 0


def test_a_fork_that_is_not_possible_is_told() -> None:
    if os.geteuid() == 0:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))"
    else:
        limit = "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    with Node() as node:
        node.bind(f"{limit}\ndef handler(event, context): return 1")
        node.zygote.send(Fork(tuple(f"i{n}" for n in range(12))))
        frame = node.zygote.expect(Exited)
        assert frame.exit_code == 75
        (line, *_) = [each for each in node.zygote.frames if isinstance(each, Log)]
        assert "could not be started" in line.text


def test_an_instance_that_is_killed_while_it_answers() -> None:
    with serving("import os\ndef handler(event, context):\n    print('x')\n    os.kill(os.getpid(), 9)") as peer:
        peer.invoke()
        with pytest.raises(Gone):
            peer.expect(Result)
        assert peer.logs() == [("stdout", "x")]
