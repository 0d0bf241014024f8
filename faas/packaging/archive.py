"""A bundle's archive: zip or tar.gz from a stranger in, a checked and canonical zip out.

Theory of operation. Everything is bounded before it is done: the archive's size, the size of a zip's directory, the
sum of the sizes members claim, their number, and while unpacking the bytes that really come. Names are relative, plain
and inside; a link to a file of the bundle becomes a copy of it, any other link is refused. What is left is written
again sorted, with fixed times and modes, so that equal files make equal bytes and with them one digest.

Tar is read here and not by ``tarfile``: that follows headers to wherever they point and, in Python releases that nodes
still run, loops or backtracks for minutes on hostile ones (CVE-2025-8194, CVE-2024-6232).

Raises ``InvalidManifest`` (with the key ``bundle``) and ``PayloadTooLarge``.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from faas.model.errors import InvalidManifest, ManifestProblem, PayloadTooLarge
from faas.packaging.sizes import MIB, format_size_bytes, shown

ARCHIVE_BYTES_MAX = 50 * MIB
UNPACKED_BYTES_MAX = 250 * MIB
FILES_MAX = 10_000
PATH_BYTES_MAX = 1024
LINKS_MAX = 8  # a link to a link to a link ...
_MEMBERS_MAX = 2 * FILES_MAX  # files, directories and junk
_DIRECTORY_BYTES_MAX = 4 * MIB  # a zip's list of members; 10,000 long names need less
_PAX_BYTES_MAX = 16 * 1024
_TAR_BYTES_MAX = UNPACKED_BYTES_MAX + 32 * MIB  # headers and padding
_COPY_BYTES = 256 * 1024
_BLOCK = 512

_JUNK = frozenset({"__pycache__", "__MACOSX", ".DS_Store", ".git"})


@dataclass(frozen=True, slots=True)
class Member:
    """A file of an archive: its size as claimed, whether it may be executed, and how to read it."""

    name: str
    size: int
    executable: bool
    open: Callable[[], IO[bytes] | io.RawIOBase]
    link: str | None = None  # the name it points to, for a link


@dataclass(frozen=True, slots=True)
class Bundle:
    """A canonical archive and the sorted names of its files."""

    data: bytes
    files: tuple[str, ...]

    def read(self, name: str, bytes_max: int = 5 * MIB) -> bytes:
        """The bytes of one file; ``PayloadTooLarge`` beyond ``bytes_max``."""
        with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
            if archive.getinfo(name).file_size > bytes_max:
                raise PayloadTooLarge(f"{name} is larger than {format_size_bytes(bytes_max)}")
            return archive.read(name)


def canonical(data: bytes) -> Bundle:
    """Check the archive ``data`` and write it again in canonical form."""
    if len(data) > ARCHIVE_BYTES_MAX:
        raise too_large(f"the bundle is {format_size_bytes(len(data))}", ARCHIVE_BYTES_MAX)
    if data[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        with _open_zip(data) as archive:
            return write(_resolve(_zip_members(archive)))
    if data[:2] == b"\x1f\x8b":
        with _gunzip(data) as unpacked:
            return write(_resolve(_tar_members(unpacked)))
    raise broken("is neither a zip nor a tar.gz archive" if data else "is empty")


def write(members: Iterable[Member]) -> Bundle:
    """The canonical zip of these files: sorted, times zeroed, modes 0644 or 0755."""
    out = io.BytesIO()
    names = []
    total_bytes = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for member in sorted(members, key=lambda m: m.name):
            info = zipfile.ZipInfo(member.name, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | (0o755 if member.executable else 0o644)) << 16
            info.file_size = member.size
            try:
                with member.open() as source, archive.open(info, "w") as target:
                    while chunk := source.read(_COPY_BYTES):
                        total_bytes += len(chunk)
                        if total_bytes > UNPACKED_BYTES_MAX:
                            raise too_large("the files of the bundle are larger", UNPACKED_BYTES_MAX)
                        target.write(chunk)
            except _BROKEN as error:
                raise broken(f"is damaged: {shown(member.name)} cannot be unpacked ({error})") from None
            names.append(member.name)
    if out.tell() > ARCHIVE_BYTES_MAX:
        raise too_large(f"the bundle, packed, is {format_size_bytes(out.tell())}", ARCHIVE_BYTES_MAX)
    return Bundle(out.getvalue(), tuple(names))


def extract(data: bytes, target: Path) -> None:
    """Unpack a canonical archive into the directory ``target``, which exists; raises ``OSError`` on a full disk."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            path = target / clean_name(info.filename)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, path.open("xb") as out:
                while chunk := source.read(_COPY_BYTES):
                    out.write(chunk)
            path.chmod(0o755 if info.external_attr >> 16 & 0o100 else 0o644)


