"""Instances that speak nonsense on their channel, or dial the node again to pose as someone: cut off and survived."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import processes
from tests.e2e.hostile import Attack, Range, crashes
from tests.e2e.node import Node, code
from tests.e2e.processes import wait_until

# What the attacks share: a packer of our own, the channel's descriptor as an intruder finds it, and a way to dial anew.
TOOLS = '''
import os, socket, struct, time

def pack(v):
    if v is None: return b"\\xc0"
    if isinstance(v, int): return b"\\xcf" + struct.pack(">Q", v) if v >= 0 else b"\\xd3" + struct.pack(">q", v)
    if isinstance(v, str): return b"\\xdb" + struct.pack(">I", len(v.encode())) + v.encode()
    if isinstance(v, bytes): return b"\\xc6" + struct.pack(">I", len(v)) + v
    if isinstance(v, list): return b"\\xdd" + struct.pack(">I", len(v)) + b"".join(map(pack, v))
    return b"\\xdf" + struct.pack(">I", len(v)) + b"".join(pack(k) + pack(i) for k, i in v.items())

def frame(*fields):
    body = pack(list(fields))
    return struct.pack(">I", len(body)) + body

def channel():
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.readlink("/proc/self/fd/%d" % fd).startswith("socket:"): return fd
        except OSError: pass

def dial():
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(20)
    made.connect(open("/proc/self/environ").read().partition("FAAS_SOCKET=")[2].partition("\\0")[0])
    return made

def ending(made):
    """Whether the node hangs up."""
    try:
        return "closed" if made.recv(1) == b"" else "answered"
    except ConnectionError: return "closed"
    except TimeoutError: return "open"

own = context.invocation_id
foreign = "0" * 32

def say(*data):
    fd = channel()
    os.set_blocking(fd, True)
    for piece in data: os.write(fd, piece)
    time.sleep(1e6)
'''


def says(name: str, data: str) -> Attack:
    """Write ``data`` to the channel and then never end: the node must see to that."""
    return crashes(name, f"{TOOLS}\nsay({data})")


RESULT = '[[b"content-type", b"application/json"]], 0, 0, 0, b"1"'
ATTACKS = [
    says("noise", "os.urandom(1000)"),
    says("zeros", "bytes(1000)"),
    says("a huge length", r'b"\xff\xff\xff\xff"'),
    says("a length just too large", 'struct.pack(">I", 16 * 1024 * 1024 + 1)'),
    says("an empty frame", "bytes(4)"),
    says("no array", 'struct.pack(">I", 1) + b"\\x01"'),
    says("an unknown kind", "frame(99)"),
    says("a text for a kind", 'frame("16")'),
    says("a negative kind", "frame(-1)"),
    says("too few fields", "frame(16, own)"),
    says("too many fields", f"frame(16, own, 200, {RESULT}, 1)"),
    says("wrong types", f"frame(16, 7, 200, {RESULT})"),
    says("a tower", r'struct.pack(">I", 50_001) + b"\x91" * 50_000 + b"\xc0"'),
    says("an array of four thousand millions", r'struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff"'),
    says("a map of four thousand millions", r'struct.pack(">I", 6) + b"\x91\xdf\xff\xff\xff\xff"'),
    says(
        "many small things",
        r'struct.pack(">I", 1_000_005) + b"\xdd" + struct.pack(">I", 1_000_000) + b"\x90" * 1_000_000',
    ),
    says("another's result", f"frame(16, foreign, 200, {RESULT})"),
    says("another's error", 'frame(17, foreign, "function", "E", "m", "t", 0, 0)'),
    says("another's chunk", 'frame(19, foreign, b"x")'),
    says("another's log line", 'frame(18, foreign, "stdout", 1, "x")'),
    says("a line of two", 'frame(18, own, "stdout", 1, "a\\nb")'),
    says("a chunk of no stream", 'frame(19, own, b"x")'),
    says("two streams", "frame(20, own, 200, []), frame(20, own, 200, [])"),
    says("a status there is not", f"frame(16, own, 99999, {RESULT})"),
    says("hello again", 'frame(1, 1, "instance", "x", 1, {})'),
    says("hello as the zygote", 'frame(1, 1, "zygote", "", 1, {})'),
    says("ready", "frame(4, 0, {})"),
    says("an end", 'frame(21, "x", 0, None, 0, 0)'),
    says("what only the node says", 'frame(3, ["x"])'),
    crashes("half a frame and dies", f"{TOOLS}\nos.write(channel(), frame(16, own)[:9])\nos._exit(0)", "code:0"),
    crashes("half a frame and returns", f"{TOOLS}\nos.write(channel(), frame(16, own)[:9])\nanswer = 1"),
    crashes("shuts its channel down", f"{TOOLS}\nsocket.socket(fileno=os.dup(channel())).shutdown(2)\ntime.sleep(1e6)"),
]


@pytest.fixture(scope="module")
def field(node: Node) -> Iterator[Range]:
    made = Range(node, "frames")
    yield made
    made.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_instance_that_says(field: Range, attack: Attack) -> None:
    if "two streams" in attack.name:
        response = field.node.client.send(
            field.node.client.build_request("POST", f"/v1/functions/{field.probe}/invocations", json=attack.code),
            stream=True,
        )
        assert response.status_code == 200  # the first was legal; the second ends it
        response.close()
        field.unharmed()
    else:
        field.attempt(attack)


def test_the_process_behind_a_broken_channel_is_killed(field: Range) -> None:
    """Also when it ignores that the node has hung up."""
    count = "import os; answer = len([p for p in os.listdir('/proc') if p.isdigit()])"
    field.run(f"{TOOLS}\nsay(frame(99))")
    wait_until(lambda: field.value(count) == 2, "only the zygote and one instance are there")


def test_a_forged_answer_is_cleaned(field: Range) -> None:
    """An instance may answer for itself, and only within what HTTP allows."""
    forged = field.run(f'{TOOLS}\nsay(frame(16, own, 200, [[b"x-a", b"1\\r\\nset-cookie: a=1"]], 0, 0, 0, b"1"))')
    assert code(forged) in ((500, "function-error"), (502, "instance-crashed"))
    assert "set-cookie" not in forged.headers
    field.unharmed()
    twice = field.run(f"{TOOLS}\nsay(frame(16, own, 200, {RESULT}), frame(16, own, 200, {RESULT}))")
    assert twice.status_code == 200
    wait_until(lambda: field.run("answer = 1").status_code == 200, "the instance that answered twice is gone")
    field.unharmed()
    huge = "1 << 62, 1 << 62, 1 << 62"
    lies = field.run(f"{TOOLS}\nos.write(channel(), frame(16, own, 200, [], {huge}, b''))\nos._exit(0)")
    assert lies.status_code == 200
    assert field.node.record(lies)["billed_ms"] < 60_000
    field.unharmed()


POSES = {
    "the zygote": 'made.sendall(frame(1, 1, "zygote", "", 1, {}))',
    "nobody": 'made.sendall(frame(1, 1, "instance", "", 1, {}))',
    "an instance there is not": 'made.sendall(frame(1, 1, "instance", "s0123456789abcdef-1", 1, {}))',
    "every instance": 'made.sendall(frame(1, 1, "instance", context.log_stream_name.rpartition("]")[2], 1, {}))',
    "another version": 'made.sendall(frame(1, 2, "instance", "x", 1, {}))',
    "one who skips the greeting": f"made.sendall(frame(16, own, 200, {RESULT}))",
    "noise": "made.sendall(os.urandom(1000))",
}


@pytest.mark.parametrize("pose", POSES)
def test_who_dials_again_is_turned_away(field: Range, pose: str) -> None:
    assert field.value(f"{TOOLS}\nmade = dial()\n{POSES[pose]}\nanswer = ending(made)") == "closed"
    field.unharmed()


def test_connections_without_number(field: Range) -> None:
    """Silent ones, more than the node allows: none of them costs the node its ability to serve others."""
    source = """
        held = []
        for _ in range(3000):
            try: held.append(dial())
            except OSError: break
        answer = len(held)
        import builtins
        builtins.held = held
        """
    assert field.value(TOOLS + textwrap.dedent(source)) > 100
    field.unharmed()
    field.node.deploy("frames-beside", "def handler(event, context): return 1")
    assert field.node.call("frames-beside").json() == 1
    field.node.delete("frames-beside")
    assert field.run("import os; os._exit(1)").status_code == 502
    field.unharmed()


def test_frames_that_never_end_do_not_fill_the_nodes_memory(field: Range) -> None:
    before = processes.memory_bytes(field.node.pid)
    source = """
        held = []
        for _ in range(60):
            made = dial()
            made.settimeout(1)
            try:
                made.sendall(struct.pack(">I", 16_000_000))
                for _ in range(150): made.sendall(bytes(100_000))
            except OSError: pass
            held.append(made)
        answer = len(held)
        import builtins
        builtins.held = held
        """
    assert field.value(TOOLS + textwrap.dedent(source)) == 60
    grown = processes.memory_bytes(field.node.pid) - before
    assert field.run("import os; os._exit(1)").status_code == 502
    assert grown < 200_000_000, f"the node grew by {grown / 1e6:.0f} MB"
    field.unharmed()


def test_one_who_squats_on_names_hurts_only_its_own_function(field: Range) -> None:
    """It knows how instances are numbered and answers to the next numbers first."""
    squat = f"""{TOOLS}
mine = context.log_stream_name
held = []
end = time.monotonic() + 2
import re
words = open("/proc/self/environ").read() + mine
sandbox = (re.findall("s[0-9a-f]{{16}}", words) or ["s" + "0" * 16])[0]
while time.monotonic() < end:
    for n in range(1, 30):
        made = dial()
        made.sendall(frame(1, 1, "instance", "%s-%d" % (sandbox, n), 1, {{}}))
        held.append(made)
    held = held[-200:]
answer = sandbox
"""
    with ThreadPoolExecutor(9) as threads:
        squatter = threads.submit(field.run, squat)
        others = list(
            threads.map(lambda n: field.run("import time; time.sleep(0.2); answer = 'mine'", field.probe), range(8))
        )
        assert squatter.result().status_code in (200, 500, 502)
    for response in others:
        assert response.status_code == 200 or code(response)[1] in ("instance-crashed", "timeout", "throttled")
    field.run("import os; os._exit(1)")
    field.unharmed()
