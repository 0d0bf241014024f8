"""Fetch uv's wheel for this machine from the address in uv.lock, check its hash, and put the program in argv[1].

Standard library only: this runs before anything is installed (see setup.sh).
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import stat
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "uv.lock"
TIMEOUT_S = 60


def main(target: Path) -> None:
    libc = "manylinux" if platform.libc_ver()[0] == "glibc" else "musllinux"
    packages = tomllib.loads(LOCK.read_text())["package"]
    wheels = next(package["wheels"] for package in packages if package["name"] == "uv")
    machine = os.uname().machine
    wheel = next((each for each in wheels if libc in each["url"] and f"{machine}.whl" in each["url"]), None)
    if wheel is None:
        sys.exit(f"uv.lock has no uv for {libc} on {machine}")
    with urllib.request.urlopen(wheel["url"], timeout=TIMEOUT_S) as response:  # noqa: S310 - https, from the lock file
        data = response.read()
    if "sha256:" + hashlib.sha256(data).hexdigest() != wheel["hash"]:
        sys.exit(f"{wheel['url']} is not what uv.lock says it is")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".data/scripts/uv"))
        program = target / "uv"
        program.write_bytes(archive.read(name))
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
