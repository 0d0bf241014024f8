"""The interface of AWS's ``snapshot-restore-py``, for functions that don't bring the package itself.

Hooks around the fork: what was registered to run before a snapshot runs once in the zygote, after the import and before
the first fork, last registered first; what was registered to run after a restore runs in every new instance, in
the order of registration.
"""

from __future__ import annotations

__all__ = ["register_after_restore", "register_before_snapshot"]

TYPE_CHECKING = False  # typing is not worth its import here
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    _Hook = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
    _F = TypeVar("_F", bound=Callable[..., Any])

_before_snapshot: list[_Hook] = []
_after_restore: list[_Hook] = []


def register_before_snapshot(func: _F, *args: Any, **kwargs: Any) -> _F:
    """Call ``func(*args, **kwargs)`` before instances are forked; usable as a decorator."""
    _before_snapshot.append((func, args, kwargs))
    return func


def register_after_restore(func: _F, *args: Any, **kwargs: Any) -> _F:
    """Call ``func(*args, **kwargs)`` in every new instance; usable as a decorator."""
    _after_restore.append((func, args, kwargs))
    return func


def get_before_snapshot() -> list[_Hook]:
    return _before_snapshot


def get_after_restore() -> list[_Hook]:
    return _after_restore
