"""The verbs against a node that says what the test wants: what is asked, what is printed, which exit code."""

from __future__ import annotations

import io
import json
import re
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from faas.cli.app import VERBS, run
from tests.unit.fake_node import Answer, Asked, Faas, FakeNode

HELLO = {
    "name": "hello",
    "namespace": "default",
    "version": 3,
    "url": "http://here/fn/hello",
    "public": False,
    "settings": {"name": "hello"},
    "manifest": {
        "memory_mb": 128,
        "timeout_ms": 30_000,
        "concurrency": 1,
        "min_instances": 0,
        "max_instances": 100,
        "network": "none",
        "keep_alive_ms": None,
        "env": {"SIZE": "128"},
        "dependencies": ["pillow>=11"],
        "secrets": [],
        "queues": [],
        "crons": [],
    },
    "instances": {"IDLE": 2, "BUSY": 1},
    "created_at": "2025-01-31T12:00:00.000Z",
}
RECORD: dict[str, Any] = {
    "invocation_id": "0" * 31 + "1",
    "id": "0" * 31 + "1-1",
    "namespace": "default",
    "function": "hello",
    "version": 3,
    "key_id": "k1",
    "trigger": "direct",
    "status": "function_error",
    "start": "warm",
    "started_at": "2025-01-31T12:00:00.123456789Z",
    "queue_ns": 100_000,
    "init_ns": 0,
    "run_ns": 2_100_000,
    "billed_ms": 3,
    "memory_mb": 128,
    "peak_memory_bytes": 20 << 20,
    "cpu_ns": 1_000_000,
    "bytes_in": 10,
    "bytes_out": 2048,
    "node": "n1",
    "attempt": 1,
    "error": {"code": "function-error", "error_type": "KeyError", "message": "'x'", "traceback": "Traceback: here"},
    "exit": None,
    "trace_parent": "00-1-1-01",
}


def log_line(second: int, text: str, stream: str = "stdout") -> dict[str, Any]:
    return {
        "time": f"2025-01-31T12:00:{second:02d}.000000000Z",
        "function": "hello",
        "version": 1,
        "invocation_id": "a" * 24 + "1a2b3c4d",
        "stream": stream,
        "text": text,
    }


# -- every verb -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        *VERBS,
        "key create",
        "key ls",
        "key revoke",
        "namespace create",
        "namespace set",
        "namespace ls",
        "namespace rm",
        "node ls",
        "price check",
        "budget set",
        "budget show",
        "price set",
        "price show",
        "queue send",
        "queue ls",
        "queue show",
        "queue peek",
        "queue dead",
        "queue redrive",
        "queue purge",
        "queue rm",
        "runtime ls",
        "runtime build",
        "trigger add",
        "trigger ls",
        "trigger rm",
        "trigger pause",
        "trigger resume",
    ],
)
def test_help_of_every_verb_has_an_example_and_json(verb: str, faas: Faas) -> None:
    code, printed, _ = faas(*verb.split(), "--help")
    assert code == 0
    if verb not in {"budget", "key", "namespace", "node", "price", "queue", "runtime", "trigger"}:
        assert re.search(rf"Examples?:.*\$ faas {verb}|Examples?:.*\$ FAAS_PORT=0 faas {verb}", printed, re.DOTALL)
        assert "--json" in printed
    assert "\x1b" not in printed


def test_help_lists_every_verb_in_a_whole_sentence(faas: Faas) -> None:
    code, printed, _ = faas("--help")
    assert code == 0
    lines = [re.findall(rf"^  {verb}  .*", printed, re.MULTILINE) for verb in VERBS]
    assert [len(found) for found in lines] == [1] * len(VERBS)
    assert all(found[0].endswith(".") and not found[0].endswith("...") for found in lines)


def test_help_is_a_verb_too(faas: Faas) -> None:
    assert faas("help") == faas("--help")
    assert faas("help", "key", "create") == faas("key", "create", "--help")


def test_the_commands_alone_say_how_to_go_on(faas: Faas) -> None:
    code, printed, said = faas()
    assert (code, printed) == (2, "")
    assert "faas init hello" in said
    assert "create" in faas("key")[2]


def test_options_stand_in_sections_and_who_you_are_comes_last(faas: Faas) -> None:
    printed = faas("deploy", "--help")[1]
    titles = re.findall(r"^(\S.*):$", printed, re.MULTILINE)
    assert titles == [
        "Arguments",
        "Settings of the function, over those in its file",
        "Triggers and failures",
        "Options",
        "Which node, and who you are",
        "Examples",
    ]
    assert printed.index("Which node") < printed.index("--namespace") < printed.index("Examples")


def test_what_was_meant_is_guessed(faas: Faas) -> None:
    assert "Did you mean 'ls'?" in faas("lst")[2]
    assert "Did you mean '--follow'?" in faas("logs", "x", "--folow")[2]


