"""State tables of sandboxes and instances: a key that is missing is an illegal transition and raises.

PARKED takes effect at once in the books: what the zygote of a frozen sandbox is sent waits in its socket, so a
sandbox that is resumed may be told to fork in the same breath, and the order of freezing and thawing is the shell's.
"""

from __future__ import annotations

from enum import StrEnum


class SandboxState(StrEnum):
    BOOTING = "booting"  # the engine was told; its zygote has not dialled
    GENERIC = "generic"  # booted, belongs to nobody
    BINDING = "binding"  # told whose it is, importing
    BOUND = "bound"  # forks instances
    PARKED = "parked"  # loaded, without instances, frozen
    DRAINING = "draining"  # takes nothing new, finishes what runs
    REMOVED = "removed"  # the engine was told to remove it; kept until it says so


class InstanceState(StrEnum):
    STARTING = "starting"  # fork requested, has not dialled
    IDLE = "idle"
    BUSY = "busy"
    STOPPING = "stopping"  # told to end, or killed; its end is awaited
    STOPPED = "stopped"


class IllegalTransition(Exception):
    """A bug in the pool or a lie from outside; the owner destroys the sandbox concerned."""


SANDBOX_MOVES: dict[SandboxState, frozenset[SandboxState]] = {
    SandboxState.BOOTING: frozenset({SandboxState.GENERIC, SandboxState.REMOVED}),
    SandboxState.GENERIC: frozenset({SandboxState.BINDING, SandboxState.REMOVED}),
    SandboxState.BINDING: frozenset({SandboxState.BOUND, SandboxState.REMOVED}),
    SandboxState.BOUND: frozenset({SandboxState.PARKED, SandboxState.DRAINING, SandboxState.REMOVED}),
    SandboxState.PARKED: frozenset({SandboxState.BOUND, SandboxState.REMOVED}),
    SandboxState.DRAINING: frozenset({SandboxState.REMOVED}),
    SandboxState.REMOVED: frozenset(),
}

INSTANCE_MOVES: dict[InstanceState, frozenset[InstanceState]] = {
    InstanceState.STARTING: frozenset({InstanceState.IDLE, InstanceState.STOPPING, InstanceState.STOPPED}),
    InstanceState.IDLE: frozenset({InstanceState.BUSY, InstanceState.STOPPING, InstanceState.STOPPED}),
    InstanceState.BUSY: frozenset({InstanceState.IDLE, InstanceState.STOPPING, InstanceState.STOPPED}),
    InstanceState.STOPPING: frozenset({InstanceState.STOPPED}),
    InstanceState.STOPPED: frozenset(),
}
