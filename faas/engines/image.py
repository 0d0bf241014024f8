"""The Python runtime image, made on the node's own engine and found again by a tag that is a hash of its inputs.

Two layers of images, so that a change in ``runtimes/python`` costs a second and not a download:

- ``faas-base-python:HASH``: an interpreter with its whole standard library, compiled. From the registry's
  ``python:3.11-slim`` where a registry answers, else from Debian packages (``faas.engines.debian``).
- ``faas-runtime-python:HASH``: that, plus ``/opt/faas/runtime``.

A new runtime image takes the place of older ones: those go that no container uses and that were made more than a day
ago. A node of another release may have no sandbox just then; it makes its image again when it needs it, and the day
spares it that as long as images change quickly.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import docker.errors
import requests.exceptions
from docker.utils import parse_repository_tag

from faas.engines import debian
from faas.engines.docker_client import connect, translated
from faas.engines.runtime_tree import RUNTIMES, make_tree, tree_hash
from faas.model.errors import EngineUnavailable

PYTHON_VERSION = debian.PYTHON_VERSION
RECIPE = RUNTIMES / "image"
REGISTRY_IMAGE = f"python:{PYTHON_VERSION}-slim"
BASE = "faas-base-python"
RUNTIME = "faas-runtime-python"
_PULL_STALL_S = 20
_BUILD_TIMEOUT_S = 600
_SPARED_S = 24 * 3600

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Built:
    """``fresh`` is False when the image was there already. ``source``: "registry" or "debian"."""

    tag: str
    size_bytes: int
    fresh: bool
    source: str


def silent(_message: str) -> None:
    """A progress callback for those who don't watch."""


def runtime_tag() -> str:
    """The tag of the image that goes with the files of this checkout."""
    return f"{RUNTIME}:{_hash(base_tag(), tree_hash(PYTHON_VERSION), (RECIPE / 'runtime.Dockerfile').read_text())}"


def base_tag() -> str:
    inputs = [path.read_text() for path in sorted(RECIPE.iterdir()) if path.name != "runtime.Dockerfile"]
    return f"{BASE}:{_hash(debian.SUITE, Path(debian.__file__).read_text(), *inputs)}"


def build(
    progress: Progress = silent,
    *,
    client: docker.APIClient | None = None,
    force: bool = False,
    registry_image: str = REGISTRY_IMAGE,
) -> Built:
    """Make the image if it is not there (``force``: even if it is, base included); blocks, seconds when it works.

    ``registry_image`` "" leaves the registry out. Raises ``EngineUnavailable``.
    """
    own = client is None
    engine = client if client is not None else connect(timeout_s=_BUILD_TIMEOUT_S)
    try:
        with translated("build the runtime image"):
            found = None if force else _inspect(engine, runtime_tag())
            if found is not None:
                return _built(runtime_tag(), found, fresh=False)
            with _alone(progress):
                return _build(engine, progress, force, registry_image)
    finally:
        if own:
            engine.close()


def _build(client: docker.APIClient, progress: Progress, force: bool, registry_image: str) -> Built:
    tag, base = runtime_tag(), base_tag()
    found = _inspect(client, tag)
    if found is not None and not force:  # made by another node while we waited for our turn
        return _built(tag, found, fresh=False)
    if _inspect(client, base) is None or force:
        _make_base(client, base, progress, registry_image)
    progress("adding the runtime")
    with tempfile.TemporaryDirectory(prefix="faas-image-") as scratch:
        make_tree(Path(scratch) / "runtime", PYTHON_VERSION)
        _docker_build(client, "runtime.Dockerfile", tag, {"BASE": base}, {"faas.runtime": "python"}, Path(scratch))
    made = _inspect(client, tag)
    if made is None:
        raise EngineUnavailable(f"the engine built {tag} but does not have it: is something else removing images?")
    removed = _prune(client, made["Id"])
    if removed:
        progress(f"removed older runtime images that no container uses: {', '.join(removed)}")
    return _built(tag, made, fresh=True)


def _prune(client: docker.APIClient, newest: str) -> list[str]:
    """Remove the tags of runtime images other than ``newest``, as far as they are old and not in use; which ones."""
    removed: list[str] = []
    with contextlib.suppress(docker.errors.APIError):
        used = {newest, *(each["ImageID"] for each in client.containers(all=True))}
        before_s = time.time() - _SPARED_S
        for found in client.images(RUNTIME):
            if found["Id"] in used or found["Created"] > before_s:
                continue
            for tag in found["RepoTags"] or []:
                if tag.startswith(f"{RUNTIME}:"):
                    with contextlib.suppress(docker.errors.APIError):  # a container has taken it meanwhile
                        client.remove_image(tag)
                        removed.append(tag)
    return removed


