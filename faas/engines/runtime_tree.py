"""The files a Python sandbox boots from: ``runtimes/python`` plus, in ``_vendor``, a private copy of msgpack.

The copy is private so that a function's own msgpack, of any version, never meets ours. It is made for the Python that
will run it (the image's, or this machine's), from the venv when that is the same Python, else as a wheel through uv,
else from the venv without its compiled part (slower, works everywhere).
"""

from __future__ import annotations

import compileall
import hashlib
import importlib.metadata
import importlib.util
import os
import py_compile
import shutil
import subprocess
import sys
from pathlib import Path

import runtimes

RUNTIMES = Path(runtimes.__file__).parent
SOURCE = RUNTIMES / "python"
VENDORED = "msgpack"
_UV_TIMEOUT_S = 60
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "_vendor", "tests")


def tree_hash(python_version: str) -> str:
    """Changes whenever what ``make_tree`` would write for ``python_version`` ("3.11") may change."""
    digest = hashlib.sha256(f"{python_version} {VENDORED}={importlib.metadata.version(VENDORED)}".encode())
    for path in sorted(SOURCE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(str(path.relative_to(SOURCE)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def make_tree(target: Path, python_version: str) -> None:
    """Write the tree to ``target`` (made, replaced if there): world-readable, owned by whoever runs this."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SOURCE, target, ignore=_IGNORED)
    _vendor(target / "_vendor", python_version)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def cached_tree(cache: Path, python_version: str) -> Path:
    """The tree for this process's own Python under ``cache``, compiled; made on first use and after every change."""
    target = cache / f"python-{tree_hash(python_version)}"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f".{target.name}.{os.getpid()}"
        make_tree(fresh, python_version)
        # sandboxes may not write bytecode, and compiling on each start would take most of it
        compileall.compile_dir(
            fresh, quiet=2, stripdir=str(fresh), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
        try:
            fresh.rename(target)
        except OSError:  # another node made it meanwhile
            shutil.rmtree(fresh, ignore_errors=True)
            if not target.exists():
                raise
    return target


def _vendor(target: Path, python_version: str) -> None:
    source = _installed()
    same_python = python_version == f"{sys.version_info.major}.{sys.version_info.minor}"
    if same_python and sys.implementation.name == "cpython" and _portable():
        shutil.copytree(source, target / VENDORED, ignore=_IGNORED)
    elif not _wheel(target, python_version):
        compiled = shutil.ignore_patterns("__pycache__", "*.so", "*.pyd")
        shutil.copytree(source, target / VENDORED, ignore=compiled)


def _installed() -> Path:
    spec = importlib.util.find_spec(VENDORED)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _portable() -> bool:
    """Whether the installed copy came as a manylinux wheel, which runs on any glibc (an own build may not)."""
    return "manylinux" in (importlib.metadata.distribution(VENDORED).read_text("WHEEL") or "")


def _wheel(target: Path, python_version: str) -> bool:
    import uv

    command = [
        uv.find_uv_bin(), "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
        "--python-version", python_version, "--python-platform", f"{os.uname().machine}-manylinux_2_28",
        "--target", str(target), f"{VENDORED}=={importlib.metadata.version(VENDORED)}",
    ]  # fmt: skip
    try:
        subprocess.run(command, capture_output=True, timeout=_UV_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(target, ignore_errors=True)
        return False
    for extra in [*target.glob("*.dist-info"), target / "bin", target / ".lock"]:
        shutil.rmtree(extra, ignore_errors=True) if extra.is_dir() else extra.unlink(missing_ok=True)
    return True
