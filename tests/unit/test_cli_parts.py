"""The CLI's parts by themselves: what it imports, where it finds its node, how it prints, how `up` begins and ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from faas.cli import checks, demo, out
from faas.cli.client import Node, connect, problem_error, read_client_file, write_client_file
from faas.cli.invoke import server_timing
from faas.cli.nodelog import SAME_S, JsonLines, SayOnce
from faas.cli.out import CliError
from faas.cli.up import only_node_of, own_command, prepare_home, run_until_signalled
from faas.model.errors import EngineUnavailable
from faas.settings import Settings
from tests.unit.fake_node import Answer, fake_node

FAAS = Path(sys.executable).with_name("faas")

# All that a verb may need from elsewhere, and what it has no use for in the standard library and in our own tree: each
# takes as long to load as a tenth of the verb or more.
THIRD_PARTY = {"click", "httptools"}
HEAVY = {"asyncio", "csv", "email", "http.client", "logging", "mimetypes", "ssl", "subprocess", "tempfile"}
HEAVY |= {"tomllib", "zipfile", "faas.packaging", "faas.settings", "faas.wiring"}
PACKING = {"tempfile", "tomllib", "zipfile", "faas.packaging"}  # what `faas deploy` does need


# -- start-up -------------------------------------------------------------------------------------------------------


def imported_by(arguments: list[str], home: Path) -> set[str]:
    """The modules of a process that ran this command line."""
    code = "import sys; before = set(sys.modules); from faas.cli.app import run\n"
    code += f"run({arguments!r}); print(*sorted(set(sys.modules) - before))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FAAS_")}
    environ["FAAS_HOME"] = str(home)
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


def third_party(modules: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"faas"}
    return {name for name in tops if "cython" not in name}  # what compiled modules make up at run time


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls"],
        ["show", "hello"],
        ["rm", "hello"],
        ["invoke", "hello", "-d", '{"a": 1}'],
        ["logs", "hello"],
        ["invocations", "hello"],
        ["invocation", "abc"],
        ["usage"],
        ["node", "ls"],
        ["key", "ls"],
    ],
)
def test_a_verb_imports_little(arguments: list[str], tmp_path: Path) -> None:
    """With the file that `faas up` wrote, against a port where nobody listens: all is loaded by then."""
    write_client_file(tmp_path, "http://127.0.0.1:1", "key")
    modules = imported_by(arguments, tmp_path)
    assert "faas.cli.exchange" in modules
    assert third_party(modules) <= THIRD_PARTY
    assert not HEAVY & modules


def test_a_deploy_imports_what_packs_and_nothing_of_the_node(tmp_path: Path) -> None:
    write_client_file(tmp_path, "http://127.0.0.1:1", "key")
    (tmp_path / "hello.py").write_text("def handler(event, context): ...\n")
    modules = imported_by(["deploy", str(tmp_path / "hello.py")], tmp_path)
    assert "faas.packaging.pack" in modules
    assert third_party(modules) <= THIRD_PARTY
    assert not (HEAVY - PACKING) & modules


def test_help_imports_nothing_of_the_node(tmp_path: Path) -> None:
    modules = imported_by(["--help"], tmp_path)
    assert third_party(modules) <= THIRD_PARTY
    assert not HEAVY & modules


# -- where the node is ----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("URL", "KEY", "NAMESPACE", "PORT", "HOST", "ENGINE", "REDIS_URL"):
        monkeypatch.delenv(f"FAAS_{name}", raising=False)
    monkeypatch.setenv("FAAS_HOME", str(tmp_path))
    return tmp_path


def test_flags_then_environment_then_file_then_defaults(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect() == Node("http://127.0.0.1:8080", "", "default", "")
    write_client_file(home, "http://file:1", "file-key", "file-space")
    assert connect() == Node("http://file:1", "file-key", "file-space", str(home / "client.toml"))
    monkeypatch.setenv("FAAS_URL", "http://env:1/")
    monkeypatch.setenv("FAAS_KEY", "env-key")
    assert connect() == Node("http://env:1", "env-key", "default", "FAAS_KEY")
    assert connect("http://flag:1", "flag-key", "n") == Node("http://flag:1", "flag-key", "n", "--key")


def test_the_client_file_is_private_and_replaced_whole(home: Path) -> None:
    path = home / "client.toml"
    path.write_text("old")
    path.chmod(0o644)
    write_client_file(home, 'http://h/"quoted"', "k\\ey")
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_client_file(home) == {"url": 'http://h/"quoted"', "key": "k\\ey", "namespace": "default"}
    assert [entry.name for entry in home.iterdir()] == ["client.toml"]


def test_a_broken_client_file_is_named(home: Path) -> None:
    (home / "client.toml").write_text("url = ")
    with pytest.raises(CliError, match=r"client\.toml is not valid TOML"):
        connect()


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://host", "http://", "http://host:port"])
def test_what_is_no_address_is_a_mistake_of_usage(url: str) -> None:
    with pytest.raises(CliError) as caught, Node(url, "", "default").stream("GET", "/"):
        pass
    assert caught.value.code == 2


def test_a_path_in_the_url_is_kept() -> None:
    with fake_node() as fake:
        fake.answers["GET /platform/v1/functions"] = {"functions": []}
        assert Node(fake.url + "/platform", "", "default").call("GET", "/v1/functions") == {"functions": []}
        assert "authorization" not in fake.asked[0].headers


def test_a_node_that_says_nothing_is_not_waited_for_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CliError, match="did not answer in time"):
            Node(url, "", "default").call("GET", "/", timeout_s=0.05)


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with fake_node() as fake:
        fake.answers["GET /"] = Answer(200, b"half", {"content-length": "100"})
        with (
            pytest.raises(CliError, match="the connection broke"),
            Node(fake.url, "", "n").stream("GET", "/") as answer,
        ):
            answer.read()


def test_no_key_at_all_is_said() -> None:
    body = b'{"code": "unauthenticated", "detail": "A key is needed."}'
    error = problem_error(
        401, {"content-type": "application/problem+json"}, body, Node("http://h", "", "default"), "/v1/functions"
    )
    assert (error.what, error.why) == ("A key is needed.", "no key was given")
    assert "client.toml" in error.do


def test_retry_after_is_passed_on() -> None:
    body = b'{"code": "throttled", "detail": "Too many."}'
    headers = {"content-type": "application/problem+json", "retry-after": "3"}
    error = problem_error(429, headers, body, Node("http://h", "", "default"), "/v1/functions/f/invocations")
    assert error.why == "the node says: again in 3 s"


# -- printing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (0.015, "15 us"),
        (0.42, "0.4 ms"),
        (31.4, "31 ms"),
        (2350, "2.35 s"),
        (30_000, "30 s"),
        (600_000, "10m"),
        (90_000, "1.5m"),
    ],
)
def test_durations_for_people(milliseconds: float, text: str) -> None:
    assert out.milliseconds(milliseconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KB"), (1536, "1.5 KB"), (128 << 20, "128 MB"), (5 << 40, "5 TB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert out.size(count) == text


def test_gb_seconds_are_exact() -> None:
    assert out.gb_seconds(1_024_000) == "1.000000 GB-s"
    assert out.gb_seconds(512) == "0.000500 GB-s"


def test_server_timing_is_read() -> None:
    assert server_timing("queue;dur=0.1, init;desc=x;dur=2, odd") == {"queue": 0.1, "init": 2.0}
    assert server_timing("") == {}


def on_a_terminal(arguments: list[str], environ: dict[str, str]) -> str:
    """What a command prints when a person watches."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([FAAS, *arguments], env=environ, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    printed = b""
    try:
        while chunk := os.read(leader, 65_536):
            printed += chunk
    except OSError:  # how Linux says that the other side is closed
        pass
    process.wait()
    os.close(leader)
    return printed.decode()


