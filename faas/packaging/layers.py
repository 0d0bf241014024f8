"""Dependencies -> a lock at deploy, a lock -> a layer (a folder of installed packages) on each node. Both by uv.

``lock`` resolves and pins every package with the hashes of its files; that text is stored with the version. ``build``
installs exactly those files, wheels only, so that no code of a package runs on the node, and two nodes that build the
same lock get the same layer. uv's own configuration of the node's user applies (``UV_INDEX_URL`` for a mirror,
``UV_FIND_LINKS`` for a folder of wheels), configuration of the place it runs in does not: it runs in ``/``.

uv writes for people, and its sentences are good: ``InvalidManifest`` carries them on, with what to do where uv can't
know. ``DependenciesUnavailable`` is what the caller can't mend: the index doesn't answer, or serves other bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uv

from faas.model.errors import DependenciesUnavailable, InvalidManifest, ManifestProblem, NoCapacity
from faas.packaging import checks
from faas.packaging.sizes import GIB, format_size_bytes

Progress = Callable[[str], None]

LOCK_WAIT_S = 120
BUILD_WAIT_S = 900
LAYER_BYTES_MAX = 2 * GIB
_OUTPUT_LINES_MAX = 400
_LINE_BYTES_MAX = 1024 * 1024
_NODE_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
_SHOWN = re.compile(r"^(Resolved|Downloading|Downloaded|Prepared|Installed|Bytecode|\+ )")
_OFFLINE = re.compile(
    r"client error|dns error|tcp connect|timed out|error sending request|network was disabled|Failed to fetch"
    r"|HTTP status (client|server) error|Could not connect|invalid peer certificate",
    re.IGNORECASE,
)
_HINT_INDEX = (
    "The node reaches its packages through UV_INDEX_URL (an index or mirror) or UV_FIND_LINKS (a folder of wheels); "
    "set one of them in its environment, or check the network."
)


async def lock(
    dependencies: Sequence[str], python_version: str = _NODE_PYTHON, progress: Progress | None = None
) -> bytes:
    """The requirements file that pins ``dependencies`` and all they need, with hashes; b"" when there is nothing.

    Raises ``InvalidManifest`` (unknown package, no wheel, conflict), ``DependenciesUnavailable``.
    """
    wanted = _checked(dependencies)
    if not wanted:
        return b""
    arguments = ["pip", "compile", "-", *_target(python_version), "--generate-hashes", "--no-header", "--no-annotate"]
    code, out, err = await _uv(arguments, "".join(f"{line}\n" for line in wanted).encode(), LOCK_WAIT_S, progress)
    if code:
        raise _refusal(err, "the dependencies cannot be resolved")
    return out if b"==" in out else b""  # all of them may be for other systems ("; sys_platform == 'win32'")


async def build(
    lock: bytes, target: Path, python_version: str = _NODE_PYTHON, progress: Progress | None = None
) -> None:
    """Install what ``lock`` pins into the directory ``target``, which is made, with bytecode where it would be used.

    Whatever happens, ``target`` is the caller's to remove. Raises ``DependenciesUnavailable`` when a file cannot be had
    or is not the locked one, ``InvalidManifest`` when there is no wheel for this node's machine or the layer is too
    large, ``NoCapacity`` when the disk is full.
    """
    arguments = ["pip", "install", "--target", str(target), *_target(python_version), "-r", "-"]
    arguments += ["--require-hashes", "--no-deps", "--link-mode", "copy"]
    if python_version.split(".")[:2] == _NODE_PYTHON.split("."):
        arguments.append("--compile-bytecode")
    code, _, err = await _uv(arguments, lock, BUILD_WAIT_S, progress)
    if code:
        raise _refusal(err, "the dependencies cannot be installed")
    size_bytes = await asyncio.to_thread(_tidy, target)
    if size_bytes > LAYER_BYTES_MAX:
        raise _invalid(
            f"the installed packages are {format_size_bytes(size_bytes)}; "
            f"at most {format_size_bytes(LAYER_BYTES_MAX)} are allowed"
        )


def _checked(dependencies: Sequence[str]) -> list[str]:
    """Each requirement in its normal form: nothing that uv would read as an option, a path or a URL gets through."""
    found, problems = [], []
    for index, dependency in enumerate(dependencies):
        try:
            found.append(checks.dependency(dependency))
        except ValueError as error:
            problems.append(ManifestProblem(f"dependencies[{index}]", str(error)))
    if problems:
        raise InvalidManifest(problems)
    return found


def _target(python_version: str) -> list[str]:
    machine = _MACHINES.get(platform.machine().lower(), platform.machine().lower())
    return [
        *("--only-binary", ":all:", "--python", sys.executable, "--python-version", python_version),
        *("--python-platform", f"{machine}-unknown-linux-gnu"),
    ]


async def _uv(
    arguments: Sequence[str], stdin: bytes, wait_s: float, progress: Progress | None
) -> tuple[int, bytes, list[str]]:
    """Run uv to its end: exit code, output, and the lines it wrote for people. Killed when cancelled or too slow."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FAAS_") and k not in ("VIRTUAL_ENV", "CI")}
    environment |= {
        "NO_COLOR": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_HTTP_RETRIES": environment.get("UV_HTTP_RETRIES", "2"),
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
    }
    process = await asyncio.create_subprocess_exec(
        uv.find_uv_bin(),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd="/",
        env=environment,
        limit=_LINE_BYTES_MAX,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(wait_s):
            async with asyncio.TaskGroup() as group:
                out = group.create_task(process.stdout.read())
                err = group.create_task(_follow(process.stderr, progress))
                group.create_task(_feed(process.stdin, stdin))
            code = await process.wait()
    except TimeoutError:
        raise DependenciesUnavailable(
            f"the package index was too slow: not done after {wait_s:.0f} s. {_HINT_INDEX}"
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.shield(process.wait())
    return code, out.result(), err.result()


async def _feed(stdin: asyncio.StreamWriter, data: bytes) -> None:
    try:
        stdin.write(data)
        await stdin.drain()
        stdin.close()
        await stdin.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        return  # uv ended early and says why on stderr


async def _follow(stderr: asyncio.StreamReader, progress: Progress | None) -> list[str]:
    lines: list[str] = []
    async for raw in stderr:
        line = raw.decode("utf-8", "replace").rstrip()
        if len(lines) < _OUTPUT_LINES_MAX:
            lines.append(line)
        if progress is not None and _SHOWN.match(line.strip()):
            progress(line.strip())
    return lines


def _refusal(lines: list[str], what: str) -> Exception:
    """uv's words as an error of ours."""
    text = "\n".join(lines)
    words = _words(lines)
    if "No space left on device" in text:
        return NoCapacity(f"{what}: the node's disk is full ({words})", retry_after_s=60)
    if "Hash mismatch" in text:
        package = re.search(r"Hash mismatch for `([^`]+)`", text)
        return DependenciesUnavailable(
            f"{what}: the index serves another file for {package[1] if package else 'a package'} than the one that was "
            "locked at deploy, so it was refused. Deploy again to lock what the index has now, if you trust it."
        )
    if "have no usable wheels" in text or "has no usable wheels" in text or "no wheels with a matching" in text:
        return _invalid(
            f"{words} Only wheels are installed, nothing is built: choose a version that has one for Linux and this "
            "Python, or build it yourself and put it in a folder that the node's UV_FIND_LINKS names."
        )
    if "was not found in the package registry" in text:
        return _invalid(f"{words} Check the spelling of the name.")
    if _OFFLINE.search(text):
        return DependenciesUnavailable(f"{what}: the package index does not answer ({words}) {_HINT_INDEX}")
    return _invalid(words or what)


def _words(lines: list[str]) -> str:
    """What uv says is wrong, on one line, without its list of hashes and its progress."""
    kept = [line.strip() for line in lines if line.strip() and not _SHOWN.match(line.strip())]
    kept = [line for line in kept if not line.startswith(("Using CPython", "warning:", "hint: Wheels are required"))]
    text = " ".join(kept)
    text = re.sub(r"error: No solution found when resolving dependencies:?( for [^:]+:)?", "", text)
    text = re.sub(r"\b(error|cause|Caused by): ", "", text)
    text = re.sub(r"[×╰─▶│]+ ?", "", text).strip()
    text = text.replace("we can conclude that your requirements are unsatisfiable", "this cannot be met")
    return (text[:1].upper() + text[1:])[:1500]


def _tidy(target: Path) -> int:
    """Drop what uv leaves behind; the bytes of what stays."""
    (target / ".lock").unlink(missing_ok=True)
    target.mkdir(exist_ok=True)
    return sum(path.lstat().st_size for path in target.rglob("*"))


def _invalid(message: str) -> InvalidManifest:
    return InvalidManifest([ManifestProblem("dependencies", message)])
