"""What an exception looks like to the function's author: its type, its message, and the frames that are his."""

# pathlib would cost more to import than all of this file:
# ruff: noqa: PTH100, PTH120
from __future__ import annotations

import os

from .codec import MESSAGE_CHARS_MAX, NAME_CHARS_MAX, TRACEBACK_CHARS_MAX, clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from traceback import TracebackException

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORTLIB = os.path.dirname(os.__file__) + os.sep + "importlib" + os.sep


class Failure(Exception):
    """Something to be told to the node as it is: an ERROR frame without a Python traceback worth showing."""

    def __init__(self, kind: str, error_type: str, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.error_type = clean(error_type, NAME_CHARS_MAX)
        self.message = clean(message, MESSAGE_CHARS_MAX)
        self.traceback = clean(traceback, TRACEBACK_CHARS_MAX)


def failure(error: BaseException, roots: tuple[str, ...] = ()) -> Failure:
    """``error`` as a ``Failure``. ``roots`` are directories that need not be named in front of the user's files."""
    if isinstance(error, Failure):
        return error
    kind, message = "function", text_of(error)
    if isinstance(error, MemoryError):
        kind, message = "oom", message or "the function used up its memory"
    elif isinstance(error, SystemExit):
        kind, message = "exit", f"the function called sys.exit({'' if error.code is None else repr(error.code)})"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        message += f" (is the package that has {error.name.split('.')[0]!r} in `dependencies`?)"
    return Failure(kind, type(error).__name__, message, formatted(error, roots))


def text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as inner:  # noqa: BLE001 - a __str__ of the user's can raise anything
        return f"<{type(error).__name__} whose __str__ raised {type(inner).__name__}>"


def formatted(error: BaseException, roots: tuple[str, ...]) -> str:
    """The traceback without the runtime's own frames; "" when there is no memory left to make one."""
    try:
        from traceback import TracebackException

        whole = TracebackException.from_exception(error, compact=True)
        _trim(whole, set())
        text = "".join(whole.format())
    except MemoryError:
        return ""
    except Exception as inner:  # noqa: BLE001 - the user's __repr__ and __str__ run in there
        return f"{type(error).__name__}: {text_of(error)} (no traceback: {type(inner).__name__})"
    for root in roots:
        text = text.replace(root.rstrip("/") + "/", "")
    return text


def _trim(whole: TracebackException, seen: set[int]) -> None:
    if id(whole) in seen:
        return
    seen.add(id(whole))
    whole.stack[:] = [frame for frame in whole.stack if not _ours(frame.filename)]
    for other in (whole.__cause__, whole.__context__, *(getattr(whole, "exceptions", None) or ())):
        if other is not None:
            _trim(other, seen)


def _ours(filename: str) -> bool:
    return filename.startswith((_HERE, "<frozen importlib", _IMPORTLIB))
