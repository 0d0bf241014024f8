"""What each setting may be: one pure function per kind of value.

A check takes what the user wrote and returns what the platform stores, or raises ``ValueError`` with a sentence that
says what is wrong and what is allowed. It knows nothing of keys, lines or files; ``manifest.py`` adds those.
"""

# ruff: noqa: TRY004 - a wrong type is one more wrong value here, and callers catch one exception

from __future__ import annotations

import datetime as dt
import json
import re
import zoneinfo
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from cronsim import CronSim, CronSimError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from faas.events.filters import compile_filter
from faas.packaging.sizes import (
    DAY_MS,
    GIB,
    HOUR_MS,
    MIB,
    MINUTE_MS,
    SECOND_MS,
    format_duration_ms,
    format_memory_mb,
    kind,
    parse_duration_ms,
    parse_memory_mb,
    shown,
)

Check = Callable[[Any], Any]

MEMORY_MB_MIN, MEMORY_MB_MAX = 64, 10 * GIB // MIB
CPUS_MIN, CPUS_MAX = 0.01, 64  # the least is the kernel's: 1 ms of a period of 100
TIMEOUT_MS_MIN, TIMEOUT_MS_MAX = 10, HOUR_MS
INSTANCES_MAX = 1000
CONCURRENCY_MAX = 1000
DEPENDENCIES_MAX = 200
ENV_BYTES_MAX = 32 * 1024
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

FOREIGN_BYTES_MAX = 255  # of names in RabbitMQ; NATS and Redis have no less

CONNECTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ATTRIBUTE = re.compile(r"[^\W\d]\w{0,127}")
_MODULE = re.compile(r"[\w-]{1,128}(\.[\w-]{1,128}){0,20}")


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {kind(value)}")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")
    return value


def choice(*allowed: str) -> Check:
    def check(value: Any) -> str:
        if value not in allowed or not isinstance(value, str):
            raise ValueError(f"must be {' or '.join(shown(a) for a in allowed)}, not {shown(value)}")
        return value

    return check


def integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"must be a whole number from {low} to {high}, not {shown(value)}")
        if not low <= value <= high:
            raise ValueError(f"must be from {low} to {high}, not {shown(value)}")
        return value

    return check


def duration(low_ms: int, high_ms: int) -> Check:
    """Milliseconds, within bounds given in milliseconds."""

    def check(value: Any) -> int:
        found = parse_duration_ms(value)
        if not low_ms <= found <= high_ms:
            allowed = f"{format_duration_ms(low_ms)} to {format_duration_ms(high_ms)}"
            raise ValueError(f"must be from {allowed}, not {shown(value)}")
        return found

    return check


def memory_mb(value: Any) -> int:
    found = parse_memory_mb(value)
    if not MEMORY_MB_MIN <= found <= MEMORY_MB_MAX:
        allowed = f"{format_memory_mb(MEMORY_MB_MIN)} to {format_memory_mb(MEMORY_MB_MAX)}"
        raise ValueError(f"must be from {allowed}, not {shown(value)}")
    return found


def cpus(value: Any) -> float:
    allowed = f"from {CPUS_MIN} to {CPUS_MAX} cores"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number {allowed}, not {shown(value)}")
    if not CPUS_MIN <= value <= CPUS_MAX:  # NaN is not, either
        raise ValueError(f"must be {allowed}, not {shown(value)}")
    return float(value)


def keep_alive_ms(value: Any) -> int | None:
    """None for "auto": the platform decides from how the function is called."""
    if value == "auto":
        return None
    try:
        return int(duration(0, DAY_MS)(value))
    except ValueError as error:
        raise ValueError(f'{error}, or "auto"') from None


def name(value: Any) -> str:
    if not NAME.fullmatch(text(value)):
        hint = suggest_name(value)
        raise ValueError(
            f"{shown(value)} is not a name: a lower-case letter, then up to 62 of a-z, 0-9 and -"
            + (f'; "{hint}" would do' if hint else "")
        )
    return str(value)


def suggest_name(value: str) -> str:
    """The nearest allowed name, or "" when nothing is left of it: ``My_Func.v2`` -> ``my-func-v2``."""
    return re.sub(r"[^a-z0-9]+", "-", value.lower().strip()).strip("-").lstrip("0123456789-")[:63].rstrip("-")


def handler(value: Any) -> str:
    """``handler``, ``module.handler`` (as Lambda writes it) or ``module:app`` (as ASGI servers do)."""
    module, attribute = split_handler(text(value))
    if not _ATTRIBUTE.fullmatch(attribute) or (module and not _MODULE.fullmatch(module)):
        raise ValueError(f'{shown(value)} is not a handler: write "handler", "module.handler" or "module:app"')
    return str(value)


