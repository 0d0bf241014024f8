"""A simulated world around the real pool: virtual clock, seeded load, seeded faults.

Theory of operation. ``World`` is an owner of a ``Pool`` just as the invoker is: it carries out commands by putting
their answers on a heap of future events. One ``random.Random`` makes every choice, so a seed reproduces a run to the
last event. Faults bend the answers: late, lost, twice, or a failure in their place. After every step all invariants
are checked; the world itself keeps score of the rule that matters most: each call submitted ends exactly once.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from faas.model.errors import FaasError, FunctionFailed
from faas.pool.entities import PoolConfig
from faas.pool.invariants import check
from faas.pool.messages import (
    Bind,
    Boot,
    Cancel,
    Cause,
    Command,
    Dispatch,
    Event,
    Expired,
    Fail,
    Finished,
    Flavour,
    Forget,
    Fork,
    FunctionSpec,
    InitFailed,
    InstanceDown,
    InstanceUp,
    Kill,
    Park,
    Prepare,
    Reject,
    Remove,
    Resume,
    SandboxDown,
    SandboxReady,
    SandboxUp,
    Stop,
    Submit,
    Tick,
)
from faas.pool.pool import Pool
from faas.pool.states import InstanceState, SandboxState

_CALM = frozenset({SandboxState.GENERIC, SandboxState.BOUND, SandboxState.PARKED})
MS = 1_000_000
SECOND = 1_000 * MS


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities, each for one thing that can go wrong."""

    boot_fails: float = 0.0
    boot_never_answers: float = 0.0
    boot_slow: float = 0.0
    init_fails: float = 0.0
    init_crashes: float = 0.0
    init_hangs: float = 0.0
    fork_never_answers: float = 0.0
    fork_dies: float = 0.0
    call_crashes: float = 0.0
    call_hangs: float = 0.0
    answer_twice: float = 0.0
    kill_ignored: float = 0.0
    remove_forgotten: float = 0.0
    resume_fails: float = 0.0
    sandbox_dies: float = 0.0
    caller_leaves: float = 0.0

    @staticmethod
    def stormy() -> Faults:
        """Everything at once, often."""
        return Faults(
            boot_fails=0.1,
            boot_never_answers=0.05,
            boot_slow=0.1,
            init_fails=0.05,
            init_crashes=0.03,
            init_hangs=0.02,
            fork_never_answers=0.01,
            fork_dies=0.03,
            call_crashes=0.02,
            call_hangs=0.01,
            answer_twice=0.05,
            kill_ignored=0.05,
            remove_forgotten=0.1,
            resume_fails=0.05,
            sandbox_dies=0.002,
            caller_leaves=0.02,
        )


