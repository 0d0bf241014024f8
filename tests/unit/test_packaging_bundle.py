"""Bundles: what goes in, what is refused, and which file of them is the function's."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from faas.model.errors import FaasError, InvalidManifest, InvalidRequest, PayloadTooLarge
from faas.packaging import archive, syntax
from faas.packaging.bundle import default_name, pack, prepare

CODE = "def handler(event, context):\n    return 1\n"


def zipped(files: dict[str, str | bytes], mode: int = 0o644) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | mode) << 16
            target.writestr(info, content)
    return out.getvalue()


def zip_link(name: str, target: str, files: dict[str, str | bytes] | None = None) -> bytes:
    out = io.BytesIO(zipped(files or {}))
    with zipfile.ZipFile(out, "a") as archive_:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive_.writestr(info, target)
    return out.getvalue()


def tarred(files: dict[str, str | bytes], form: int = tarfile.PAX_FORMAT, links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=form) as target:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
        for name, to in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, to
            target.addfile(info)
    return out.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        return {name: found.read(name) for name in found.namelist()}


def entry_of(files: dict[str, str], settings: dict[str, Any] | None = None, name: str = "fn") -> tuple[str, str]:
    manifest = prepare(zipped({**files}), settings or {}, name).manifest
    return manifest.entry, manifest.handler


def refusal(data: bytes, settings: dict[str, Any] | None = None, name: str | None = None) -> str:
    with pytest.raises(InvalidManifest) as caught:
        prepare(data, settings or {}, name)
    return str(caught.value)


def test_equal_files_make_equal_bytes_however_they_were_packed() -> None:
    files: dict[str, str | bytes] = {"b/x.txt": "1", "a.py": CODE}
    turned: dict[str, str | bytes] = {"a.py": CODE, "b/x.txt": "1"}
    made = {archive.canonical(data).data for data in (zipped(files), zipped(turned), tarred(files), tarred(turned))}
    assert len(made) == 1
    (data,) = made
    assert archive.canonical(data).data == data
    assert contents(data) == {"a.py": CODE.encode(), "b/x.txt": b"1"}


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_usual_tar_is_read_with_long_names_too(form: int) -> None:
    long = "d" * 90 + "/" + "e" * 90 + ".txt"
    wide = {} if form == tarfile.USTAR_FORMAT else {"x" * 200 + ".txt": b"w", "ü.txt": b"u"}
    files: dict[str, str | bytes] = {"a.py": CODE, long: b"x" * 1000, **wide}
    assert set(archive.canonical(tarred(files, form)).files) == set(files)


def test_links_inside_become_copies_and_others_are_refused() -> None:
    data = tarred({"lib/real.py": "1"}, links={"a.py": "lib/real.py", "lib/b.py": "../a.py"})
    assert contents(archive.canonical(data).data) == dict.fromkeys(("a.py", "lib/b.py", "lib/real.py"), b"1")
    assert contents(archive.canonical(zip_link("a.py", "lib/real.py", {"lib/real.py": "1"})).data)["a.py"] == b"1"
    for target in ("/etc/passwd", "../../etc/passwd", "gone.py", "lib", "a.py"):
        with pytest.raises(InvalidManifest, match="link"):
            archive.canonical(tarred({"lib/real.py": "1"}, links={"a.py": target}))
        with pytest.raises(InvalidManifest, match="link"):
            archive.canonical(zip_link("a.py", target, {"lib/real.py": "1"}))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.py", "a/../../x.py", "C:/x.py", "a\\b.py", "a\nb.py", "x" * 256, "a/" * 600 + "b", "."],
)
def test_names_that_lead_out_or_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(InvalidManifest):
        archive.canonical(zipped({name: "x"}))
    with pytest.raises(InvalidManifest):
        archive.canonical(tarred({name: "x"}, tarfile.PAX_FORMAT))


def test_a_name_cannot_be_there_twice_nor_be_file_and_folder() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        target.writestr("a.py", "1")
        with pytest.warns(UserWarning, match="Duplicate"):
            target.writestr("a.py", "2")
    with pytest.raises(InvalidManifest, match="twice"):
        archive.canonical(out.getvalue())
    with pytest.raises(InvalidManifest, match="both a file and a folder"):
        archive.canonical(zipped({"a": "1", "a/b/c": "2"}))


def test_bombs_are_refused_before_they_go_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "UNPACKED_BYTES_MAX", 1_000_000)
    monkeypatch.setattr(archive, "_TAR_BYTES_MAX", 1_100_000)
    monkeypatch.setattr(archive, "FILES_MAX", 20)
    monkeypatch.setattr(archive, "_MEMBERS_MAX", 40)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("zeros", bytes(2_000_000))
    large: dict[str, str | bytes] = {"zeros": bytes(2_000_000)}
    many: dict[str, str | bytes] = {f"f{n}": "" for n in range(21)}
    copies = {f"l{n}": "x" for n in range(11)}
    for data in (
        out.getvalue(),
        tarred(large),
        gzip.compress(bytes(3_000_000)),
        zipped(many),
        tarred(many),
        tarred({"x": bytes(100_000)}, links=copies),
        bytes(archive.ARCHIVE_BYTES_MAX + 1),
    ):
        with pytest.raises(PayloadTooLarge):
            archive.canonical(data)


def test_a_zip_that_lies_about_sizes_is_refused() -> None:
    data = bytearray(zipped({"a.py": "x" * 1000}))
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    with pytest.raises(InvalidManifest):
        archive.canonical(bytes(data))


def test_a_zip_whose_list_of_members_is_huge_is_refused_unread() -> None:
    data = bytearray(zipped({"a.py": "x"}))
    at = data.rindex(b"PK\x05\x06")
    data[at + 12 : at + 16] = (100_000_000).to_bytes(4, "little")
    with pytest.raises(PayloadTooLarge):
        archive.canonical(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"PK\x03\x04",
        b"PK\x05\x06" + b"\0" * 10,
        b"\x1f\x8b",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"x" * 600, mtime=0),
    ],
)
def test_what_is_no_archive_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(InvalidManifest) as caught:
        archive.canonical(data)
    assert [problem.key for problem in caught.value.problems] == ["bundle"]


def test_junk_is_left_out_and_the_right_to_execute_is_kept(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "run": "x",
        "__MACOSX/._a": "",
        "__pycache__/a.pyc": "",
        ".git/config": "",
        "x/.DS_Store": "",
    }
    bundle = archive.canonical(zipped(files, mode=0o755))
    assert bundle.files == ("run",)
    archive.extract(bundle.data, tmp_path)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("files", "settings", "entry"),
    [
        ({"anything.py": CODE}, {}, ("anything", "")),
        ({"queue.py": CODE}, {}, ("queue", "")),
        ({"thing.py": CODE, "test_thing.py": CODE, "setup.py": "", "data.csv": ""}, {}, ("thing", "")),
        ({"main.py": CODE, "helper.py": CODE}, {}, ("main", "")),
        ({"app.py": CODE, "handler.py": CODE}, {}, ("app", "")),
        ({"lambda_function.py": CODE, "util.py": CODE}, {}, ("lambda_function", "")),
        ({"my_fn.py": CODE, "util.py": CODE}, {}, ("my_fn", "")),
        ({"a.py": CODE, "b.py": CODE}, {"handler": "b.run"}, ("b", "run")),
        ({"a.py": CODE, "b.py": CODE}, {"handler": "a:app"}, ("a", "app")),
        ({"src/deep/x.py": CODE, "a.py": CODE}, {"handler": "src.deep.x.run"}, ("src.deep.x", "run")),
        ({"src/x.py": CODE, "a.py": CODE}, {"entry": "src/x.py", "handler": "go"}, ("src.x", "go")),
        ({"pkg/__init__.py": CODE}, {"entry": "pkg"}, ("pkg", "")),
        ({"a.py": CODE, "b.py": CODE, "faas.toml": 'entry = "b"'}, {}, ("b", "")),
        ({"a.py": CODE, "pyproject.toml": '[tool.faas]\nhandler = "a.go"'}, {}, ("a", "go")),
    ],
)
def test_the_entry_is_found(files: dict[str, str], settings: dict[str, Any], entry: tuple[str, str]) -> None:
    assert entry_of(files, settings, "my-fn") == entry


@pytest.mark.parametrize(
    ("files", "settings", "says"),
    [
        ({"a.py": CODE, "b.py": CODE}, {}, "say which file is the function's with entry"),
        ({"data.csv": "x"}, {}, "no Python file at its top"),
        ({"fn-main/app.py": CODE, "fn-main/x.csv": ""}, {}, "below fn-main/"),
        ({}, {}, "the bundle is empty"),
        ({"a.py": CODE}, {"handler": "b.run"}, "there is no b.py in the bundle; at its top there are a.py"),
        ({"a.py": CODE, "b.py": CODE}, {"handler": "a.run", "entry": "b"}, 'but entry is "b"'),
        ({"json/x.py": CODE}, {"handler": "json.x.run"}, "standard library"),
        ({"a.b.py": CODE}, {}, "cannot be imported"),
        ({"a.py": "def handler(:\n"}, {}, "line 1: a.py is not valid Python: invalid syntax"),
        ({"a.py": "x = 1\nreturn 2\n"}, {}, "line 2"),
        ({"a.py": "x = '\0'\n"}, {}, "null bytes"),
        ({"a.py": CODE, "faas.toml": "memory = \n"}, {}, "line 1: not valid TOML"),
        ({"a.py": CODE, "requirements.txt": "six\nbad!!\n"}, {}, "dependencies[1]"),
        ({"a.py": CODE, "requirements.txt": "-e .\n"}, {}, "requirements.txt: only plain requirements"),
    ],
)
def test_an_entry_that_cannot_be_is_explained(files: dict[str, str], settings: dict[str, Any], says: str) -> None:
    assert says in refusal(zipped({**files}), settings, "my-fn")


def test_settings_come_from_the_first_place_that_has_them() -> None:
    block = "# /// script\n# [tool.faas]\n# memory = '64MB'\n# ///\n" + CODE
    toml, project = "memory = '256MB'\n", "[project]\nname = 'p'\ndependencies = ['six']\n"
    assert prepare(zipped({"main.py": block}), {}, "f").manifest.memory_mb == 64
    both = prepare(zipped({"main.py": block, "faas.toml": toml}), {}, "f")
    assert both.manifest.memory_mb == 256
    assert "are not used" in both.warnings[0]
    found = prepare(zipped({"main.py": block, "pyproject.toml": project}), {}, "f").manifest
    assert (found.memory_mb, found.dependencies) == (64, ("six",))
    found = prepare(
        zipped({"main.py": CODE, "requirements.txt": "six  # pinned later\n"}), {"memory": "1GB"}, "f"
    ).manifest
    assert (found.memory_mb, found.dependencies) == (1024, ("six",))


def test_the_name_is_the_address_then_the_settings_then_the_default() -> None:
    data = zipped({"my_file.py": "# /// script\n# [tool.faas]\n# name = 'block'\n# ///\n" + CODE})
    plain = zipped({"my_file.py": CODE})
    assert prepare(data, {}, "address").manifest.name == "address"
    assert prepare(data, {"name": "flag"}).manifest.name == "flag"
    assert prepare(data, {}, default_name="default").manifest.name == "block"
    assert prepare(plain, {}, default_name="default").manifest.name == "default"
    assert prepare(plain, {}).manifest.name == "my-file"
    assert "deployed as" in refusal(data, {"name": "flag"}, "address")


def test_a_long_timeout_is_warned_about_and_a_newer_python_not_compiled_here() -> None:
    assert "15m" in prepare(zipped({"a.py": CODE}), {"timeout": "1h"}, "f").warnings[0]
    assert prepare(zipped({"a.py": "new syntax"}), {}, "f", python_version="3.99").manifest.entry == "a"


def test_source_made_to_crash_the_compiler_is_no_danger() -> None:
    hostile = "(" * 100_000 + ")" * 100_000
    found = syntax.check(hostile.encode(), "a.py")
    assert found is None or "nested" in found[0]


def test_pack_takes_a_file_or_a_directory_and_leaves_out_what_is_hidden_or_ignored(tmp_path: Path) -> None:
    root = tmp_path / "My_App"
    for name in ("main.py", "lib/util.py", "data/big.bin", "data/keep.bin", ".env", ".git/config", "__pycache__/x.pyc",
                 "node_modules/a.js", "envdir/pyvenv.cfg", "envdir/lib.py", ".well-known"):  # fmt: skip
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CODE if name.endswith(".py") else name)
    (root / ".faasignore").write_text("# ours\ndata/*\n!data/keep.bin\n!.well-known\n")
    (root / "link.py").symlink_to("lib/util.py")
    data = pack(root)
    assert set(contents(data)) == {"main.py", "lib/util.py", "data/keep.bin", ".well-known", "link.py"}
    assert pack(root) == data
    assert archive.canonical(data).data == data
    assert default_name(root) == "my-app"
    assert contents(pack(root / "main.py")) == {"main.py": CODE.encode()}
    assert default_name(root / "main.py") == "main"


def test_pack_says_what_it_cannot_pack(tmp_path: Path) -> None:
    def refused(path: Path, says: str) -> None:
        with pytest.raises(FaasError, match=says) as caught:
            pack(path)
        assert isinstance(caught.value, InvalidRequest | InvalidManifest | PayloadTooLarge)

    refused(tmp_path / "gone.py", "there is no file")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "not a Python file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no files to deploy")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.py").symlink_to("/etc/hostname")
    refused(tmp_path / "links", "link to something outside")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "p")
    refused(tmp_path / "pipe", "neither a file nor a folder")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a\nb.py").write_text("x")
    refused(tmp_path / "odd", "not a name")


def test_pack_stops_at_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_bytes(bytes(2000))
    (tmp_path / "b.py").write_bytes(b"")
    monkeypatch.setattr("faas.packaging.pack.FILES_MAX", 1)
    with pytest.raises(PayloadTooLarge, match=r"more than 1 files; name what is not needed in \.faasignore"):
        pack(tmp_path)
    monkeypatch.setattr("faas.packaging.pack.UNPACKED_BYTES_MAX", 1000)
    with pytest.raises(PayloadTooLarge, match=r"larger than .*; name what is not needed"):
        pack(tmp_path)