def split_handler(value: str) -> tuple[str, str]:
    """Module ("" when none is named) and attribute."""
    module, _, attribute = value.rpartition(":" if ":" in value else ".")
    return module.replace("/", "."), attribute


def entry(value: Any) -> str:
    """A module of the bundle: ``main``, ``pkg.main``, or as a path, ``pkg/main.py``."""
    module = text(value).removeprefix("./").removesuffix(".py").replace("/", ".")
    if not _MODULE.fullmatch(module):
        raise ValueError(f'{shown(value)} is not a module of the bundle: write "main", "pkg.main" or "pkg/main.py"')
    return module


def methods(value: Any) -> tuple[str, ...]:
    found = [method.upper() for method in texts(value)]
    unknown = [method for method in found if method not in METHODS]
    if unknown:
        raise ValueError(f"{shown(unknown[0])} is not an HTTP method; allowed: {', '.join(METHODS)}")
    return tuple(dict.fromkeys(found))


def texts(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise ValueError(f'must be a list such as ["..."], not {kind(value)}')
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"must be a list of text; {shown(item)} is {kind(item)}")
    return list(value)


def origin(value: Any) -> str:
    if text(value) == "*":
        return str(value)
    parts = _url(value)
    if parts is None or parts[0] not in ("http", "https") or parts[2] not in ("", "/"):
        raise ValueError(f'{shown(value)} is not an origin: write "*" or scheme and host, as "https://example.com"')
    return str(value).rstrip("/")


def destination(value: Any) -> str:
    prefix, _, rest = text(value).partition(":")
    if prefix in ("queue", "function"):
        if NAME.fullmatch(rest):
            return str(value)
        raise ValueError(f"{shown(rest)} is not the name of a {prefix}: a lower-case letter, then a-z, 0-9 and -")
    parts = _url(value)
    if parts is not None and parts[0] == "https":
        return str(value)
    raise ValueError(f'{shown(value)} is not a destination: write "queue:NAME", "function:NAME" or an https URL')


def _url(value: str) -> tuple[str, str, str] | None:
    """Scheme, host and path, or None when it is no absolute URL of printable ASCII."""
    if not value.isascii() or not value.isprintable() or " " in value or len(value) > 2048:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, parts.path) if parts.hostname else None


def cron(value: Any) -> str:
    fields = text(value).split()
    example = '"*/5 * * * *" is every five minutes, "0 6 * * 1-5" is 6:00 from Monday to Friday'
    if len(fields) != 5:
        raise ValueError(
            f"{shown(value)} is not a schedule: five fields (minute hour day month weekday); {example}"
            if len(value) <= 200
            else "a schedule has five fields (minute hour day month weekday)"
        )
    try:
        next(CronSim(" ".join(fields), dt.datetime(2024, 1, 1)))  # noqa: DTZ001 - any date will do
    except CronSimError as error:
        raise ValueError(f"{shown(value)} is not a schedule: {str(error).lower()}; {example}") from None
    except StopIteration:
        raise ValueError(f"{shown(value)} never comes round") from None
    return " ".join(fields)


def timezone(value: Any) -> str:
    try:
        zoneinfo.ZoneInfo(text(value))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f'{shown(value)} is not a time zone; write one such as "UTC" or "Europe/Berlin"') from None
    return str(value)


def json_value(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"must be a JSON value (no dates, no NaN): {error}") from None
    return value


def event_filter(value: Any) -> dict[str, Any]:
    """An event pattern; the error says all that is wrong with it."""
    compile_filter(json_value(value))
    return dict(value)


def env_name(value: str) -> str:
    if not _ENV_NAME.fullmatch(value):
        raise ValueError(f"{shown(value)} is not a variable's name: letters, digits and _, no digit first")
    if value.startswith("FAAS_"):
        raise ValueError(f"{shown(value)}: names that begin with FAAS_ belong to the platform")
    return value


def env_value(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f'must be text in quotes, such as "128", not {shown(value)}')
    if "\0" in value:
        raise ValueError("cannot hold a NUL character")
    return value


def requires_python(value: Any) -> str:
    if len(text(value)) > 200:
        raise ValueError("is longer than 200 characters")
    try:
        return str(SpecifierSet(value)) or ">=3.11"
    except InvalidSpecifier:
        raise ValueError(f'{shown(value)} is not a version range; write one such as ">=3.11"') from None


