"""Handlers that misbehave: a clear error and the right record for each; next call, neighbour and node work."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.hostile import Attack, Range, crashes, fails, ok, times_out
from tests.e2e.node import Node, code
from tests.e2e.processes import wait_until

MIB = 1024 * 1024
MEMORY_MB = 96
SLACK_MB = 48  # what an instance may have beyond its memory before it is stopped
COUNT = "import os; answer = len([p for p in os.listdir('/proc') if p.isdigit()])"

ATTACKS = [
    # -- ends ---------------------------------------------------------------------------------------------------------
    crashes("exits", "import os; os._exit(3)", "code:3"),
    crashes("exits as if all were well", "import os; os._exit(0)", "code:0"),
    crashes("kills itself", "import os; os.kill(os.getpid(), 9)", "signal:SIGKILL"),
    crashes("reads where nothing is", "import ctypes; ctypes.string_at(0)", "signal:SIGSEGV"),
    crashes("aborts", "import os; os.abort()", "signal:SIGABRT"),
    crashes("sets an alarm", "import signal, time; signal.alarm(1); time.sleep(20)", "signal:SIGALRM"),
    crashes(
        "overflows the stack",
        """
        import sys, threading
        sys.setrecursionlimit(2**30)
        class Deep:
            def __repr__(self): return repr(self)
        repr(Deep())
        """,
        "signal:SIGSEGV|signal:SIGABRT|oom",
    ),
    fails("recurses", "def f(): f()\nf()", "RecursionError"),
    fails("exits politely", "import sys; sys.exit(3)", "SystemExit"),
    fails("interrupts", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    fails("raises what is no Exception", "class Odd(BaseException): pass\nraise Odd", r".*Odd"),
    fails("raises megabytes", "raise ValueError('x' * 10_000_000)", "ValueError"),
    fails("raises surrogates", "raise ValueError('\\ud800')", "ValueError"),
    fails(
        "raises what cannot be shown",
        "class Bad(Exception):\n    def __str__(self): raise RuntimeError\n    __repr__ = __str__\nraise Bad",
        r".*Bad",
    ),
    # -- memory -------------------------------------------------------------------------------------------------------
    crashes("asks for one big piece", f"x = bytes({2 * MEMORY_MB * MIB})", "oom"),
    crashes("collects small pieces", "x = []\nwhile True: x.append(bytes(100_000))", "oom"),
    crashes("collects objects", "x = []\nwhile True: x.append({len(x): [len(x)]})", "oom"),
    crashes(
        "takes shared memory",
        f"""
        import mmap
        x = mmap.mmap(-1, {4 * MEMORY_MB * MIB})
        for page in range(0, len(x), 4096): x[page] = 1
        """,
        "oom",
    ),
    # -- time ---------------------------------------------------------------------------------------------------------
    times_out("sleeps for ever", "import time; time.sleep(1e6)"),
    times_out("spins", "while True: pass"),
    times_out("sleeps and hears no signal", "import signal\nfor n in range(1, 32):\n    try: signal.signal(n, 1)\n"
              "    except (OSError, ValueError): pass\nimport time\nwhile True: time.sleep(1e6)"),
    times_out("waits for a lock", "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()"),
    times_out("stops itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"),
    # -- processes ----------------------------------------------------------------------------------------------------
    ok("forks, and the child answers too", "import os\nos.fork()\nanswer = 'mine'", "mine"),
    ok("forks, and the child stays", "import os, time\nif os.fork() == 0: time.sleep(1e6)\nanswer = 1", 1),
    ok(
        "leaves a daemon",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            os.closerange(0, 1024)
            time.sleep(1e6)
        answer = 1
        """,
        1,
    ),
    ok("leaves threads", "import threading, time\nfor _ in range(20): threading.Thread(target=time.sleep, args=(1e6,))"
       ".start()\nanswer = 1", 1),
    crashes("leaves a daemon and dies", "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1e6)\n"
            "os._exit(7)", "code:7"),
    ok("kills the zygote", "import os\ntry: os.kill(1, 9)\nexcept OSError: pass\nanswer = 1"),
    ok("stops the zygote", "import os\ntry: os.kill(1, 19)\nexcept OSError: pass\nanswer = 1"),
    ok("interrupts the zygote", "import os\nfor n in (1, 2, 3, 10, 12, 17):\n    try: os.kill(1, n)\n"
       "    except OSError: pass\nanswer = 1"),
    crashes("asks the zygote to end", "import os, time\nos.kill(1, 15)\ntime.sleep(1e6)", "lost"),
    ok("kills its parent", "import os\ntry: os.kill(os.getppid(), 9)\nexcept OSError: pass\nanswer = 1"),
    ok("kills everyone", "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nanswer = 1"),
    # -- descriptors and output ---------------------------------------------------------------------------------------
    crashes("closes its descriptors", "import os; os.closerange(0, 65536)"),
    ok("closes its output", "import os; os.close(1); os.close(2); print('lost'); answer = 1"),
    ok("sends its output elsewhere", "import os, sys\nnull = os.open('/dev/null', os.O_WRONLY)\nos.dup2(null, 1)\n"
       "os.dup2(null, 2)\nsys.stdout = sys.stderr = None\nprint('lost')\nanswer = 1", 1),
    ok("breaks print", "import sys\nclass Out:\n    def write(self, text): raise OSError('full')\n"
       "    def flush(self): raise OSError('full')\nsys.stdout = Out()\nanswer = 1", 1),
    ok("prints megabytes without an end of line", "print('x' * 10_000_000, end=''); answer = 1", 1),
    ok("prints a great many lines", "for n in range(100_000): print(n)\nanswer = 1", 1),
    ok("writes what is no text", "import os\nos.write(1, bytes(range(256)) * 100)\nanswer = 1", 1),
    ok("reads its input", "import sys; answer = sys.stdin.read()", ""),
    # -- results ------------------------------------------------------------------------------------------------------
    fails("returns too much", "answer = 'x' * 20_000_000", ".*"),
    fails("returns too many bytes", "answer = bytes(20_000_000)", ".*"),
    fails("returns an object", "answer = object()", ".*"),
    fails("returns a circle", "answer = []\nanswer.append(answer)", ".*"),
    fails("returns a tower", "answer = []\nfor _ in range(100_000): answer = [answer]", ".*"),
    fails("returns infinity", "answer = float('inf')", ".*"),
    fails("returns keys that are bytes", "answer = {b'k': 1}", ".*"),
    fails("returns a bomb", "class Bomb(dict):\n    def items(self): raise LookupError\nanswer = Bomb(a=1)", ".*"),
    # -- files --------------------------------------------------------------------------------------------------------
    fails("fills its disk", "import tempfile\nwith tempfile.TemporaryFile() as f:\n"
          "    while True: f.write(bytes(1_000_000))", "OSError"),
    fails("writes to the root", "open('/mine', 'w')", "OSError|PermissionError"),
    fails("writes to the system", "open('/usr/bin/mine', 'w')", "OSError|PermissionError"),
]  # fmt: skip


