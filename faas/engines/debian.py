"""A root file system from Debian packages, for machines where no registry answers.

Nothing is installed: the packages named in ``runtimes/image/packages.txt`` are fetched by ``apt-get download`` into a
private directory (or by ``debootstrap`` where there is no apt; neither touches the host's own package state), verified
by apt against the archive's signature, and their files are copied into one tar stream. No package script runs, no root
is needed, and the tar says that everything belongs to root.
"""

from __future__ import annotations

import fnmatch
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from faas.model.errors import EngineUnavailable

SUITE = "bookworm"
PYTHON_VERSION = "3.11"  # what SUITE has
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_ARCHIVES = (
    f"http://deb.debian.org/debian {SUITE} main",
    f"http://deb.debian.org/debian {SUITE}-updates main",
    f"http://deb.debian.org/debian-security {SUITE}-security main",
)
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_COMMAND_TIMEOUT_S = 600
_CERTIFICATES = "/usr/share/ca-certificates/"
_MERGED = re.compile(r"^/(bin|sbin|lib|lib32|lib64|libx32)(?=/|$)")

Progress = Callable[[str], None]


def lines(path: Path) -> list[str]:
    """The lines of a recipe file without comments and blanks."""
    return [text for line in path.read_text().splitlines() if (text := line.split("#")[0].strip())]


def rootfs(recipe: Path, architecture: str, target: Path, progress: Progress) -> None:
    """Write a root file system as a tar file to ``target``.

    ``recipe`` is ``runtimes/image``; ``architecture`` is Debian's name (amd64, arm64). Raises ``EngineUnavailable``
    with the words of the tool that failed.
    """
    packages = lines(recipe / "packages.txt")
    excluded = lines(recipe / "exclude.txt")
    with tempfile.TemporaryDirectory(prefix="faas-image-") as scratch:
        progress(f"fetching {len(packages)} packages of Debian {SUITE}")
        files = fetch(packages, architecture, Path(scratch))
        progress("unpacking")
        with tarfile.open(target, "w") as out:
            _skeleton(out)
            certificates = b""
            for file in files:
                for member, data in _members(file):
                    if _skipped(member, excluded):
                        continue
                    if member.name.startswith(_CERTIFICATES):
                        certificates += data.read() if data is not None else b""
                        continue
                    out.addfile(_relative(member), data)
            _finish(out, certificates)


# -- fetching -------------------------------------------------------------------------------------------------------


def fetch(packages: list[str], architecture: str, scratch: Path) -> list[Path]:
    """The ``.deb`` files of ``packages``, in that order."""
    if shutil.which("apt-get"):
        directory = _apt(packages, architecture, scratch)
    elif shutil.which("debootstrap"):
        directory = _debootstrap(packages, architecture, scratch)
    else:
        raise EngineUnavailable(
            "no registry answered, and neither apt-get nor debootstrap is here to build the runtime image from Debian"
            " packages: install debootstrap, or `docker load` an image made elsewhere with `faas runtime build python`"
        )
    files = []
    for package in packages:
        found = sorted(directory.glob(f"{package}_*.deb"))
        if not found:
            raise EngineUnavailable(f"the package {package} of Debian {SUITE} was not found on the mirror")
        files.append(found[-1])
    return files


