"""The pool: decides which instance serves which call, and what is started, stopped and removed.

Theory of operation. ``Pool.step(event, now_ns)`` changes the books and returns commands; it never waits, reads no
clock and makes no ids of its own (``new_id`` is given). One owner calls it (``faas.invoker``), carries the commands
out and hands what becomes of them back as events, under the contract in ``faas.pool.messages``. The simulation
(``tests/sim``) is another owner.

Invariants (``faas.pool.invariants`` checks them all after every step of the simulation):
- a function has queued calls only while none of its instances is available;
- a sandbox belongs to one function version at most, for ever; instances never exceed slots nor ``max_instances``;
- memory counted never exceeds the budget;
- every call submitted has exactly one end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from faas.model.errors import CallerLeft, DeadlineExceeded, FaasError
from faas.model.invocation import StartKind
from faas.pool import admission, contention, growth, heard, holding, prefetch, tenants, upkeep
from faas.pool.admission import crash
from faas.pool.entities import Backoff, Call, Function, Instance, PoolConfig, Sandbox, Tenant
from faas.pool.fairness import Turns
from faas.pool.generics import Demand
from faas.pool.holding import Held, Holding
from faas.pool.keepalive import KeepAlive, policy_of
from faas.pool.messages import (
    Abort,
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
    InitFailed,
    InstanceDown,
    InstanceUp,
    Kill,
    Limit,
    Park,
    Prepare,
    Recalled,
    Reject,
    Remove,
    Resume,
    SandboxDown,
    SandboxLost,
    SandboxReady,
    SandboxUp,
    Stop,
    Submit,
    Tick,
)
from faas.pool.states import InstanceState, SandboxState

# Reading a member off its class costs more than a global on this, the hot path.
_IDLE, _BUSY = InstanceState.IDLE, InstanceState.BUSY
_WARM = StartKind.WARM
QUANTUM_MB = 128  # of memory, in a namespace's turn: an instance of the usual size


class Pool:
    """See the module's docstring. ``new_id`` returns a fresh sandbox id at each call."""

    def __init__(self, config: PoolConfig, new_id: Callable[[], str]) -> None:
        self.config = config
        self.sandboxes: dict[str, Sandbox] = {}
        self.instances: dict[str, Instance] = {}
        self.functions: dict[str, Function] = {}
        self.tenants: dict[str, Tenant] = {}  # those that have functions
        self.limits: dict[str, Limit] = {}  # what was said of namespaces, known here or not
        self.turns = Turns(QUANTUM_MB)
        self.contended = False  # calls wait for memory and more than one namespace is known: see contention
        self.calls: dict[str, Call] = {}
        self.flavours: dict[Flavour, int] = {}  # in use -> when to replenish its generic sandboxes
        self.demand: dict[Flavour, Demand] = {}  # for generic sandboxes, lately
        self.boot_ns = 0  # how long a sandbox takes to boot, smoothed; 0 = none has
        self.boots = Backoff(config.backoff_ns, config.backoff_max_ns)
        self.memory_mb = 0
        self.queued = 0
        self.ahead = 0  # calls sent ahead
        self.closing = False
        self.ticked_ns = -1
        self.woke_ns = 0  # when time last jumped ahead; see upkeep.notice_gap
        self.policy: KeepAlive = policy_of(config.keep_alive, config.fixed_keep_alive_ns)
        self.eviction_clock = 0.0  # see eviction
        self.generic = Holding()
        self.held_before: list[Held] = []  # by functions that are forgotten, and not taken yet
        self.new_id = new_id
        self.serial = 0
        self._out: list[Command] = []
        self._handlers: dict[type, Callable[..., None]] = {
            Submit: self._submit,
            Finished: self._finished,
            InstanceUp: partial(heard.instance_up, self),
            InstanceDown: partial(heard.instance_down, self),
            SandboxUp: partial(heard.sandbox_up, self),
            SandboxReady: partial(heard.sandbox_ready, self),
            SandboxLost: partial(heard.sandbox_lost, self),
            SandboxDown: partial(heard.sandbox_down, self),
            InitFailed: partial(heard.init_failed, self),
            Expired: self._expired,
            Cancel: self._cancel,
            Recalled: partial(prefetch.returned, self),
            Prepare: self._prepare,
            Forget: self._forget,
            Limit: self._limit,
            Tick: self._tick,
        }

    def __repr__(self) -> str:
        busy = sum(1 for i in self.instances.values() if i.state is InstanceState.BUSY)
        return (
            f"<Pool {len(self.sandboxes)} sandboxes, {len(self.instances)} instances, {busy} busy, "
            f"{self.queued} queued, {self.memory_mb} MB>"
        )

    def step(self, event: Event, now_ns: int) -> list[Command]:
        """Take one event in and say what is to be done."""
        out: list[Command] = []
        self._out = out
        self._handlers[type(event)](event, now_ns)
        return out

    def emit(self, command: Command) -> None:
        """Add a command to the step's answer (for growth and upkeep)."""
        self._out.append(command)

    # -- calls ------------------------------------------------------------------------------------------------------

    def _submit(self, event: Submit, now: int) -> None:
        function = self._function(event.spec, now)
        if function.tenant.calls_max is not None and (over := tenants.over_calls(self, function, now)) is not None:
            self._out.append(Reject(event.call, over))
            return
        if function.resting:
            upkeep.wake(self, function, now)
        call = Call(event.call, function, now)
        if function.available:
            self.calls[call.id] = call
            self._dispatch(call, function.available[-1], now)
            return
        if function.ahead and not self.closing and not function.queue and prefetch.send(self, call, function):
            self.calls[call.id] = call
            return
        error = admission.refusal(self, function, now)
        if error is not None:
            self._out.append(Reject(event.call, error))
            return
        self.calls[call.id] = call
        function.queue.append(call)
        self.queued += 1
        if not growth.steady(function):
            growth.grow(self, function, now)

    def _dispatch(self, call: Call, instance: Instance, now: int) -> None:
        function = instance.function
        if function.running == 0:
            function.busy_since_ns = now
        function.running += 1
        call.instance = instance
        instance.calls[call.id] = call
        instance.began_ns = now
        if instance.state is _IDLE:
            instance.move(_BUSY, now)
        if function.ahead:
            prefetch.offer(instance)
        if len(instance.calls) >= function.spec.concurrency:
            function.available.pop()  # callers always take the top of the stack
        # One that was up before the call came was made for min_instances, or was one too many: nobody waited for it.
        if instance.used or call.submitted_ns > instance.up_ns:
            instance.used = True
            self._out.append(Dispatch(call.id, instance.id, _WARM, 0))
        else:
            instance.used = True
            init = 0 if instance.kind is _WARM else instance.up_ns - max(instance.asked_ns, call.submitted_ns)
            self._out.append(Dispatch(call.id, instance.id, instance.kind, max(0, init)))

    def _finished(self, event: Finished, now: int) -> None:
        call = self.calls.get(event.call)
        if call is None or call.instance is None:
            return
        del self.calls[call.id]
        instance, function = call.instance, call.function
        del instance.calls[call.id]
        function.running -= 1
        function.note_finish(now, event.busy_ns)
        sandbox = instance.sandbox
        sandbox.used_ns = now
        sandbox.clock = self.eviction_clock
        function.uses += 1
        if instance.state is not _BUSY:
            self._kill_once_alone(instance, now)
            return
        if not event.reusable:
            self.retire(instance, now)
            growth.grow(self, function, now)
            return
        if instance.ahead:
            prefetch.advance(self, instance, now)
            return
        if len(instance.calls) == function.spec.concurrency - 1:
            function.available.append(instance)
        if not instance.calls:
            instance.move(_IDLE, now)
        if self.contended:
            contention.call_ended(self, instance, now)
        self.serve(function, now)

    def serve(self, function: Function, now: int) -> None:
        """Give waiting calls to available instances."""
        while function.queue and function.available:
            self.queued -= 1
            self._dispatch(function.queue.popleft(), function.available[-1], now)
        if function.ahead and function.queue:
            prefetch.fill(self, function)

    def _expired(self, event: Expired, now: int) -> None:
        self._stop_call(event.call, DeadlineExceeded("the function ran past its timeout and was stopped"), now)

    def _stop_call(self, call_id: str, why: FaasError, now: int) -> None:
        """End a running call from outside; its instance ends, too, once its other calls have."""
        call = self.calls.get(call_id)
        if call is None or call.instance is None:
            return
        instance = call.instance
        self.end_running(call)
        self._out.append(Fail(call.id, why))
        if instance.state is InstanceState.BUSY:
            self.retire(instance, now)
            instance.doomed = True
            if instance.calls:
                self._out.append(Abort(call.id, instance.id))
        self._kill_once_alone(instance, now)
        growth.grow(self, instance.function, now)

    def _kill_once_alone(self, instance: Instance, now: int) -> None:
        """End an instance one of whose calls was stopped, as soon as it holds none of its other calls any more."""
        if instance.doomed and not instance.calls and instance.state is InstanceState.STOPPING:
            instance.doomed = False
            instance.since_ns = now
            self._out.append(Kill(instance.id))

    def _cancel(self, event: Cancel, now: int) -> None:
        if event.stop:
            self._stop_call(event.call, CallerLeft("the caller went away, so the function was stopped"), now)
        call = self.calls.get(event.call)
        if call is not None and call.instance is None and call.ahead_on is None:
            call.function.queue.remove(call)
            self.queued -= 1
            del self.calls[call.id]

    def end_running(self, call: Call) -> None:
        del self.calls[call.id]
        call.function.running -= 1
        if call.instance is not None:
            call.instance.calls.pop(call.id, None)

    def reject(self, call: Call, error: FaasError) -> None:
        """Refuse a queued call (used by upkeep too)."""
        del self.calls[call.id]
        self.queued -= 1
        self._out.append(Reject(call.id, error))

    # -- functions --------------------------------------------------------------------------------------------------

    def _function(self, spec: FunctionSpec, now: int) -> Function:
        function = self.functions.get(spec.key)
        if function is None:
            config = self.config
            init, forks = (Backoff(each * config.backoff_ns, config.backoff_max_ns) for each in (10, 1))
            function = Function(spec, init, forks, tenants.tenant(self, spec.namespace))
            self.functions[spec.key] = function
            tenants.join(self, function)
            self.flavours.setdefault(spec.flavour, now)
        elif function.draining:
            function.drain(False, now)
        return function

    def _prepare(self, event: Prepare, now: int) -> None:
        function = self._function(event.spec, now)
        function.wanted = True
        function.init.succeeded()
        growth.grow(self, function, now)

    def _forget(self, event: Forget, now: int) -> None:
        function = self.functions.get(event.key)
        if function is not None:
            function.drain(True, now)
            function.wanted = False
            upkeep.cool(self, function, now)

    def _limit(self, event: Limit, now: int) -> None:
        tenants.limit(self, event)
        for function in self.functions.values():
            if function.queue and function.tenant.name == event.namespace:
                growth.grow(self, function, now)

    # -- sandboxes and instances ------------------------------------------------------------------------------------

    def fail_init(self, sandbox: Sandbox, error: FaasError, now: int) -> None:
        """The module did not load: whoever waits for it is told why, and the sandbox goes."""
        function = sandbox.function
        assert function is not None
        function.init.failed(now, error.message, error)
        function.wanted = False
        self.remove(sandbox, now)
        if function.live == 0:
            while function.queue:
                self.reject(function.queue.popleft(), error)

    def retire(self, instance: Instance, now: int) -> None:
        """Take an instance out of service; its end is awaited."""
        function = instance.function
        if instance.state is InstanceState.STARTING:
            function.starting -= 1
        elif instance.state in (InstanceState.IDLE, InstanceState.BUSY):
            function.serving -= 1
            if instance in function.available:
                function.available.remove(instance)
        instance.move(InstanceState.STOPPING, now)

    def stop(self, instance: Instance, now: int) -> None:
        """Ask an idle instance to end."""
        self.retire(instance, now)
        self._out.append(Stop(instance.id))

    def give_up(self, instance: Instance, now: int) -> None:
        """Give it no call any more: it ends with those it has."""
        if instance.calls:
            self.retire(instance, now)
            instance.doomed = True
        else:
            self.stop(instance, now)

    def kill(self, instance: Instance, now: int) -> None:
        """End an instance that holds no call."""
        self.retire(instance, now)
        self._out.append(Kill(instance.id))

    def drop_instance(
        self, instance: Instance, cause: Cause, exit_text: str, now: int, unbegun: tuple[str, ...] = ()
    ) -> None:
        if instance.state is not InstanceState.STOPPING:
            self.retire(instance, now)
        instance.move(InstanceState.STOPPED, now)
        del self.instances[instance.id]
        del instance.sandbox.instances[instance.id]
        instance.sandbox.empty_ns = now
        self.memory_mb -= instance.function.spec.memory_mb
        instance.function.tenant.instances_mb -= instance.function.spec.memory_mb
        for call in list(instance.calls.values()):
            self.end_running(call)
            self._out.append(Fail(call.id, crash(instance.function.spec, cause, exit_text)))
        if instance.ahead:
            for call in prefetch.orphans(self, instance, unbegun):
                del self.calls[call.id]
                self._out.append(Fail(call.id, crash(instance.function.spec, cause, exit_text)))

    def park(self, sandbox: Sandbox, now: int) -> None:
        """Freeze a sandbox that has no instances."""
        assert not sandbox.instances, sandbox
        sandbox.move(SandboxState.PARKED, now)
        self._out.append(Park(sandbox.id))

    def resume(self, sandbox: Sandbox, now: int) -> None:
        """Let it fork again."""
        sandbox.move(SandboxState.BOUND, now)
        self._out.append(Resume(sandbox.id))

    def remove(self, sandbox: Sandbox, now: int, cause: Cause = Cause.KILLED, reason: str = "") -> None:
        """Have the sandbox removed; its calls fail now, its memory counts until the engine says that it is gone."""
        function = sandbox.function if sandbox.state is not SandboxState.BOOTING else None
        sandbox.move(SandboxState.REMOVED, now)
        sandbox.asked_ns = now
        self._out.append(Remove(sandbox.id))
        for instance in list(sandbox.instances.values()):
            self.drop_instance(instance, cause, reason, now)
            sandbox.leaving_mb += instance.function.spec.memory_mb
        self.memory_mb += sandbox.leaving_mb
        if sandbox.function is not None:
            sandbox.function.tenant.instances_mb += sandbox.leaving_mb
        if function is not None:
            self.disown(function, sandbox, now)

    def disown(self, function: Function, sandbox: Sandbox, now: int) -> None:
        function.sandboxes.pop(sandbox.id, None)
        if not function.sandboxes:
            function.uses = 0
            if function.resting and function.hold:  # evicted, or it ended by itself
                function.hold = False
                self.policy.released(function.spec.key, now)

    def command_remove(self, sandbox: Sandbox) -> None:
        """Say it again: the engine has not confirmed."""
        self._out.append(Remove(sandbox.id))

    # -- time -------------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: int) -> None:  # noqa: ARG002 - every handler takes the event
        upkeep.notice_gap(self, now)
        upkeep.enforce_limits(self, now)
        if self.contended:
            growth.share_out(self, now)
        for function in list(self.functions.values()):
            function.note_time(now)
            prefetch.review(self, function, now)
            upkeep.rest(self, function, now)
            if function.queue or function.wanted:
                growth.grow(self, function, now)
            upkeep.cool(self, function, now)
            if function.draining and not function.sandboxes and not function.queue and not function.running:
                self.policy.forget(function.spec.key, now)
                self.held_before.append(holding.of(function, self.config.sandbox_overhead_mb, now))
                del self.functions[function.spec.key]
                tenants.leave(self, function)
        prefetch.recall(self, now)
        upkeep.expire_queues(self, now)
        upkeep.replenish(self, now)

    def shut_down(self) -> None:
        """Refuse calls from now on."""
        self.closing = True
