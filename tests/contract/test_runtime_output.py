"""Whatever a function prints, by whatever way, is in the log: line by line, under its invocation, before the answer."""

from __future__ import annotations

import pytest

from faas.wire import Error, Log, Result
from tests.contract.runtime_node import Gone, Node, Peer, serving


def printed(peer: Peer, payload: bytes = b"{}") -> list[tuple[str, str]]:
    """The lines of one invocation, all of which came before its answer and under its id."""
    invocation_id = peer.invoke(payload)
    answer = None
    while answer is None:
        answer = next((frame for frame in peer.frames if isinstance(frame, (Result, Error))), None)
        if answer is None:
            peer.pump()
    lines = peer.frames[: peer.frames.index(answer)]
    assert all(isinstance(line, Log) and line.invocation_id == invocation_id for line in lines)
    peer.frames.clear()
    return [(line.stream, line.text) for line in lines if isinstance(line, Log)]


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("print('one'); print('two', file=sys.stderr)", [("stdout", "one"), ("stderr", "two")]),
        ("print('a\\n\\nb')", [("stdout", "a"), ("stdout", ""), ("stdout", "b")]),
        ("print('no', end=' '); print('end', end='')", [("stdout", "no end")]),
        ("print('p', end='', flush=True); raise ValueError", [("stdout", "p")]),
        ("sys.stdout.buffer.write(b'bytes \\xff\\n'); sys.stdout.flush()", [("stdout", "bytes \ufffd")]),
        ("sys.stdout.write('\\ud800 é\\n')", [("stdout", "\\ud800 é")]),
        ("sys.stdout.reconfigure(encoding='latin-1'); print('é')", [("stdout", "\ufffd")]),
        ("sys.stdout.close(); print('open')", [("stdout", "open")]),
        ("print('x' * 20000)", [("stdout", "x" * 16384), ("stdout", "x" * 3616)]),
        ("print('a' + 'é' * 10000)", [("stdout", "a" + "é" * 8191), ("stdout", "é" * 1809)]),
        ("print('x' * 40000, end='')", [("stdout", "x" * 16384)] * 2 + [("stdout", "x" * 7232)]),
        ("print(sys.stdout.isatty(), sys.stdout.fileno(), sys.stdout.encoding)", [("stdout", "False 1 utf-8")]),
        ("import logging; logging.warning('w %s', 1); logging.info('quiet')", [("WARNING", "w 1")]),
        (
            "import logging; logging.basicConfig(level=logging.DEBUG); logging.getLogger('n').debug('a\\nb')",
            [("DEBUG", "a"), ("DEBUG", "b")],
        ),
        (
            "import logging; logging.basicConfig(format='%(name)s: %(message)s', level='INFO'); logging.info('x')",
            [("INFO", "root: x")],
        ),
        (
            "import logging; logging.basicConfig(stream=sys.stdout, format='%(message)s'); logging.error('e')",
            [("stdout", "e")],
        ),
        ("import logging; logging.addLevelName(35, 'ODD\\n'); logging.log(35, 'x')", [("log", "x")]),
        ("import logging; logging.error('x' * 17000)", [("ERROR", "x" * 16384), ("ERROR", "x" * 616)]),
        ("import warnings; warnings.warn('careful')", [("stderr", "fn.py:4: UserWarning: careful")]),
        ("del sys.stdout", []),
        ("sys.stdout = None; sys.stderr = None", []),
    ],
)
def test_lines(body: str, lines: list[tuple[str, str]]) -> None:
    with serving(
        f"import sys\ndef handler(event, context):\n    if event == 1: print('again'); return\n    {body}"
    ) as peer:
        seen = printed(peer)
        seen = [(stream, text.rpartition("/")[2]) for stream, text in seen]
        assert [line for line in seen if not line[1].startswith("  ")] == lines
        if "reconfigure" not in body:
            assert printed(peer, b"1") == [("stdout", "again")]