def clean_name(name: str) -> str:
    """A member's name as a plain relative path, or ``InvalidManifest``."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        raise broken("holds a file whose name is not valid Unicode") from None
    if name.startswith("/") or "\\" in name or name[1:2] == ":":
        raise broken(f"{shown(name)}: names must be relative, with / between folders")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise broken(f'{shown(name)}: a name must not lead out of the bundle with ".."')
    if not parts or not name.isprintable():
        raise broken(f"{name[:60]!r} is not a name a file can have here")
    if len(encoded) > PATH_BYTES_MAX or any(len(part.encode()) > 255 for part in parts):
        raise broken(f"{shown(name)}: the name is too long (a part 255 bytes, all of it {PATH_BYTES_MAX})")
    return "/".join(parts)


def broken(message: str) -> InvalidManifest:
    return InvalidManifest([ManifestProblem("bundle", message)])


def too_large(what: str, limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"{what}; at most {format_size_bytes(limit_bytes)} are allowed", limit_bytes=limit_bytes)


# What zipfile, tarfile and zlib raise for archives they cannot read; NotImplementedError is zipfile's word for a
# compression or a feature that it does not know.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError)


def _is_junk(name: str) -> bool:
    return name.endswith((".pyc", ".pyo")) or not _JUNK.isdisjoint(name.split("/"))


def _resolve(members: Iterator[Member]) -> list[Member]:
    """Plain files only: links to files replaced by what they point to, names checked against each other."""
    found: dict[str, Member] = {}
    for count, member in enumerate(members):
        if count >= _MEMBERS_MAX:
            raise PayloadTooLarge(f"the bundle holds too many files; at most {FILES_MAX} are allowed")
        if _is_junk(member.name):
            continue
        if member.name in found:
            raise broken(f"{shown(member.name)} is in the archive twice")
        found[member.name] = member
    if len(found) > FILES_MAX:
        raise PayloadTooLarge(f"the bundle holds {len(found)} files; at most {FILES_MAX} are allowed")
    for name in found:
        folder = posixpath.dirname(name)
        while folder:
            if folder in found:
                raise broken(f"{shown(folder)} is both a file and a folder")
            folder = posixpath.dirname(folder)
    plain = [_follow(member, found) for member in found.values()]
    if sum(member.size for member in plain) > UNPACKED_BYTES_MAX:
        raise too_large("the files of the bundle are larger", UNPACKED_BYTES_MAX)
    return plain


def _follow(member: Member, found: Mapping[str, Member]) -> Member:
    end = member
    for _ in range(LINKS_MAX):
        if end.link is None:
            return Member(member.name, end.size, end.executable, end.open)
        following = found.get(end.link)
        if following is None:
            break
        end = following
    raise broken(f"{shown(member.name)} is a link to something that is no file of the bundle; put a copy there")


def _link_target(name: str, target: str, folder: str) -> str:
    if target.startswith("/") or "\0" in target or not target:
        raise broken(f"{shown(name)} is a link that leads out of the bundle")
    path = posixpath.normpath(posixpath.join(folder, target))
    if path == ".." or path.startswith("../"):
        raise broken(f"{shown(name)} is a link that leads out of the bundle")
    return path


# -- zip ------------------------------------------------------------------------------------------------------------


def _open_zip(data: bytes) -> zipfile.ZipFile:
    """Open a zip, unless its list of members is so long that only reading it would use up memory."""
    end = data.rfind(b"PK\x05\x06")
    if end < 0 or len(data) < end + 22:
        raise broken("is not a whole zip archive: its end is missing")
    directory_bytes = int.from_bytes(data[end + 12 : end + 16], "little")
    large = end - 76  # where zipfile looks for the zip64 form of the same
    if large >= 0 and data[large : large + 4] == b"PK\x06\x06":
        directory_bytes = max(
            directory_bytes if directory_bytes < 2**32 - 1 else 0, *struct.unpack_from("<Q", data, large + 40)
        )
    if directory_bytes > _DIRECTORY_BYTES_MAX:
        raise PayloadTooLarge(f"the bundle holds too many files; at most {FILES_MAX} are allowed")
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (*_BROKEN, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise broken(f"is not a zip archive that can be read: {error}") from None


def _zip_members(archive: zipfile.ZipFile) -> Iterator[Member]:
    claimed = 0
    for info in archive.infolist():
        if info.filename.endswith("/"):  # is_dir() fails on an empty name
            continue
        name = clean_name(info.filename)
        if info.flag_bits & 0x1:
            raise broken(f"{shown(name)} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise broken(f"{shown(name)} is compressed in a way that is not supported; use deflate, as zip does")
        claimed += info.file_size
        if claimed > UNPACKED_BYTES_MAX:
            raise too_large("the files of the bundle are larger", UNPACKED_BYTES_MAX)
        mode = info.external_attr >> 16
        link = None
        if stat.S_ISLNK(mode):
            try:
                with archive.open(info) as source:
                    target = source.read(PATH_BYTES_MAX).decode()
            except _BROKEN as error:
                raise broken(f"is damaged: {shown(name)} cannot be unpacked ({error})") from None
            link = _link_target(name, target, posixpath.dirname(name))
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise broken(f"{shown(name)} is neither a file nor a folder")
        yield Member(name, info.file_size, bool(mode & 0o100), partial(archive.open, info), link)


# -- tar.gz ---------------------------------------------------------------------------------------------------------


def _gunzip(data: bytes) -> IO[bytes]:
    """The unpacked tar as a temporary file; stops at the limit, whatever the archive would become."""
    unpacked = tempfile.SpooledTemporaryFile(max_size=16 * MIB)  # noqa: SIM115 - closed by the caller
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as source:
            while chunk := source.read(_COPY_BYTES):
                if unpacked.tell() + len(chunk) > _TAR_BYTES_MAX:
                    raise too_large("the files of the bundle are larger", UNPACKED_BYTES_MAX)
                unpacked.write(chunk)
    except PayloadTooLarge:
        unpacked.close()
        raise
    except _BROKEN as error:
        unpacked.close()
        raise broken(f"is not a tar.gz archive that can be read: {error}") from None
    return unpacked


class _Part(io.RawIOBase):
    """A stretch of a file as a file of its own."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file, self._at, self._end = file, start, start + size

    def read(self, size: int = -1) -> bytes:
        self._file.seek(self._at)
        left = self._end - self._at
        chunk = self._file.read(left if size < 0 else min(size, left))
        self._at += len(chunk)
        return chunk


