"""Layers, built by uv from the real package index, and the thumbnail example running on one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from faas.model.errors import DependenciesUnavailable, InvalidManifest
from faas.model.function import FunctionVersion
from faas.model.manifest import Manifest
from faas.packaging import layers
from faas.packaging.bundle import pack, prepare
from faas.packaging.content import ContentStore
from faas.ports import Registry

pytestmark = pytest.mark.anyio
THUMBNAIL = Path(__file__).parents[2] / "functions" / "thumbnail.py"


class Blobs:
    """As much of a registry as the store needs: bytes by their digest."""

    def __init__(self, *blobs: bytes) -> None:
        self.data = {hashlib.sha256(data).hexdigest(): data for data in blobs}

    async def blob(self, digest: str) -> bytes:
        return self.data[digest]


async def test_a_lock_pins_versions_and_hashes_and_builds_a_layer(tmp_path: Path) -> None:
    said: list[str] = []
    lock = await layers.lock(["six>=1.16"], progress=said.append)
    assert re.match(rb"six==[0-9.]+ \\\n +--hash=sha256:[0-9a-f]{64}", lock)
    assert await layers.lock(["six>=1.16"]) == lock
    await layers.build(lock, tmp_path / "layer", progress=said.append)
    assert {"six.py", "__pycache__"} <= {path.name for path in (tmp_path / "layer").iterdir()}
    assert not (tmp_path / "layer" / ".lock").exists()
    assert any(line.startswith("Resolved 1 package") for line in said)
    assert any(line.startswith("Installed 1 package") for line in said)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import six; print(six.__file__)"
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", code, str(tmp_path / "layer")), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await done.communicate()
    assert out.decode().strip() == str(tmp_path / "layer" / "six.py")


async def test_nothing_to_install_gives_an_empty_lock() -> None:
    assert await layers.lock([]) == b""
    assert await layers.lock(["six; sys_platform == 'win32'"]) == b""


@pytest.mark.parametrize(
    ("dependencies", "says"),
    [
        (["faas-no-such-package-9f3a"], "faas-no-such-package-9f3a was not found.*Check the spelling"),
        (["six==99"], "no version of six==99"),
        (["docopt==0.6.2"], "docopt==0.6.2 has no usable wheels.*Only wheels are installed"),
        (["requests==2.31.0", "urllib3==2.6.0", "botocore==1.29.0"], "botocore==1.29.0 depends on urllib3"),
        (["six", "--index-url=https://evil.example"], "not a dependency"),
        (["six @ file:///tmp/six.whl"], "by URL or path"),
    ],
)
async def test_what_cannot_be_resolved_is_the_manifest_s_problem(dependencies: list[str], says: str) -> None:
    with pytest.raises(InvalidManifest, match=f"(?s){says}") as caught:
        await layers.lock(dependencies)
    assert all(problem.key.startswith("dependencies") for problem in caught.value.problems)
    assert "error:" not in caught.value.message


async def test_a_file_with_another_hash_than_the_locked_one_is_refused(tmp_path: Path) -> None:
    lock = re.sub(rb"sha256:[0-9a-f]{64}", b"sha256:" + b"0" * 64, await layers.lock(["six"]))
    with pytest.raises(
        DependenciesUnavailable, match=r"serves another file for six==[0-9.]+ than the one that was locked"
    ):
        await layers.build(lock, tmp_path / "layer")


async def test_no_index_is_said_with_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DependenciesUnavailable, match=r"does not answer.*UV_INDEX_URL.*UV_FIND_LINKS"):
        await layers.lock(["six"])
    monkeypatch.setenv("UV_OFFLINE", "1")
    with pytest.raises(DependenciesUnavailable, match="UV_FIND_LINKS"):
        await layers.lock(["six"])


async def test_a_folder_of_wheels_is_enough_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _write_wheel(wheels, "faas_demo_wheel", "1.0")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    lock = await layers.lock(["faas-demo-wheel"])
    await layers.build(lock, tmp_path / "layer")
    assert (tmp_path / "layer" / "faas_demo_wheel.py").exists()


async def test_a_cancelled_build_ends_uv_and_a_slow_index_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("UV_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    async with server:
        task = asyncio.create_task(layers.lock(["six"]))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        monkeypatch.setattr(layers, "LOCK_WAIT_S", 0.3)
        with pytest.raises(DependenciesUnavailable, match="too slow"):
            await layers.lock(["six"])


_KILLED = """
import asyncio, pathlib, sys
from faas.model.function import FunctionVersion
from faas.model.manifest import Manifest
from faas.packaging.content import ContentStore

root, code, lock = map(pathlib.Path, sys.argv[1:])

