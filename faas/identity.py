"""Who a node is, over restarts, and the directory its sandboxes' sockets are in."""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from faas.model.errors import StoreUnavailable

SOCKET_DIR_BYTES_MAX: Final = 60  # a socket's path may have 107, and a sandbox's id and "node.sock" come on top


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is, over restarts: its name in records and labels, and its content store's secret."""

    node: str
    secret: bytes


def identify(home: Path) -> Identity:
    """Made at the first start and kept: whoever has this file can find every bundle in the content store."""
    path = home / "node.id"
    if not path.exists():
        host = "".join(c if c.isalnum() else "-" for c in platform.node().lower())[:40] or "node"
        _write_private(path, f"{host}-{secrets.token_hex(4)}\n{secrets.token_hex(32)}\n")
    lines = path.read_text().split()
    if len(lines) != 2:
        raise StoreUnavailable(f"{path} is damaged; remove it, and the node makes itself a new identity")
    return Identity(lines[0], bytes.fromhex(lines[1]))


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, on disk, for this user alone."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)


def socket_root(home: Path) -> Path:
    """An empty directory for sockets, of our own, with a path short enough for them."""
    root = home / "run"
    if len(os.fsencode(root)) > SOCKET_DIR_BYTES_MAX:
        name = f"faas-{os.getuid()}-{sha256(os.fsencode(home)).hexdigest()[:12]}"
        root = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileNotFoundError):
        if root.is_symlink() or root.stat().st_uid != os.getuid():
            raise StoreUnavailable(f"{root} belongs to somebody else; remove it, sandboxes get their sockets there")
        shutil.rmtree(root)
    root.mkdir(mode=0o700, parents=True)
    return root
