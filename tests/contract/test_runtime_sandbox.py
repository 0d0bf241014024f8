"""The life of a sandbox: binding it, what instances share and don't, what is left of them when they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faas.wire import Drain, Error, Exited, Fork, Init, Kill, Log, Ready, Result
from tests.contract.runtime_node import VENDOR, ZYGOTE, Gone, Node, serving, wait_for


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


# -- boot -----------------------------------------------------------------------------------------------------------


def test_hello() -> None:
    with Node() as node:
        hello = node.zygote.hello
        assert (hello.role, hello.instance_id, hello.pid) == ("zygote", "", node.process.pid)
        assert hello.info == {"runtime": "python", "language": sys.version.split()[0]}
        assert node.end() == 0


def test_what_the_runtime_imports() -> None:
    """Each of these is paid by every sandbox and every start: none is to be added without need."""
    script = (
        "import sys; before = set(sys.modules); path = sys.argv[1]; zygote = {'__name__': 'zygote', '__file__': path};"
        "exec(open(path).read(), zygote); zygote['load'](sys.argv[2]); import importlib;"
        "importlib.import_module('_faas_runtime.control');"
        "print(*sorted(name for name in set(sys.modules) - before if not name.startswith('_') and name != 'cython_runtime'))"
    )
    run = [sys.executable, "-I", "-S", "-c", script, str(ZYGOTE), str(VENDOR)]
    assert subprocess.run(run, capture_output=True, check=True, text=True).stdout.split() == [
        *("collections", "copyreg", "ctypes", "ctypes._endian", "datetime", "enum", "functools", "gc", "genericpath"),
        *("importlib", "importlib._bootstrap", "importlib._bootstrap_external", "importlib.machinery", "itertools"),
        *("json", "json.decoder", "json.encoder", "json.scanner", "keyword", "math", "mmap", "operator", "os", "os.path"),
        *("posixpath", "re", "re._casefix", "re._compiler", "re._constants", "re._parser", "reprlib", "resource"),
        *("select", "stat", "struct", "types", "warnings"),
    ]


def test_nothing_of_the_runtime_can_clash_with_the_users_modules() -> None:
    names = ["msgpack", "codec", "output", "channel", "control", "process", "results", "context", "instance", "loader"]
    source = f"""
        import sys
        {"; ".join(f"import {name}" for name in names)}
        def handler(event, context):
            own = [sys.modules[name].WHO for name in {names!r}]
            runtime = [p for p in sys.path if p.endswith(("runtimes/python", "site-packages"))]
            return [set(own) == {{"user"}}, runtime]
        """
    with Node() as node:
        for name in names[1:]:
            node.write(f"{name}.py", "WHO = 'user'")
        node.write("msgpack/__init__.py", "from ._cmsgpack import WHO")
        node.write("msgpack/_cmsgpack.py", "WHO = 'user'")
        node.bind(source)
        assert node.fork().call() == [True, []]


@pytest.mark.parametrize("entry", ["json", "queue", "logging", "msgpack", "types", "_socket", "zygote"])
def test_a_function_named_like_a_library(entry: str) -> None:
    source = """
        import concurrent.futures, json, logging
        def handler(event, context):
            logging.warning("w")
            return [json.dumps(event), concurrent.futures.ThreadPoolExecutor(1).submit(int, "7").result()]
        """
    with Node() as node:
        node.bind(source, entry=entry)
        peer = node.fork()
        assert peer.call({}) == ["{}", 7]
        assert peer.logs() == [("WARNING", "w")]


# -- init -----------------------------------------------------------------------------------------------------------


def test_environment_layers_and_working_directory() -> None:
    source = """
        import os, sys, helper, dep, snapshot_restore_py
        exit, quit
        def handler(event, context):
            return {
                "env": {k: v for k, v in os.environ.items() if k in ("A", "AWS_LAMBDA_FUNCTION_NAME", "PATH")
                        or k.startswith("FAAS")},
                "cwd": os.getcwd(), "text": open("data.txt").read(), "dep": dep.WHERE, "helper": helper.WHERE,
                "argv": sys.argv, "name": __name__, "stdin": sys.stdin.read(),
            }
        """
    with Node() as node:
        layer = node.home / "layer"
        layer.mkdir()
        (layer / "dep.py").write_text("WHERE = 'layer'")
        (layer / "helper.py").write_text("WHERE = 'layer'")
        (layer / "json.py").write_text("raise RuntimeError('a layer must not shadow the standard library')")
        node.write("helper.py", "WHERE = 'code'")
        node.write("data.txt", "data")
        node.bind(source, layers=[str(layer)], env={"A": "1", "PATH": "/bin"})
        assert node.fork().call() == {
            "env": {"A": "1", "AWS_LAMBDA_FUNCTION_NAME": "fn", "PATH": "/bin"},
            "cwd": str(node.code),
            "text": "data",
            "dep": "layer",
            "helper": "code",
            "argv": [""],
            "name": "fn",
            "stdin": "",
        }


@pytest.mark.parametrize(
    ("source", "handler", "kind", "value"),
    [
        ("def handler(e, c): return 1\ndef main(): return 2", "", "sync", 1),
        ("def main(): return 2", "", "sync", 2),
        ("def main(e): return [e]", "", "sync", [5]),
        ("def other(e, c=None, d=3): return 3", "other", "sync", 3),
        ("class S:\n    @classmethod\n    def run(cls, e, c): return 4", "S.run", "sync", 4),
        ("class H:\n    def __call__(self, e, c): return 5\nhandler = H()", "", "sync", 5),
        ("class H:\n    async def __call__(self, e): return 6\nhandler = H()", "", "async", 6),
        ("import functools\nhandler = functools.partial(lambda a, e, c: a + e, 2)", "", "sync", 7),
        ("handler = lambda *a: len(a)", "", "sync", 2),
        ("def app(event, context): return 8", "", "sync", 8),
        (
            "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def w(*a): return f(*a)\n    return w\n"
            "@deco\ndef main(): return 9",
            "",
            "sync",
            9,
        ),
        ("", "lib.deep.run", "sync", 10),
        ("", "lib/deep.run", "sync", 10),
        ("def run(e, c): return 11", "fn.run", "sync", 11),
    ],
)
def test_finding_the_handler(source: str, handler: str, kind: str, value: object) -> None:
    with Node() as node:
        node.write("lib/deep.py", "def run(e, c): return 10")
        assert node.bind(source, handler=handler).info["kind"] == kind
        assert node.fork().call(5) == value


@pytest.mark.parametrize(
    ("source", "changes", "kind", "error_type", "said"),
    [
        ("import nothere", {}, "function", "ModuleNotFoundError", "nothere"),
        ("1 / 0", {}, "function", "ZeroDivisionError", "division by zero"),
        ("def f(:\n  pass", {}, "function", "SyntaxError", "(fn.py, line 1)"),
        ("import sys; sys.exit(4)", {}, "exit", "SystemExit", "sys.exit(4)"),
        ("raise KeyboardInterrupt", {}, "function", "KeyboardInterrupt", ""),
        ("def a(): 0\nclass B: 0\nimport os", {}, "function", "HandlerNotFound", "it defines: a, B"),
        ("x = 1", {}, "function", "HandlerNotFound", "no functions or classes"),
        ("def a(): 0", {"handler": "b"}, "function", "HandlerNotFound", "has no 'b'; it defines: a"),
        ("handler = 3", {}, "function", "HandlerNotCallable", "fn.handler is of type int"),
        (None, {"entry": "gone"}, "function", "ModuleNotFoundError", "gone"),
        ("x = bytearray(1 << 30)", {"memory_mb": 64}, "oom", "MemoryError", ""),
        (
            "import snapshot_restore_py as s\ns.register_before_snapshot(lambda: 1 / 0)\ndef handler(): 0",
            {},
            "function",
            "ZeroDivisionError",
            "division",
        ),
    ],
)
def test_an_import_that_fails(
    source: str | None, changes: dict[str, object], kind: str, error_type: str, said: str
) -> None:
    with Node() as node:
        node.zygote.send()
        frame = node.init(source, **changes)
        assert isinstance(frame, Error)
        assert (frame.invocation_id, frame.kind, frame.error_type) == ("", kind, error_type)
        assert said in frame.message
        assert "_faas_runtime" not in frame.traceback
        assert "importlib" not in frame.traceback
        assert str(node.code) not in frame.traceback
        assert node.process.wait(20) == 1


def test_the_traceback_of_an_import_shows_the_users_frames() -> None:
    with Node() as node:
        node.write("inner.py", "def go():\n    raise ValueError('deep')\ngo()")
        frame = node.init("import inner\n")
        assert isinstance(frame, Error)
        assert [line.strip() for line in frame.traceback.splitlines() if "File" in line] == [
            'File "fn.py", line 1, in <module>',
            'File "inner.py", line 3, in <module>',
            'File "inner.py", line 2, in go',
        ]


def test_a_syntax_error_shows_its_place() -> None:
    with Node() as node:
        frame = node.init("x = 1\ny = (\n")
        assert isinstance(frame, Error)
        assert 'File "fn.py", line 2' in frame.traceback


def test_forks_asked_for_with_init_are_made_after_it() -> None:
    with Node() as node:
        node.write("fn.py", "def handler(event, context): return event")
        node.zygote.send(Init(node.config()), Fork(("a", "b")))
        peers = [node.accept(), node.accept()]
        assert {peer.hello.instance_id for peer in peers} == {"a", "b"}
        assert node.zygote.expect(Ready).init_ns > 0
        assert [peer.call(n) for n, peer in enumerate(peers)] == [0, 1]


def test_code_that_forks_while_imported_can_not_speak_for_the_zygote() -> None:
    source = """
        import os, subprocess, multiprocessing
        pid = os.fork()
        if pid == 0:
            print("child")
        else:
            os.waitpid(pid, 0)
        subprocess.run(["true"], check=True)
        def handler(event, context): return "ok"
        """
    with Node() as node:
        node.bind(source)
        assert node.fork().call() == "ok"


def test_threads_signals_and_collection_set_up_while_imported() -> None:
    source = """
        import gc, signal, threading
        gc.disable()
        hits = []
        signal.signal(signal.SIGTERM, lambda *_: hits.append(1))
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        def handler(event, context):
            signal.raise_signal(signal.SIGTERM)
            return [hits, gc.isenabled(), threading.active_count()]
        """
    with Node() as node:
        node.bind(source)
        (line,) = [frame for frame in node.zygote.frames if isinstance(frame, Log)]
        assert line.stream == "WARNING"
        assert "threads" in line.text
        assert node.fork().call() == [[1], False, 1]
        node.process.send_signal(signal.SIGTERM)  # the zygote's own handler is in force again
        assert node.process.wait(20) == 143


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
        node.write("numpy/random.py", "import os\nseeded = ''\ndef seed():\n    global seeded\n    seeded = os.urandom(8).hex()")
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
        below = subprocess.run(["ps", "-o", "pid=", "--ppid", str(node.process.pid)], capture_output=True, text=True)
        assert below.stdout.split() == [str(neighbour.hello.pid)]
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
        stat = ["ps", "-o", "stat=", "--ppid", str(node.process.pid)]
        wait_for(lambda: "Z" not in subprocess.run(stat, capture_output=True, text=True).stdout)
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
