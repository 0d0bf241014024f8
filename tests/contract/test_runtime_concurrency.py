"""Several invocations at once in one instance, as tasks of an event loop or in threads: each keeps what is its own."""

from __future__ import annotations

from faas.wire import Error, Result
from tests.contract.runtime_node import Node, serving
from tests.contract.runtime_scripted import FORMS, both, finish, start

# -- at once --------------------------------------------------------------------------------------------------------


@both
def test_invocations_end_in_any_order(form: str) -> None:
    with serving(FORMS[form], concurrency=3) as peer:
        first = start(peer, ("wait", "a"), ("id", 0))
        second = start(peer, ("wait", "b"), ("open", "a"), ("id", 0))
        third = start(peer, ("open", "b"), ("id", 0))
        for invocation_id in (third, second, first):
            assert finish(peer, invocation_id) == [invocation_id]


@both
def test_the_answer_of_one_is_not_held_up_by_another(form: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        waiting = start(peer, ("wait", "go"))
        for _ in range(30):
            assert finish(peer, start(peer, ("print", "x"))) == []
        assert finish(peer, start(peer, ("open", "go"))) == []
        assert finish(peer, waiting) == []


def test_no_more_run_at_once_than_the_function_allows() -> None:
    source = """
        import threading
        lock, seen, now, most = threading.Lock(), set(), 0, 0
        barrier = threading.Barrier(2)
        def handler(event, context):
            global now, most
            with lock:
                now += 1
                most = max(most, now)
                seen.add(threading.get_ident())
            barrier.wait(20)
            with lock: now -= 1
            return [most, len(seen), threading.current_thread() is threading.main_thread()]
        """
    with serving(source, concurrency=2) as peer:
        ids = [peer.invoke() for _ in range(6)]
        assert [finish(peer, each) for each in ids][-1] == [2, 2, False]


def test_a_function_of_one_at_a_time_has_no_threads() -> None:
    source = """
        import _thread, sys
        def handler(event, context): return ["threading" in sys.modules, _thread._count()]
        """
    with serving(source, concurrency=1) as peer:
        assert peer.call() == [False, 0]
    source = """
        import sys
        from snapshot_restore_py import register_after_restore
        register_after_restore(lambda: seen.append("threading" in sys.modules))
        seen = ["threading" in sys.modules]
        def handler(event, context): return seen
        """
    with serving(source, concurrency=2) as peer:  # loaded before the fork, and not by each instance
        assert peer.call() == [False, True]


def test_many_threads_fit_beside_the_memory_of_the_function() -> None:
    source = """
        import threading
        barrier = threading.Barrier(100)
        def handler(event, context):
            barrier.wait(20)
            return len(bytes(100_000))
        """
    with serving(source, concurrency=100, memory_mb=64) as peer:
        ids = [peer.invoke() for _ in range(100)]
        assert [finish(peer, each) for each in ids] == [100_000] * 100


# -- what is whose --------------------------------------------------------------------------------------------------


@both
def test_lines_are_logged_under_the_invocation_that_printed_them(form: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        one = start(
            peer, ("half", "one "), ("wait", "1"), ("print", "line"), ("open", "2"), ("wait", "3"), ("log", "l1")
        )
        two = start(
            peer, ("half", "two "), ("open", "1"), ("wait", "2"), ("error", "err"), ("open", "3"), ("half", "end")
        )
        assert finish(peer, one) == finish(peer, two) == []
        assert peer.lines_of(one) == [("stdout", "one line"), ("WARNING", "l1")]
        assert peer.lines_of(two) == [("stderr", "err"), ("stdout", "two end")]
        assert peer.lines_of("") == []


@both
def test_lines_come_before_the_answer(form: str) -> None:
    with serving(FORMS[form], concurrency=4) as peer:
        ids = [start(peer, *[("print", str(n)) for n in range(50)], ("half", "last")) for _ in range(4)]
        for invocation_id in ids:
            while not any(isinstance(each, Result) and each.invocation_id == invocation_id for each in peer.frames):
                peer.pump()
            end = next(n for n, each in enumerate(peer.frames) if each.__class__ is Result and each[0] == invocation_id)
            texts = [each[3] for each in peer.frames[:end] if each[0] == invocation_id]  # type: ignore[misc]
            assert texts == [*map(str, range(50)), "last"]


def test_tasks_and_threads_that_asyncio_starts_belong_to_the_invocation() -> None:
    with serving(FORMS["tasks"], concurrency=2) as peer:
        waiting = start(peer, ("wait", "go"))
        busy = start(peer, ("task", "a"), ("open", "go"))
        assert finish(peer, busy) == finish(peer, waiting) == []
        assert sorted(peer.lines_of(busy)) == [("stdout", "a task"), ("stdout", "a thread")]


@both
def test_code_of_no_invocation_counts_to_the_only_one(form: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        alone = start(peer, ("thread", "mine"))
        assert finish(peer, alone) == []
        assert peer.lines_of(alone) == [("stdout", "mine")]
        waiting = start(peer, ("open", "in"), ("wait", "go"))
        beside = start(peer, ("wait", "in"), ("thread", "whose?"), ("open", "go"))
        assert finish(peer, beside) == finish(peer, waiting) == []
        assert peer.lines_of("") == [("stdout", "whose?")]


@both
def test_what_goes_past_python_counts_to_the_only_one(form: str) -> None:
    with Node() as node:
        node.bind(FORMS[form], concurrency=2)
        peer = node.fork()
        alone = start(peer, ("raw", "alone"))
        assert finish(peer, alone) == []
        staying = start(peer, ("raw", "before"), ("wait", "2"), ("raw", "after"))
        first = [(line.invocation_id, line.text) for line in node.log_lines(2)]
        beside = start(peer, ("raw", "beside"), ("open", "1"))
        assert finish(peer, beside) == []
        assert finish(peer, start(peer, ("wait", "1"), ("open", "2"))) == finish(peer, staying) == []
        then = [(line.invocation_id, line.text) for line in node.log_lines(2)]
        assert first == [(alone, "alone"), (staying, "before")]
        assert then[0] == ("", "beside")
        assert then[1][1] == "after"


def test_what_outlives_its_invocation_prints_for_nobody() -> None:
    with serving(FORMS["tasks"], concurrency=2) as peer:
        assert finish(peer, start(peer, ("later", "gate"))) == []
        for _ in range(20):  # more than the closed ids that a node remembers
            assert finish(peer, start(peer)) == []
        assert finish(peer, start(peer, ("open", "gate"))) == []
        assert finish(peer, start(peer)) == []
        assert peer.lines_of("") == [("stdout", "later")]


@both
def test_context_variables_are_the_invocations_own(form: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        one = start(peer, ("set", 1), ("open", "a"), ("wait", "b"), ("get", 0))
        two = start(peer, ("wait", "a"), ("get", 0), ("set", 2), ("open", "b"), ("get", 0))
        assert finish(peer, one) == [1]
        assert finish(peer, two) == [None, 2]
        for _ in range(4):
            assert finish(peer, start(peer, ("get", 0))) == [None]


@both
def test_processor_time_is_the_invocations_own(form: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        waiting = start(peer, ("wait", "go"))
        busy = start(peer, ("burn", 200), ("open", "go"))
        used_ms = [peer.end_of(each).cpu_ns / 1e6 for each in (waiting, busy)]
        assert 0 < used_ms[0] < 200 <= used_ms[1]
        peaks = [peer.end_of(start(peer)).peak_bytes for _ in range(2)]
        assert all(peak > 1_000_000 for peak in peaks)


@both
def test_a_failure_is_the_invocations_own(form: str) -> None:
    with serving(FORMS[form], concurrency=2) as peer:
        waiting = start(peer, ("wait", "go"), ("id", 0))
        frame = peer.end_of(start(peer, ("print", "x"), ("raise", "mine")))
        assert isinstance(frame, Error)
        assert (frame.kind, frame.error_type, frame.message) == ("function", "ValueError", "mine")
        assert "runtimes/python" not in frame.traceback
        frame = peer.end_of(peer.invoke(b"{", "application/json"))
        assert isinstance(frame, Error)
        assert frame.kind == "bad_event"
        finish(peer, start(peer, ("open", "go")))
        assert finish(peer, waiting) == [waiting]