def test_a_slow_node_does_not_spoil_the_json_on_stderr(
    node: FakeNode, faas: Faas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress is for people: a program finds the error and nothing else."""
    (tmp_path / "f.py").write_text("")
    monkeypatch.setattr("faas.cli.out.PROGRESS_AFTER_S", 0)

    def slow(_: Asked) -> None:
        time.sleep(0.05)

    for route in ("GET /v1/functions", "PUT /v1/functions/f", CALL):
        node.answers[route] = slow
    for arguments in (["ls"], ["deploy", "f.py"], ["invoke", "hello"]):
        assert len(faas(*arguments)[2].splitlines()) > 1
        assert json.loads(faas(*arguments, "--json")[2])["code"] == "client-error"


def test_a_mistake_in_the_usage_is_json_when_asked(faas: Faas) -> None:
    code, printed, said = faas("usage", "--format", "xml", "--json")
    assert (code, printed, json.loads(said)["code"]) == (2, "", "usage-error")


@pytest.mark.parametrize(
    "arguments",
    [["lss"], ["ls", "--colour"], ["show"], ["usage", "--format", "xml"], ["invoke", "a", "b"], ["key", "mk"]],
)
def test_a_mistake_in_the_usage_is_exit_code_2(arguments: list[str], faas: Faas) -> None:
    code, printed, said = faas(*arguments)
    assert (code, printed) == (2, "")
    assert "Usage: faas" in said
    assert re.search(r"do: faas.* --help", said)


def test_without_a_node_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch, node: FakeNode, faas: Faas) -> None:
    monkeypatch.setenv("FAAS_URL", "http://127.0.0.1:1")
    code, printed, said = faas("ls")
    assert (code, printed) == (1, "")
    assert "no node answers at http://127.0.0.1:1" in said
    assert "faas up" in said


def test_a_refused_key_says_where_the_key_came_from(node: FakeNode, faas: Faas) -> None:
    node.problem("GET /v1/functions", 401, "unauthenticated", "The API key is not known here, or was revoked.")
    code, _, said = faas("ls")
    assert code == 1
    assert "not known here" in said
    assert "the key from FAAS_KEY was refused" in said


def test_errors_are_json_on_stderr_when_asked(node: FakeNode, faas: Faas) -> None:
    node.problem("GET /v1/functions/nope", 404, "not-found", "There is no function 'nope'.")
    code, printed, said = faas("show", "nope", "--json")
    assert (code, printed) == (1, "")
    assert json.loads(said)["code"] == "not-found"


def test_what_is_no_node_is_told_from_one(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/functions"] = Answer(200, b"<html>", {"content-type": "text/html"})
    assert "does not answer like a faas node" in faas("ls")[2]
    node.answers["GET /v1/functions"] = Answer(502, b"bad gateway", {"content-type": "text/html"})
    assert "answered 502" in faas("ls")[2]


def test_key_and_namespace_travel_with_the_request(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/functions"] = {"functions": []}
    assert faas("ls", "--json", "--namespace", "team-a", "--key", "other")[:2] == (0, "[]\n")
    assert node.asked[-1].headers["authorization"] == "Bearer other"
    assert node.asked[-1].query == {"namespace": "team-a"}
    faas("ls", "--json")
    assert node.asked[-1].headers["authorization"] == "Bearer secret"
    assert node.asked[-1].query == {}


# -- init -----------------------------------------------------------------------------------------------------------


def test_init_writes_a_file_once(node: FakeNode, faas: Faas, tmp_path: Path) -> None:
    code, printed, _ = faas("init", "my-func")
    assert code == 0
    assert printed.splitlines()[-1].split() == ["next:", "faas", "deploy", "my_func.py"]
    text = (tmp_path / "my_func.py").read_text()
    scope: dict[str, Any] = {}
    exec(compile(text, "my_func.py", "exec"), scope)
    assert scope["handler"]({"name": "Ada"}, None) == {"message": "Hello, Ada!"}
    http = {"requestContext": {}, "queryStringParameters": {"name": "Bob"}}
    assert scope["handler"](http, None) == {"message": "Hello, Bob!"}
    assert scope["handler"]({"requestContext": {}}, None) == {"message": "Hello, world!"}
    code, _, said = faas("init", "my_func.py")
    assert code == 1
    assert "is there already" in said
    assert (tmp_path / "my_func.py").read_text() == text


@pytest.mark.parametrize("name", ["9lives", "Ünicode", "a" * 64, "../up", ""])
def test_init_refuses_what_cannot_be_a_name(name: str, node: FakeNode, faas: Faas, tmp_path: Path) -> None:
    code, _, said = faas("init", name)
    assert code == 2
    assert "a name is lower-case letters" in said
    assert not list(tmp_path.glob("*.py"))


# -- deploy ---------------------------------------------------------------------------------------------------------


def ndjson(*lines: dict[str, Any]) -> Answer:
    return Answer(200, [json.dumps(line).encode() + b"\n" for line in lines], {"content-type": "application/x-ndjson"})


def parts(asked: Asked) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a deploy and the files in its bundle."""
    boundary = asked.headers["content-type"].partition("boundary=")[2].encode()
    bodies = [part.split(b"\r\n\r\n", 1)[1][:-2] for part in asked.body.split(b"--" + boundary)[1:-1]]
    with zipfile.ZipFile(io.BytesIO(bodies[1])) as archive:
        return json.loads(bodies[0]), {name: archive.read(name) for name in archive.namelist()}


def test_deploy_sends_file_and_flags_and_says_where_it_is(node: FakeNode, faas: Faas, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("def handler(event, context): ...\n")
    woken = {"queue": [{"name": "orders"}], "cron": [{"schedule": "0 6 * * *", "timezone": "Europe/Berlin"}]}
    deployed = {**HELLO, "settings": {"name": "hello", **woken}}
    node.answers["PUT /v1/functions/hello"] = ndjson({"progress": "loading"}, {"result": deployed})
    code, printed, _ = faas("deploy", "hello.py", "--memory", "256MB", "--env", "A=1=2", "--env", "B=", "--public")
    assert code == 0
    assert printed.startswith("hello version 3 is ready (")
    assert "http://here/fn/hello" in printed
    assert "woken   by queue orders: faas queue send orders -d '{}'\n" in printed
    assert "woken   at 0 6 * * * Europe/Berlin: faas trigger ls\n" in printed
    manifest, files = parts(node.asked[-1])
    assert manifest == {"memory": "256MB", "env": {"A": "1=2", "B": ""}, "http": {"public": True}}
    assert files == {"hello.py": b"def handler(event, context): ...\n"}
    assert node.asked[-1].headers["accept"] == "application/x-ndjson"


EVERY_SETTING = {
    "name": "other",
    "handler": "h",
    "memory": "1GB",
    "cpus": 0.5,
    "timeout": "5s",
    "concurrency": 2,
    "min_instances": 1,
    "max_instances": 9,
    "network": "egress",
    "keep_alive": "5m",
    "on_disconnect": "cancel",
    "idempotency": "1h",
    "secrets": ["S"],
    "env": {"A": "1"},
    "dependencies": ["numpy"],
    "requires-python": ">=3.12",
    "entry": "f",
    "runtime": "python",
    "http": {"public": False, "methods": ["GET"], "cors": {"origins": ["*"]}},
    "queue": [{"name": "q"}],
    "cron": [{"schedule": "*/5 * * * *"}, {"schedule": "0,30 * * * *", "timezone": "Europe/Berlin"}],
    "retry": {"attempts": 2, "max_age": "1h"},
    "on_success": "queue:a",
    "on_failure": "function:b",
}


def test_every_setting_has_a_flag(node: FakeNode, faas: Faas, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("")
    node.answers["PUT /v1/functions/other"] = ndjson({"result": HELLO})
    written = """--name other --handler h --memory 1GB --cpus 0.5 --timeout 5s --concurrency 2 --min-instances 1
        --max-instances 9 --network egress --keep-alive 5m --on-disconnect cancel --idempotency 1h --env A=1
        --secret S --dependency numpy --requires-python >=3.12 --entry f --runtime python --no-public --method GET
        --cors-origin * --queue q --retry-attempts 2 --retry-max-age 1h --on-success queue:a --on-failure function:b"""
    cron = '{ schedule = "0,30 * * * *", timezone = "Europe/Berlin" }'
    code, _, said = faas("deploy", "f.py", *written.split(), "--cron", "*/5 * * * *", "--cron", cron)
    assert code == 0, said
    assert parts(node.asked[-1])[0] == EVERY_SETTING


def test_these_are_all_the_settings_there_are() -> None:
    from faas.packaging.manifest import KEYS

    assert set(KEYS) <= EVERY_SETTING.keys()


@pytest.mark.parametrize(
    ("file", "text", "name"),
    [
        ("my_thing.py", "", "my-thing"),
        ("a.py", '# /// script\n# [tool.faas]\n# name = "named"\n# ///\n', "named"),
        ("app/faas.toml", 'name = "from-toml"\n', "from-toml"),
        ("app/pyproject.toml", '[tool.faas]\nname = "from-project"\n', "from-project"),
        ("app/main.py", '# /// script\n# [tool.faas]\n# name = "from-block"\n# ///\n', "from-block"),
        ("app/main.py", "", "app"),
    ],
)
def test_the_name_is_found_where_the_node_would_look(
    file: str, text: str, name: str, node: FakeNode, faas: Faas, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    node.answers[f"PUT /v1/functions/{name}"] = ndjson({"result": HELLO})
    code, _, said = faas("deploy", file.partition("/")[0], "--json")
    assert code == 0, said


def test_problems_of_a_manifest_are_printed_as_compilers_do(node: FakeNode, faas: Faas, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("")
    errors = [
        {"line": 4, "key": "memory", "message": "must be from 64MB to 10GB"},
        {"line": None, "key": "timeout", "message": "is too long"},
    ]
    problem = {"code": "invalid-manifest", "detail": "...", "errors": errors, "file": "hello.py"}
    node.answers["PUT /v1/functions/hello"] = ndjson({"error": problem, "status": 422})
    code, printed, said = faas("deploy", "hello.py")
    assert (code, printed) == (1, "")
    assert "  hello.py:4: memory: must be from 64MB to 10GB\n" in said
    assert "  timeout: is too long\n" in said
    code, printed, said = faas("deploy", "hello.py", "--json")
    assert (code, printed) == (1, "")
    assert json.loads(said)["errors"] == errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing.py"], 1, "there is no file or directory nothing.py"),
        (["notes.txt"], 1, "not a Python file"),
        (["Bad Name.py"], 1, "cannot be a name"),
        (["named.py"], 1, "named.py:3: name: "),
        (["ok.py", "--env", "novalue"], 2, "wanted NAME=VALUE"),
        (["ok.py", "--queue", "{ name = }"], 2, "not an inline TOML table"),
    ],
)
def test_what_cannot_be_sent_is_said_before_it_is(
    arguments: list[str], code: int, said: str, node: FakeNode, faas: Faas, tmp_path: Path
) -> None:
    for name in ("notes.txt", "Bad Name.py", "ok.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "named.py").write_text('# /// script\n# [tool.faas]\n# name = "Not OK"\n# ///\n')
    found = faas("deploy", *arguments)
    assert found[0] == code
    assert said in found[2]
    assert not node.asked


def test_a_deploy_that_breaks_off_is_no_success(node: FakeNode, faas: Faas, tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("")
    node.answers["PUT /v1/functions/hello"] = ndjson({"progress": "loading"})
    code, _, said = faas("deploy", "hello.py")
    assert code == 1
    assert "ended its answer early" in said


# -- invoke ---------------------------------------------------------------------------------------------------------

CALL = "POST /v1/functions/hello/invocations"
FACTS = {
    "Faas-Invocation-Id": "f" * 32,
    "Faas-Version": "3",
    "Faas-Start": "warm",
    "Faas-Billed-Ms": "4",
    "Server-Timing": "queue;dur=0.100, init;dur=0.000, run;dur=3.500",
}


def test_invoke_prints_the_result_byte_for_byte(node: FakeNode, faas: Faas, capfdbinary: Any) -> None:
    data = bytes(range(256)) * 300
    node.answers[CALL] = Answer(200, data, {"content-type": "application/octet-stream", **FACTS})
    assert run(["invoke", "hello"]) == 0
    assert capfdbinary.readouterr().out == data
    assert node.asked[-1].body == b""
    assert node.asked[-1].headers["content-type"] == "application/json"


def test_invoke_says_what_happened_when_asked(node: FakeNode, faas: Faas) -> None:
    node.answers[CALL] = Answer(200, b'{"a":1}', {"content-type": "application/json", **FACTS})
    code, printed, said = faas("invoke", "hello", "-v", "-d", '{"name": "Ada"}')
    assert (code, printed) == (0, '{"a":1}')
    assert said.strip() == f"start warm · queue 0.1 ms · init 0 ms · run 3.5 ms · billed 4 ms · version 3 · {'f' * 32}"
    assert node.asked[-1].body == b'{"name": "Ada"}'


def test_invoke_sends_its_idempotency_key(node: FakeNode, faas: Faas) -> None:
    node.answers[CALL] = Answer(200, b"1", {"content-type": "application/json", **FACTS})
    assert faas("invoke", "hello", "--idempotency-key", "order 7")[0] == 0
    assert node.asked[-1].headers["idempotency-key"] == "order 7"
    faas("invoke", "hello")
    assert "idempotency-key" not in node.asked[-1].headers


@pytest.mark.parametrize(
    ("content_type", "body", "result"),
    [
        ("application/json", b'{"a": [1]}', {"result": {"a": [1]}}),
        ("text/plain; charset=utf-8", "é".encode(), {"result": "é"}),
        ("application/octet-stream", b"\xff", {"result_base64": "/w=="}),
    ],
)
def test_invoke_as_json(content_type: str, body: bytes, result: dict[str, Any], node: FakeNode, faas: Faas) -> None:
    node.answers[CALL] = Answer(200, body, {"content-type": content_type, **FACTS})
    code, printed, _ = faas("invoke", "hello", "--json")
    assert code == 0
    timing = {"queue": 0.1, "init": 0.0, "run": 3.5}
    assert json.loads(printed) == {
        "invocation_id": "f" * 32,
        "version": 3,
        "start": "warm",
        "billed_ms": 4,
        "timing_ms": timing,
        "status": 200,
        **result,
    }


def test_data_comes_from_a_file_or_stdin(
    node: FakeNode, faas: Faas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers[CALL] = Answer(200, b"null", {"content-type": "application/json"})
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "event.txt").write_bytes(b"[1]")
    faas("invoke", "hello", "-d", "@photo.png")
    assert (node.asked[-1].body, node.asked[-1].headers["content-type"]) == (b"\x89PNG", "image/png")
    faas("invoke", "hello", "-d", "@event.txt")
    assert (node.asked[-1].body, node.asked[-1].headers["content-type"]) == (b"[1]", "application/json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00")))
    faas("invoke", "hello", "-d", "-")
    assert (node.asked[-1].body, node.asked[-1].headers["content-type"]) == (b"\xff\x00", "application/octet-stream")
    faas("invoke", "hello", "-d", "plain", "--content-type", "text/plain")
    assert (node.asked[-1].body, node.asked[-1].headers["content-type"]) == (b"plain", "text/plain")


def test_data_that_is_no_json_is_a_mistake_of_usage(node: FakeNode, faas: Faas) -> None:
    code, _, said = faas("invoke", "hello", "-d", "{'a': 1}")
    assert code == 2
    assert "not JSON" in said
    assert faas("invoke", "hello", "-d", "@nothing")[0] == 2
    assert not node.asked


def test_a_failing_function_shows_its_traceback(node: FakeNode, faas: Faas) -> None:
    more = {"error_type": "KeyError", "message": "'x'", "traceback": 'Traceback:\n  File "hello.py", line 3\n'}
    node.problem(CALL, 500, "function-error", "KeyError: 'x'", **more)
    code, printed, said = faas("invoke", "hello")
    assert (code, printed) == (1, "")
    assert said == "error: KeyError: 'x'\n  Traceback:\n    File \"hello.py\", line 3\n"


@pytest.mark.parametrize(
    ("status", "code", "more", "said"),
    [
        (404, "not-found", {}, "faas ls"),
        (429, "throttled", {}, "max_instances"),
        (502, "instance-crashed", {"exit": "oom"}, "--memory"),
        (504, "timeout", {}, "--timeout"),
        (503, "engine-unavailable", {}, "faas doctor"),
    ],
)
def test_errors_say_what_to_do(
    status: int, code: str, more: dict[str, str], said: str, node: FakeNode, faas: Faas
) -> None:
    node.problem(CALL, status, code, "What happened.", **more)
    found = faas("invoke", "hello")
    assert found[0] == 1
    assert found[2].startswith("error: What happened.\n")
    assert said in found[2]


def test_a_result_that_breaks_off_is_no_success(node: FakeNode, faas: Faas) -> None:
    headers = {"content-type": "application/json", "content-length": "100", **FACTS}
    node.answers[CALL] = Answer(200, b'{"half":', headers)
    for arguments in ([], ["--json"]):
        code, printed, said = faas("invoke", "hello", *arguments)
        assert (code, printed) == (1, "" if arguments else '{"half":')
        assert "broke off" in said
    assert f"faas invocation {'f' * 32}" in faas("invoke", "hello")[2]


@pytest.mark.parametrize(
    ("status", "code", "more"),
    [(500, "function-error", {}), (502, "instance-crashed", {"exit": "code:3"}), (504, "timeout", {})],
)
def test_what_a_failed_call_printed_can_be_found(
    status: int, code: str, more: dict[str, str], node: FakeNode, faas: Faas
) -> None:
    node.problem(CALL, status, code, "It ended (code:3).", invocation_id="abc", **more)
    said = faas("invoke", "hello")[2]
    assert "faas logs hello --invocation abc\n" in said
    assert said.count("code:3") == 1
    assert "faas logs hello --invocation abc -N team-a\n" in faas("invoke", "hello", "-N", "team-a")[2]


@pytest.mark.parametrize(
    ("arguments", "route", "do"),
    [
        (["show", "f"], "GET /v1/functions/f", "faas ls"),
        (["show", "f", "-N", "team-a"], "GET /v1/functions/f", "faas ls -N team-a"),
        (["invoke", "f@9"], "POST /v1/functions/f@9/invocations", "faas show f"),
        (["invocation", "i"], "GET /v1/invocations/i", "faas invocations NAME"),
        (["key", "revoke", "k"], "DELETE /v1/keys/k", "faas key ls"),
    ],
)
def test_where_to_look_for_what_is_not_there(
    arguments: list[str], route: str, do: str, node: FakeNode, faas: Faas
) -> None:
    node.problem(route, 404, "not-found", "It is not there.")
    assert faas(*arguments)[2].endswith(f": {do}\n")


@pytest.mark.parametrize("arguments", [["show", ""], ["invoke", " "], ["key", "revoke", ""]])
def test_an_empty_name_asks_for_nothing(arguments: list[str], node: FakeNode, faas: Faas) -> None:
    code, _, said = faas(*arguments)
    assert (code, node.asked) == (2, [])
    assert "the name is empty" in said


# -- reading --------------------------------------------------------------------------------------------------------


def test_ls_prints_an_aligned_table(node: FakeNode, faas: Faas) -> None:
    other = {**HELLO, "name": "a-longer-name", "version": 12, "instances": {}, "public": True, "url": "http://here/x"}
    node.answers["GET /v1/functions"] = {"functions": [HELLO, other]}
    code, printed, _ = faas("ls")
    lines = [re.sub(r"\S+ ago", "AGO", line) for line in printed.splitlines()]
    assert code == 0
    assert lines[0].split() == ["NAME", "VERSION", "INSTANCES", "MEMORY", "DEPLOYED", "URL"]
    assert re.split(r"  +", lines[1]) == [
        "hello",
        "3",
        "1 busy, 2 idle",
        "128 MB",
        "AGO",
        "http://here/fn/hello",
        "(needs a key)",
    ]
    assert re.split(r"  +", lines[2]) == ["a-longer-name", "12", "zero", "128 MB", "AGO", "http://here/x"]
    assert "\x1b" not in printed


def test_ls_of_nothing_says_how_to_begin(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/functions"] = {"functions": []}
    assert faas("ls") == (0, "", "no functions yet; write one with: faas init hello\n")
    assert "in the namespace team-a" in faas("ls", "-N", "team-a")[2]


def test_show_tells_all(node: FakeNode, faas: Faas) -> None:
    idle = {"instance": "s1-1", "state": "IDLE", "since_s": 1, "invocations": [], "why": "idle, ends in 9 s"}
    box = {"sandbox": "s1", "state": "BOUND", "version": 3, "why": "holds the instances", "instances": [idle, idle]}
    node.answers["GET /v1/functions/hello"] = HELLO
    node.answers["GET /v1/functions/hello/versions"] = {"versions": [HELLO] * 7}
    generic = {"ready": 2, "starting": 1, "kept": 3, "why": "3 kept: 3 calls lately found none ready"}
    node.answers["GET /v1/functions/hello/instances"] = {"sandboxes": [box], "generic": generic}
    trigger = {"id": "hello.orders", "kind": "queue", "queue": {"name": "orders"}, "depth": 2, "enabled": False}
    node.answers["GET /v1/triggers"] = {"triggers": [trigger]}
    node.answers["GET /v1/functions/hello/invocations"] = {"invocations": [RECORD]}
    held = {"idle_mb_ms": 2_048_000, "parked_mb_ms": 512_000, "provisioned_mb_ms": 1_024_000, "generic_mb_ms": 9}
    node.answers["GET /v1/usage"] = {"totals": {"mb_ms": 1_536_000}, "held": {"rows": [], "totals": held}}
    code, printed, _ = faas("show", "hello")
    assert "hello.orders  queue orders (2 waiting); it is paused" in printed
    assert node.asked[-1].query == {"function": "hello", "namespace": "default"}
    assert code == 0
    for wanted in (
        "http://here/fn/hello  (needs an API key)",
        "memory 128 MB, timeout 30 s, concurrency 1, network none",
        "instances 0 to 100, keep-alive auto",
        "SIZE=128",
        "needs pillow>=11",
        "and 2 more",
        "s1  version 3  bound: holds the instances",
        "  2 idle, ends in 9 s",
        "2 of 3 sandboxes for any function's next cold start; 3 kept: 3 calls lately found none ready",
        "1.500000 GB-s billed; held without serving: idle 2.000000 GB-s, parked 0.500000 GB-s; 1.000000 GB-s",
        "KeyError",
    ):
        assert wanted in printed
    found = json.loads(faas("show", "hello", "--json")[1])
    assert found["sandboxes"] == [box]
    assert found["invocations"] == [RECORD]
    assert "cpus" not in printed
    manifest: Any = HELLO["manifest"]
    node.answers["GET /v1/functions/hello"] = {
        **HELLO,
        "manifest": {**manifest, "cpus": 0.5, "on_disconnect": "cancel"},
    }
    printed = faas("show", "hello")[1]
    assert "memory 128 MB, cpus 0.5, timeout 30 s" in printed
    assert "keep-alive auto, cancelled when the caller leaves" in printed


def test_rm_removes(node: FakeNode, faas: Faas) -> None:
    node.answers["DELETE /v1/functions/hello"] = Answer(204)
    assert faas("rm", "hello")[:2] == (0, "removed hello\n")
    assert json.loads(faas("rm", "hello", "--json")[1]) == {"name": "hello", "removed": True}


def test_invocations_and_one_of_them(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/functions/hello/invocations"] = {"invocations": [RECORD]}
    node.answers["GET /v1/invocations/abc"] = RECORD
    code, printed, _ = faas("invocations", "hello", "-n", "5")
    assert code == 0
    assert node.asked[-1].query == {"limit": "5"}
    assert RECORD["invocation_id"] in printed
    code, printed, _ = faas("invocation", "abc")
    assert code == 0
    for wanted in (
        "20 MB of 128 MB memory, 1 ms CPU, 10 B in, 2 KB out",
        "3 ms x 128 MB = 0.000375 GB-s",
        "KeyError: 'x'",
    ):
        assert wanted in printed
    assert json.loads(faas("invocation", "abc", "--json")[1]) == RECORD


# -- logs -----------------------------------------------------------------------------------------------------------

LOGS = "GET /v1/functions/hello/logs"


def test_logs_print_lines_with_the_end_of_the_invocation_id(node: FakeNode, faas: Faas) -> None:
    node.answers[LOGS] = {"lines": [log_line(1, "hi"), log_line(2, "oh", "ERROR")]}
    code, printed, _ = faas("logs", "hello", "--since", "5m", "-n", "7", "--invocation", "x")
    assert code == 0
    assert [line[24:] for line in printed.splitlines()] == ["1a2b3c4d  hi", "1a2b3c4d  ERROR: oh"]
    assert node.asked[-1].query == {"since": "5m", "limit": "7", "invocation": "x"}
    printed = faas("logs", "hello", "--json")[1]
    assert [json.loads(line)["text"] for line in printed.splitlines()] == ["hi", "oh"]


def test_following_connects_again_and_repeats_nothing(
    node: FakeNode, faas: Faas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two lines are there; then the stream breaks twice; the third time Ctrl-C ends it."""
    streams = [[2, 3], [3, 4], [4]]
    seen: list[str] = []

    def answer(asked: Asked) -> Any:
        if "follow" not in asked.query:
            return {"lines": [log_line(1, "line 1"), log_line(2, "line 2")]}
        seen.append(asked.query["since"])
        if not streams:
            raise AssertionError("asked once more after Ctrl-C")
        events = [f"data: {json.dumps(log_line(second, f'line {second}'))}\n\n" for second in streams.pop(0)]
        return Answer(200, [b": following\n\n", *(event.encode() for event in events), b"event: end\ndata: {}\n\n"])

    def sleep(_: float) -> None:
        if not streams:
            raise KeyboardInterrupt

    node.answers[LOGS] = answer
    monkeypatch.setattr("faas.cli.logs.time.sleep", sleep)
    code, printed, _ = faas("logs", "hello", "-f")
    assert code == 130
    assert [line.rpartition("  ")[2] for line in printed.splitlines()] == [f"line {n}" for n in (1, 2, 3, 4)]
    assert seen == [log_line(second, "")["time"] for second in (2, 3, 4)]


# -- usage ----------------------------------------------------------------------------------------------------------

SUMS = {
    "invocations": 2, "errors": 1, "billed_ms": 8, "mb_ms": 1024, "run_ns": 7_000_000, "gb_seconds": "0.001",
    "peak_memory_bytes": 9_961_472, "memory_mb": 128,
}  # fmt: skip
REPORT = {
    "from": "2025-01-01T00:00:00.000Z",
    "to": "2025-02-01T00:00:00.000Z",
    "by": ["function", "day"],
    "rows": [{"function": "a", "day": "2025-01-01", **SUMS}, {"function": "b,c", "day": "2025-01-02", **SUMS}],
    "totals": {**SUMS, "invocations": 4},
}


def test_usage_as_table_csv_and_json(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/usage"] = REPORT
    code, printed, _ = faas("usage", "--from", "2025-01", "--to", "2025-02", "--by", "function,day")
    assert code == 0
    assert node.asked[-1].query == {"from": "2025-01", "to": "2025-02", "by": "function,day"}
    rows = [re.split(r"  +", line) for line in printed.splitlines()]
    assert rows[0] == ["FUNCTION", "DAY", "CALLS", "ERRORS", "RUN", "CPU", "OUT", "PEAK", "BILLED", "GB-SECONDS"]
    assert rows[1] == ["a", "2025-01-01", "2", "1", "7 ms", "0 ms", "0 B", "9.5 MB", "8 ms", "0.001000"]
    assert rows[3][:2] == ["total", "4"]
    assert json.loads(faas("usage", "--format", "json")[1]) == REPORT
    assert json.loads(faas("usage", "--json")[1]) == REPORT


def test_what_was_held_without_serving_stands_beside_what_was_billed(node: FakeNode, faas: Faas) -> None:
    held = {"idle_mb_ms": 2_048_000, "parked_mb_ms": 0, "provisioned_mb_ms": 1_024_000}
    rows = [{"function": "a", **held}, {"function": "never-called", **held}]
    totals = {"idle_mb_ms": 4_096_000, "parked_mb_ms": 0, "provisioned_mb_ms": 2_048_000, "generic_mb_ms": 512_000}
    report = {**REPORT, "by": ["function"], "rows": [{"function": "a", **SUMS}], "totals": SUMS}
    node.answers["GET /v1/usage"] = {**report, "held": {"rows": rows, "totals": totals}}
    code, printed, said = faas("usage")
    assert code == 0
    lines = [re.split(r"  +", line) for line in printed.splitlines()]
    assert lines[0][-4:] == ["GB-SECONDS", "IDLE", "PARKED", "PROVISIONED"]
    assert lines[1][-4:] == ["0.001000", "2.000000", "0.000000", "1.000000"]
    assert (lines[2][:2], lines[2][-3]) == (["never-called", "0"], "2.000000")
    assert lines[3][-4:] == ["0.001000", "4.000000", "0.000000", "2.000000"]
    assert "0.500000 GB-s more were held by sandboxes that stood ready" in said
    rate = {"per_gb_second": "0.5", "currency": "EUR", "book": "ours"}
    priced = {"rows": [{**row, "cost": "1"} for row in rows], "totals": {**totals, "cost": "2.25"}, "rate": rate}
    node.answers["GET /v1/usage"] = {**report, "held": priced, "partial": ["2025-01-01T00:00:00Z"]}
    _, printed, said = faas("usage", "--where", "attempt=retry")
    lines = [re.split(r"  +", line) for line in printed.splitlines()]
    assert [line[-1] for line in lines] == ["WARM COST", "1.000000 EUR", "1.000000 EUR", "2.250000 EUR"]
    assert "0.5 EUR per GB-second (price book 'ours'); it is on no bill" in said
    assert "not exact: the range cuts the hour 2025-01-01T00:00:00Z" in said


def test_csv_and_records_are_what_the_node_sends(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/usage"] = Answer(200, [b"function,calls\r\n", b"a,1\r\n", "é,2\r\n".encode()])
    node.answers["GET /v1/usage/records"] = Answer(200, b'{"id": "1"}\n')
    code, printed, _ = faas("usage", "--format", "csv", "--where", "status=ok", "--where", "hour=a=b")
    assert (code, printed.splitlines()) == (0, ["function,calls", "a,1", "é,2"])
    assert node.asked[-1].query == {"by": "function", "format": "csv", "status": "ok", "hour": "a=b"}
    assert faas("usage", "--records", "--json", "--from", "1h")[:2] == (0, '{"id": "1"}\n')
    assert node.asked[-1].query == {"from": "1h", "format": "ndjson"}
    for wrong in ("status", "colour=red", "key="):
        code, _, said = faas("usage", "--where", wrong)
        assert code == 2
        assert "labels are namespace, function" in said


SIZE = {"namespace": "default", "function": "a", "memory_mb": 512, "invocations": 100}
BY_VERSION = [
    {**SIZE, "version": "2", "peak_memory_bytes": 500 << 20},
    {**SIZE, "version": "10", "peak_memory_bytes": 41 << 20},
    {**SIZE, "function": "b", "version": "1", "peak_memory_bytes": 300 << 20},
    {**SIZE, "function": "never-ran", "version": "1", "peak_memory_bytes": 0},
]


def test_memory_set_beside_memory_taken(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/usage"] = {**REPORT, "rows": BY_VERSION}
    code, printed, _ = faas("usage", "--sizes")
    assert code == 0
    assert [re.split(r"  +", line) for line in printed.splitlines()] == [
        ["NAMESPACE", "FUNCTION", "VERSION", "CALLS", "MEMORY", "PEAK", "USED", "WOULD DO"],
        ["default", "a", "10", "100", "512 MB", "41 MB", "8 %", "64 MB"],
        ["default", "b", "1", "100", "512 MB", "300 MB", "58 %", "384 MB"],
    ]
    assert [row["suggested_mb"] for row in json.loads(faas("usage", "--sizes", "--json")[1])] == [64, 384]
    assert faas("usage", "--sizes", "--format", "csv")[1].splitlines()[1] == f"default,a,10,100,512,{41 << 20},64"


def test_a_person_sees_lines_over_time_and_hints(node: FakeNode, faas: Faas, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: Asked) -> dict[str, Any]:
        if asked.query["by"] == "function,day":
            assert (asked.query["from"], asked.query["to"]) == (REPORT["from"], REPORT["to"])
            counts = [("a", "2025-01-01", 1), ("a", "2025-01-31", 8), ("b", "2025-01-02", 3)]
            return {"rows": [{"function": f, "day": day, "invocations": count} for f, day, count in counts]}
        if asked.query["by"] == "namespace,function,version":
            return {"rows": BY_VERSION}
        return {**REPORT, "by": ["function"], "rows": [{"function": "a", **SUMS}, {"function": "b", **SUMS}]}

    node.answers["GET /v1/usage"] = answer
    assert "OVER TIME" not in faas("usage")[1]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    code, printed, said = faas("usage")
    assert code == 0
    head, first, second, total = printed.splitlines()
    assert head.endswith("CALLS OVER TIME")
    assert first[-31:] == "▁" + " " * 29 + "█"
    assert second.endswith("  " + " " + "█")
    assert total.split()[0] == "total"
    assert "a (version 10) took 41 MB of its 512 MB at most; faas deploy FILE --memory 64MB would do" in said


def test_no_usage_is_said(node: FakeNode, faas: Faas) -> None:
    node.answers["GET /v1/usage"] = {**REPORT, "rows": [], "totals": {}}
    code, printed, said = faas("usage")
    assert (code, printed) == (0, "")
    assert said.startswith("nothing was used from 2025-01-01")


# -- keys, nodes, runtimes ------------------------------------------------------------------------------------------


def test_keys(node: FakeNode, faas: Faas) -> None:
    key = {"id": "k1", "namespace": "team-a", "scopes": ["invoke"], "created_at": "2025-01-31T12:00:00.000Z"}
    node.answers["POST /v1/keys"] = {**key, "secret": "the-secret"}
    node.answers["GET /v1/keys"] = {"keys": [key]}
    node.answers["DELETE /v1/keys/k1"] = Answer(204)
    code, printed, said = faas("key", "create", "--namespace", "team-a", "--scope", "invoke")
    assert (code, printed) == (0, "the-secret\n")
    assert "not shown again" in said
    assert json.loads(node.asked[-1].body) == {"namespace": "team-a", "scopes": ["invoke"]}
    assert faas("key", "ls")[1].splitlines()[1].split() == ["k1", "team-a", "invoke", "2025-01-31T12:00:00.000Z"]
    assert faas("key", "revoke", "k1")[:2] == (0, "revoked k1\n")


def test_nodes_and_runtimes(node: FakeNode, faas: Faas) -> None:
    entry = {"name": "n1", "state": "ready", "engine": "docker", "instances": {"IDLE": 1}, "sandboxes": {}, "queued": 0}
    node.answers["GET /v1/nodes"] = {"nodes": [{**entry, "memory_bytes": 128 << 20}]}
    node.answers["GET /v1/runtimes"] = {"runtimes": [{"name": "python", "version": "3.11"}]}
    row = re.split(r"  +", faas("node", "ls")[1].splitlines()[1])
    assert row == ["n1", "ready", "docker", "1 idle", "zero", "0", "128 MB"]
    assert faas("runtime", "ls")[1].splitlines()[1].split() == ["python", "3.11"]
    assert faas("runtime", "build", "cobol")[0] == 2
