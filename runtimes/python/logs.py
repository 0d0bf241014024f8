"""The ``logging`` module of a function: records become LOG frames whose stream is the level's name.

``logging`` is not loaded for functions that don't use it. A finder waits for the import and sets the root logger up
right after it, so that lines logged while the user's module is being imported are caught too.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder

from .output import stream_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from .output import Output

_PLAIN_BASIC_CONFIG = frozenset({"level", "format", "datefmt", "style", "force", "encoding", "errors"})


def watch(output: Output) -> None:
    """Set the root logger up, now or when ``logging`` is imported."""
    if "logging" in sys.modules:
        _attach(sys.modules["logging"], output)
    else:
        sys.meta_path.insert(0, _Finder(output))


class _Finder:
    """Finds ``logging`` where it would be found anyway, and steps in after its execution."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if name != "logging" or path is not None:
            return None
        spec = PathFinder.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        spec.loader = _Loader(spec.loader, self._output)  # type: ignore[assignment]
        return spec


class _Loader:
    def __init__(self, loader: Any, output: Output) -> None:
        self._loader = loader
        self._output = output

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        if hasattr(module, "Handler") and hasattr(module, "basicConfig"):  # else it is a module of the user's
            _attach(module, self._output)


def _attach(module: ModuleType, output: Output) -> None:
    handler = _handler(module, output)
    root = module.getLogger()
    root.addHandler(handler)
    original = module.basicConfig

    def basic_config(**settings: Any) -> None:
        """``logging.basicConfig``, which counts here although the root logger has the platform's handler already."""
        if root.handlers != [handler] or not settings.keys() <= _PLAIN_BASIC_CONFIG:
            if root.handlers == [handler]:
                root.removeHandler(handler)
            original(**settings)
            return
        if "format" in settings:
            handler.setFormatter(
                module.Formatter(settings["format"], settings.get("datefmt"), settings.get("style", "%"))
            )
        if settings.get("level") is not None:
            root.setLevel(settings["level"])

    module.basicConfig = basic_config  # type: ignore[attr-defined]


def _handler(module: ModuleType, output: Output) -> logging.Handler:
    class FaasHandler(module.Handler):  # type: ignore[name-defined,misc]
        def emit(self, record: logging.LogRecord) -> None:
            try:
                lines = self.format(record).split("\n")
                output.emit_text(stream_name(record.levelname), lines)
            except Exception:  # noqa: BLE001 - as every logging handler does
                self.handleError(record)

    handler: logging.Handler = FaasHandler()
    return handler
