"""The runtime image: made both ways, small, complete, and made again only when something changed."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from faas.engines import debian, image
from faas.engines.docker_client import connect
from faas.engines.runtime_tree import SOURCE
from faas.model.errors import EngineUnavailable
from tests.contract.conftest import AnyEngine, Boot, make_engine
from tests.contract.registry import serving

# Not in the image on purpose: another system's, a display's, or installers (a sandbox installs nothing).
ABSENT = {"_gdbm", "_msi", "_overlapped", "_scproxy", "_tkinter", "_winapi", "ensurepip", "idlelib", "msilib", "msvcrt",
          "nis", "nt", "tkinter", "turtle", "turtledemo", "winreg", "winsound"}  # fmt: skip
LOUD = {"antigravity", "this"}
SIZE_MAX = 60 * 1000**2


pytestmark = pytest.mark.timeout(600)  # they download and build


@pytest.fixture
def client(docker_version: str) -> Iterator[docker.APIClient]:
    made = connect(timeout_s=300)
    yield made
    made.close()


@pytest.fixture
def here(client: docker.APIClient) -> image.Built:
    """The image as every node of this machine uses it."""
    return image.build(client=client)


@pytest.fixture
def scratch_names(client: docker.APIClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Build under names of this test's own, removed afterwards."""
    monkeypatch.setattr(image, "BASE", "faas-test-base")
    monkeypatch.setattr(image, "RUNTIME", "faas-test-runtime")
    yield
    for repository in ("faas-test-runtime", "faas-test-base", "faas-test-base-rootfs"):
        for found in client.images(repository):
            for tag in found["RepoTags"]:
                client.remove_image(tag, force=True)


def run(client: docker.APIClient, tag: str, source: str) -> Any:
    """What ``source``, run as a sandbox would run it, leaves in ``answer``."""
    made = client.create_container(
        tag,
        entrypoint=["python3", "-I", "-W", "ignore", "-c", source + "\nimport json; print(json.dumps(answer))"],
        user="234567:234567",
        host_config=client.create_host_config(network_mode="none", read_only=True, cap_drop=["ALL"]),
    )
    try:
        client.start(made)
        code = client.wait(made)["StatusCode"]
        out = bytes(client.logs(made, stderr=code != 0)).decode()
        assert code == 0, out
        return json.loads(out)
    finally:
        client.remove_container(made, force=True)


def test_it_is_made_once(client: docker.APIClient, here: image.Built) -> None:
    heard: list[str] = []
    second = image.build(heard.append, client=client)
    assert second.tag == here.tag == image.runtime_tag()
    assert (second.fresh, heard) == (False, [])
    assert second.source in ("registry", "debian")


def test_from_debian_packages_it_is_small_and_complete(client: docker.APIClient, scratch_names: None) -> None:
    heard: list[str] = []
    built = image.build(heard.append, client=client, registry_image="")
    assert (built.fresh, built.source) == (True, "debian")
    assert built.size_bytes < SIZE_MAX
    assert any("Debian" in message for message in heard)
    assert client.images("faas-test-base-rootfs") == []

    imports = f"""
import importlib, sys
answer = []
for name in sorted(sys.stdlib_module_names - {ABSENT | LOUD!r}):
    try:
        importlib.import_module(name)
    except ImportError as error:
        answer.append(str(error))
"""
    assert run(client, built.tag, imports) == []

    uncompiled = """
import os, sys
answer = [os.path.join(at, name) for top in (os.path.dirname(os.__file__), "/opt/faas/runtime")
          for at, _, names in os.walk(top) for name in names if name.endswith(".py") and not os.path.exists(
              os.path.join(at, "__pycache__", name[:-3] + "." + sys.implementation.cache_tag + ".pyc"))]
"""
    assert run(client, built.tag, uncompiled) == []

    facts = """
import ctypes.util, locale, mimetypes, socket, sqlite3, ssl, sys, zoneinfo
answer = [list(sys.version_info[:2]), ctypes.util.find_library("c"),
          len(ssl.create_default_context().get_ca_certs()) > 100,
          len(zoneinfo.available_timezones()) > 400, mimetypes.guess_type("a.webp")[0], socket.getservbyname("https"),
          locale.setlocale(locale.LC_ALL, ""), sqlite3.connect(":memory:").execute("select 1").fetchone()]
"""
    version = [int(part) for part in image.PYTHON_VERSION.split(".")]
    assert run(client, built.tag, facts) == [version, "libc.so.6", True, True, "image/webp", 443, "C.UTF-8", [1]]

    powers = """
import os, stat
answer = []
for top in ("/usr", "/etc", "/opt", "/var", "/root"):
    for at, directories, files in os.walk(top):
        for name in files:
            mode = os.lstat(os.path.join(at, name)).st_mode
            if not stat.S_ISLNK(mode) and mode & 0o6022:
                answer.append(os.path.join(at, name))
"""
    assert run(client, built.tag, powers) == []


