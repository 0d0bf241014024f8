"""The machine under a simulated node: an engine, its sandboxes and what runs in them, with seeded faults.

Theory of operation. It carries out the pool's commands and says what becomes of them, under the contract of
``faas.pool.messages``, and is the truth against which the pool's books are held: ``containers`` are there until the
engine has let go of them, and ``memory_mb`` is what they and their processes hold, whatever the node was told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final, Protocol

from faas.model.errors import FaasError, FunctionFailed
from faas.pool.messages import (
    Bind,
    Boot,
    Cause,
    Command,
    Event,
    Fork,
    InitFailed,
    InstanceDown,
    InstanceUp,
    Kill,
    Park,
    Remove,
    Resume,
    SandboxDown,
    SandboxLost,
    SandboxReady,
    SandboxUp,
    Stop,
)
from faas.testing.faults import ENDLESS, Faults

MS: Final = 1_000_000
SECOND: Final = 1_000 * MS
MINUTE: Final = 60 * SECOND
ENDLESS_NS: Final = 24 * 60 * MINUTE
OLD_MAX: Final = 20  # ids of sandboxes that are gone, kept to say something about


class Node(Protocol):
    """What the machine needs of its world."""

    rng: Random
    faults: Faults

    def at(self, delay_ns: int, action: Callable[[], None]) -> None: ...

    def tell(self, event: Event) -> None:
        """Hand the event to the pool now."""

    def memory_of(self, key: str) -> int:
        """MB of one instance of this function version."""

    def unbegun(self, instance: str) -> tuple[str, ...]:
        """Calls that were sent ahead to it and not begun."""


@dataclass(slots=True)
class Container:
    """``instances`` are the processes in it, with the memory of each. ``life`` is the node's that made it."""

    life: int
    booting: bool = True  # the engine's call has not returned: it cannot be removed before
    key: str = ""  # of the function version it belongs to
    loaded: bool = False
    frozen: bool = False
    stuck: bool = False  # it does not thaw
    dead: bool = False  # its zygote has ended; the engine holds the rest until it is removed
    removing: bool = False
    removed: bool = False  # but for a boot that has not returned
    waiting: tuple[str, ...] = ()  # instances to fork once it can
    instances: dict[str, int] = field(default_factory=dict)


