"""A deploy's archive and settings -> what a version is made of: ``prepare``. On the caller's side: ``pack``.

The settings come from the first of these the bundle has at its top: ``faas.toml``; ``pyproject.toml`` with
``[tool.faas]``; the PEP 723 block of the entry file. Where they name no dependencies, ``[project]`` of
``pyproject.toml`` or ``requirements.txt`` does. Overrides (the flags of ``faas deploy``, the ``manifest`` of the HTTP
API) go on top, key by key.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from faas.model.errors import ManifestProblem, PayloadTooLarge
from faas.model.manifest import Manifest
from faas.packaging import checks, document, syntax
from faas.packaging.archive import Bundle, canonical
from faas.packaging.document import Document
from faas.packaging.manifest import Walk, invalid, parse, timeout_warning, to_settings
from faas.packaging.pack import default_name, pack
from faas.packaging.sizes import shown

__all__ = ["Prepared", "default_name", "pack", "prepare", "revise"]

ENTRY_NAMES = ("main", "app", "handler", "lambda_function", "function")
_NOT_ENTRIES = frozenset({"setup", "conftest", "noxfile", "__init__", "__main__"})
NODE_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a version is made of. ``manifest.entry`` is filled in; ``archive`` is canonical, so its digest is stable."""

    manifest: Manifest
    archive: bytes
    dependencies: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def prepare(
    archive: bytes,
    overrides: Mapping[str, Any],
    name: str | None = None,
    *,
    default_name: str = "",
    python_version: str = NODE_PYTHON,
) -> Prepared:
    """Check a deploy. Blocks for some tens of milliseconds (it starts a child process): call it in a thread.

    ``name`` is the name the function is deployed under and wins over all others; ``default_name`` is used when the
    settings give none (without it: the entry file's). ``python_version`` is the runtime's.
    Raises ``InvalidManifest`` with every problem at once, ``PayloadTooLarge``.
    """
    bundle = canonical(archive)
    wanted = name if name is not None else str(overrides.get("name") or default_name)
    found = _settings_file(bundle)
    if found is None:
        entry, _ = _find_entry(bundle, Document(values=dict(overrides)), wanted)
        found = document.from_script(_text(bundle, entry), entry) if entry else Document()
    found = _dependencies_elsewhere(bundle, found)
    merged = document.merge(found, overrides)
    problems = _name_conflict(name, overrides)
    if name is not None:
        merged = document.merge(merged, {"name": name})
    entry, entry_problems = _find_entry(bundle, merged, wanted)
    walk = Walk(merged)
    stem = entry.rpartition("/")[2].removesuffix(".py").replace("_", "-").lower()
    manifest = walk.manifest(python_version, default_name or stem)
    problems += walk.problems + entry_problems + (_syntax(bundle, entry, python_version) if entry else [])
    if manifest is None or problems:
        raise invalid(problems, found.file)
    _, attribute = checks.split_handler(manifest.handler)
    manifest = manifest.model_copy(update={"entry": _module(entry), "handler": attribute})
    warnings = (*found.warnings, *_unused_block(bundle, entry, found.file), *timeout_warning(manifest))
    return Prepared(manifest, bundle.data, manifest.dependencies, warnings)


def revise(manifest: Manifest, overrides: Mapping[str, Any], python_version: str = NODE_PYTHON) -> Manifest:
    """``manifest`` with ``overrides`` (as users write them) on top: the settings of the next version of the same code.

    Raises ``InvalidManifest``, also for what only a new deploy can change.
    """
    fixed = [key for key in ("name", "entry", "runtime", "dependencies", "requires-python") if key in overrides]
    if fixed:
        hint = "cannot be changed without a new deploy"
        raise invalid([ManifestProblem(key, hint) for key in fixed])
    handler = overrides.get("handler")
    if isinstance(handler, str) and checks.split_handler(handler)[0]:
        raise invalid([ManifestProblem("handler", "only the attribute can be changed without a new deploy")])
    return parse(document.merge(Document(values=to_settings(manifest)), overrides), python_version)


def _settings_file(bundle: Bundle) -> Document | None:
    if "faas.toml" in bundle.files:
        return document.from_faas_toml(_text(bundle, "faas.toml"))
    if "pyproject.toml" in bundle.files:
        found = document.from_pyproject(_text(bundle, "pyproject.toml"))
        if found is not None and (found.problems or found.tool):
            return found
    return None