class Blobs:
    async def blob(self, digest):
        return {code.name: code, lock.name: lock}[digest].read_bytes()

async def main():
    manifest = Manifest(name="f")
    version = FunctionVersion(namespace="d", name="f", version=1, manifest=manifest, bundle=code.name, lock=lock.name)
    await ContentStore(root, b"secret", Blobs()).attach(version, lambda line: print(line, flush=True))

asyncio.run(main())
"""


async def test_a_node_killed_while_it_builds_leaves_no_half_layer(tmp_path: Path) -> None:
    lock = await layers.lock(["six"])
    archive = pack(THUMBNAIL)
    files = {hashlib.sha256(data).hexdigest(): data for data in (archive, lock)}
    code, locked = files
    for digest, data in files.items():
        (tmp_path / digest).write_bytes(data)
    root = tmp_path / "store"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _KILLED, str(root), str(tmp_path / code), str(tmp_path / locked)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"Resolved")  # uv is at work
    process.kill()
    await process.wait()
    version = FunctionVersion(namespace="d", name="f", version=1, manifest=Manifest(name="f"), bundle=code, lock=locked)
    attached = await ContentStore(root, b"secret", cast("Registry", Blobs(archive, lock))).attach(version)
    assert (root / attached.layers[0] / "six.py").exists()
    assert {path.name for path in root.iterdir() if not path.name.startswith(".tmp-")} == attached.names


def _write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "VALUE = 1\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, text)


# -- the thumbnail example, on the layer its own block asks for ------------------------------------------------------


@pytest.fixture(scope="module")
def thumbnail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """functions/thumbnail.py imported from the content store, with Pillow from its layer."""
    root = tmp_path_factory.mktemp("store")

    async def attach() -> tuple[Path, Path]:
        prepared = prepare(pack(THUMBNAIL), {})
        lock = await layers.lock(prepared.dependencies)
        blobs = Blobs(prepared.archive, lock)
        bundle, locked = blobs.data
        version = FunctionVersion(
            namespace="default", name="thumbnail", version=1, manifest=prepared.manifest, bundle=bundle, lock=locked
        )
        attached = await ContentStore(root, b"secret", cast("Registry", blobs)).attach(version)
        return root / attached.code, root / attached.layers[0]

    code, layer = asyncio.run(attach())
    sys.path.insert(0, str(layer))
    try:
        spec = importlib.util.spec_from_file_location("thumbnail_example", code / "thumbnail.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(layer))


def picture(
    thumbnail: ModuleType, kind: str, mode: str = "RGB", size: tuple[int, int] = (400, 300), **options: Any
) -> bytes:
    out = io.BytesIO()
    thumbnail.Image.new(mode, size, 0).save(out, kind, **options)
    return out.getvalue()


def http(body: bytes, **query: str) -> dict[str, Any]:
    return {
        "version": "2.0",
        "requestContext": {"http": {"method": "POST"}},
        "queryStringParameters": query,
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def test_thumbnail_shrinks_a_picture_sent_over_http(thumbnail: ModuleType) -> None:
    reply = thumbnail.handler(http(picture(thumbnail, "JPEG"), size="64"), None)
    assert (reply["statusCode"], reply["headers"]["content-type"]) == (200, "image/jpeg")
    with thumbnail.Image.open(io.BytesIO(base64.b64decode(reply["body"]))) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


def test_thumbnail_takes_bytes_and_keeps_transparency_and_orientation(
    thumbnail: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIZE", "40")
    with thumbnail.Image.open(io.BytesIO(thumbnail.handler(picture(thumbnail, "PNG", "RGBA"), None))) as image:
        assert (image.format, image.size) == ("PNG", (40, 30))
    exif = thumbnail.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    with thumbnail.Image.open(io.BytesIO(thumbnail.handler(picture(thumbnail, "JPEG", exif=exif), None))) as image:
        assert image.size == (30, 40)
        assert not image.getexif()
    with thumbnail.Image.open(io.BytesIO(thumbnail.handler(picture(thumbnail, "GIF", "P"), None))) as image:
        assert image.format == "JPEG"


def test_thumbnail_says_what_is_wrong_with_a_request(thumbnail: ModuleType) -> None:
    good = picture(thumbnail, "PNG")
    wrong = {
        415: http(b"this is text"),
        400: http(good, size="0"),
        422: http(picture(thumbnail, "JPEG")[:700]),
        413: http(picture(thumbnail, "PNG", "1", (6000, 5000))),
    }
    assert {status: thumbnail.handler(event, None)["statusCode"] for status, event in wrong.items()} == {
        status: status for status in wrong
    }
    for event in (http(b""), http(good, size="x"), http(good, size="99999")):
        assert thumbnail.handler(event, None)["statusCode"] == 400
