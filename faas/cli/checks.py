"""What `faas doctor` looks at. Each check is a function of the settings that never raises and changes nothing."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faas.cli import out
from faas.cli.client import ConnectionFailed, connect
from faas.cli.doctor import Check
from faas.cli.out import CliError
from faas.model.errors import EngineUnavailable, StoreUnavailable
from faas.packaging.sizes import GIB
from faas.settings import Settings, shown, without_password

if TYPE_CHECKING:
    import redis

FREE_BYTES_LOW = 2 * GIB
FREE_BYTES_MIN = GIB // 4
PYTHON_MIN = (3, 11)
CONNECT_TIMEOUT_S = 3


def run_all(settings: Settings) -> list[Check]:
    checks: tuple[Callable[[Settings], list[Check]], ...] = (
        python,
        home,
        disk,
        port,
        node,
        store,
        engine,
        export,
        cold_starts,
        bubblewrap,
        installer,
    )
    return [found for check in checks for found in check(settings)]


def cold_starts(settings: Settings) -> list[Check]:
    least = settings.generic_sandboxes
    if least == 0:
        return [Check("cold starts", "ok", "FAAS_GENERIC_SANDBOXES is 0: each one waits for a sandbox to boot")]
    each = f"{least} sandbox{'es' if least > 1 else ''} per runtime in use"
    stand = "stand" if least > 1 else "stands"
    return [Check("cold starts", "ok", f"{each} {stand} ready, and more for a while where calls found none")]


def python(_: Settings) -> list[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        return [Check("python", "fail", version, "run faas with Python 3.11 or newer")]
    return [Check("python", "ok", f"{version} ({sys.executable})")]


def _existing(path: Path) -> Path:
    """``path``, or the nearest directory above it that exists."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def home(settings: Settings) -> list[Check]:
    place = _existing(settings.home)
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return [Check("home", "fail", f"{settings.home} is not writable", "choose another: export FAAS_HOME=DIR")]
    return [Check("home", "ok", f"{settings.home}" + ("" if place == settings.home else " (not made yet)"))]


def disk(settings: Settings) -> list[Check]:
    free = shutil.disk_usage(_existing(settings.home)).free
    found = f"{out.size(free)} free at {settings.home}"
    if free < FREE_BYTES_MIN:
        return [Check("disk", "fail", found, "free some: the journal and the store need room")]
    if free < FREE_BYTES_LOW:
        return [Check("disk", "warn", found, "free some soon: images, layers and logs need room")]
    return [Check("disk", "ok", found)]


def port(settings: Settings) -> list[Check]:
    where = f"{settings.host}:{settings.port or '(any free one)'}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return [_port_in_use(settings)]
        return [Check("port", "fail", f"{where}: {error.strerror}", "mend FAAS_HOST or FAAS_PORT")]
    return [Check("port", "ok", f"{where} is free")]


def _port_in_use(settings: Settings) -> Check:
    """By a node, which is as it should be, or by something else."""
    where = f"{settings.host}:{settings.port}"
    try:
        found = connect(f"http://{where}").call("GET", "/healthz", timeout_s=CONNECT_TIMEOUT_S)
    except CliError:
        found = None
    if found != {"status": "ok"}:
        return Check("port", "fail", f"{where} is in use", "stop what uses it, or take a free one: FAAS_PORT=0")
    return Check("port", "ok", f"{where} is where the node serves")


def node(_: Settings) -> list[Check]:
    """Whether the node that the CLI would talk to answers; that none runs is no fault."""
    try:
        target = connect()
    except CliError as error:
        return [Check("node", "warn", error.what, error.do)]
    try:
        target.call("GET", "/v1/functions", timeout_s=CONNECT_TIMEOUT_S)
    except ConnectionFailed:
        return [Check("node", "ok", f"none answers at {target.url} now")]
    except CliError as error:
        return [Check("node", "warn", error.what, error.do)]
    return [Check("node", "ok", f"{target.url} answers and takes our key")]


def store(settings: Settings) -> list[Check]:
    if settings.redis_url:
        return [_redis(settings.redis_url)]
    from faas.stores.embedded import find_binary

    try:
        find_binary()
    except StoreUnavailable as error:
        do = "install again: make setup, or use a server of your own: FAAS_REDIS_URL=redis://HOST:6379/0"
        return [Check("store", "fail", error.message, do)]
    return [Check("store", "ok", "embedded Valkey")]