class Machine:
    """See the module's docstring. ``overhead_mb`` is what an empty sandbox holds."""

    def __init__(self, node: Node, overhead_mb: int) -> None:
        self.containers: dict[str, Container] = {}
        self.memory_mb = 0  # of the containers of this life of the node
        self.life = 0
        self.old: list[str] = []
        self._node = node
        self._overhead_mb = overhead_mb
        self._hung: dict[int, Callable[[], None]] = {}  # engine calls that return late, and at last when the faults end
        self._calls = 0

    # -- commands ---------------------------------------------------------------------------------------------------

    def perform(self, command: Command) -> None:
        match command:
            case Boot(sandbox, _):
                self._boot(sandbox)
            case Bind(sandbox, key, instances):
                self._bind(sandbox, key, instances)
            case Fork(sandbox, instances):
                self._fork(sandbox, instances)
            case Kill(instance) | Stop(instance):
                if not self._chance(self._node.faults.kill_ignored):
                    self.end_instance(instance, Cause.KILLED, "", 2 * MS)
            case Park(sandbox):
                box = self.containers.get(sandbox)
                if box is not None:
                    assert not box.frozen, f"{sandbox} was parked twice"
                    box.frozen = True
            case Resume(sandbox):
                self._resume(sandbox)
            case Remove(sandbox):
                self._remove(sandbox)
            case _:
                pass

    def runs(self, instance: str) -> bool:
        box = self.containers.get(sandbox_of(instance))
        return box is not None and not box.dead and not box.stuck and instance in box.instances

    def calm(self) -> None:
        """The faults are over: what hung goes on."""
        for number in list(self._hung):
            self._node.at(self._node.rng.randrange(SECOND), lambda n=number: self._returned(n))  # type: ignore[misc]
        for sandbox, box in list(self.containers.items()):
            if box.stuck:
                self._unstick(sandbox)

    def restart(self) -> None:
        """The node was killed and starts again: what it made ends, soon; an engine call under way goes on by itself."""
        self.life += 1
        self.memory_mb = 0
        self.calm()
        for sandbox in list(self.containers):
            self._node.at(self._node.rng.randrange(20 * SECOND), lambda s=sandbox: self._sweep(s))  # type: ignore[misc]

    def _sweep(self, sandbox: str) -> None:
        box = self.containers.get(sandbox)
        if box is None:
            return
        if self._chance(0.5):  # it says something to the end
            last: list[Event] = [SandboxUp(sandbox), SandboxReady(sandbox), InstanceUp(f"{sandbox}-1")]
            self.say(0, self._node.rng.choice(last))
        self.say(SECOND, SandboxDown(sandbox, Cause.LOST, "it was another life's"))
        self._removed(sandbox)

    # -- what the node hears ----------------------------------------------------------------------------------------

    def say(self, delay: int, event: Event) -> None:
        """Sooner or later, once or twice, or not at all."""
        node, faults = self._node, self._node.faults
        if self._chance(faults.event_twice):
            node.at(delay + node.rng.choice([20 * MS, MINUTE]), lambda: node.tell(event))
        if self._chance(faults.event_late):
            delay += node.rng.randrange(4 * SECOND)
        if not self._chance(faults.event_lost):
            node.at(delay, lambda: node.tell(event))

    def murmur(self) -> None:
        """Something about a sandbox that is gone, or that nobody ever heard of."""
        rng = self._node.rng
        sandbox = rng.choice([*self.old, "s-unknown"])
        instance = f"{sandbox}-{rng.randrange(1, 9)}"
        error = FunctionFailed("ImportError", "of old")
        events: list[Event] = [
            SandboxUp(sandbox),
            SandboxReady(sandbox),
            InitFailed(sandbox, error),
            SandboxDown(sandbox, Cause.LOST),
            SandboxLost(sandbox, Cause.LOST),
            InstanceUp(instance),
            InstanceDown(instance, Cause.LOST),
        ]
        self._node.tell(rng.choice(events))

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self._node.rng.random() < probability

    # -- containers -------------------------------------------------------------------------------------------------

    def _boot(self, sandbox: str) -> None:
        assert sandbox not in self.containers, f"{sandbox} was booted twice"
        node, faults = self._node, self._node.faults
        self.containers[sandbox] = Container(self.life)
        self.memory_mb += self._overhead_mb
        delay = 200 * MS + node.rng.randrange(60 * MS)
        if self._chance(faults.boot_hangs):
            self._hang(lambda: self._booted(sandbox, 0, fails=node.rng.random() < 0.5))
            return
        fails = self._chance(faults.boot_fails)
        slow = node.rng.randrange(90 * SECOND) if self._chance(faults.boot_slow) else 0
        node.at(delay // 2, lambda: self._booted(sandbox, delay // 2 + slow, fails=fails))

    def _hang(self, then: Callable[[], None]) -> None:
        self._calls += 1
        number, rng = self._calls, self._node.rng
        self._hung[number] = then
        limit_ns = ENDLESS_NS if rng.random() < ENDLESS else 10 * MINUTE
        self._node.at(rng.randrange(SECOND, limit_ns), lambda: self._returned(number))

    def _returned(self, number: int) -> None:
        then = self._hung.pop(number, None)
        if then is not None:
            then()

    def _booted(self, sandbox: str, delay: int, *, fails: bool) -> None:
        """The engine's call returned; ``delay`` later its zygote dials."""
        box = self.containers[sandbox]
        box.booting = False
        if box.removed:
            self._removed(sandbox)
        elif fails:
            self.lose(sandbox, Cause.ENGINE, "simulated")
        elif not self._chance(self._node.faults.boot_never_answers):
            self.say(delay, SandboxUp(sandbox))

    def lose(self, sandbox: str, cause: Cause, reason: str) -> None:
        """Nothing runs in it any more; the engine still holds it."""
        box = self.containers.get(sandbox)
        if box is not None and not box.dead:
            box.dead = True
            self.say(0, SandboxLost(sandbox, cause, reason))

    def _remove(self, sandbox: str) -> None:
        """One removal at a time, however often it is asked for; only what was removed is said to be down."""
        box = self.containers.get(sandbox)
        if box is None:
            self.say(MS, SandboxDown(sandbox, Cause.KILLED))
            return
        if box.removing:
            return
        if self._chance(self._node.faults.remove_fails):
            return
        box.removing = True
        if self._chance(self._node.faults.remove_hangs):
            self._hang(lambda: self._removed(sandbox))
        else:
            self._node.at(80 * MS, lambda: self._removed(sandbox))

    def _removed(self, sandbox: str) -> None:
        box = self.containers.get(sandbox)
        if box is not None and box.booting:
            box.removed = True  # as soon as the boot is over
        elif box is not None:
            self._let_go(sandbox)
            self.say(0, SandboxDown(sandbox, Cause.KILLED))

    def _let_go(self, sandbox: str) -> None:
        box = self.containers.pop(sandbox)
        if box.life == self.life:
            self.memory_mb -= self._overhead_mb + sum(box.instances.values())
        self.old = [*self.old[1 - OLD_MAX :], sandbox]

    def _resume(self, sandbox: str) -> None:
        box = self.containers.get(sandbox)
        if box is None:
            return
        assert box.frozen, f"{sandbox} was resumed and is not frozen"
        box.frozen = False
        if self._chance(self._node.faults.resume_fails):
            self._node.at(MS, lambda: self.lose(sandbox, Cause.ENGINE, "it did not thaw"))
        elif self._chance(self._node.faults.resume_hangs):
            box.stuck = True
            self._node.at(self._node.rng.randrange(SECOND, 5 * MINUTE), lambda: self._unstick(sandbox))

    def _unstick(self, sandbox: str) -> None:
        box = self.containers.get(sandbox)
        if box is not None and box.stuck:
            box.stuck = False
            self._start(sandbox)

    # -- what runs in them ------------------------------------------------------------------------------------------

    def _bind(self, sandbox: str, key: str, instances: tuple[str, ...]) -> None:
        box = self.containers.get(sandbox)
        if box is None:
            return
        assert not box.key, f"{sandbox} belongs to {box.key} and was given to {key}"
        box.key, box.waiting = key, instances
        node, faults = self._node, self._node.faults
        delay = 3 * MS + node.rng.randrange(4 * MS)
        if self._chance(faults.init_fails):
            error: FaasError = FunctionFailed("ImportError", f"simulated for {key}")
            self.say(delay, InitFailed(sandbox, error))
        elif self._chance(faults.init_crashes):
            node.at(delay, lambda: self.lose(sandbox, Cause.OOM, "simulated"))
        elif not self._chance(faults.init_hangs):
            node.at(delay, lambda: self._loaded(sandbox))

    def _loaded(self, sandbox: str) -> None:
        box = self.containers.get(sandbox)
        if box is not None and not box.dead:
            box.loaded = True
            self.say(0, SandboxReady(sandbox, recalls=True))
            self._start(sandbox)

    def _fork(self, sandbox: str, instances: tuple[str, ...]) -> None:
        box = self.containers.get(sandbox)
        if box is not None:
            assert not box.frozen, f"{sandbox} is frozen and was told to fork"
            box.waiting += instances
            self._start(sandbox)

    def _start(self, sandbox: str) -> None:
        """Fork what was asked for, if it is loaded and not frozen."""
        box = self.containers[sandbox]
        if not box.loaded or box.frozen or box.stuck or box.dead:
            return
        waiting, box.waiting = box.waiting, ()
        each_mb = self._node.memory_of(box.key)
        for number, instance in enumerate(waiting):
            box.instances[instance] = each_mb
            if box.life == self.life:
                self.memory_mb += each_mb
            delay = (1 + number) * MS
            if self._chance(self._node.faults.fork_dies):
                self.end_instance(instance, Cause.EXIT, "code:1", delay)
            elif not self._chance(self._node.faults.fork_never_answers):
                self._node.at(delay, lambda i=instance: self._up(i))  # type: ignore[misc]

    def _up(self, instance: str) -> None:
        if self.runs(instance):
            self.say(0, InstanceUp(instance))

    def end_instance(self, instance: str, cause: Cause, text: str, delay: int) -> None:
        """After ``delay`` it is gone; its zygote says so."""
        self._node.at(delay, lambda: self._ended(instance, cause, text))

    def _ended(self, instance: str, cause: Cause, text: str) -> None:
        box = self.containers.get(sandbox_of(instance))
        if box is None or box.frozen or box.stuck or box.dead:
            return  # nobody says anything any more, or yet: the pool will not wait for ever
        box.waiting = tuple(each for each in box.waiting if each != instance)
        held_mb = box.instances.pop(instance, 0)
        if box.life == self.life:
            self.memory_mb -= held_mb
        self.say(0, InstanceDown(instance, cause, text, self._node.unbegun(instance)))


def sandbox_of(instance: str) -> str:
    return instance.rpartition("-")[0]
