"""The content store: bundles and layers of this node, unpacked, read-only, under names nobody can guess.

Theory of operation. ``root`` is mounted into every sandbox. It can be entered but not listed (mode 0711), and the name
of an entry is an HMAC of its digest with the node's secret: whoever is told a name can read the entry, nobody else
finds it. So the layout is the access control, and attaching code to a running sandbox costs nothing.

An entry is made in ``.tmp-RANDOM`` beside the others and renamed when it is whole, on disk and read-only; so an entry
that exists is complete, whatever was killed when, and what begins with ``.tmp-`` at the start is rubbish. Bytes from
the registry are checked against their digest before they are unpacked. One task makes an entry, others wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import hmac
import os
import secrets as random_names
import shutil
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from faas.model.errors import FaasError, NoCapacity, StoreUnavailable
from faas.model.function import FunctionVersion
from faas.packaging import archive, layers, syntax
from faas.packaging.layers import Progress
from faas.ports import Registry

_TEMPORARY = ".tmp-"
_FSYNC_FILES_MAX = 32  # more than these are flushed with all else on the machine at once
_NODE_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Attached:
    """Where a version's code and layers are: names relative to the store's root, on the node and in the sandbox."""

    code: str
    layers: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        return frozenset((self.code, *self.layers))


class ContentStore:
    """Makes ``root`` and empties it of what a killed node left half done; raises ``OSError`` when it cannot.

    One node owns ``root``. ``secret`` is the node's and never changes: with another, every entry is made anew.
    ``python_version`` is the runtime's; where it is this interpreter's too, bytecode is put beside the modules.
    """

    def __init__(self, root: Path, secret: bytes, registry: Registry, python_version: str = _NODE_PYTHON) -> None:
        self.root = root
        self._secret = secret
        self._registry = registry
        self._python = python_version
        self._attached: dict[tuple[str, str], Attached] = {}
        self._turns: dict[str, _Turn] = {}
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o711)
        for left in root.glob(f"{_TEMPORARY}*"):
            _remove(left)

    async def attach(self, version: FunctionVersion, progress: Progress | None = None) -> Attached:
        """Have the version's bundle and layer on this node; at once when they are.

        Raises what the registry raises, ``DependenciesUnavailable``, ``InvalidManifest`` (no wheel for this node),
        ``NoCapacity`` when the disk is full.
        """
        key = (version.bundle, version.lock)
        known = self._attached.get(key)
        if known is not None:
            return known
        code = self._name("bundle", version.bundle)
        await self._have(code, lambda folder: self._unpack(version.bundle, folder))
        names: tuple[str, ...] = ()
        if version.lock:
            names = (self._name("layer", version.lock),)
            await self._have(names[0], lambda folder: self._install(version.lock, folder, progress))
        attached = self._attached[key] = Attached(code, names)
        return attached

    async def collect(self, keep: set[str]) -> int:
        """Remove every entry whose name is not in ``keep`` and that nobody is making; how many there were.

        ``keep`` must hold the names of all that is bound or being bound at this moment: entries leave the store before
        the first await, their bytes after it.
        """
        doomed = []
        for path in self.root.iterdir():
            if path.name in keep or path.name in self._turns or path.name.startswith(_TEMPORARY):
                continue
            moved = self._temporary()
            path.rename(moved)
            doomed.append(moved)
        gone = {key for key, attached in self._attached.items() if not attached.names <= keep}
        for key in gone:
            del self._attached[key]
        for path in doomed:
            await asyncio.to_thread(_remove, path)
        return len(doomed)

    def _name(self, what: str, digest: str) -> str:
        """A layer depends on more than its lock: on the Python it was installed for."""
        message = f"{what}\0{digest}" + (f"\0{self._python}" if what == "layer" else "")
        return hmac.new(self._secret, message.encode(), hashlib.sha256).hexdigest()

    def _temporary(self) -> Path:
        return self.root / f"{_TEMPORARY}{random_names.token_hex(16)}"

    async def _have(self, name: str, fill: Callable[[Path], Awaitable[None]]) -> None:
        """Make the entry ``name`` unless it is there. One task makes it; if that fails, the next tries."""
        turn = self._turns.setdefault(name, _Turn())
        turn.tasks += 1
        try:
            async with turn.lock:
                if not (self.root / name).exists():
                    await self._make(name, fill)
        except OSError as error:
            raise self._translated(error) from error
        finally:
            turn.tasks -= 1
            if not turn.tasks:
                del self._turns[name]

    async def _make(self, name: str, fill: Callable[[Path], Awaitable[None]]) -> None:
        folder = self._temporary()
        folder.mkdir(mode=0o700)
        try:
            await fill(folder)
            await _in_thread(_seal, folder)
            folder.rename(self.root / name)
            await _in_thread(_flush, self.root)
        finally:
            if folder.exists():
                await _in_thread(_remove, folder)

    async def _unpack(self, digest: str, folder: Path) -> None:
        data = await self._verified(digest)
        await _in_thread(archive.extract, data, folder)
        if self._python.split(".")[:2] == _NODE_PYTHON.split("."):
            await _in_thread(syntax.precompile, folder)

    async def _install(self, digest: str, folder: Path, progress: Progress | None) -> None:
        await layers.build(await self._verified(digest), folder, self._python, progress)

    async def _verified(self, digest: str) -> bytes:
        data = await self._registry.blob(digest)
        if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), digest):
            raise StoreUnavailable(f"the registry holds damaged bytes for {digest[:12]}; deploy the function again")
        return data

    def _translated(self, error: OSError) -> FaasError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return NoCapacity(
                "the node's disk is full: the function's files do not fit. Free some space, or move FAAS_HOME.",
                retry_after_s=60,
            )
        return StoreUnavailable(f"the content store {self.root} cannot be written: {error}")


class _Turn:
    """Who makes an entry, and how many want it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.tasks = 0


async def _in_thread(work: Callable[..., None], *arguments: object) -> None:
    """Run ``work`` in a thread and, when cancelled, wait for its end: it writes to a folder we will remove."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _seal(folder: Path) -> None:
    """Readable for everybody, writable for nobody, and on disk: after a power cut an entry is whole or not there."""
    count = 0
    for at, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(at, name)
            if path.is_symlink():  # neither bundles nor wheels have any
                path.unlink()
                continue
            path.chmod(0o555 if path.stat().st_mode & 0o100 else 0o444)
            count += 1
            if count <= _FSYNC_FILES_MAX:
                _flush(path)
        Path(at).chmod(0o555)
        if count <= _FSYNC_FILES_MAX:
            _flush(Path(at))
    if count > _FSYNC_FILES_MAX:
        os.sync()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove a sealed tree: its folders have to be writable again first."""
    for at, _, _ in os.walk(folder):
        with contextlib.suppress(OSError):
            Path(at).chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
