"""What an invoker is given: its settings, and what it needs of others that no port says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from faas.model.function import FunctionVersion
from faas.pool.entities import PoolConfig
from faas.ports import Entry


class Attached(Protocol):
    """Names, relative to the content store's root, of what a version needs."""

    @property
    def code(self) -> str: ...

    @property
    def layers(self) -> tuple[str, ...]: ...


class Content(Protocol):
    """Brings a version's code and layers onto this node."""

    async def attach(self, version: FunctionVersion) -> Attached: ...


class Journal(Protocol):
    def record(self, *entries: Entry) -> None:
        """Write them to the local journal, all or none; each then carries its sequence.

        Raises ``OSError`` when that can't be.
        """


@dataclass(frozen=True, slots=True)
class InvokerConfig:
    node: str
    socket_root: Path  # a directory of its own; socket paths must stay short (108 bytes)
    pool: PoolConfig
    warm_ns: int = 60_000_000_000  # how long an idle instance stays where a function says auto; then it is parked
    dial_limit_s: float = 5.0  # from a sandbox's start to its zygote's hello
