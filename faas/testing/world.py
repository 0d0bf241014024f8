"""A simulated world around the real pool: virtual clocks, seeded load, seeded faults, and the score of every call.

Theory of operation. ``World`` is an owner of a ``Pool`` just as the invoker is: it hands in events and has the commands
carried out, those about sandboxes by a ``Machine``, those about calls here. What follows lies on a heap of future
actions. One ``random.Random`` makes every choice, so a seed reproduces a run to the last event. After every step all
invariants of the pool are checked, and what only an outsider can see: that the memory in use is never more than what
the pool counts, that every container is in its books, that each call submitted ends exactly once and no attempt is
recorded twice, that instances shared by several calls are billed once, and that nobody waits for longer than
``wait_limit_ns``.

Monotonic time never goes back. It jumps ahead when the node stalls (everything else goes on, and what was said then is
heard late) and when the machine sleeps (everything is delayed, only timers are due at once). Unix time is nothing that
the pool or its policies ever see.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from faas.metering.meter import SharedTime
from faas.pool.entities import PoolConfig
from faas.pool.invariants import check
from faas.pool.messages import (
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
    FunctionSpec,
    Prefetch,
    Prepare,
    Recall,
    Recalled,
    Reject,
    Return,
    Submit,
    Tick,
)
from faas.pool.pool import Pool
from faas.pool.states import InstanceState, SandboxState
from faas.testing.faults import Faults
from faas.testing.machine import MINUTE, MS, SECOND, Machine, sandbox_of

__all__ = ["MINUTE", "MS", "SECOND", "Faults", "World", "spec"]

_CALM = frozenset({SandboxState.GENERIC, SandboxState.BOUND, SandboxState.PARKED})
NODE_DIED = "node died"


@dataclass(slots=True)
class Open:
    """A call that has not ended."""

    spec: FunctionSpec
    run_ns: int
    submitted_ns: int
    attempt: int = 1
    instance: str = ""  # once dispatched
    sent: bool = True  # to the instance; else it had ended just before
    again: bool = False
    ahead: str = ""  # the instance it was sent to while that was busy
    recalled: bool = False  # and that instance will not begin it any more
    begun: bool = False
    turn: int = 0  # counts its dispatches


@dataclass(slots=True)
class World:
    """``run(until_ns)`` plays the future; ``ended`` maps each call to how it ended."""

    seed: int
    config: PoolConfig
    faults: Faults = field(default_factory=Faults)
    timeout_ns: int = 3 * SECOND
    calm_tick_ns: int = 0  # between ticks while nothing is going on; 0 = as while something is
    replay: str = ""  # the command that plays this again
    now: int = 0
    submitted: int = 0
    open: dict[str, Open] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)  # of attempts -> ns billed
    starts: dict[str, int] = field(default_factory=dict)
    happened: dict[str, int] = field(default_factory=dict)  # the faults of node and machine
    waits: dict[str, int] = field(default_factory=dict)  # call -> how long it waited until an instance had it
    pool: Pool = field(init=False)
    rng: random.Random = field(init=False)
    machine: Machine = field(init=False)
    _future: list[tuple[int, int, bool, Callable[[], None]]] = field(default_factory=list)
    _serial: int = 0
    _memory_of: dict[str, int] = field(default_factory=dict)
    _shared: dict[str, SharedTime] = field(default_factory=dict)
    _left: set[str] = field(default_factory=set)  # calls that ended for their callers, and not yet for the pool
    _slept_ns: int = 0  # the last time it stood still, until
    _tick_at: int = 0
    _ticks: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.pool = Pool(self.config, self._new_id)
        self.machine = Machine(self, self.config.sandbox_overhead_mb)
        self._tick_after(0)

    # -- driving ----------------------------------------------------------------------------------------------------

    def at(self, delay_ns: int, action: Callable[[], None], *, timer: bool = False) -> None:
        """Do ``action`` after ``delay_ns`` of virtual time. A ``timer`` goes on while the machine sleeps."""
        self._serial += 1
        heapq.heappush(self._future, (self.now + delay_ns, self._serial, timer, action))

    def run(self, until_ns: int) -> None:
        while self._future and self._future[0][0] <= until_ns:
            due, _, _, action = heapq.heappop(self._future)
            self.now = max(self.now, due)
            action()
        self.now = max(self.now, until_ns)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Whatever fails in here says how to play it again."""
        try:
            yield
        except Exception as error:
            error.add_note(f"seed {self.seed}, at {self.now / SECOND:.3f} s of virtual time; again: {self.replay}")
            raise

    def call(self, function: FunctionSpec, run_ns: int) -> str:
        """Submit one call that will run for ``run_ns``."""
        call = f"c{self.submitted}"
        self.submitted += 1
        self.open[call] = Open(function, run_ns, self.now)
        if self._chance(self.faults.caller_leaves):
            stop = self.submitted % 2 == 0  # what its function wants, so to speak
            self.at(self.rng.randrange(50 * MS), lambda: self._leave(call, stop=stop))
        self._submit(call)
        return call

    def _submit(self, call: str) -> None:
        self._memory_of[self.open[call].spec.key] = self.open[call].spec.memory_mb
        self.tell(Submit(call, self.open[call].spec))
        if self.pool.queued and self._tick_at > self.now + 10 * MS:
            self._tick_after(10 * MS)

    def prepare(self, function: FunctionSpec) -> None:
        self._memory_of[function.key] = function.memory_mb
        self.tell(Prepare(function))

    def forget(self, function: FunctionSpec) -> None:
        self.tell(Forget(function.key))

    def memory_of(self, key: str) -> int:
        return self._memory_of[key]

    def tell(self, event: Event) -> None:
        for command in self.pool.step(event, self.now):
            self._perform(command)
        check(self.pool)
        machine, pool = self.machine, self.pool
        assert machine.memory_mb <= pool.memory_mb, f"{machine.memory_mb} MB are in use, {pool.memory_mb} are counted"

    def calm(self) -> None:
        """The safety phase is over: from now on everything works."""
        self.faults = Faults()
        self.machine.calm()

    # -- time -------------------------------------------------------------------------------------------------------

    def _tick_after(self, delay_ns: int) -> None:
        self._ticks += 1
        self._tick_at = self.now + delay_ns
        self.at(delay_ns, lambda number=self._ticks: self._tick(number), timer=True)  # type: ignore[misc]

    def _tick(self, number: int) -> None:
        if number != self._ticks:
            return  # another was needed sooner
        self.tell(Tick())
        self._check_waits()
        faults = self.faults
        if self._chance(faults.event_of_old):
            self.machine.murmur()
        if self._chance(faults.node_dies):
            self._die()
        elif self._chance(faults.node_stalls):
            self._stall(self.rng.choice([100 * MS, SECOND, 8 * SECOND, 40 * SECOND, 5 * MINUTE]))
        elif self._chance(faults.machine_sleeps):
            self._sleep(self.rng.choice([20 * SECOND, 10 * MINUTE, 9 * 60 * MINUTE]))
        self._tick_after(self._until_tick())

    def _until_tick(self) -> int:
        """Often while calls wait. ``calm_tick_ns`` makes long quiet times cheap to simulate."""
        if self.pool.queued:
            return 100 * MS if self.calm_tick_ns else 10 * MS
        if not self.calm_tick_ns:
            return 100 * MS
        if self.open or any(i.state is not InstanceState.IDLE for i in self.pool.instances.values()):
            return SECOND
        long_ago_ns = self.now - MINUTE
        calm = all(s.state in _CALM or s.since_ns < long_ago_ns for s in self.pool.sandboxes.values())
        return self.calm_tick_ns if calm else SECOND

    def _happens(self, what: str) -> None:
        self.happened[what] = self.happened.get(what, 0) + 1

    def _stall(self, for_ns: int) -> None:
        """The node stands still; what is said meanwhile is heard when it goes on."""
        self._happens("stall")
        self.now += for_ns
        self._slept_ns = self.now

    def _sleep(self, for_ns: int) -> None:
        """Everything stands still, and only clocks go on."""
        self._happens("sleep")
        self.now += for_ns
        self._slept_ns = self.now
        self._future = [(due if timer else due + for_ns, n, timer, do) for due, n, timer, do in self._future]
        heapq.heapify(self._future)

    def _die(self) -> None:
        """Killed and started again: its callers are cut off, its books are empty; some calls come again, of a queue."""
        self._happens("death")
        lost, self.open = self.open, {}
        self.pool = Pool(self.config, self._new_id)
        self._shared.clear()
        self._left.clear()
        self.machine.restart()
        for call, was in lost.items():
            if self._chance(0.3):
                again = Open(was.spec, was.run_ns, self.now + SECOND, was.attempt + 1)
                self.at(SECOND, lambda c=call, o=again: self._redeliver(c, o))  # type: ignore[misc]
            else:
                self._note_end(call, NODE_DIED)

    def _redeliver(self, call: str, again: Open) -> None:
        self.open[call] = again
        self._submit(call)

    @property
    def wait_limit_ns(self) -> int:
        """How long a call waits for an instance at most, while the node is awake: see ``upkeep.expire_queues``."""
        return self.config.queue_wait_ns + self.config.init_limit_ns + 2 * SECOND

    def _check_waits(self) -> None:
        """Calls wait in the order they came, but for those that were sent ahead and came back, which are first."""
        for function in self.pool.functions.values():
            for call in function.queue:
                waited_ns = self.now - max(call.submitted_ns, self._slept_ns)
                if call.submitted_ns > self._slept_ns and waited_ns < self.config.queue_wait_ns:
                    break
                assert waited_ns <= self.wait_limit_ns, f"{call.id} waits for {waited_ns / SECOND:.1f} s"

    # -- calls ------------------------------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        match command:
            case Dispatch(call, instance, start, init_ns):
                self._dispatch(call, instance, start.value, init_ns)
            case Prefetch(call, instance):
                self.open[call].ahead = instance
            case Recall(instance):
                self.at(MS, lambda: self._recall(instance))
            case Return(call):
                self._return(call)
            case Fail(call) if call in self._left:
                self._left.remove(call)
            case Fail(call, error) if not self.open[call].sent and not self.open[call].again:
                run = self.open[call]  # it never reached the instance: once more, as the invoker does
                run.again, run.sent = True, True
                self._return(call)
                self.at(0, lambda: self._submit(call) if call in self.open else None)
            case Reject(call, error) | Fail(call, error):
                self._end(call, error.code)
            case _:
                self.machine.perform(command)

    def _dispatch(self, call: str, instance: str, start: str, init_ns: int) -> None:
        run = self.open[call]
        assert init_ns >= 0
        assert not run.instance, f"{call} was dispatched twice"
        shared = self._shared.setdefault(instance, SharedTime())
        there = sum(1 for each in self.open.values() if each.instance == instance)
        assert there < run.spec.concurrency, f"{instance} got a call too many"
        assert run.ahead in ("", instance), f"{call} was sent ahead to {run.ahead} and given to {instance}"
        run.instance = instance
        run.turn += 1
        turn = run.turn
        self.starts[start] = self.starts.get(start, 0) + 1
        self.waits[call] = self.now - run.submitted_ns
        if self._chance(self.faults.gone_at_dispatch):
            run.sent = False
            self.machine.end_instance(instance, Cause.EXIT, "code:0", 5 * MS)
            self.at(MINUTE, lambda: self._expire(run, turn, call), timer=True)
            return
        shared.begin(call, self.now)
        run.begun = True
        self.at(self.timeout_ns, lambda: self._expire(run, turn, call), timer=True)
        if run.recalled:
            return  # it seemed to be its turn; that it is given back is on the way
        if self._chance(self.faults.sandbox_dies):
            self.at(run.run_ns // 2, lambda: self.machine.lose(sandbox_of(instance), Cause.LOST, "simulated"))
        elif self._chance(self.faults.call_crashes):
            self.machine.end_instance(instance, Cause.EXIT, "signal:SIGSEGV", run.run_ns // 2)
        elif not self._chance(self.faults.call_hangs):
            self.at(run.run_ns, lambda: self._finish(run, turn, call))

    def _runs(self, run: Open, turn: int, call: str) -> bool:
        return self.open.get(call) is run and run.turn == turn and bool(run.instance)

    def _finish(self, run: Open, turn: int, call: str) -> None:
        instance = run.instance
        if self._runs(run, turn, call) and self.machine.runs(instance):  # answers to what has ended are dropped
            self._end(call, "ok")
            self.tell(Finished(instance, call, not self._chance(self.faults.call_crashes), run.run_ns))

    def _expire(self, run: Open, turn: int, call: str) -> None:
        if self._runs(run, turn, call):
            self.tell(Expired(call))

    def _leave(self, call: str, *, stop: bool) -> None:
        run = self.open.get(call)
        if run is None:
            return
        if (not run.instance and not run.ahead) or not run.sent:
            if not run.sent:
                self._left.add(call)  # the pool will fail it, and nobody hears
            self._end(call, "cancelled")
            self.tell(Cancel(call))
        elif run.instance and stop:
            self.tell(Cancel(call, stop=True))
            assert call in self.ended, f"{call} was stopped and goes on"

    def unbegun(self, instance: str) -> tuple[str, ...]:
        return tuple(call for call, run in self.open.items() if run.ahead == instance and not run.instance)

    def _recall(self, instance: str) -> None:
        """What it has not begun now it never will."""
        if self.machine.runs(instance):
            calls = self.unbegun(instance)
            for call in calls:
                self.open[call].recalled = True
            self._happens("recall")
            self.machine.say(0, Recalled(instance, calls))

    def _return(self, call: str) -> None:
        """It waits again, as if it had never been sent."""
        run = self.open[call]
        if run.begun:
            self._shared[run.instance].end(call, self.now)
        run.instance, run.ahead, run.recalled, run.begun = "", "", False, False

    def _end(self, call: str, how: str) -> None:
        run = self.open.pop(call)
        shared = self._shared.get(run.instance)
        billed_ns = shared.end(call, self.now) if shared is not None and run.begun else 0
        record = f"{call}-{run.attempt}"
        assert record not in self.records, f"{record} was recorded twice"
        self.records[record] = billed_ns
        self._note_end(call, how)

    def _note_end(self, call: str, how: str) -> None:
        assert call not in self.ended, f"{call} ended twice: {self.ended[call]}, then {how}"
        self.ended[call] = how

    # -- at the end -------------------------------------------------------------------------------------------------

    def recover(self, functions: Sequence[FunctionSpec], within_ns: int) -> None:
        """The liveness phase: ``within_ns`` after the faults have gone nobody waits and everything works again, and
        as long after that the functions were forgotten nothing is left but the generic sandboxes set.
        """
        self.calm()
        for function in functions:
            self.forget(function)
            self.prepare(function)
        waiting = list(self.open)
        self.run(self.now + within_ns)
        assert not [call for call in waiting if call in self.open], f"seed {self.seed}: calls without an end"
        for function in functions:
            call = self.call(function, 5 * MS)
            self.run(self.now + within_ns)
            how = self.ended.get(call)
            assert how == "ok", f"seed {self.seed}: {how} for {function.key} after the faults, {self.pool}"
        assert not self.open
        assert len(self.ended) == self.submitted
        for function in functions:
            self.forget(function)
        self.run(self.now + within_ns)
        pool = self.pool
        assert not pool.instances
        assert not pool.functions
        assert {s.state for s in pool.sandboxes.values()} <= {SandboxState.GENERIC}
        assert len(pool.sandboxes) == self.config.generic_sandboxes * len(pool.flavours)
        assert self.machine.containers.keys() == pool.sandboxes.keys(), f"seed {self.seed}: orphan containers"
        assert self.machine.memory_mb == pool.memory_mb

    def _new_id(self) -> str:
        return f"s{self.rng.getrandbits(64):016x}"

    def _chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability


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