def test_a_new_one_takes_the_place_of_old_ones_that_nobody_uses(
    client: docker.APIClient, here: image.Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under names of this test's own, on the base that is there; images differ by a label, as releases do by files."""
    repository = f"faas-test-old-{secrets.token_hex(4)}"
    monkeypatch.setattr(image, "RUNTIME", repository)
    container = ""

    def older(tag: str) -> None:
        recipe = io.BytesIO(f"FROM {here.tag}\nLABEL made.for={repository}-{tag}\n".encode())
        for event in client.build(fileobj=recipe, tag=f"{repository}:{tag}", rm=True, decode=True):
            assert "error" not in event, event

    def tags() -> set[str]:
        return {tag.rpartition(":")[2] for each in client.images(repository) for tag in each["RepoTags"]}

    try:
        for tag in ("used", "unused"):
            older(tag)
        container = client.create_container(f"{repository}:used", entrypoint=["true"])["Id"]
        new = image.runtime_tag().rpartition(":")[2]
        heard: list[str] = []
        assert image.build(heard.append, client=client).fresh
        assert tags() == {"used", "unused", new}, "they are from today, and somebody may be about to use them"
        client.remove_image(f"{repository}:{new}")
        monkeypatch.setattr(image, "_SPARED_S", -60)
        assert image.build(heard.append, client=client).fresh
        assert tags() == {"used", new}
        assert heard[-1] == f"removed older runtime images that no container uses: {repository}:unused"
        assert image.build(client=client).tag == f"{repository}:{new}"
    finally:
        if container:
            client.remove_container(container, force=True)
        for tag in tags():
            client.remove_image(f"{repository}:{tag}", force=True)


@pytest.mark.anyio
@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_a_node_whose_image_was_removed_makes_it_again(
    engine: AnyEngine, boot: Boot, home: Path, client: docker.APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "RUNTIME", f"faas-test-gone-{secrets.token_hex(4)}")
    robbed = make_engine("docker", "node-2", home)
    await robbed.start()
    try:
        client.remove_image(image.runtime_tag())
        probes = await asyncio.gather(boot(on=robbed), boot(on=robbed))
        assert [await probe.ask("answer = 1") for probe in probes] == [1, 1]
    finally:
        await robbed.close()
        client.remove_image(image.runtime_tag(), force=True)


def test_from_a_registry(client: docker.APIClient, here: image.Built, scratch_names: None) -> None:
    with serving(client, here.tag) as name:
        heard: list[str] = []
        try:
            built = image.build(heard.append, client=client, registry_image=name)
        finally:
            client.remove_image(name, force=True)
        assert (built.fresh, built.source) == (True, "registry")
        assert any(name in message for message in heard)
        assert run(client, built.tag, "answer = __import__('sys').prefix") == "/usr"


def test_the_tag_follows_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    base, runtime = image.base_tag(), image.runtime_tag()
    monkeypatch.setattr(debian, "SUITE", "trixie")
    assert image.base_tag() != base
    monkeypatch.undo()
    monkeypatch.setattr("faas.engines.runtime_tree.SOURCE", SOURCE.parent)  # other files than before
    assert image.base_tag() == base
    assert image.runtime_tag() != runtime


def test_the_engines_own_words_reach_the_user(client: docker.APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "RUNTIME", "faas-test-../runtime")
    with pytest.raises(EngineUnavailable, match="invalid reference format"):
        image.build(client=client)
