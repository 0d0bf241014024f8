"""Settings: where each value comes from, what is refused, and that every refusal names the setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from faas import settings
from faas.home import default_home, faas_home
from faas.settings import NAMES, Settings, SettingsError, load, shown, unknown_variables, without_password


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty FAAS_HOME and no other FAAS_ variable."""
    for name in (*NAMES, "url", "key", "namespace"):
        monkeypatch.delenv(f"FAAS_{name.upper()}", raising=False)
    monkeypatch.setenv("FAAS_HOME", str(tmp_path))
    return tmp_path


def problems() -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load()
    return caught.value.problems


def test_defaults_are_those_of_the_contract(home: Path) -> None:
    found, sources = load()
    assert (found.host, found.port, found.redis_url, found.engine) == ("127.0.0.1", 8080, "", "auto")
    assert (found.generic_sandboxes, found.queue_depth, found.log_format) == (1, 100, "text")
    assert (found.max_body_bytes, found.queue_wait_ms, found.drain_timeout_ms) == (6 * 1024**2, 10_000, 30_000)
    assert (found.keep_alive_ms, found.record_retention_ms) == (600_000, 7 * 86_400_000)
    assert found.memory_budget_bytes == settings.half_of_ram()
    assert found.home == home
    assert sources.pop("home") == "environment"
    assert set(sources.values()) == {"default"}


def test_environment_wins_over_the_file_and_a_flag_over_both(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "faas.toml").write_text('port = 1000\nqueue_wait = "2s"\nmemory_budget = "1GB"\nengine = "process"\n')
    monkeypatch.setenv("FAAS_PORT", "2000")
    monkeypatch.setenv("FAAS_QUEUE_WAIT", "1500ms")
    monkeypatch.setenv("FAAS_ENGINE", "")  # empty counts as unset
    found, sources = load(port=3000, host=None)
    assert (found.port, found.queue_wait_ms) == (3000, 1500)
    assert (found.memory_budget_bytes, found.engine) == (1024**3, "process")
    assert [sources[name] for name in ("port", "queue_wait", "memory_budget", "engine", "host")] == [
        "flag",
        "environment",
        "faas.toml",
        "faas.toml",
        "default",
    ]


@pytest.mark.parametrize(
    ("written", "milliseconds"), [('"1m30s"', 90_000), ("7", 7_000), ("0.5", 500), ('"20"', 20_000), ("0", 0)]
)
def test_a_number_without_a_unit_is_seconds(home: Path, written: str, milliseconds: int) -> None:
    (home / "faas.toml").write_text(f"drain_timeout = {written}\n")
    assert load()[0].drain_timeout_ms == milliseconds


def test_a_number_without_a_unit_is_bytes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "faas.toml").write_text("max_body = 4096\n")
    assert load()[0].max_body_bytes == 4096
    monkeypatch.setenv("FAAS_MAX_BODY", "8192")
    assert load()[0].max_body_bytes == 8192


def test_code_gives_integers_in_the_unit_of_the_field() -> None:
    assert Settings(queue_wait_ms=50, max_body_bytes=2048).queue_wait_ms == 50


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "FAAS_PORT=http: wanted a whole number from 0 to 65535"),
        ("PORT", "70000", "FAAS_PORT=70000: wanted a whole number from 0 to 65535"),
        ("ENGINE", "podman", "FAAS_ENGINE=podman: wanted auto, docker, process"),
        ("LOG_FORMAT", "xml", "FAAS_LOG_FORMAT=xml: wanted text, json"),
        ("QUEUE_WAIT", "soon", 'FAAS_QUEUE_WAIT=soon: "soon" is not a duration'),
        ("QUEUE_WAIT", "2h", "from 1ms to 15m"),
        ("MAX_BODY", "1TB", 'FAAS_MAX_BODY=1TB: "1TB" is not a size'),
        ("MAX_BODY", "1GB", "from 1KB to 15MB"),
        ("MEMORY_BUDGET", "1MB", "of at least 128MB"),
        ("REDIS_URL", "localhost:6379", "wanted redis://HOST:PORT/DB"),
        ("QUEUE_DEPTH", "-1", "from 0 to 100000"),
        ("EXPORT_URL", "openmeter:8888", "wanted http://HOST/PATH or https://HOST/PATH"),
        ("EXPORT_URL", "https:///api", "wanted http://HOST/PATH or https://HOST/PATH"),
        ("EXPORT_BACKLOG", "1MB", "of at least 16MB"),
    ],
)
def test_a_bad_value_is_refused_with_what_is_allowed(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"FAAS_{name}", value)
    (problem,) = problems()
    assert problem.startswith(f"FAAS_{name}={value}: ")
    assert said in problem