def test_colour_only_on_a_terminal_that_wants_it(home: Path) -> None:
    with fake_node() as fake:
        fake.answers["GET /v1/nodes"] = {"nodes": []}
        environ = {**os.environ, "FAAS_URL": fake.url, "FAAS_KEY": "x", "TERM": "xterm", "FAAS_HOME": str(home)}
        environ.pop("NO_COLOR", None)
        assert "\x1b[1mNAME" in on_a_terminal(["node", "ls"], environ)
        assert "\x1b" not in on_a_terminal(["node", "ls"], {**environ, "NO_COLOR": "1"})
        assert "\x1b" not in on_a_terminal(["node", "ls"], {**environ, "TERM": "dumb"})


def test_progress_is_shown_only_when_it_takes_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with out.Progress("quick"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(out, "PROGRESS_AFTER_S", 0.01)
    with out.Progress("slow") as progress:
        while "slow" not in capsys.readouterr().err:
            time.sleep(0.005)
        progress.update("slow")
        progress.update("slower")
        progress.stop()
        progress.update("never")
    assert capsys.readouterr() == ("", "slower\n")


# -- up -------------------------------------------------------------------------------------------------------------


def test_one_node_per_home(home: Path) -> None:
    with only_node_of(home), pytest.raises(CliError, match=f"process {os.getpid()}"), only_node_of(home):
        pass
    with only_node_of(home):
        pass


def test_a_home_that_cannot_be_made_is_named(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(CliError, match="cannot write to FAAS_HOME"):
        prepare_home(home / "file" / "below")
    prepare_home(home / "new" / "deep")
    assert (home / "new" / "deep").stat().st_mode & 0o777 == 0o700


def test_own_command_is_what_the_user_can_type(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = home / "bin" / "faas"
    binary.parent.mkdir()
    binary.write_text("")
    binary.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(binary), "up"])
    monkeypatch.setenv("PATH", str(binary.parent))
    assert own_command() == "faas"
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(home)
    assert own_command() == "bin/faas"
    monkeypatch.chdir("/")
    assert own_command() in {str(binary), str(binary).lstrip("/")}


class Serving:
    """A node that does nothing but drain for a while when it is cancelled."""

    def __init__(self, drain_s: float) -> None:
        self.drain_s = drain_s
        self.events: list[str] = []

    async def serve(self, *signals: int) -> None:
        try:
            for number in signals:
                asyncio.get_running_loop().call_later(0.02 * (1 + len(self.events)), os.kill, os.getpid(), number)
                self.events.append("signal")
            await asyncio.sleep(60)
        finally:
            try:
                await asyncio.sleep(self.drain_s)
                self.events.append("drained")
            finally:
                self.events.append("closed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_drains_and_ends_well(number: int) -> None:
    said: list[str] = []
    node = Serving(0.01)
    assert run_until_signalled(node.serve(number), said.append, 30_000) == 0
    assert node.events == ["signal", "drained", "closed"]
    assert said == ["stopping: running calls have 30 s to end (again to stop at once)", "stopped"]


def test_a_second_signal_does_not_wait() -> None:
    said: list[str] = []
    node = Serving(60)
    assert run_until_signalled(node.serve(signal.SIGINT, signal.SIGINT), said.append, 30_000) == 0
    assert node.events == ["signal", "signal", "closed"]
    assert said[1:] == ["stopping at once", "stopped"]


def test_a_node_that_cannot_start_says_why() -> None:
    async def refuse(error: Exception) -> None:
        raise error

    for error in (EngineUnavailable("no engine here"), OSError(98, "cannot listen on :80; mend it")):
        with pytest.raises(CliError) as caught:
            run_until_signalled(refuse(error), print, 1)
        assert caught.value.why in {"no engine here", "cannot listen on :80; mend it"}


def test_what_to_try_next_works_in_another_terminal(home: Path) -> None:
    lines = demo.what_next("bin/faas", "http://h/fn/hello")
    assert f"  export FAAS_HOME={home}" in lines
    assert "  curl http://h/fn/hello" in lines
    assert any("bin/faas deploy greet.py" in line for line in lines)


def test_the_cost_line_adds_up() -> None:
    assert demo.cost_line(4, 128) == "4 ms x 128 MB = 0.000500 GB-s billed (no prices are set)"
    assert demo.cost_line(4, 128, priced=True) == "4 ms x 128 MB = 0.000500 GB-s billed"


def test_the_nodes_log_as_json_lines() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("faas.x", logging.ERROR, "", 1, "what %s", ("é",), sys.exc_info())
    found = json.loads(JsonLines().format(record))
    assert (found["level"], found["logger"], found["message"]) == ("ERROR", "faas.x", "what é")
    assert found["traceback"].endswith("ValueError: why")
    assert found["time"].endswith("+00:00")


def test_the_same_line_is_logged_once_in_a_while_and_counted() -> None:
    said: list[tuple[float, str]] = []
    once = SayOnce()

    def say(at_s: float, text: str, error: bool = False) -> None:
        record = logging.LogRecord("faas.x", logging.WARNING, "", 1, text, None, None)
        record.created = at_s
        if error:
            record.exc_info = (ValueError, ValueError("why"), None)
        if once.filter(record):
            said.append((at_s, record.getMessage()))

    for tick in range(400):
        say(tick / 10, "the store is away")
    say(5.0, "the store is back")
    say(39.0, "boom", error=True)
    say(39.1, "boom", error=True)
    counted = f"the store is away (and {round(SAME_S * 10) - 1} times since it was last said)"
    assert said == [
        (0.0, "the store is away"),
        *((SAME_S * turn, counted) for turn in (1, 2, 3)),
        (5.0, "the store is back"),
        (39.0, "boom"),
        (39.1, "boom"),
    ]


# -- doctor ---------------------------------------------------------------------------------------------------------


def test_the_port_is_free_ours_or_taken(home: Path) -> None:
    assert checks.port(Settings(port=0))[0].state == "ok"
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=lambda: other.accept()[0].close(), daemon=True).start()
        found = checks.port(Settings(port=other.getsockname()[1]))[0]
        assert (found.state, "FAAS_PORT" in found.do) == ("fail", True)
    with fake_node() as fake:
        fake.answers["GET /healthz"] = {"status": "ok"}
        found = checks.port(Settings(port=int(fake.url.rpartition(":")[2])))[0]
        assert found.state == "ok"
        assert "where the node serves" in found.found
    assert checks.port(Settings(host="203.0.113.7"))[0].state == "fail"


def test_a_redis_that_does_not_answer_fails_without_its_password(home: Path) -> None:
    (found,) = checks.store(Settings(redis_url="redis://:secret@127.0.0.1:1/0"))
    assert found.state == "fail"
    assert "secret" not in found.found
    assert checks.store(Settings())[0].state == "ok"


def test_a_home_that_is_not_ours_fails(home: Path) -> None:
    assert checks.home(Settings(home=home / "new"))[0].state == "ok"
    (home / "file").write_text("")
    assert checks.home(Settings(home=home / "file"))[0].state == "fail"


def test_a_key_that_is_refused_is_a_warning(home: Path) -> None:
    with fake_node() as fake:
        write_client_file(home, fake.url, "old")
        fake.problem("GET /v1/functions", 401, "unauthenticated", "The API key is not known here.")
        assert checks.node(Settings())[0].state == "warn"
        fake.answers["GET /v1/functions"] = {"functions": []}
        assert "takes our key" in checks.node(Settings())[0].found
    assert "none answers" in checks.node(Settings())[0].found


def test_doctor_never_raises_and_knows_every_state(home: Path) -> None:
    found = checks.run_all(Settings(port=0))
    assert {check.name for check in found} >= {
        "python",
        "home",
        "disk",
        "port",
        "node",
        "store",
        "engine",
        "cold starts",
        "bwrap",
        "uv",
    }
    assert {check.state for check in found} <= {"ok", "warn", "fail"}


def test_doctor_says_whether_the_destination_of_the_export_listens() -> None:
    assert checks.export(Settings()) == []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://user:s3cret@127.0.0.1:{listener.getsockname()[1]}/api/v1/events"
        (found,) = checks.export(Settings(export_url=url))
        assert (found.state, found.do) == ("ok", "")
        assert found.found.startswith("http://user:***@127.0.0.1:")
    (found,) = checks.export(Settings(export_url=url))
    assert found.state == "warn"
    assert "refused" in found.found
    assert "FAAS_EXPORT_URL" in found.do


def test_doctor_says_what_a_cold_start_finds() -> None:
    words = {least: checks.cold_starts(Settings(generic_sandboxes=least))[0].found for least in (0, 1, 3)}
    assert "0: each one waits" in words[0]
    assert words[1].startswith("1 sandbox per runtime in use stands")
    assert words[3].startswith("3 sandboxes per runtime in use")
