"""`faas queue` against a node that says what the test wants."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faas.cli.app import run
from tests.unit.fake_node import Answer, Asked, FakeNode, fake_node

PATH = "/v1/queues/orders"
SEND = f"POST {PATH}/messages"
STATE: dict[str, Any] = {
    "name": "orders", "namespace": "default", "depth": 13, "ready": 7, "delayed": 3, "waiting": 1, "in_flight": 2,
    "dead": 4, "oldest_seconds": 61.5,
    "consumers": [
        {"trigger": "worker.orders", "function": "worker", "enabled": True},
        {"trigger": "audit.orders", "function": "audit", "enabled": False},
    ],
    "counts": {"sent": 100, "acked": 83},
}  # fmt: skip
QUIET = {**STATE, "name": "quiet", **dict.fromkeys(("depth", "ready", "dead", "oldest_seconds"), 0), "consumers": []}
HELD = {
    "id": "0190a1", "body": '{"item":\n"book"}', "content_type": "application/json", "attributes": {}, "group": "",
    "dedup_id": "", "attempts": 0, "error": "", "sent_at": "2025-01-01T00:00:00.000Z",
}  # fmt: skip
DEAD = {
    **HELD, "id": "0190a2", "body": "x" * 500, "group": "g1", "attempts": 3, "reason": "ValueError: no such item",
    "died_at": "2025-01-01T00:01:00.000Z",
}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    def stored(asked: Asked) -> Answer:
        value = json.loads(asked.body)
        ids: Any = {"messages": [{"id": "m"}] * len(value)} if isinstance(value, list) else {"id": "m1"}
        return Answer(201, json.dumps(ids).encode())

    with fake_node() as fake:
        monkeypatch.setenv("FAAS_URL", fake.url)
        monkeypatch.setenv("FAAS_KEY", "faas_x")
        fake.answers |= {
            SEND: stored,
            "GET /v1/queues": {"queues": [STATE, QUIET]},
            f"GET {PATH}": STATE,
            f"GET {PATH}/messages": {"messages": [HELD]},
            f"GET {PATH}/dead": {"messages": [DEAD], "next": None},
            f"POST {PATH}/redrive": {"redriven": 3},
            f"POST {PATH}/purge": {"purged": 11},
            f"DELETE {PATH}": {"name": "orders", "deleted": True, "consumers": STATE["consumers"]},
        }
        yield fake


def sent(node: FakeNode) -> Any:
    return json.loads(node.asked[-1].body)


# -- send -------------------------------------------------------------------------------------------------------------


def test_send_prints_the_id(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--delay", "10s", "--group", "g", "--dedup-id", "d", "-a", "kind=a=b", "--attribute", "x="]
    assert run(["queue", "send", "orders", "-d", '{"n": 1}', *more]) == 0
    assert capsys.readouterr().out == "m1\n"
    assert sent(node) == {
        "body": {"n": 1}, "delay": "10s", "group": "g", "dedup_id": "d", "attributes": {"kind": "a=b", "x": ""},
    }  # fmt: skip
    assert node.asked[-1].headers["content-type"] == "application/json"
    assert run(["queue", "send", "orders", "--text", 'say "hi"', "--json"]) == 0
    assert sent(node) == {"body": 'say "hi"'}
    assert json.loads(capsys.readouterr().out) == {"id": "m1"}


def test_send_of_a_double_says_so(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers[SEND] = {"id": "first", "duplicate": True}
    assert run(["queue", "send", "orders", "-d", "1", "--dedup-id", "d"]) == 0
    said = capsys.readouterr()
    assert said.out == "first\n"
    assert "not stored again" in said.err


def test_send_reads_a_file_and_stdin(node: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "order.json").write_text('{\n "n": 1.50\n}')
    assert run(["queue", "send", "orders", "-d", f"@{tmp_path / 'order.json'}"]) == 0
    assert b"1.50" in node.asked[-1].body, "as it is written"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]")))
    assert run(["queue", "send", "orders", "-d", "-"]) == 0
    assert sent(node) == {"body": [1, 2]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "there is no message to send"),
        (["-d", "hello"], "--text 'any text'"),
        (["-d", "NaN"], "not JSON"),
        (["-d", "1", "--text", "x"], "one body"),
        (["--lines", "--text", "x"], "one body"),
        (["--lines", "-d", "1"], "@FILE, not -d JSON"),
        (["--lines", "--dedup-id", "x"], "one message's"),
        (["-d", "1", "-a", "kind"], "NAME=TEXT"),
        (["-d", "@/no/such/file"], "cannot read"),
    ],
)
def test_a_mistake_in_sending_is_one_of_usage(
    node: FakeNode, given: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["queue", "send", "orders", *given]) == 2
    assert words in capsys.readouterr().err
    assert not node.asked


def test_lines_are_sent_in_batches(node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text("".join(f'{{"n": {n}}}\n' + ("\n" if n % 500 == 0 else "") for n in range(2500)))
    assert run(["queue", "send", "orders", "--lines", "-d", f"@{file}", "--group", "g"]) == 0
    batches = [json.loads(asked.body) for asked in node.asked]
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    assert [each["body"]["n"] for batch in batches for each in batch] == list(range(2500))
    assert batches[2][-1] == {"body": {"n": 2499}, "group": "g"}
    said = capsys.readouterr().out
    assert said.startswith("sent 2,500 messages to orders in ")
    assert said.endswith(" a second\n")
    assert run(["queue", "send", "orders", "--lines", "-d", f"@{file}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sent"] == 2500


def test_large_lines_make_small_batches(node: FakeNode, tmp_path: Path) -> None:
    file = tmp_path / "orders.jsonl"
    file.write_text("".join(json.dumps("x" * size) + "\n" for size in (400_000, 400_000, 400_000, 1_500_000, 10)))
    assert run(["queue", "send", "orders", "--lines", "-d", f"@{file}"]) == 0
    assert [len(json.loads(asked.body)) for asked in node.asked] == [2, 1, 1, 1]


def test_lines_that_come_slowly_do_not_wait_for_a_full_batch(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each next line is written when the one before has been asked of the node."""
    reads, writes = os.pipe()
    stored = node.answers[SEND]
    left = [b"2\n3\n", b"4"]

    def then_more(asked: Asked) -> Answer:
        if left:
            os.write(writes, left.pop(0))
        if not left:
            os.close(writes)
            node.answers[SEND] = stored
        answer: Answer = stored(asked)
        return answer

    node.answers[SEND] = then_more
    os.write(writes, b"1\n")
    with os.fdopen(reads) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run(["queue", "send", "orders", "--lines"]) == 0
    assert [[each["body"] for each in json.loads(asked.body)] for asked in node.asked] == [[1], [2, 3], [4]]
    assert capsys.readouterr().out.startswith("sent 4 messages")