@pytest.fixture(scope="module")
def field(node: Node) -> Iterator[Range]:
    made = Range(node, "handlers", memory=f"{MEMORY_MB}MB")
    yield made
    made.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_handler_that(field: Range, attack: Attack) -> None:
    field.attempt(attack)


def test_only_the_instance_past_its_deadline_dies(field: Range) -> None:
    """Another call of the same function, in the same sandbox, runs on."""
    with ThreadPoolExecutor(2) as threads:
        late = threads.submit(field.run, "import time; time.sleep(1e6)", field.hasty)
        time.sleep(0.5)  # so that the second call outlives the first's deadline
        beside = threads.submit(field.run, "import time; time.sleep(0.8); answer = 'finished'", field.hasty)
        assert code(late.result()) == (504, "timeout")
        assert beside.result().json() == "finished"
    field.unharmed()


def test_a_fork_bomb(field: Range) -> None:
    """Bounded by the sandbox's limit of processes, or of memory; ended by the deadline, all of it."""
    bomb = """
        import os, time
        for _ in range(700):
            try:
                if os.fork() == 0: time.sleep(1e6)
            except OSError:
                time.sleep(0.001)
        time.sleep(1e6)
        """
    for _ in range(2):
        assert code(field.run(bomb, field.hasty)) in ((504, "timeout"), (502, "instance-crashed"))
        wait_until(lambda: field.value(COUNT, field.hasty) == 2, "only the zygote and the instance are there")
        field.unharmed(field.hasty)


def test_what_an_instance_left_behind_dies_with_it(field: Range) -> None:
    left = (
        "import os, time\nfor _ in range(20):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(1e6)\n"
    )
    for how, status in (("os._exit(1)", 502), ("time.sleep(1e6)", 504)):
        assert field.run(left + how, field.hasty).status_code == status
        wait_until(lambda: field.value(COUNT, field.hasty) == 2, "only the zygote and the instance are there")


