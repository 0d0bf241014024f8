"""Turns a bound zygote into the user's function: environment, module search path, import, handler."""

# pathlib would cost more to import than all of this file:
# ruff: noqa: PTH100, PTH120
from __future__ import annotations

import builtins
import os
import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader

from .failures import Failure, failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_SHIPPED = "snapshot_restore_py"
_FALLBACKS = ("handler", "app", "main")
_COROUTINE, _GENERATOR, _ASYNC_GENERATOR, _VARARGS = 0x80, 0x20, 0x200, 0x04
RESULT_BYTES_MAX = 6 * 1024 * 1024

SYNC, ASYNC, GENERATOR, ASYNC_GENERATOR, ASGI, WSGI = "sync", "async", "generator", "async_generator", "asgi", "wsgi"
ASYNCHRONOUS = (ASYNC, ASYNC_GENERATOR, ASGI)
IN_TURN = (SYNC, GENERATOR)  # one after the other, in the main thread


class Function:
    """The loaded function. ``call(event, context)`` for handlers; ``target`` itself for apps."""

    __slots__ = ("call", "kind", "name", "result_bytes_max", "roots", "target")

    def __init__(self, target: Any, name: str, kind: str, config: dict[str, Any]) -> None:
        self.target = target
        self.name = name
        self.kind = kind
        self.call = target if kind in (ASGI, WSGI) else _with_arity(target)
        self.roots = roots(config)
        self.result_bytes_max = int(config.get("result_bytes_max", RESULT_BYTES_MAX))

    def played_by(self, handler: Callable[[Any, Any], Any]) -> Function:
        """The same with another handler."""
        other: Function = object.__new__(Function)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.call = handler
        return other


def roots(config: dict[str, Any]) -> tuple[str, ...]:
    """The directories of the function's files, which tracebacks leave out."""
    return (config["code"], *config["layers"])


def load(config: dict[str, Any]) -> Function:
    """Import the module and find its handler. Raises ``Failure``, whatever happens in there."""
    _environment(config)
    _search_path(config)
    try:
        module, name, attribute = _import(config)
        target, found = _handler(module, name, attribute)
        return Function(target, f"{name}.{found}", _kind(target, found), config)
    except BaseException as error:  # noqa: BLE001 - sys.exit and the like at import must be told, not obeyed
        raise failure(error, roots(config)) from None


def _environment(config: dict[str, Any]) -> None:
    for key in [key for key in os.environ if key.startswith("FAAS_")]:
        del os.environ[key]
    os.environ.update(
        {
            "AWS_LAMBDA_FUNCTION_NAME": str(config["function"]),
            "AWS_LAMBDA_FUNCTION_VERSION": str(config["version"]),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config["memory_mb"]),
            "LAMBDA_TASK_ROOT": config["code"],
        }
    )
    os.environ.setdefault("HOME", "/tmp")  # noqa: S108 - the sandbox's own
    os.environ.update(config["env"])


def _search_path(config: dict[str, Any]) -> None:
    """Code first, as for a script; then the standard library; then the layers, as for site-packages.

    A module whose own name is one of the standard library's (queue.py) stands behind the library: it is loaded from its
    file anyway, and whoever imports ``queue`` inside the library must get the library's.
    """
    code = config["code"]
    if config["entry"].partition(".")[0] in sys.stdlib_module_names:
        sys.path.append(code)
    else:
        sys.path.insert(0, code)
    sys.path.extend(config["layers"])
    sys.meta_path.append(_Shipped())
    sys.path_importer_cache.clear()
    sys.argv = [""]
    sys.dont_write_bytecode = True  # the store is read-only, and trying costs time
    if not hasattr(builtins, "exit"):  # what ``site`` would have added
        vars(builtins).update(exit=sys.exit, quit=sys.exit)
    os.chdir(code)