def _redis(url: str) -> Check:
    import redis

    where = without_password(url)
    timeouts = {"socket_connect_timeout": CONNECT_TIMEOUT_S, "socket_timeout": CONNECT_TIMEOUT_S}
    try:
        with redis.Redis.from_url(url, **timeouts) as client:
            info = client.info()
            policy = _policy(client)
    except (redis.RedisError, ValueError, OSError) as error:
        return Check("store", "fail", f"{where}: {error}", "start it, or mend FAAS_REDIS_URL, or unset it")
    assert isinstance(info, dict)
    server = f"{info.get('server_name', 'redis')} {info.get('valkey_version') or info.get('redis_version')}"
    if not info.get("aof_enabled"):
        return Check("store", "warn", f"{where} ({server}) keeps no append-only file", "set: appendonly yes")
    return Check("store", "ok", f"{where} ({server}, appendfsync {policy})")


def _policy(client: redis.Redis) -> str:
    """What killing it, or a power cut, may take of what it answered for."""
    from redis import ResponseError

    try:
        found = client.config_get("appendfsync")
    except ResponseError:  # some who offer it as a service don't say
        return "unknown"
    assert isinstance(found, dict)
    return str(found.get("appendfsync", "unknown"))


def export(settings: Settings) -> list[Check]:
    """Whether anybody listens where usage events go, and how many of the node's are still to go there."""
    if not settings.export_url:
        return []
    where = shown(settings, "export_url")
    parts = urlsplit(settings.export_url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        do = "start it, or mend FAAS_EXPORT_URL; until then events wait in the journal, up to FAAS_EXPORT_BACKLOG"
        return [Check("export", "warn", f"{where}: {error}{_events_waiting()}", do)]
    return [Check("export", "ok", f"{where} takes connections{_events_waiting()}")]


def _events_waiting() -> str:
    """Of the node that runs, if one does and exports."""
    try:
        with connect().stream("GET", "/metrics", timeout_s=CONNECT_TIMEOUT_S) as response:
            found = re.search(r"^faas_export_pending_records (\d+)", response.read().decode(), re.MULTILINE)
    except CliError:
        return ""
    return f"; {found[1]} usage records of the node wait for it" if found else ""


def engine(settings: Settings) -> list[Check]:
    """Which engine a node would use, why, and whether the runtime image is there."""
    from faas.engines import docker_client, image

    if settings.engine == "process":
        return [Check("engine", "ok", "process, as FAAS_ENGINE says")]
    try:
        client = docker_client.connect(timeout_s=CONNECT_TIMEOUT_S)
    except EngineUnavailable as error:
        if settings.engine == "docker":
            return [Check("engine", "fail", error.message, "start Docker, or set FAAS_ENGINE=auto")]
        isolation = "functions run as processes of this machine"
        return [Check("engine", "warn", f"process: {isolation}", f"for containers: {error.message}")]
    try:
        with docker_client.translated("tell its version"):
            version = client.version()["Version"]
            tag = image.runtime_tag()
            present = client.images(name=tag)
    except EngineUnavailable as error:
        return [Check("engine", "fail", error.message)]
    finally:
        client.close()
    found = [Check("engine", "ok", f"docker {version}")]
    if present:
        return [*found, Check("image", "ok", tag)]
    return [
        *found,
        Check("image", "warn", f"{tag} is not built yet", "faas runtime build python, or let faas up do it"),
    ]


def bubblewrap(settings: Settings) -> list[Check]:
    path = shutil.which("bwrap")
    if path:
        return [Check("bwrap", "ok", path)]
    state = "warn" if settings.engine == "process" else "ok"
    do = "install bubblewrap: without it the process engine isolates little" if state == "warn" else ""
    return [Check("bwrap", state, "not found" + ("" if do else " (only the process engine uses it)"), do)]


def installer(_: Settings) -> list[Check]:
    """uv resolves and installs the dependencies of functions."""
    try:
        from uv import find_uv_bin

        return [Check("uv", "ok", find_uv_bin())]
    except (ImportError, FileNotFoundError):
        found = "not found: functions with dependencies cannot be deployed"
        return [Check("uv", "fail", found, "install it: make setup")]
