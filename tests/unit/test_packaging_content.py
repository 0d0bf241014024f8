"""The content store: what attaching a version leaves on disk, whatever goes wrong on the way."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import os
import stat
import zipfile
from pathlib import Path
from typing import cast

import pytest

from faas.model.errors import NoCapacity, NotFound, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.model.manifest import Manifest
from faas.packaging import archive, layers
from faas.packaging.archive import Member
from faas.packaging.content import ContentStore
from faas.ports import Registry

pytestmark = pytest.mark.anyio


class Blobs:
    """As much of a registry as the store needs: bytes by their digest."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.asked = 0

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.data[digest] = data
        return digest

    async def blob(self, digest: str) -> bytes:
        self.asked += 1
        await asyncio.sleep(0)
        if digest not in self.data:
            raise NotFound(f"no blob {digest}")
        return self.data[digest]


def bundle(**files: str) -> bytes:
    return archive.write(
        Member(name, len(text), False, lambda text=text: io.BytesIO(text.encode()))  # type: ignore[misc]
        for name, text in files.items()
    ).data


def version_of(code: str, lock: str = "", name: str = "fn") -> FunctionVersion:
    return FunctionVersion(
        namespace="default", name=name, version=1, manifest=Manifest(name=name), bundle=code, lock=lock
    )


def store_at(root: Path, blobs: Blobs, secret: bytes = b"secret") -> ContentStore:
    return ContentStore(root, secret, cast("Registry", blobs))


def names_in(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


async def test_an_entry_is_unpacked_under_a_secret_name_read_only_with_bytecode(tmp_path: Path) -> None:
    blobs = Blobs()
    code = blobs.put(bundle(**{"fn.py": "X = 1\n", "lib/a.txt": "a"}))
    attached = await store_at(tmp_path / "store", blobs).attach(version_of(code))
    entry = tmp_path / "store" / attached.code
    assert (entry / "fn.py").read_text() == "X = 1\n"
    assert len(attached.code) == 64
    assert code not in attached.code
    assert list((entry / "__pycache__").glob("fn.*.pyc"))
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o711
    assert {stat.S_IMODE(p.stat().st_mode) for p in entry.rglob("*") if p.is_file()} == {0o444}
    assert {stat.S_IMODE(p.stat().st_mode) for p in [entry, *entry.rglob("*")] if p.is_dir()} == {0o555}
    assert names_in(tmp_path / "store") == [attached.code]


async def test_names_depend_on_the_node_s_secret(tmp_path: Path) -> None:
    blobs = Blobs()
    version = version_of(blobs.put(bundle(**{"fn.py": ""})))
    one = await store_at(tmp_path / "a", blobs, b"one").attach(version)
    two = await store_at(tmp_path / "b", blobs, b"two").attach(version)
    assert one.code != two.code


async def test_what_is_attached_is_neither_fetched_nor_made_again(tmp_path: Path) -> None:
    blobs = Blobs()
    version = version_of(blobs.put(bundle(**{"fn.py": ""})))
    store = store_at(tmp_path, blobs)
    first, *others = await asyncio.gather(*(store.attach(version) for _ in range(10)))
    assert set(others) == {first}
    assert await store_at(tmp_path, blobs).attach(version) == first  # after a restart of the node
    assert blobs.asked == 1


async def test_damaged_or_missing_bytes_leave_nothing(tmp_path: Path) -> None:
    blobs = Blobs()
    digest = blobs.put(bundle(**{"fn.py": ""}))
    blobs.data[digest] += b"x"
    store = store_at(tmp_path, blobs)
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.attach(version_of(digest))
    with pytest.raises(NotFound):
        await store.attach(version_of("0" * 64))
    assert names_in(tmp_path) == []
    blobs.data[digest] = blobs.data[digest][:-1]
    assert (await store.attach(version_of(digest))).code in names_in(tmp_path)


async def test_what_a_killed_node_left_half_done_goes_at_the_start(tmp_path: Path) -> None:
    left = tmp_path / ".tmp-abc" / "deep"
    left.mkdir(parents=True)
    (left / "x").write_text("half")
    left.chmod(0o555)
    (tmp_path / ".tmp-abc").chmod(0o555)
    store_at(tmp_path, Blobs())
    assert names_in(tmp_path) == []


async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs()
    version = version_of(blobs.put(bundle(**{"fn.py": ""})))

    def full(data: bytes, target: Path) -> None:
        (target / "half").write_bytes(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(archive, "extract", full)
        with pytest.raises(NoCapacity, match="disk is full"):
            await store_at(tmp_path, blobs).attach(version)
    assert names_in(tmp_path) == []


async def test_a_cancelled_attach_leaves_nothing_and_the_next_one_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs()
    code = blobs.put(bundle(**{"fn.py": ""}))
    version = version_of(code, blobs.put(b"six==1.0\n"))
    building, builds = asyncio.Event(), 0

    async def build(lock: bytes, target: Path, python: str, progress: layers.Progress | None) -> None:
        nonlocal builds
        builds += 1
        (target / f"built{builds}.py").write_text("")
        if builds == 1:
            building.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(layers, "build", build)
    store = store_at(tmp_path, blobs)
    first = asyncio.create_task(store.attach(version))
    await building.wait()
    second = asyncio.create_task(store.attach(version))
    await asyncio.sleep(0)
    first.cancel()
    attached = await second
    assert first.cancelled()
    assert names_in(tmp_path) == sorted([attached.code, *attached.layers])
    assert names_in(tmp_path / attached.layers[0]) == ["built2.py"]


async def test_collect_removes_what_nobody_keeps_and_it_comes_back_when_wanted(tmp_path: Path) -> None:
    blobs = Blobs()
    store = store_at(tmp_path, blobs)
    kept = await store.attach(version_of(blobs.put(bundle(**{"a.py": ""}))))
    version = version_of(blobs.put(bundle(**{"b.py": ""})))
    dropped = await store.attach(version)
    assert await store.collect({kept.code}) == 1
    assert names_in(tmp_path) == [kept.code]
    assert await store.attach(version) == dropped
    assert dropped.code in names_in(tmp_path)


async def test_an_archive_that_never_went_through_canonical_cannot_write_outside(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("../evil.py", "x")
    blobs = Blobs()
    with pytest.raises(Exception, match="lead out"):
        await store_at(tmp_path / "store", blobs).attach(version_of(blobs.put(out.getvalue())))
    assert names_in(tmp_path) == ["store"]
    assert names_in(tmp_path / "store") == []
