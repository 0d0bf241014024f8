"""Any bytes as a bundle: taken, or refused with ``InvalidManifest`` or ``PayloadTooLarge``."""

from __future__ import annotations

import gzip
import io
import tarfile
import warnings
import zipfile

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from faas.model.errors import InvalidManifest, PayloadTooLarge
from faas.packaging import archive
from faas.packaging.bundle import prepare

names = st.sampled_from(["a.py", "main.py", "lib/x.py", "faas.toml", "é.txt", "n" * 150]) | st.text(max_size=12)
files = st.dictionaries(names, st.binary(max_size=80), min_size=1, max_size=4)


def zipped(content: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        warnings.simplefilter("ignore")  # of names that are equal once cut at a NUL
        for name, data in content.items():
            target.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode()), data)
    return out.getvalue()


def tarred(content: dict[str, bytes], form: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as target:
        for name, data in content.items():
            info = tarfile.TarInfo(name.encode("utf-8", "replace").decode())
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))
    return out.getvalue()


@st.composite
def damaged(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """A sound archive with some bytes replaced, cut out or cut off."""
    data = bytearray(draw(source))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


zips = files.map(zipped)
tars = st.builds(tarred, files, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))


def held(data: bytes) -> None:
    try:
        bundle = archive.canonical(data)
    except (InvalidManifest, PayloadTooLarge):
        return
    assert archive.canonical(bundle.data) == bundle
    assert list(bundle.files) == sorted(bundle.files)


@given(st.binary(max_size=200) | damaged(zips))
@example(b"PK\x05\x06" + b"\xff" * 18)
@example(b"PK\x03\x04PK\x01\x02" + bytes(42) + b"PK\x05\x06" + bytes(8) + b"." + bytes(9))  # a file without a name
def test_any_zip_is_taken_or_refused(data: bytes) -> None:
    held(data)


@given(
    damaged(tars).map(gzip.compress) | damaged(tars.map(gzip.compress)) | st.binary(max_size=2000).map(gzip.compress)
)
def test_any_tar_is_taken_or_refused(data: bytes) -> None:
    held(data)


@given(
    st.dictionaries(
        st.sampled_from(["a.py", "main.py", "faas.toml", "pyproject.toml", "requirements.txt"]),
        st.text(max_size=40).map(str.encode)
        | st.sampled_from(
            [b"# /// script\n# [tool.faas]\n# a = 1\n# ///\n", b"handler = 1", b"[tool.faas]\nentry='a'", b"six"]
        ),
        min_size=1,
    ),
    st.dictionaries(
        st.sampled_from(["entry", "handler", "name", "memory"]), st.text(max_size=8) | st.integers() | st.none()
    ),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_deploy_is_prepared_or_refused(content: dict[str, bytes], overrides: dict[str, str]) -> None:
    try:
        prepared = prepare(zipped(content), overrides, default_name="fn")
    except InvalidManifest:
        return
    assert prepared.manifest.entry in ("a", "main")