def _tar_members(file: IO[bytes]) -> Iterator[Member]:
    """The files of a tar (ustar, GNU long names, pax path and linkpath); anything stranger is refused."""
    total = file.seek(0, io.SEEK_END)
    at = 0
    extended: dict[str, str] = {}
    seen = False
    while at + _BLOCK <= total:
        file.seek(at)
        header = file.read(_BLOCK)
        if not header.strip(b"\0"):
            break
        size = _octal(header[124:136])
        if _octal(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise broken("is damaged: a tar header's checksum is wrong")
        start, kind = at + _BLOCK, header[156:157]
        at = start + -(-size // _BLOCK) * _BLOCK
        if at > total + _BLOCK:
            raise broken("is not a whole tar.gz archive: it ends in the middle of a file")
        seen = True
        if kind in b"xLKg":
            if size > _PAX_BYTES_MAX:
                raise broken("holds a tar header that is too large")
            content = file.read(size)
            if kind != b"g":
                extended |= _pax(content) if kind == b"x" else {"path" if kind == b"L" else "linkpath": _text(content)}
            continue
        name = extended.get("path") or _tar_name(header)
        target = extended.get("linkpath") or _text(header[157:257])
        extended = {}
        if kind == b"5" or (kind in b"\0" + b"0" and name.endswith("/")):
            continue
        name = clean_name(name)
        link = None
        if kind in b"12":
            link = _link_target(name, target, posixpath.dirname(name) if kind == b"2" else "")
        elif kind not in b"\0" + b"07":
            raise broken(f"{shown(name)} is neither a file nor a folder")
        executable = bool(_octal(header[100:108]) & 0o100)
        yield Member(name, 0 if link else size, executable, partial(_Part, file, start, size), link)
    if not seen:
        raise broken("holds no tar archive, or an empty one")


def _tar_name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:263] == b"ustar\0" else name


def _octal(digits: bytes) -> int:
    text = digits.strip(b"\0 ")
    if not text:
        return 0
    if not text.isdigit() or b"8" in text or b"9" in text:
        raise broken("is damaged, or a kind of tar that is not supported: a number in a header is not octal")
    return int(text, 8)


def _pax(content: bytes) -> dict[str, str]:
    """``path`` and ``linkpath`` of a pax header: records ``LENGTH KEY=VALUE\\n`` (POSIX.1-2001)."""
    found: dict[str, str] = {}
    while content:
        digits, space, _ = content[:8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or length > len(content):
            raise broken("is damaged: a pax header cannot be read")
        if key == b"size" or key.startswith(b"GNU.sparse"):
            raise broken("holds a sparse or very large file, which is not supported")
        if key in (b"path", b"linkpath"):
            found[key.decode()] = _text(value[:-1])
        content = content[length:]
    return found


def _text(value: bytes) -> str:
    return value.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