def _apt(packages: list[str], architecture: str, scratch: Path) -> Path:
    for directory in ("lists/partial", "cache/archives/partial", "debs"):
        (scratch / directory).mkdir(parents=True)
    (scratch / "status").touch()
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    (scratch / "sources.list").write_text("".join(f"deb {signed}{archive}\n" for archive in _archives()))
    settings = {
        "Dir::State": scratch,
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
    }
    apt = ["apt-get", "-qq", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    _run([*apt, "update"], scratch)
    _run([*apt, "download", *packages], scratch / "debs")
    return scratch / "debs"


def _archives() -> list[str]:
    """This machine's own sources of the suite (a local mirror, say), else Debian's."""
    wanted = "$(ORIGIN)|$(CODENAME)|$(REPO_URI) $(CODENAME) $(COMPONENT)"
    command = ["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    found = []
    for line in asked.stdout.splitlines():
        origin, codename, archive = line.split("|", 2)
        if origin == "Debian" and codename.split("-")[0] == SUITE and archive.endswith(" main"):
            found.append(archive)
    own = any(f" {SUITE} " in archive for archive in found)
    return sorted(set(found)) if own else list(_ARCHIVES)


def _debootstrap(packages: list[str], architecture: str, scratch: Path) -> Path:
    target = scratch / "debootstrap"
    command = ["debootstrap", "--download-only", "--variant=minbase", f"--arch={architecture}"]
    if _KEYRING.exists():
        command.append(f"--keyring={_KEYRING}")
    _run([*command, f"--include={','.join(packages)}", SUITE, str(target), _ARCHIVES[0].split()[0]], scratch)
    return target / "var/cache/apt/archives"


def _run(command: list[str], cwd: Path) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the words are ours
            command, cwd=cwd, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngineUnavailable(f"{command[0]} took longer than {_COMMAND_TIMEOUT_S} s: is the mirror up?") from None
    if done.returncode != 0:
        words = "; ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise EngineUnavailable(f"{command[0]} could not fetch Debian packages for the runtime image: {words}")


# -- unpacking ------------------------------------------------------------------------------------------------------


def _members(deb: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """The files of a package with absolute names, as on a system with a merged /usr."""
    with tarfile.open(fileobj=io.BytesIO(_data_tar(deb.read_bytes()))) as archive:
        for member in archive:
            member.name = _MERGED.sub(r"/usr/\1", "/" + member.name.removeprefix(".").strip("/"))
            if member.islnk():
                member.linkname = _MERGED.sub(r"/usr/\1", "/" + member.linkname.removeprefix(".").strip("/"))
            yield member, archive.extractfile(member) if member.isreg() else None


def _data_tar(deb: bytes) -> bytes:
    """The file tree inside a ``.deb``: an ``ar`` archive (deb(5)) whose member ``data.tar.*`` holds it."""
    if not deb.startswith(b"!<arch>\n"):
        raise EngineUnavailable("the mirror sent something that is not a Debian package")
    at = 8
    while at + 60 <= len(deb):
        name = deb[at : at + 16].rstrip(b" /")
        size = int(deb[at + 48 : at + 58])
        body = deb[at + 60 : at + 60 + size]
        if name == b"data.tar.xz":
            return lzma.decompress(body)
        if name in (b"data.tar", b"data.tar.gz", b"data.tar.bz2"):
            return body  # tarfile knows them
        at += 60 + size + size % 2
    raise EngineUnavailable("a Debian package is compressed in a way this Python cannot read")


def _skipped(member: tarfile.TarInfo, excluded: list[str]) -> bool:
    if member.isdir():  # directories come with their files (docker import makes them), links and _skeleton aside
        return True
    return any(fnmatch.fnmatchcase(member.name, pattern) for pattern in excluded)


def _relative(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.name = member.name.lstrip("/")
    if member.islnk():
        member.linkname = member.linkname.lstrip("/")
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mode &= 0o755  # no setuid, nothing group-writable
    member.pax_headers = {}
    return member


def _skeleton(out: tarfile.TarFile) -> None:
    """Directories with their modes, and the merged-/usr links."""
    for name in ("usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc", "etc/ssl", "etc/ssl/certs", "dev", "proc",
                 "sys", "run", "var", "root", "opt", "usr/lib/ssl"):  # fmt: skip
        out.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
    for name in ("tmp", "var/tmp"):
        out.addfile(_entry(name, tarfile.DIRTYPE, 0o1777))
    for name in ("bin", "sbin", "lib", "lib64"):
        _link(out, name, f"usr/{name}")


def _finish(out: tarfile.TarFile, certificates: bytes) -> None:
    """What package scripts would have made."""
    _link(out, "usr/bin/python3", f"python{PYTHON_VERSION}")
    _file(out, "etc/ssl/certs/ca-certificates.crt", certificates)
    _link(out, "usr/lib/ssl/certs", "/etc/ssl/certs")
    _link(out, "usr/lib/ssl/cert.pem", "/etc/ssl/certs/ca-certificates.crt")
    _link(out, "etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
    _file(out, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/false\n")
    _file(out, "etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    _file(out, "etc/nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\nservices: files\n")


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _link(out: tarfile.TarFile, name: str, target: str) -> None:
    entry = _entry(name, tarfile.SYMTYPE, 0o777)
    entry.linkname = target
    out.addfile(entry)


def _file(out: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = _entry(name, tarfile.REGTYPE, 0o644)
    entry.size = len(data)
    out.addfile(entry, io.BytesIO(data))
