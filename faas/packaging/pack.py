"""The caller's side of a deploy: a file or a directory on this machine -> a bundle.

A directory goes whole, but for what never belongs into a function (hidden files, ``__pycache__``, virtual
environments) and what its ``.faasignore`` names, in the syntax of ``.gitignore``; ``!name`` there takes it back in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from faas.model.errors import InvalidRequest, PayloadTooLarge
from faas.packaging.archive import FILES_MAX, UNPACKED_BYTES_MAX, Member, clean_name, write
from faas.packaging.sizes import format_size_bytes

IGNORED = (".*", "__pycache__/", "*.pyc", "venv/", "env/bin/", "node_modules/", "*.egg-info/", "__MACOSX/")
_IGNORE_FILE = ".faasignore"


def pack(path: Path) -> bytes:
    """The bundle of ``path``: a Python file, or a directory. Equal files make equal bytes.

    Raises ``InvalidRequest`` (there is no such file, it is no Python file, nothing is left to deploy),
    ``PayloadTooLarge``, ``InvalidManifest`` (a file name the bundle cannot carry).
    """
    try:
        if path.is_dir():
            members = list(_walk(path))
            if not members:
                raise InvalidRequest(f"{path} holds no files to deploy (hidden and ignored files do not count)")
        elif path.is_file():
            if path.suffix != ".py":
                raise InvalidRequest(f"{path} is not a Python file; deploy a .py file or a directory")
            members = [_member(path.name, path)]
        else:
            raise InvalidRequest(f"there is no file or directory {path}")
        return write(members).data
    except OSError as error:
        raise InvalidRequest(f"cannot read {error.filename or path}: {error.strerror or error}") from None


def default_name(path: Path) -> str:
    """The name of a function that nobody named: its file's or directory's, ``_`` as ``-``. It may not be valid."""
    resolved = path.resolve()
    return (resolved.name if resolved.is_dir() else resolved.stem).replace("_", "-").lower()


def _walk(root: Path) -> Iterator[Member]:
    from pathspec import GitIgnoreSpec  # only here: a file alone, the common case, need not wait for it to load

    ignore_file = root / _IGNORE_FILE
    listed = ignore_file.read_text().splitlines() if ignore_file.is_file() else []
    try:
        ignored = GitIgnoreSpec.from_lines([*IGNORED, *listed])
    except ValueError as error:
        raise InvalidRequest(f"{ignore_file}: {error}") from None
    inside = root.resolve()
    count = total_bytes = 0
    for folder, folders, files in os.walk(root):
        at = Path(folder)
        folders[:] = sorted(
            name
            for name in folders
            if not ignored.match_file(f"{_relative(at / name, root)}/") and not (at / name / "pyvenv.cfg").exists()
        )
        for name in sorted(files) + [name for name in folders if (at / name).is_symlink()]:
            path = at / name
            relative = _relative(path, root)
            if ignored.match_file(relative) or relative == _IGNORE_FILE:
                continue
            if path.is_symlink() and (not path.resolve().is_relative_to(inside) or not path.is_file()):
                raise InvalidRequest(f"{path} is a link to something outside, or to a folder; put a copy in its place")
            if not path.is_file():
                raise InvalidRequest(f"{path} is neither a file nor a folder; name it in {_IGNORE_FILE}")
            member = _member(relative, path)
            count, total_bytes = count + 1, total_bytes + member.size
            if count > FILES_MAX:
                raise PayloadTooLarge(
                    f"{root} holds more than {FILES_MAX} files; name what is not needed in {_IGNORE_FILE}"
                )
            if total_bytes > UNPACKED_BYTES_MAX:
                limit = format_size_bytes(UNPACKED_BYTES_MAX)
                raise PayloadTooLarge(f"{root} is larger than {limit}; name what is not needed in {_IGNORE_FILE}")
            yield member


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _member(name: str, path: Path) -> Member:
    status = path.stat()
    return Member(clean_name(name), status.st_size, bool(status.st_mode & 0o100), lambda: path.open("rb"))
