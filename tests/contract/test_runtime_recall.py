"""Invocations sent ahead to a busy instance: served in turn, and taken back while it can't be asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from faas.wire import Exited, Recall, Recalled, Result
from tests.contract.runtime_node import Node, Peer

# Busy in C, in Python, or asleep until a file appears; prints what it begins.
HANDLER = """
    import os, time
    begun = []
    def handler(event, context):
        begun.append(event)
        print("begun")
        if event in ("sleep", "spin"):
            while not os.path.exists(os.environ["GATE"]):
                if event == "sleep": time.sleep(0.01)
        return list(begun)
    """


def recall(node: Node, peer: Peer) -> Recalled:
    node.zygote.send(Recall(peer.hello.instance_id, peer.connection.invoked))
    return node.zygote.expect(Recalled)


@pytest.mark.parametrize("busy", ["sleep", "spin"])
def test_what_is_not_begun_is_taken_back_and_what_comes_later_is_served(busy: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Node() as node:
        assert node.bind(HANDLER, env={"GATE": str(gate)}).info["recall"] == "1"
        peer = node.fork()
        first = peer.invoke(f'"{busy}"'.encode())
        ahead = [peer.invoke(f'"{number}"'.encode()) for number in range(3)]
        while not peer.logs():
            peer.pump()
        answer = recall(node, peer)
        assert answer == Recalled(peer.hello.instance_id, 1)
        assert peer.connection.withdraw(answer.begun, 4) == tuple(ahead)
        later = peer.invoke(b'"later"')
        gate.touch()
        assert peer.expect(Result).invocation_id == first
        served = peer.expect(Result)
        assert (served.invocation_id, served.payload) == (later, f'["{busy}","later"]'.encode())
        assert recall(node, peer).begun == 5, "those passed over count, and the last is answered"
        assert peer.call("again") == [busy, "later", "again"]


def test_taken_back_twice(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Node() as node:
        node.bind(HANDLER, env={"GATE": str(gate)})
        peer = node.fork()
        peer.invoke(b'"sleep"')
        peer.invoke(b'"a"')
        while not peer.logs():
            peer.pump()
        assert recall(node, peer).begun == 1
        peer.connection.withdraw(1, 2)
        peer.invoke(b'"b"')
        assert recall(node, peer).begun == 1
        assert len(peer.connection.withdraw(1, 3)) == 1
        last = peer.invoke(b'"c"')
        gate.touch()
        peer.expect(Result)
        served = peer.expect(Result)
        assert (served.invocation_id, served.payload) == (last, b'["sleep","c"]')


def test_whatever_the_moment_each_is_served_or_taken_back() -> None:
    """The recall meets the instance anywhere between two invocations: none may be lost, none served after all."""
    with Node() as node:
        node.bind("def handler(event, context): return event")
        peer = node.fork()
        served, back = 0, 0
        for round_number in range(300):
            ids = [peer.invoke(b"1") for _ in range(4)]
            for _ in range(round_number % 5):
                peer.expect(Result) if peer.connection.open_ids else None
            answer = recall(node, peer)
            withdrawn = peer.connection.withdraw(answer.begun, peer.connection.invoked)
            assert withdrawn == tuple(ids[len(ids) - len(withdrawn) :])
            back += len(withdrawn)
            while peer.connection.open_ids:
                peer.pump()  # a RESULT of what was withdrawn would be illegal
            served += 4 - len(withdrawn)
            peer.frames.clear()
        assert served + back == 1200
        assert peer.call("alive") == "alive"


def test_a_handler_that_turns_out_asynchronous_serves_what_was_sent_ahead_one_by_one() -> None:
    source = """
        import asyncio
        open_now = most = 0
        async def work(event):
            global open_now, most
            open_now += 1
            most = max(most, open_now)
            await asyncio.sleep(0.01)
            open_now -= 1
            return [event, most]
        def handler(event, context): return work(event)
        """
    with Node() as node:
        node.bind(source)
        peer = node.fork()
        ids = [peer.invoke(str(number).encode()) for number in range(4)]
        results = [peer.expect(Result) for _ in ids]
        assert [each.invocation_id for each in results] == ids
        assert [each.payload for each in results] == [f"[{number},1]".encode() for number in range(4)]
        assert recall(node, peer).begun == 4


def test_an_instance_that_ends_answers_with_its_end() -> None:
    with Node() as node:
        node.bind("def handler(event, context): import os; os._exit(3)")
        peer = node.fork()
        first = peer.invoke(b"1")
        second = peer.invoke(b"2")
        assert node.zygote.expect(Exited).exit_code == 3
        assert peer.closed()
        assert peer.connection.close() == (first, second)


@pytest.mark.parametrize(
    ("source", "concurrency"),
    [("async def handler(event, context): return 1", 1), ("def handler(event, context): return 1", 2)],
)
def test_where_nothing_can_be_taken_back_ready_does_not_say_so(source: str, concurrency: int) -> None:
    with Node() as node:
        assert "recall" not in node.bind(source, concurrency=concurrency).info
        peer = node.fork()
        assert peer.call() == 1
        node.zygote.send(Recall(peer.hello.instance_id, 1), Recall("never-was", 1))
        assert node.zygote.expect(Recalled) == Recalled(peer.hello.instance_id, 1)