def test_a_wrong_line_says_which_and_how_to_go_on(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = b"1\n" * 1500 + b"oops\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert run(["queue", "send", "orders", "--lines"]) == 1
    said = capsys.readouterr().err
    assert "line 1501 is not JSON" in said
    assert "lines up to 1000 are sent" in said
    assert "tail -n +1001 FILE | faas queue send orders --lines" in said
    assert len(node.asked) == 1


def test_a_batch_that_is_refused_says_each_thing_once(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = [{"index": n, "key": "delay", "message": "may be at most 7d"} for n in range(3)]
    node.problem(SEND, 400, "invalid-request", "long", errors=errors)
    (tmp_path / "f").write_text("1\n2\n3\n")
    assert run(["queue", "send", "orders", "--lines", "-d", f"@{tmp_path / 'f'}", "--delay", "8d"]) == 1
    assert capsys.readouterr().err.count("'delay' may be at most 7d") == 1


def test_a_store_that_goes_away_in_the_middle(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = node.answers[SEND]

    def once(asked: Asked) -> Answer:
        if len(node.asked) == 1:
            answer: Answer = stored(asked)
            return answer
        node.problem(SEND, 503, "store-unavailable", "The node cannot reach its store at the moment.")
        failed: Answer = node.answers[SEND]
        return failed

    node.answers[SEND] = once
    (tmp_path / "f").write_text("1\n" * 1200)
    assert run(["queue", "send", "orders", "--lines", "-d", f"@{tmp_path / 'f'}"]) == 1
    said = capsys.readouterr().err
    assert "cannot reach its store" in said
    assert "lines up to 1000 are sent\n" in said
    assert "tail -n +1001" in said


# -- looking ----------------------------------------------------------------------------------------------------------


def test_ls(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "ls"]) == 0
    head, orders, quiet = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "NAME"
    assert orders.split() == ["orders", "7", "3", "1", "2", "4", "1.0m", "worker,", "audit", "(paused)"]
    assert quiet.split() == ["quiet", "0", "3", "1", "2", "0", "-", "-"]
    assert run(["queue", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [STATE, QUIET]
    node.answers["GET /v1/queues"] = {"queues": []}
    assert run(["queue", "ls"]) == 0
    assert "faas queue send orders" in capsys.readouterr().err


def test_show(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "show", "orders"]) == 0
    said = capsys.readouterr().out
    assert "13: 7 ready, 3 delayed, 1 waiting, 2 in flight" in said
    assert "4; see why: faas queue dead orders" in said
    assert "faas trigger resume audit.orders" in said
    assert "100 sent, 83 acked" in said
    node.answers[f"GET {PATH}"] = {**STATE, "consumers": [], "dead": 0}
    assert run(["queue", "show", "orders"]) == 0
    assert "nobody takes from it" in capsys.readouterr().out
    node.problem(f"GET {PATH}", 404, "not-found", "There is no queue 'orders'.")
    assert run(["queue", "show", "orders"]) == 1
    assert "see what there is: faas queue ls" in capsys.readouterr().err


def test_peek(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "peek", "orders", "--limit", "5"]) == 0
    assert node.asked[-1].query == {"limit": "5"}
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "SENT", "ATTEMPTS", "BODY"], "no column for groups where there are none"
    assert row.endswith('{"item": "book"}'), "on one line"
    assert run(["queue", "peek", "orders", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [HELD]
    node.answers[f"GET {PATH}/messages"] = {"messages": []}
    assert run(["queue", "peek", "orders"]) == 0
    assert "nothing waits in orders" in capsys.readouterr().err


def test_dead(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "dead", "orders"]) == 0
    said = capsys.readouterr()
    head, row = said.out.splitlines()
    assert head.split() == ["ID", "DIED", "ATTEMPTS", "REASON", "GROUP", "BODY"]
    assert "ValueError: no such item" in row
    assert len(row) <= 160
    assert row.endswith("xxx...")
    assert "faas queue redrive orders" in said.err
    node.answers[f"GET {PATH}/dead"] = {"messages": [DEAD], "next": "0190a2"}
    assert run(["queue", "dead", "orders", "--limit", "1", "--after", "0190a0"]) == 0
    assert node.asked[-1].query == {"limit": "1", "after": "0190a0"}
    assert "faas queue dead orders --after 0190a2" in capsys.readouterr().err


def test_bodies_cannot_move_the_cursor(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    binary = {**{k: v for k, v in HELD.items() if k != "body"}, "body_base64": "/w=="}
    node.answers[f"GET {PATH}/messages"] = {"messages": [{**HELD, "body": "\x1b[2J\u202ehi"}, binary]}
    assert run(["queue", "peek", "orders"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "base64 /w==" in said


# -- putting right ----------------------------------------------------------------------------------------------------


def test_redrive(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["queue", "redrive", "orders"]) == 0
    assert sent(node) == {"all": True}
    assert capsys.readouterr().out == "put 3 messages back into orders\n"
    assert run(["queue", "redrive", "orders", "--all", "--rate", "0.5", "--limit", "3"]) == 0
    assert sent(node) == {"all": True, "rate": 0.5, "limit": 3}
    assert "the last one is ready in 4 s" in capsys.readouterr().err
    assert run(["queue", "redrive", "orders", "a", "b", "c", "d"]) == 0
    assert sent(node) == {"ids": ["a", "b", "c", "d"]}
    assert "the other 1" in capsys.readouterr().err
    assert run(["queue", "redrive", "orders", "a", "--all"]) == 2
    assert run(["queue", "redrive", "orders", "--rate", "0"]) == 2
    node.answers[f"POST {PATH}/redrive"] = {"redriven": 0}
    assert run(["queue", "redrive", "orders"]) == 0
    assert capsys.readouterr().out == "no dead letters in orders\n"
    assert run(["queue", "redrive", "orders", "a"]) == 1
    assert "faas queue dead orders" in capsys.readouterr().err


def test_purge_and_rm_ask_a_person_and_say_how_many(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answered(text: str, *given: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", Terminal(text))
        node.asked.clear()
        return run(["queue", *given]), capsys.readouterr().err

    code, said = answered("n\n", "purge", "orders")
    assert (code, "Forget 11 messages of orders for ever?" in said) == (1, True)
    assert [asked.method for asked in node.asked] == ["GET"]
    code, said = answered("n\n", "purge", "orders", "--dead")
    assert (code, "4 dead letters" in said) == (1, True)
    code, said = answered("n\n", "rm", "orders")
    assert (code, "Remove orders with 13 messages and 4 dead letters for ever?" in said) == (1, True)
    assert answered("y\n", "purge", "orders", "--dead")[0] == 0
    assert sent(node) == {"dead": True}
    assert answered("", "purge", "orders", "--yes")[0] == 0
    assert [asked.method for asked in node.asked] == ["POST"], "not asked, so nothing to look up"
    code, said = answered("y\n", "rm", "orders")
    assert code == 0
    assert "the function audit still takes from it" in said


def test_programs_are_not_asked(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run(["queue", "purge", "orders"]) == 0
    assert capsys.readouterr().out == "forgot 11 messages of orders\n"
    assert run(["queue", "rm", "orders", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] is True
    assert run(["queue", "purge", "orders", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"purged": 11}
