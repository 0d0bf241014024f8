"""The settings of a node: from the environment (``FAAS_*``), else ``faas.toml`` in FAAS_HOME, else the default.

`load` is called once, in `faas up` or `faas doctor`; the frozen `Settings` is handed down from there and nothing else
reads the environment. Quantities are integers whose unit ends the field's name; their setting's name has no unit
(``FAAS_QUEUE_WAIT=10s`` is ``queue_wait_ms``), as users write the unit with the value.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AliasChoices, AliasGenerator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from faas.home import SETTINGS_FILE, faas_home
from faas.model.connection import SCHEMES, masked, system_of
from faas.packaging import checks, sizes

CLIENT_NAMES = frozenset({"url", "key", "namespace"})  # FAAS_URL and so on: read by the CLI, no business of a node
MEMORY_BUDGET_BYTES_MIN = 128 * sizes.MIB
SECRETS = frozenset({"export_token", "connections"})  # whose values no error shows
BODY_BYTES_MAX = 15 * sizes.MIB  # the channel's frames end at 16 MiB
_UNITS = ("_bytes", "_ms")


class SettingsError(Exception):
    """Everything wrong with the settings at once: ``problems`` are sentences that name the setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def half_of_ram() -> int:
    """Half of what this machine, or the container we run in, has; in bytes, whole MB."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits) // 2 // sizes.MIB * sizes.MIB


def _redis_url(value: object) -> object:
    if isinstance(value, str) and value and not value.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError(
            "wanted redis://HOST:PORT/DB, rediss://... or unix:///PATH, or nothing for the embedded Valkey"
        )
    return value


def _export_url(value: object) -> object:
    if isinstance(value, str) and value and not re.fullmatch(r"https?://[^/\s?#]+[^\s#]*", value):
        raise ValueError("wanted http://HOST/PATH or https://HOST/PATH, or nothing for no export")
    return value


def _export_token(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[\x21-\x7e]*", value.strip()):
        raise ValueError("wanted ASCII text without blanks")
    return value.strip() if isinstance(value, str) else value


def _connections(value: object) -> object:
    """A table of name and URL; in the environment ``NAME=URL NAME=URL``, or JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("{") else dict(_pairs(value))
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise ValueError("wanted a table of names and URLs")  # noqa: TRY004 - for pydantic, as any other
    for name, url in value.items():
        if not checks.CONNECTION.fullmatch(name):
            raise ValueError("a connection's name is of letters, digits, - and _, at most 63")
        if not isinstance(url, str) or not url.isprintable() or system_of(url) is None:
            raise ValueError(f"{name}: wanted a URL that begins with {', '.join(f'{s}://' for s in SCHEMES)}")
    return dict(value)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    for pair in text.split():
        name, separator, url = pair.partition("=")
        if not separator:
            raise ValueError("wanted NAME=URL, several of them with blanks between")
        yield name, url


def _size(value: object) -> int:
    """Text as people write it, digits alone (environment) and integers are bytes."""
    return sizes.parse_size_bytes(int(value) if isinstance(value, str) and value.isdecimal() else value)


def _duration(value: object) -> object:
    """Text as people write it, where digits alone are seconds; an integer is milliseconds already."""
    if isinstance(value, str) and value.isdecimal():
        return sizes.parse_duration_ms(int(value))
    return value if type(value) is int else sizes.parse_duration_ms(value)


Size = Annotated[int, BeforeValidator(_size)]
Duration = Annotated[int, BeforeValidator(_duration)]
Engine = Literal["auto", "docker", "process"]
LogFormat = Literal["text", "json"]
WebhookAddresses = Literal["public", "any"]
KeepAlivePolicy = Literal["adaptive", "histogram", "fixed"]


def setting_name(field: str) -> str:
    """``queue_wait_ms`` -> ``queue_wait``: the key in faas.toml and, upper-case after FAAS_, in the environment."""
    for unit in _UNITS:
        field = field.removesuffix(unit)
    return field


def _aliases(field: str) -> AliasChoices:
    """The setting's name; the field's own stays valid, for code."""
    return AliasChoices(setting_name(field), field)


