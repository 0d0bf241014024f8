"""What each sandbox weighs when there is less processor time than is wanted: fair between namespaces first.

All sandboxes of a namespace that have instances weigh one core together (``NAMESPACE_CORES``), whatever their number,
and divide it among themselves in proportion to the memory of their instances, as AWS Lambda divides processors. So a
namespace that floods the node with a hundred instances takes no more from a neighbour than one that is busy with a
single one; and containers that know nothing of us stand beside each namespace as beside one of their own kind.

A weight is no limit: what others leave is anyone's. Idle instances count, since telling the kernel at every call who
is busy would cost more than it is worth; frozen sandboxes do not.

>>> shares = Shares()
>>> shares.settle("quiet", "a", 128)
{'a': (128, 1.0)}
>>> shares.settle("noisy", "b", 6400)
{'b': (6400, 1.0)}
>>> shares.settle("noisy", "c", 1600)  # the other one of its namespace gives way
{'b': (6400, 0.8), 'c': (1600, 0.2)}
>>> shares.drop("b")
{'c': (1600, 1.0)}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NAMESPACE_CORES: Final = 1.0
OFF_MAX: Final = 0.1  # of what is right: so far a sandbox's weight may be off before it is told again


@dataclass(slots=True)
class _Held:
    memory_mb: int
    told: float = 0.0


class Shares:
    """The books of who weighs what. Answers are ``{sandbox: (memory_mb, share)}`` of those to be told; shares are in
    cores, as ``Engine.resize`` has them."""

    def __init__(self) -> None:
        self._namespaces: dict[str, dict[str, _Held]] = {}
        self._of: dict[str, str] = {}

    def settle(self, namespace: str, sandbox: str, memory_mb: int) -> dict[str, tuple[int, float]]:
        """The instances of ``sandbox`` now have ``memory_mb`` in all. It is always told; others if it matters."""
        self._of[sandbox] = namespace
        self._namespaces.setdefault(namespace, {})[sandbox] = _Held(max(1, memory_mb))
        return self._told(namespace)

    def drop(self, sandbox: str) -> dict[str, tuple[int, float]]:
        """It has been frozen or has ended; nothing happens to one that is not known."""
        namespace = self._of.pop(sandbox, None)
        if namespace is None:
            return {}
        held = self._namespaces[namespace]
        del held[sandbox]
        if not held:
            del self._namespaces[namespace]
            return {}
        return self._told(namespace)

    def _told(self, namespace: str) -> dict[str, tuple[int, float]]:
        held = self._namespaces[namespace]
        memory_mb = sum(each.memory_mb for each in held.values())
        found = {}
        for sandbox, each in held.items():
            share = NAMESPACE_CORES * each.memory_mb / memory_mb
            if abs(each.told - share) > OFF_MAX * share:
                each.told = share
                found[sandbox] = (each.memory_mb, share)
        return found