@contextlib.contextmanager
def _alone(progress: Progress) -> Iterator[None]:
    """One build at a time for each user of this machine; nodes that start together share its result."""
    path = Path(tempfile.gettempdir()) / f"faas-image-{os.getuid()}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process builds the runtime image; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _built(tag: str, inspected: dict[str, Any], *, fresh: bool) -> Built:
    source = (inspected["Config"].get("Labels") or {}).get("faas.source", "")
    return Built(tag, int(inspected["Size"]), fresh, source)


def _inspect(client: docker.APIClient, tag: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client.inspect_image(tag)  # type: ignore[no-untyped-call]
    except docker.errors.ImageNotFound:
        return None
    return found


# -- base -----------------------------------------------------------------------------------------------------------


def _make_base(client: docker.APIClient, base: str, progress: Progress, registry_image: str) -> None:
    refused = _pull(client, registry_image, progress) if registry_image else "no registry image was named"
    if not refused:
        rootfs, source = registry_image, "registry"
    else:
        progress(f"no registry ({refused}): building from Debian packages")
        rootfs, source = f"{BASE}-rootfs:{base.rpartition(':')[2]}-{os.getpid()}", "debian"
        _import(client, rootfs, progress)
    progress("compiling the standard library")
    _docker_build(client, "base.Dockerfile", base, {"ROOTFS": rootfs}, {"faas.base": "python", "faas.source": source})
    if source == "debian":
        with contextlib.suppress(docker.errors.APIError):  # only the name: the base keeps the layer
            client.remove_image(rootfs, force=True)


def _pull(client: docker.APIClient, image: str, progress: Progress) -> str:
    """Pull ``image``; "" when it is there, else why not. Gives up when nothing moves for ``_PULL_STALL_S``."""
    progress(f"pulling {image}")
    repository, tag = parse_repository_tag(image)
    puller = connect(timeout_s=_PULL_STALL_S, like=client)
    try:
        for event in puller.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in event:
                return str(event["error"]).strip()
    except (docker.errors.APIError, requests.exceptions.RequestException) as error:
        return str(getattr(error, "explanation", None) or error).strip()
    finally:
        puller.close()
    return "" if _inspect(client, image) is not None else "the pull ended without an image"


def _import(client: docker.APIClient, tag: str, progress: Progress) -> None:
    machine = str(client.info()["Architecture"])
    architecture = debian.ARCHITECTURES.get(machine)
    if architecture is None:
        raise EngineUnavailable(f"there is no recipe for the engine's architecture {machine}")
    with tempfile.TemporaryDirectory(prefix="faas-image-") as scratch:
        archive = Path(scratch) / "rootfs.tar"
        debian.rootfs(RECIPE, architecture, archive, progress)
        repository, name = parse_repository_tag(tag)
        with archive.open("rb") as data:
            client.import_image_from_data(data, repository=repository, tag=name)  # streamed: it takes files, too
    if _inspect(client, tag) is None:
        raise EngineUnavailable("the engine did not take the root file system that was built for it")


# -- docker build ---------------------------------------------------------------------------------------------------


def _docker_build(
    client: docker.APIClient,
    dockerfile: str,
    tag: str,
    arguments: dict[str, str],
    labels: dict[str, str],
    context: Path | None = None,
) -> None:
    with tempfile.TemporaryFile() as archive:
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.add(RECIPE / dockerfile, arcname="Dockerfile", filter=_anonymous)
            if context is not None:
                tar.add(context, arcname=".", filter=_anonymous)
        archive.seek(0)
        said: list[str] = []
        for event in client.build(
            fileobj=archive, custom_context=True, tag=tag, buildargs=arguments, labels=labels,
            network_mode="none", rm=True, forcerm=True, decode=True,
        ):  # fmt: skip
            said.append(str(event.get("stream", "")))
            if "error" in event:
                words = "".join(said[-5:]) + str(event["error"])
                raise EngineUnavailable(f"the engine could not build {tag}: {words.strip()}")


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = 0
    return entry


def _hash(*inputs: str) -> str:
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:12]