def _dependencies_elsewhere(bundle: Bundle, found: Document) -> Document:
    """Where the settings say nothing of dependencies: ``[project]`` of pyproject.toml, else requirements.txt."""
    if found.problems or "dependencies" in found.values:
        return found
    other: Document | None = None
    if "pyproject.toml" in bundle.files and found.file != "pyproject.toml":
        other = document.from_pyproject(_text(bundle, "pyproject.toml"))
    if (other is None or "dependencies" not in other.values) and "requirements.txt" in bundle.files:
        other = document.from_requirements(_text(bundle, "requirements.txt"))
    if other is None:
        return found
    keys = [key for key in ("dependencies", "requires-python") if key in other.values and key not in found.values]
    values = dict(found.values)
    values.update({key: other.values[key] for key in keys})
    problems = tuple(
        replace(p, message=f"{other.file}: {p.message.removeprefix(f'{other.file}: ')}") for p in other.problems
    )
    return replace(found, file=found.file or other.file, values=values, problems=found.problems + problems)


def _unused_block(bundle: Bundle, entry: str, settings_file: str) -> list[str]:
    """Say so when the entry file has settings too and those of a file beside it were taken."""
    if settings_file == entry or not document.from_script(_text(bundle, entry), entry).tool:
        return []
    return [f"the settings in the script block of {entry} are not used: those in {settings_file} are"]


def _name_conflict(name: str | None, overrides: Mapping[str, Any]) -> list[ManifestProblem]:
    other = overrides.get("name")
    if name is None or other is None or other == name:
        return []
    return [ManifestProblem("name", f"the function is deployed as {shown(name)}, its settings say {shown(other)}")]


def _find_entry(bundle: Bundle, found: Document, name: str) -> tuple[str, list[ManifestProblem]]:
    """The entry file: the one the settings name, the only one there is, or one with a customary name; else why not."""
    values = found.values
    key = "entry" if "entry" in values else "handler"
    try:
        module = checks.entry(values["entry"]) if "entry" in values else ""
        handler = checks.handler(values["handler"]) if "handler" in values else ""
    except ValueError:
        return "", []  # the walk over the settings says what is wrong with it
    dotted = checks.split_handler(handler)[0]
    line = document.line_of(found, (key,))
    if module and dotted and module != dotted:
        return "", [ManifestProblem("handler", f"names the module {shown(dotted)}, but entry is {shown(module)}", line)]
    if module or dotted:
        path = (module or dotted).replace(".", "/")
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if candidate in bundle.files:
                return _usable(candidate)
        return "", [ManifestProblem(key, f"there is no {path}.py in the bundle{_what_is_there(bundle)}", line)]
    top = [file.removesuffix(".py") for file in bundle.files if file.endswith(".py") and "/" not in file]
    likely = [
        stem for stem in top if stem not in _NOT_ENTRIES and not stem.startswith("test_") and not stem.endswith("_test")
    ]
    if len(likely) == 1:
        return _usable(f"{likely[0]}.py")
    for stem in (*ENTRY_NAMES, name.replace("-", "_"), name):
        if stem in likely:
            return _usable(f"{stem}.py")
    hint = 'say which file is the function\'s with entry (or handler = "module.function")'
    return "", [ManifestProblem("entry", f"{hint}{_what_is_there(bundle)}")]


def _usable(path: str) -> tuple[str, list[ManifestProblem]]:
    """Refuse file names that cannot be imported as what they are. A file at the top may even be called ``json.py``."""
    if "." in path.removesuffix(".py"):
        hint = "a module's file has one dot, before py"
        return "", [ManifestProblem("entry", f"{shown(path)} cannot be imported: {hint}")]
    folder, slash, _ = path.partition("/")
    if slash and folder in sys.stdlib_module_names:
        hint = "bears the name of a part of Python's standard library, which would be found first; rename it"
        return "", [ManifestProblem("entry", f"the folder {shown(folder)} {hint}")]
    return path, []


def _what_is_there(bundle: Bundle) -> str:
    if not bundle.files:
        return "; the bundle is empty"
    top = [file for file in bundle.files if "/" not in file and file.endswith(".py")]
    if top:
        return f"; at its top there are {', '.join(top[:8])}{' ...' if len(top) > 8 else ''}"
    folders = sorted({file.partition("/")[0] for file in bundle.files if "/" in file})
    if len(folders) == 1:
        return f"; everything in it is below {folders[0]}/: pack what is inside that folder instead"
    return "; there is no Python file at its top"


def _module(entry: str) -> str:
    return entry.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _syntax(bundle: Bundle, entry: str, python_version: str) -> list[ManifestProblem]:
    """A quick look before anything is stored; only where this interpreter speaks the runtime's version of Python."""
    if ".".join(python_version.split(".")[:2]) != NODE_PYTHON:
        return []
    found = syntax.check(bundle.read(entry), entry)
    return [ManifestProblem("", f"{entry} is not valid Python: {found[0]}", found[1])] if found else []


def _text(bundle: Bundle, name: str) -> str:
    try:
        return bundle.read(name).decode("utf-8", "replace")
    except PayloadTooLarge as error:
        raise invalid([ManifestProblem("", error.message)], name) from None