class Settings(BaseSettings):
    """See the README, "Settings of a node". Those after the blank line are for operators who know why."""

    model_config = SettingsConfigDict(
        alias_generator=AliasGenerator(validation_alias=_aliases),
        env_prefix="FAAS_",
        env_prefix_target="all",
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=False,
    )

    home: Path = Field(default_factory=faas_home)
    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8080, ge=0, le=65_535)  # 0 = any free one
    redis_url: Annotated[str, BeforeValidator(_redis_url)] = ""  # "" = embedded Valkey, data in home
    engine: Engine = "auto"
    memory_budget_bytes: Size = Field(default_factory=half_of_ram, ge=MEMORY_BUDGET_BYTES_MIN)
    generic_sandboxes: int = Field(default=1, ge=0, le=64)  # per runtime in use
    max_body_bytes: Size = Field(default=6 * sizes.MIB, ge=sizes.KIB, le=BODY_BYTES_MAX)
    queue_depth: int = Field(default=100, ge=0, le=100_000)  # waiting calls per function
    queue_wait_ms: Duration = Field(default=10_000, ge=1, le=900_000)
    namespace_concurrency: int = Field(default=0, ge=0, le=1_000_000_000)  # calls at once; 0 = no limit
    namespace_memory_bytes: Size = Field(default=0, ge=0)  # of its instances together; 0 = no limit
    drain_timeout_ms: Duration = Field(default=30_000, ge=0, le=3_600_000)
    log_format: LogFormat = "text"
    webhook_addresses: WebhookAddresses = "public"  # where destinations of functions may lead
    export_url: Annotated[str, BeforeValidator(_export_url)] = ""  # where usage events are sent; "" = nowhere
    export_token: Annotated[str, BeforeValidator(_export_token)] = Field(default="", repr=False)
    export_namespaces: str = ""  # whose, separated by commas; "" = all
    export_backlog_bytes: Size = Field(default=sizes.GIB, ge=16 * sizes.MIB)  # kept while the destination is away
    connections: Annotated[dict[str, str], NoDecode, BeforeValidator(_connections)] = Field(
        default_factory=dict, repr=False
    )  # to systems whose messages functions take, by name

    keep_alive_ms: Duration = Field(
        default=10 * sizes.MINUTE_MS, ge=0, le=7 * sizes.DAY_MS
    )  # of functions that say "auto": what "fixed" holds for, and the others may not cost more than
    keep_alive_policy: KeepAlivePolicy = "adaptive"
    log_lines: int = Field(default=10_000, ge=100, le=1_000_000)  # of log kept, per function
    record_retention_ms: Duration = Field(default=7 * sizes.DAY_MS, ge=sizes.MINUTE_MS)

    @model_validator(mode="before")
    @classmethod
    def _seconds(cls, given: dict[str, Any]) -> dict[str, Any]:
        """A number under a setting's name (``queue_wait = 10`` in faas.toml) is seconds."""
        return {
            key: f"{value}s" if NAMES.get(key, "").endswith("_ms") and type(value) in {int, float} else value
            for key, value in given.items()
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """First wins: arguments, environment. `load` puts the file behind them."""
        return init_settings, env_settings, _FileSource(settings_cls)


class _FileSource(InitSettingsSource):
    """``faas.toml`` of FAAS_HOME; unknown keys were refused by `load` already."""

    def __init__(self, settings_cls: type[BaseSettings]) -> None:
        super().__init__(settings_cls, _read_file(faas_home() / SETTINGS_FILE))


NAMES: Mapping[str, str] = {setting_name(field): field for field in Settings.model_fields}  # setting -> field


class Source:
    """Where a value came from, in words for `faas doctor`."""

    ENV = "environment"
    FILE = "faas.toml"
    DEFAULT = "default"
    FLAG = "flag"


def load(**flags: Any) -> tuple[Settings, dict[str, str]]:
    """The settings and, per setting name, their source. ``flags`` (setting names; None = not given) win over all.

    Raises `SettingsError` with every problem at once.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    path = faas_home() / SETTINGS_FILE
    in_file = _read_file(path)
    problems = [_unknown(key, list(NAMES), path) for key in in_file if key not in NAMES or key == "home"]
    if problems:
        raise SettingsError(problems)
    sources = {name: _source(name, given, in_file) for name in NAMES}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise SettingsError(_sentences(error, sources, given, in_file)) from None
    return settings, sources


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each ``FAAS_*`` variable that nothing reads, likely a slip of the pen."""
    known = set(NAMES) | CLIENT_NAMES
    return [
        _unknown(variable, [f"FAAS_{name.upper()}" for name in known], None)
        for variable in environ
        if variable.startswith("FAAS_") and variable.removeprefix("FAAS_").lower() not in known
    ]


def shown(settings: Settings, name: str) -> str:
    """A value as a user would write it; passwords in URLs are left out."""
    field = NAMES[name]
    value = getattr(settings, field)
    if field.endswith("_bytes"):
        return sizes.format_size_bytes(value)
    if field.endswith("_ms"):
        return sizes.format_duration_ms(value)
    if name == "redis_url":
        return without_password(value) if value else "(embedded Valkey)"
    if name == "export_url":
        return without_password(value)
    if name == "connections":
        return " ".join(f"{key}={masked(url)}" for key, url in value.items())
    if name in SECRETS:
        return "***" if value else ""
    return str(value)


def without_password(url: str) -> str:
    """``redis://:secret@host/0`` -> ``redis://:***@host/0``."""
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    return f"{scheme}{separator}{user}{colon}***{at}{host}" if colon else url


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError([f"{path}: {error}"]) from None


def _source(name: str, flags: Mapping[str, Any], in_file: Mapping[str, Any]) -> str:
    if name in flags:
        return Source.FLAG
    if any(key.upper() == f"FAAS_{name.upper()}" and value for key, value in os.environ.items()):
        return Source.ENV
    return Source.FILE if name in in_file else Source.DEFAULT


def _unknown(key: str, known: list[str], path: Path | None) -> str:
    where = f"{path}: " if path else ""
    if key == "home":
        return f"{where}home can only be set in the environment, as FAAS_HOME"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else f"; there is {', '.join(sorted(known))}"
    return f"{where}unknown setting {key}{hint}"


def _sentences(
    error: ValidationError, sources: Mapping[str, str], flags: Mapping[str, Any], in_file: Mapping[str, Any]
) -> list[str]:
    """Pydantic's errors as ``FAAS_PORT=http: wanted a whole number from 0 to 65535``."""
    environ = {name.upper(): value for name, value in os.environ.items()}
    found = []
    for entry in error.errors():
        name = setting_name(str(entry["loc"][0]).lower()).removeprefix("faas_")
        source = sources[name]
        if source == Source.ENV:
            label = f"FAAS_{name.upper()}={'***' if name in SECRETS else environ[f'FAAS_{name.upper()}']}"
        elif source == Source.FLAG:
            label = f"--{name.replace('_', '-')} {flags[name]}"
        else:
            written = "***" if name in SECRETS else repr(in_file.get(name))
            label = f"{faas_home() / SETTINGS_FILE}: {name} = {written}"
        refused = entry["ctx"]["error"] if entry["type"] == "value_error" else f"wanted {_allowed(NAMES[name])}"
        found.append(f"{label}: {refused}")
    return found


def _allowed(field: str) -> str:
    """What a field takes, in words, from its type and bounds."""
    info = Settings.model_fields[field]
    if get_origin(info.annotation) is Literal:
        return ", ".join(get_args(info.annotation))
    form: Callable[[int], str] = str
    kind = "a whole number" if info.annotation is int else "text"
    if field.endswith("_bytes"):
        kind, form = f"a size ({sizes.SIZE_FORMS})", sizes.format_size_bytes
    elif field.endswith("_ms"):
        kind, form = f"a duration ({sizes.DURATION_FORMS})", sizes.format_duration_ms
    bounds = {key: form(getattr(rule, key)) for rule in info.metadata for key in ("ge", "le") if hasattr(rule, key)}
    if "le" in bounds:
        return f"{kind} from {bounds['ge']} to {bounds['le']}"
    return f"{kind} of at least {bounds['ge']}" if "ge" in bounds else kind