def test_a_full_disk_is_empty_again_when_its_instance_ended(field: Range) -> None:
    fill = (
        "import os, tempfile\nf = open(os.path.join(tempfile.gettempdir(), 'big'), 'wb')\n"
        "try:\n    while True: f.write(bytes(1_000_000))\nexcept OSError: pass\n"
    )
    assert field.run(fill + "os._exit(1)").status_code == 502
    room = "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(bytes(20_000_000))\nanswer = 'room'"
    assert field.value(room) == "room"
    field.unharmed()


def test_native_code_that_takes_memory(field: Range) -> None:
    """``malloc`` beyond the limit fails as C code knows it; whether that is an error or an end is the code's affair."""
    libc = "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.malloc.restype = ctypes.c_void_p\n"
    take = (
        libc + "taken = 0\nfor _ in range(400):\n    p = libc.malloc(ctypes.c_size_t(1 << 20))\n    if not p: break\n"
        "    ctypes.memset(p, 1, 1 << 20)\n    taken += 1\nanswer = taken"
    )
    response = field.run(take)
    if response.status_code == 200:
        assert response.json() <= MEMORY_MB + SLACK_MB
    else:
        assert code(response) == (502, "instance-crashed")
        assert response.json()["exit"] == "oom"
    field.unharmed()
    field.run("import os; os._exit(0)")  # what was taken is still taken


def test_nothing_of_others_can_be_read_or_changed(field: Range) -> None:
    """The store cannot be listed, the code not be written, the runtime not be traced; who it is says nothing."""
    found = field.value(
        """
        import ctypes, os, sys

        def attempt(call, *arguments):
            try:
                call(*arguments)
            except OSError as error:
                return type(error).__name__
            return "done"

        code = next(p for p in sys.path if p.startswith("/") and os.path.exists(p + "/handlers_probe.py"))
        libc = ctypes.CDLL(None, use_errno=True)
        answer = {
            "store": attempt(os.listdir, os.path.dirname(code)),
            "write code": attempt(open, code + "/handlers_probe.py", "a"),
            "add code": attempt(open, code + "/more.py", "w"),
            "remove code": attempt(os.unlink, code + "/handlers_probe.py"),
            "write runtime": attempt(open, "/opt/faas/runtime/zygote.py", "a"),
            "replace socket": attempt(os.unlink, os.environ.get("FAAS_SOCKET", "/run/faas/node.sock")),
            "shadow": attempt(open, "/etc/shadow"),
            "trace the zygote": libc.ptrace(16, 1, None, None),
            "read the zygote": attempt(open, "/proc/1/mem", "rb"),
            "its environment": attempt(open, "/proc/1/environ", "rb"),
            "mount": libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
            "chroot": libc.chroot(b"/tmp"),
            "become root": attempt(os.setuid, 0),
            "uid": os.getuid(),
            "docker": os.path.exists("/var/run/docker.sock"),
        }
        """
    )
    denied = {"PermissionError", "OSError", "FileNotFoundError"}
    for name in ("store", "write code", "add code", "remove code", "write runtime", "replace socket", "shadow",
                 "read the zygote", "become root"):  # fmt: skip
        assert found[name] in denied, (name, found)
    assert found["trace the zygote"] == -1
    assert found["mount"] == found["chroot"] == -1
    assert found["uid"] != 0
    assert not found["docker"]
    field.unharmed()


def test_the_environment_holds_nothing_of_the_node(field: Range) -> None:
    found = field.value("import os; answer = dict(os.environ)")
    assert not [name for name in found if "KEY" in name or "REDIS" in name or name == "FAAS_HOME"]


def test_no_network_unless_asked_for(field: Range) -> None:
    port = int(field.node.url.rpartition(":")[2])
    found = field.value(
        f"""
        import os, socket

        def attempt(address):
            try:
                socket.create_connection(address, timeout=1).close()
            except OSError as error:
                return type(error).__name__
            return "connected"

        answer = [attempt(("127.0.0.1", {port})), attempt(("1.1.1.1", 53)), sorted(os.listdir("/sys/class/net"))
                  if os.path.isdir("/sys/class/net") else ["lo"]]
        """
    )
    assert "connected" not in found[:2]
    field.unharmed()