def python_satisfies(specifier: str, python_version: str) -> bool:
    """Whether some patch release of ``python_version`` ("3.11", or exactly "3.11.7") lies in the range."""
    versions = [python_version] if python_version.count(".") > 1 else [f"{python_version}.{p}" for p in range(64)]
    allowed = SpecifierSet(specifier)
    return any(allowed.contains(version, prereleases=True) for version in versions)


def dependency(value: Any) -> str:
    """One PEP 508 requirement from an index, in its normal form. URLs and paths would bypass the node's index."""
    if len(text(value)) > 500:
        raise ValueError("a dependency longer than 500 characters")
    try:
        found = Requirement(value)
    except InvalidRequirement as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f'{shown(value)} is not a dependency ({reason}); write "pillow>=11"') from None
    if found.url:
        raise ValueError(
            f"{shown(value)}: dependencies by URL or path are not installed; name a released version, "
            "and give the node your own index with UV_INDEX_URL or a folder of wheels with UV_FIND_LINKS"
        )
    return str(found)


def connection(value: Any) -> str:
    """As ``name``, but "_" may be in it too: operators choose these."""
    if not CONNECTION.fullmatch(text(value)):
        raise ValueError(f"{shown(value)} is not the name of a connection: letters, digits, - and _, at most 63")
    return str(value)


def foreign(value: Any) -> str:
    """A name in a system that is not ours, with its own rules."""
    if not text(value) or len(value.encode()) > FOREIGN_BYTES_MAX or not value.isprintable():
        raise ValueError(f"must be a name of 1 to {FOREIGN_BYTES_MAX} bytes, all of it printable, not {shown(value)}")
    return str(value)


def stream(value: Any) -> str:
    if re.search(r"[\s.*>/\\]", foreign(value)):
        raise ValueError(f"{shown(value)} is not the name of a JetStream stream: no blanks and none of . * > / \\")
    return str(value)


def subject(value: Any) -> str:
    parts = foreign(value).split(".")
    if not all(parts) or re.search(r"\s", value) or ">" in parts[:-1]:
        raise ValueError(f'{shown(value)} is not a subject: write one such as "orders.eu", "orders.*" or "orders.>"')
    return str(value)


SOURCE_FIELDS: dict[str, tuple[str, Check]] = {
    "connection": ("connection", connection),
    "queue": ("queue", foreign),
    "stream": ("stream", stream),
    "subject": ("subject", subject),
    "list": ("list", foreign),
    "end": ("end", choice("right", "left")),
    "channel": ("channel", foreign),
    "group_by": ("group_by", foreign),
}
QUEUE_FIELDS: dict[str, tuple[str, Check]] = {
    "name": ("name", name),
    "batch": ("batch", integer(1, 10_000)),
    "window": ("window_ms", duration(0, 5 * MINUTE_MS)),
    "max_concurrency": ("max_concurrency", integer(1, INSTANCES_MAX)),
    "lease": ("lease_ms", duration(SECOND_MS, 12 * HOUR_MS)),
    "filter": ("filter", event_filter),
    "source": ("source", lambda value: value),  # a table: ``manifest.py`` walks it
}
CRON_FIELDS: dict[str, tuple[str, Check]] = {
    "schedule": ("schedule", cron),
    "timezone": ("timezone", timezone),
    "payload": ("payload", json_value),
    "missed": ("missed", choice("skip", "once")),
    "jitter": ("jitter_ms", duration(0, HOUR_MS)),
}
RETRY_FIELDS: dict[str, tuple[str, Check]] = {
    "attempts": ("attempts", integer(1, 100)),
    "max_age": ("max_age_ms", duration(SECOND_MS, 14 * DAY_MS)),
}
FIELDS: dict[str, tuple[str, Check]] = {
    "name": ("name", name),
    "entry": ("entry", entry),
    "handler": ("handler", handler),
    "runtime": ("runtime", choice("python")),
    "requires-python": ("requires_python", requires_python),
    "memory": ("memory_mb", memory_mb),
    "cpus": ("cpus", cpus),
    "timeout": ("timeout_ms", duration(TIMEOUT_MS_MIN, TIMEOUT_MS_MAX)),
    "concurrency": ("concurrency", integer(1, CONCURRENCY_MAX)),
    "min_instances": ("min_instances", integer(0, INSTANCES_MAX)),
    "max_instances": ("max_instances", integer(1, INSTANCES_MAX)),
    "network": ("network", choice("none", "egress")),
    "keep_alive": ("keep_alive_ms", keep_alive_ms),
    "on_disconnect": ("on_disconnect", choice("finish", "cancel")),
    "idempotency": ("idempotency_ms", duration(SECOND_MS, 7 * DAY_MS)),
    "on_success": ("on_success", destination),
    "on_failure": ("on_failure", destination),
}
