"""Connecting to the container engine, and its errors in our words."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from faas.model.errors import EngineUnavailable

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_POOL_CONNECTIONS = 16
_KNOCK_TIMEOUT_S = 2


def connect(
    *, timeout_s: int = 60, like: docker.APIClient | None = None, version: str | None = None
) -> docker.APIClient:
    """A client of the engine that ``DOCKER_HOST`` names, by default the one at ``/var/run/docker.sock``.

    ``like`` copies address and API version from another client. Raises ``EngineUnavailable``.
    """
    address = engine_address()
    if not address.startswith("unix://"):
        raise EngineUnavailable(
            f"DOCKER_HOST is {address}, but sandboxes need an engine on this machine (they share sockets and files"
            " with the node): unset it, or set FAAS_ENGINE=process"
        )
    path = Path(address.removeprefix("unix://"))
    if not path.exists():
        raise EngineUnavailable(f"no container engine: {path} is not there. Start Docker, or set FAAS_ENGINE=process")
    if not os.access(path, os.R_OK | os.W_OK):
        raise EngineUnavailable(
            f"permission denied on {path}: add yourself to its group (`sudo usermod -aG docker $USER`, then log in"
            " again), or set FAAS_ENGINE=process"
        )
    _knock(path)
    # "like" carries the version so that no question goes out before the first real one
    chosen = like.api_version if like is not None else (version or "auto")
    with translated("talk to the container engine"):
        return docker.APIClient(
            base_url=address, version=chosen, timeout=timeout_s, num_pools=2, max_pool_size=_POOL_CONNECTIONS
        )


def engine_address() -> str:
    return os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET


def _knock(path: Path) -> None:
    """Is anybody listening? The SDK would find out, too, but drops its socket half-open."""
    with socket.socket(socket.AF_UNIX) as knocking:
        knocking.settimeout(_KNOCK_TIMEOUT_S)
        with translated("take a connection"):
            knocking.connect(str(path))


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the SDK's errors into ``EngineUnavailable`` with the engine's own words."""
    try:
        yield
    except docker.errors.APIError as error:
        words = str(error.explanation or error).strip()
        raise EngineUnavailable(f"the container engine could not {doing}: {words}") from error
    except requests.exceptions.Timeout as error:
        raise EngineUnavailable(f"the container engine took too long to {doing}: is the host overloaded?") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineUnavailable(
            f"the container engine does not answer ({_words(error)}): start it, or set FAAS_ENGINE=process"
        ) from error


def _words(error: BaseException) -> str:
    """The innermost cause says it best: "Connection refused", not three layers of urllib3."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return str(error)
