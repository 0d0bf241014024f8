"""What the runtime is before it has a function, and how it becomes one."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from faas.wire import Error, Fork, Init, Log, Ready
from tests.contract.runtime_node import VENDOR, ZYGOTE, Node

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
        "print(*sorted(n for n in set(sys.modules) - before if n[0] != '_' and n != 'cython_runtime'))"
    )
    run = [sys.executable, "-I", "-S", "-c", script, str(ZYGOTE), str(VENDOR)]
    names = subprocess.run(run, capture_output=True, check=True, text=True).stdout.split()
    assert set(names) <= {
        *("collections", "copyreg", "ctypes", "ctypes._endian", "datetime", "enum", "functools", "gc", "genericpath"),
        *("importlib", "importlib._bootstrap", "importlib._bootstrap_external", "importlib.machinery", "itertools"),
        *(
            "json",
            "json.decoder",
            "json.encoder",
            "json.scanner",
            "keyword",
            "math",
            "mmap",
            "operator",
            "os",
            "os.path",
        ),
        *("posixpath", "re", "re._casefix", "re._compiler", "re._constants", "re._parser", "reprlib", "resource"),
        *("select", "stat", "struct", "types", "warnings"),
    }


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
            (
                "import functools\ndef deco(f):\n    @functools.wraps(f)\n    def w(*a): return f(*a)\n    return w\n"
                "@deco\ndef main(): return 9"
            ),
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