def test_logging_with_a_traceback() -> None:
    source = """
        import logging
        log = logging.getLogger(__name__)
        def handler(event, context):
            try: 1 / 0
            except ZeroDivisionError: log.exception("failed")
        """
    with serving(source) as peer:
        lines = printed(peer)
        assert lines[0] == ("ERROR", "failed")
        assert lines[-1] == ("ERROR", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("os.write(1, b'raw\\n'); os.write(2, b'err\\n')", {("stdout", "raw"), ("stderr", "err")}),
        ("subprocess.run(['sh', '-c', 'echo child; echo oops >&2'])", {("stdout", "child"), ("stderr", "oops")}),
        ("subprocess.run(['printf', 'no newline'])", {("stdout", "no newline")}),
        ("ctypes.CDLL(None).dprintf(1, b'from c\\n')", {("stdout", "from c")}),
        ("os.system('echo system')", {("stdout", "system")}),
        ("os.fork() or (print('forked'), os._exit(0)); os.wait()", {("stdout", "forked")}),
        ("os.write(1, b'x' * 200000)", {("stdout", "x" * 16384), ("stdout", "x" * (200000 % 16384))}),
        ("open('/dev/stdout', 'w').write('opened\\n')", {("stdout", "opened")}),
    ],
)
def test_what_goes_past_python_is_caught_too(body: str, lines: set[tuple[str, str]]) -> None:
    source = f"""
        import ctypes, os, subprocess
        def handler(event, context):
            {body}
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        for _ in range(2):
            invocation_id = peer.invoke()
            assert isinstance(peer.expect(Result), Result)
            seen: list[Log] = []
            while {(line.stream, line.text) for line in seen} != lines:
                seen.append(node.zygote.expect(Log))
            assert {line.invocation_id for line in seen} == {invocation_id}


def test_lines_are_sent_at_once_and_outlive_a_crash() -> None:
    source = """
        import os, sys, time
        def handler(event, context):
            print("first words")
            os.write(2, b"last words")
            if event == 1: os.abort()
            time.sleep(1000)
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        invocation_id = peer.invoke(b"2")
        assert peer.expect(Log).text == "first words"
        crashing = node.fork()
        invocation_id = crashing.invoke(b"1")
        with pytest.raises(Gone):
            crashing.expect(Result)
        assert crashing.logs() == [("stdout", "first words")]
        assert node.exited().signal == 6
        assert [(line.invocation_id, line.text) for line in node.zygote.frames if isinstance(line, Log)] == [
            (invocation_id, "last words")
        ]


def test_output_of_the_import() -> None:
    source = """
        import logging, os, subprocess, sys
        print("printed")
        print("half", end="", file=sys.stderr)
        logging.basicConfig(level=logging.INFO)
        logging.info("logged")
        subprocess.run(["echo", "from a child"])
        os.write(2, b"raw")
        def handler(event, context): pass
        """
    with Node() as node:
        node.bind(source)
        seen = [frame for frame in node.zygote.frames if isinstance(frame, Log)]
        assert {line.invocation_id for line in seen} == {""}
        assert [(line.stream, line.text) for line in seen] == [
            ("stdout", "printed"),
            ("INFO", "logged"),
            ("stderr", "half"),
            ("stdout", "from a child"),
            ("stderr", "raw"),
        ]


def test_threads_and_signal_handlers_may_print() -> None:
    source = """
        import signal, threading, time
        def noise(n):
            for i in range(200): print(n, i)
        signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
        def handler(event, context):
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            threads = [threading.Thread(target=noise, args=(n,)) for n in range(4)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            signal.setitimer(signal.ITIMER_REAL, 0)
        """
    with serving(source) as peer:
        lines = [text for _, text in printed(peer)]
        assert len([text for text in lines if text != "alarm"]) >= 700


def test_a_line_between_invocations_has_no_id() -> None:
    source = """
        import threading, time
        def late():
            time.sleep(0.05)
            print("late")
        def handler(event, context): threading.Thread(target=late).start()
        """
    with serving(source) as peer:
        assert printed(peer) == []
        line = peer.expect(Log)
        assert (line.invocation_id, line.text) == ("", "late")


def test_a_flood_is_passed_on_and_does_not_block() -> None:
    source = """
        import os, subprocess
        def handler(event, context):
            subprocess.run(["sh", "-c", "yes | head -c 2000000"])
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        peer.invoke()
        got = 0
        while got < 1_000_000:
            node.zygote.pump()
            got += sum(isinstance(frame, Log) and frame.text == "y" for frame in node.zygote.frames)
            node.zygote.frames.clear()
        peer.expect(Result)