def test_every_problem_comes_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "faas.toml").write_text('port = "x"\nqueue_wait = true\n')
    monkeypatch.setenv("FAAS_ENGINE", "vm")
    found = problems()
    assert len(found) == 3
    assert any("faas.toml: port = 'x': wanted a whole number" in problem for problem in found)
    assert any("faas.toml: queue_wait = True: " in problem for problem in found)


def test_unknown_keys_in_the_file_are_refused_with_a_guess(home: Path) -> None:
    (home / "faas.toml").write_text('prot = 1\nzzz = 2\nhome = "/x"\nqueue_wait_ms = 5\n')
    first, second, third, fourth = problems()
    assert "unknown setting prot; did you mean port?" in first
    assert "unknown setting zzz; there is connections, drain_timeout, " in second
    assert "home can only be set in the environment, as FAAS_HOME" in third
    assert "unknown setting queue_wait_ms; did you mean queue_wait?" in fourth


def test_a_broken_file_is_named(home: Path) -> None:
    (home / "faas.toml").write_text("port = \n")
    (problem,) = problems()
    assert problem.startswith(f"{home / 'faas.toml'}: ")


def test_variables_that_nothing_reads_are_noticed() -> None:
    environ = {"FAAS_PROT": "1", "FAAS_PORT": "1", "FAAS_URL": "u", "FAAS_QUEUE_WAIT": "1s", "HOME": "/"}
    assert unknown_variables(environ) == ["unknown setting FAAS_PROT; did you mean FAAS_PORT?"]


def test_a_token_is_shown_to_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_EXPORT_URL", "https://user:s3cret@meter.example/api/v1/events")
    monkeypatch.setenv("FAAS_EXPORT_TOKEN", " s3cret ")
    found, _ = load()
    assert found.export_token == "s3cret"
    assert "s3cret" not in f"{found.export_token and shown(found, 'export_token')} {shown(found, 'export_url')}"
    for token in ("s3cret s3cret", "s3cr\u00e9t"):
        monkeypatch.setenv("FAAS_EXPORT_TOKEN", token)
        assert problems() == ["FAAS_EXPORT_TOKEN=***: wanted ASCII text without blanks"]
    monkeypatch.delenv("FAAS_EXPORT_TOKEN")
    (home / "faas.toml").write_text('export_token = "s3cret s3cret"\n')
    assert problems() == [f"{home / 'faas.toml'}: export_token = ***: wanted ASCII text without blanks"]


def test_values_are_shown_as_users_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_REDIS_URL", "redis://user:secret@db:6379/1")
    found, _ = load(memory_budget="3GB")
    assert [shown(found, name) for name in ("memory_budget", "queue_wait", "port", "redis_url")] == [
        "3GB",
        "10s",
        "8080",
        "redis://user:***@db:6379/1",
    ]
    assert shown(Settings(redis_url=""), "redis_url") == "(embedded Valkey)"


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("redis://:a@b@host:1/0", "redis://:***@host:1/0"),
        ("redis://host:6379", "redis://host:6379"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_passwords_are_left_out(url: str, safe: str) -> None:
    assert without_password(url) == safe


def test_home_follows_xdg() -> None:
    assert default_home({"XDG_DATA_HOME": "/data"}) == Path("/data/faas")
    assert default_home({"XDG_DATA_HOME": "relative"}) == Path.home() / ".local/share/faas"
    assert faas_home({"FAAS_HOME": "~/x"}) == Path.home() / "x"
    assert faas_home({"FAAS_HOME": "rel"}).is_absolute()


def test_connections_are_named_and_shown_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAAS_CONNECTIONS", "rabbit=amqp://ann:secret@h/v n=nats://ann:secret@a,nats://token@b")
    found, sources = load()
    assert found.connections["rabbit"] == "amqp://ann:secret@h/v"
    assert shown(found, "connections") == "rabbit=amqp://ann:***@h/v n=nats://ann:***@a,nats://***@b"
    assert sources["connections"] == "environment"
    assert "secret" not in repr(found)
    (faas_home() / "faas.toml").write_text('[connections]\nold = "redis://:secret@h"\n')
    monkeypatch.delenv("FAAS_CONNECTIONS")
    assert load()[0].connections == {"old": "redis://:secret@h"}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("amqp://ann:secret@h", "wanted NAME=URL"),
        ("a=http://ann:secret@h", "a: wanted a URL that begins with amqp://"),
        ("amqp://ann:secret=a@h", "a connection's name is of letters"),
        ('{"a": ["secret"]}', "a: wanted a URL"),
        ('{"a" secret', "not JSON"),
    ],
)
def test_connections_that_are_none_are_refused_without_their_passwords(
    monkeypatch: pytest.MonkeyPatch, written: str, said: str
) -> None:
    monkeypatch.setenv("FAAS_CONNECTIONS", written)
    with pytest.raises(SettingsError) as caught:
        load()
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