class _Shipped:
    """Last on the meta path: finds our own copy of ``snapshot_restore_py`` when the user has none."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_HERE]) if name == _SHIPPED else None


def _import(config: dict[str, Any]) -> tuple[ModuleType, str, str]:
    """The module, its name, and the name of the handler in it ("" when the manifest gives none)."""
    entry, handler = config["entry"], config["handler"]
    module_name, _, attribute = handler.rpartition(".")
    module_name = module_name.replace("/", ".")
    if module_name and module_name != entry and PathFinder.find_spec(module_name.partition(".")[0], [config["code"]]):
        return import_module(module_name), module_name, attribute
    if module_name == entry:
        handler = attribute
    return _import_entry(entry, config["code"]), entry, handler


def _import_entry(entry: str, code: str) -> ModuleType:
    """The entry module from its file, even when its name is taken by a module of the standard library."""
    spec = PathFinder.find_spec(entry, [code]) if "." not in entry else None
    if spec is None or spec.origin is None:
        return import_module(entry)
    if entry in sys.modules or entry in sys.stdlib_module_names:
        spec.name = f"_function_{entry}"
        if isinstance(spec.loader, (SourceFileLoader, ExtensionFileLoader)):
            spec.loader.name = spec.name
    return _execute(spec)


def _execute(spec: ModuleSpec) -> ModuleType:
    from importlib._bootstrap import module_from_spec

    module: ModuleType = module_from_spec(spec)
    sys.modules[spec.name] = module
    assert spec.loader is not None
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(spec.name, None)
        raise
    return module


def _handler(module: ModuleType, name: str, attribute: str) -> tuple[Any, str]:
    if attribute:
        target: Any = module
        for part in attribute.split("."):
            target = getattr(target, part, None)
        found = attribute if target is not None else ""
    else:
        found = next((each for each in _FALLBACKS if hasattr(module, each)), "")
        target = getattr(module, found, None) if found else None
    if not found:
        wanted = f"has no {attribute!r}" if attribute else "defines none of handler, app and main"
        raise Failure("function", "HandlerNotFound", f"{name} {wanted}; it defines: {_defined(module)}")
    if not callable(target):
        raise Failure(
            "function",
            "HandlerNotCallable",
            f"{name}.{found} is of type {type(target).__name__}, which can't be called",
        )
    return target, found


def _defined(module: ModuleType) -> str:
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return ", ".join(own[:20]) or "no functions or classes"


# -- what kind of thing a handler is ---------------------------------------------------------------------------------


def _code(target: Any) -> tuple[Any, int]:
    """The code object behind a callable, or None, and how many of its first parameters are bound already."""
    bound = 0
    if hasattr(target, "func") and hasattr(target, "args") and hasattr(target, "keywords"):  # functools.partial
        bound = len(target.args)
        target = target.func
    if not hasattr(target, "__code__") and not hasattr(target, "__func__"):
        name = "__init__" if isinstance(target, type) else "__call__"
        target = getattr(target if isinstance(target, type) else type(target), name, None)
        bound += 1
    if hasattr(target, "__func__"):
        target = target.__func__
        bound += 1
    return getattr(target, "__code__", None), bound


def _parameters(target: Any) -> tuple[str, ...] | None:
    """Names of the positional parameters left to fill; None when there may be any number."""
    seen = 0
    code, bound = _code(target)
    while code is not None and code.co_flags & _VARARGS and hasattr(target, "__wrapped__") and seen < 16:
        target, seen = target.__wrapped__, seen + 1
        code, bound = _code(target)
    if code is None or code.co_flags & _VARARGS:
        return None
    names: tuple[str, ...] = code.co_varnames[bound : code.co_argcount]
    return names


def _kind(target: Any, found: str) -> str:
    code, _ = _code(target)
    flags = code.co_flags if code is not None else 0
    names = _parameters(target)
    if names is not None:
        is_app = found.rpartition(".")[2] == "app"
        if flags & _COROUTINE and (names[:1] == ("scope",) or (is_app and len(names) == 3)):
            return ASGI
        if names[1:2] == ("start_response",) or (
            is_app and not flags & (_COROUTINE | _ASYNC_GENERATOR) and len(names) == 2 and names[0] != "event"
        ):
            return WSGI
    for flag, kind in ((_COROUTINE, ASYNC), (_ASYNC_GENERATOR, ASYNC_GENERATOR), (_GENERATOR, GENERATOR)):
        if flags & flag:
            return kind
    return SYNC


def _with_arity(target: Any) -> Callable[[Any, Any], Any]:
    """``target`` callable with event and context, though it may want fewer."""
    names = _parameters(target)
    call: Callable[..., Any] = target
    if names is None or len(names) >= 2:
        return call
    if len(names) == 1:
        return lambda event, _context: call(event)
    return lambda _event, _context: call()
