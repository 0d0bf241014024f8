"""The instance that a zygote without any forks ahead of the next FORK."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from faas.wire import Drain, Exited, Fork, Hello, Recall, Recalled, Result
from tests.contract.runtime_node import Node, below, wait_for

SOURCE = """
    import os, random
    from snapshot_restore_py import register_after_restore
    os.register_at_fork(after_in_child=lambda: made.append(os.getpid()))
    made, restored = [], []
    @register_after_restore
    def restore():
        restored.append(os.environ["TMPDIR"])
        print("restored")
    def handler(event, context):
        return {"made": made, "restored": restored, "stream": context.log_stream_name, "random": random.random(),
                "tmp": os.environ["TMPDIR"], "files": os.listdir(os.path.dirname(os.environ["TMPDIR"]))}
    """


def spare_of(node: Node) -> int:
    """The spare, once it is there and sleeps."""
    wait_for(lambda: below(node))
    (pid,) = below(node)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S")
    return pid


def test_a_spare_becomes_the_next_instance_and_is_as_young_as_that() -> None:
    with Node() as node:
        node.bind(SOURCE)
        pid = spare_of(node)
        assert list(node.tmp.iterdir()) == []
        assert node.zygote.logs() == []
        peer = node.fork()
        assert peer.hello.pid == pid
        assert below(node) == [pid]
        first = peer.call()
        tmp = str(node.tmp / peer.hello.instance_id)
        assert (first["tmp"], first["restored"], first["files"]) == (tmp, [tmp], [peer.hello.instance_id])
        assert (first["made"], first["stream"]) == ([pid], f"[3]{peer.hello.instance_id}")
        assert [line.text for line in node.log_lines(1)] == ["restored"]
        peer.send(Drain())
        assert node.exited().exit_code == 0
        assert spare_of(node) != pid
        again = node.fork().call()
        assert again["random"] != first["random"]


def test_several_instances_at_once_take_one_spare() -> None:
    with Node() as node:
        node.bind(SOURCE)
        pid = spare_of(node)
        node.zygote.send(Fork(("s1-7", "s1-8", "s1-9")))
        hellos: dict[str, Hello] = {peer.hello.instance_id: peer.hello for peer in (node.accept() for _ in range(3))}
        assert set(hellos) == {"s1-7", "s1-8", "s1-9"}
        assert [name for name, hello in hellos.items() if hello.pid == pid] == ["s1-7"]


def test_a_spare_that_ends_is_nobodys_loss() -> None:
    with Node() as node:
        node.bind(SOURCE)
        os.kill(spare_of(node), signal.SIGKILL)
        wait_for(lambda: not below(node))
        peer = node.fork()
        assert peer.call()["made"] == [peer.hello.pid]
        peer.send(Drain())
        ends = [node.exited()]
        assert [(end.instance_id, end.exit_code) for end in ends] == [(peer.hello.instance_id, 0)]


def test_a_spare_goes_with_its_zygote() -> None:
    with Node() as node:
        node.bind(SOURCE)
        pid = spare_of(node)
        assert node.end() == 0
        assert not [frame for frame in node.zygote.frames if isinstance(frame, Exited)]
        wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_a_zygote_that_is_killed_takes_its_spare_along() -> None:
    with Node() as node:
        node.bind(SOURCE)
        pid = spare_of(node)
        node.process.kill()
        wait_for(lambda: not Path(f"/proc/{pid}").exists())


def test_what_a_spare_rehearsed_is_no_invocation(tmp_path: Path) -> None:
    source = """
        import os, time
        def handler(event, context):
            print("begun")
            while not os.path.exists(os.environ["GATE"]): time.sleep(0.01)
        """
    gate = tmp_path / "gate"
    with Node() as node:
        node.bind(source, env={"GATE": str(gate)})
        spare_of(node)
        peer = node.fork()
        first, *ahead = [peer.invoke() for _ in range(3)]
        while not peer.logs():
            peer.pump()
        node.zygote.send(Recall(peer.hello.instance_id, 3))
        assert node.zygote.expect(Recalled).begun == 1
        assert peer.connection.withdraw(1, 3) == tuple(ahead)
        gate.touch()
        assert isinstance(peer.end_of(first), Result)


def test_functions_of_every_kind_have_spares() -> None:
    sources = {
        "sync": "def handler(event, context): return 5",
        "async": "async def handler(event, context): return 5",
        "generator": "def handler(event, context): yield '5'",
        "wsgi": "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'5']",
    }
    for kind, source in sources.items():
        for concurrency in (1, 3):
            with Node() as node:
                assert node.bind(source, concurrency=concurrency).info["kind"] == kind
                pid = spare_of(node)
                peer = node.fork()
                assert peer.hello.pid == pid
                invocation = peer.invoke()
                frame = peer.end_of(invocation)
                assert not hasattr(frame, "traceback"), frame