@dataclass(slots=True)
class World:
    """``run(until_ns)`` plays the future; ``ended`` maps each call to how it ended."""

    seed: int
    config: PoolConfig
    faults: Faults = field(default_factory=Faults)
    timeout_ns: int = 3 * SECOND
    calm_tick_ns: int = 0  # between ticks while nothing is going on; 0 = as while something is
    now: int = 0
    submitted: int = 0
    ended: dict[str, str] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    containers: set[str] = field(default_factory=set)  # what the engine holds
    wait_max_ns: int = 0
    waits: dict[str, int] = field(default_factory=dict)  # call -> how long it waited until an instance had it
    pool: Pool = field(init=False)
    rng: random.Random = field(init=False)
    _future: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _serial: int = 0
    _running_on: dict[str, str] = field(default_factory=dict)  # call -> instance
    _loading: dict[str, tuple[str, ...]] = field(default_factory=dict)  # sandbox -> instances to fork once loaded
    _frozen: set[str] = field(default_factory=set)
    _open: dict[str, int] = field(default_factory=dict)  # call -> submitted at
    _run_ns: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.pool = Pool(self.config, self._new_id)
        self.at(0, self._tick)

    # -- driving ----------------------------------------------------------------------------------------------------

    def at(self, delay_ns: int, action: Callable[[], None]) -> None:
        """Do ``action`` after ``delay_ns`` of virtual time."""
        self._serial += 1
        heapq.heappush(self._future, (self.now + delay_ns, self._serial, action))

    def run(self, until_ns: int) -> None:
        while self._future and self._future[0][0] <= until_ns:
            self.now, _, action = heapq.heappop(self._future)
            action()
        self.now = until_ns

    def call(self, spec: FunctionSpec, run_ns: int) -> str:
        """Submit one call that will run for ``run_ns``."""
        call = f"c{self.submitted}"
        self.submitted += 1
        self._open[call] = self.now
        self._run_ns[call] = run_ns
        if self._chance(self.faults.caller_leaves):
            stop = self.submitted % 2 == 0  # what its function wants, so to speak
            self.at(self.rng.randrange(50 * MS), lambda: self._leave(call, stop=stop))
        self.step(Submit(call, spec))
        return call

    def prepare(self, spec: FunctionSpec) -> None:
        self.step(Prepare(spec))

    def forget(self, spec: FunctionSpec) -> None:
        self.step(Forget(spec.key))

    def step(self, event: Event) -> None:
        for command in self.pool.step(event, self.now):
            self._perform(command)
        check(self.pool)

    def _tick(self) -> None:
        self.step(Tick())
        self.at(self._until_tick(), self._tick)

    def _until_tick(self) -> int:
        """Often while calls wait. ``calm_tick_ns`` makes long quiet times cheap to simulate."""
        if self.pool.queued:
            return 10 * MS
        if not self.calm_tick_ns:
            return 100 * MS
        calm = all(s.state in _CALM for s in self.pool.sandboxes.values()) and not self._running_on
        calm = calm and all(i.state is InstanceState.IDLE for i in self.pool.instances.values())
        return self.calm_tick_ns if calm else SECOND

    def _new_id(self) -> str:
        return f"s{self.rng.getrandbits(64):016x}"

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def _send(self, delay_ns: int, event: Event) -> None:
        self.at(delay_ns, lambda: self.step(event))
        if self._chance(self.faults.answer_twice):
            self.at(delay_ns + self.rng.randrange(20 * MS), lambda: self.step(event))

    # -- performing commands ----------------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        match command:
            case Boot(sandbox, _):
                self._boot(sandbox)
            case Bind(sandbox, key, instances):
                self._bind(sandbox, key, instances)
            case Fork(sandbox, instances):
                if sandbox in self._loading:
                    self._loading[sandbox] += instances
                else:
                    self._fork(sandbox, instances)
            case Dispatch(call, instance, start, init_ns):
                self._dispatch(call, instance, start.value, init_ns)
            case Kill(instance) | Stop(instance):
                if not self._chance(self.faults.kill_ignored):
                    self._send(2 * MS, InstanceDown(instance, Cause.KILLED))
            case Remove(sandbox):
                if not self._chance(self.faults.remove_forgotten):
                    self.at(80 * MS, lambda: self._gone(sandbox, Cause.KILLED))
            case Park(sandbox):
                assert sandbox not in self._frozen, f"{sandbox} was parked twice"
                self._frozen.add(sandbox)
            case Resume(sandbox):
                self._frozen.remove(sandbox)
                if self._chance(self.faults.resume_fails):
                    self.at(MS, lambda: self._gone(sandbox, Cause.ENGINE))
            case Reject(call, error) | Fail(call, error):
                self._end(call, error.code)
            case _:
                pass

    def _boot(self, sandbox: str) -> None:
        self.containers.add(sandbox)
        delay = 200 * MS + self.rng.randrange(60 * MS)
        if self._chance(self.faults.boot_fails):
            self.at(delay, lambda: self._gone(sandbox, Cause.ENGINE))
        elif not self._chance(self.faults.boot_never_answers):
            slow = self.rng.randrange(90 * SECOND) if self._chance(self.faults.boot_slow) else 0
            self.at(delay + slow, lambda: self._live(sandbox, SandboxUp(sandbox)))

    def _live(self, sandbox: str, event: Event) -> None:
        if sandbox in self.containers:
            self.step(event)

    def _gone(self, sandbox: str, cause: Cause) -> None:
        self.containers.discard(sandbox)
        self._frozen.discard(sandbox)
        self._loading.pop(sandbox, None)
        self.step(SandboxDown(sandbox, cause, "simulated"))

    def _bind(self, sandbox: str, key: str, instances: tuple[str, ...]) -> None:
        self._loading[sandbox] = instances
        delay = 3 * MS + self.rng.randrange(4 * MS)
        if self._chance(self.faults.init_fails):
            error: FaasError = FunctionFailed("ImportError", f"simulated for {key}")
            self.at(delay, lambda: self._live(sandbox, InitFailed(sandbox, error)))
        elif self._chance(self.faults.init_crashes):
            self.at(delay, lambda: self._gone(sandbox, Cause.OOM))
        elif not self._chance(self.faults.init_hangs):
            self.at(delay, lambda: self._loaded(sandbox))

    def _loaded(self, sandbox: str) -> None:
        if sandbox in self.containers:
            self.step(SandboxReady(sandbox))
            self._fork(sandbox, self._loading.pop(sandbox, ()))

    def _fork(self, sandbox: str, instances: tuple[str, ...]) -> None:
        assert sandbox not in self._frozen, f"{sandbox} is frozen and was told to fork"
        for number, instance in enumerate(instances):
            delay = (1 + number) * MS
            if self._chance(self.faults.fork_dies):
                self._send(delay, InstanceDown(instance, Cause.EXIT, "code:1"))
            elif not self._chance(self.faults.fork_never_answers):
                self.at(delay, lambda i=instance: self._live(sandbox, InstanceUp(i)))  # type: ignore[misc]

    def _dispatch(self, call: str, instance: str, start: str, init_ns: int) -> None:
        assert init_ns >= 0
        assert call in self._open, f"{call} was dispatched after it ended"
        there = sum(1 for each in self._running_on.values() if each == instance)
        assert there < self.pool.calls[call].function.spec.concurrency, f"{instance} got a call too many"
        self.waits[call] = self.now - self._open[call]
        self.wait_max_ns = max(self.wait_max_ns, self.waits[call])
        self.starts[start] = self.starts.get(start, 0) + 1
        self._running_on[call] = instance
        run_ns = self._run_ns[call]
        sandbox = instance.rpartition("-")[0]
        self.at(self.timeout_ns, lambda: self._expire(call))
        if self._chance(self.faults.sandbox_dies):
            self.at(run_ns // 2, lambda: self._gone(sandbox, Cause.LOST))
        elif self._chance(self.faults.call_crashes):
            self._send(run_ns // 2, InstanceDown(instance, Cause.EXIT, "signal:SIGSEGV"))
        elif not self._chance(self.faults.call_hangs):
            self.at(run_ns, lambda: self._finish(call, instance))

    def _finish(self, call: str, instance: str) -> None:
        if self._running_on.get(call) == instance:  # the shell drops answers to calls that have ended
            run_ns = self._run_ns[call]
            self._end(call, "ok")
            self.step(Finished(instance, call, not self._chance(self.faults.call_crashes), run_ns))

    def _expire(self, call: str) -> None:
        if call in self._running_on:
            self.step(Expired(call))

    def _leave(self, call: str, *, stop: bool) -> None:
        if call not in self._running_on:
            if call in self._open:
                self._end(call, "cancelled")
                self.step(Cancel(call))
        elif stop:
            self.step(Cancel(call, stop=True))
            assert call in self.ended, f"{call} was stopped and goes on"

    def _end(self, call: str, how: str) -> None:
        assert call not in self.ended, f"{call} ended twice: {self.ended[call]}, then {how}"
        assert self._open.pop(call, None) is not None
        self._running_on.pop(call, None)
        self._run_ns.pop(call, None)
        self.ended[call] = how


def spec(name: str = "hello", **changes: object) -> FunctionSpec:
    """A function as tests need it: 128 MB, one call at a time, ten seconds of keep-alive."""
    values: dict[str, object] = {
        "key": f"default/{name}@1",
        "label": f"default/{name}@1",
        "namespace": "default",
        "flavour": Flavour("python", "none"),
        "memory_mb": 128,
        "max_instances": 100,
        "min_instances": 0,
        "concurrency": 1,
        "keep_alive_ns": 10 * SECOND,
        "warm_ns": 10 * SECOND,
    }
    return FunctionSpec(**{**values, **changes})  # type: ignore[arg-type]
