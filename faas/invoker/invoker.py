"""The invoker: the one owner of the pool, and the use case "invoke".

Theory of operation. Everything runs on one event loop. ``apply`` hands an event to the pool and performs the commands
it returns before the next event is taken, so the pool's books are never seen half-way. What takes time (booting,
removing, fetching code) runs as a task and comes back as an event. A call is a future: it is resolved when its
instance answered, its record is in the journal, and not before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from faas.invoker.channel import Channel
from faas.invoker.config import Content, InvokerConfig, Journal
from faas.invoker.deadlines import Deadlines
from faas.invoker.ends import Ends, Observe
from faas.invoker.ids import new_sandbox_id
from faas.invoker.loads import Loads
from faas.invoker.perform import Performer
from faas.invoker.run import Run, function_error
from faas.invoker.session import Session
from faas.invoker.specs import Specs
from faas.invoker.spin import BRIEF_NS, Spin
from faas.invoker.streaming import ResponseStream
from faas.invoker.view import describe, describe_generics, stats
from faas.model.errors import FaasError, NoCapacity
from faas.model.function import FunctionVersion
from faas.model.hops import check_hops
from faas.model.invocation import Call, Reply, Status
from faas.pool.holding import Held, take
from faas.pool.messages import (
    Cancel,
    Dispatch,
    Event,
    Expired,
    Fail,
    Finished,
    Flavour,
    Forget,
    InitFailed,
    Limit,
    Prefetch,
    Prepare,
    Reject,
    Return,
    SandboxDown,
    SandboxLost,
    SandboxReady,
    Submit,
    Tick,
)
from faas.pool.pool import Pool
from faas.ports import Answering, Clock, Engine, LogLine, LogSink
from faas.wire import Chunk, Error, Log, Result, Stream
from faas.wire.schema import FINAL_ERROR_KINDS

log = logging.getLogger(__name__)

_ABOUT_SANDBOXES = frozenset({SandboxReady, InitFailed, SandboxLost, SandboxDown})
TICK_BUSY_S = 0.01  # while calls wait
TICK_IDLE_S = 0.25
LOAD_LIMIT_S = 90.0


class Invoker:
    """Runs calls on sandboxes that ``engine`` makes. ``observe`` sees every finished record once it is journalled,
    with its sequence there."""

    def __init__(
        self,
        config: InvokerConfig,
        engine: Engine,
        content: Content,
        journal: Journal,
        logs: LogSink,
        clock: Clock,
        observe: Observe = lambda _record, _sequence: None,
    ) -> None:
        self.config = config
        self.engine = engine
        self.content = content
        self.pool = Pool(config.pool, new_sandbox_id)
        self.sessions: dict[str, Session] = {}
        self.channels: dict[str, Channel] = {}  # of the instances that are connected, written by their sessions
        self._logs = logs
        self._now_ns, self._unix_ns = clock.monotonic_ns, clock.unix_ns
        self._specs = Specs(config.warm_ns)
        self.versions = self._specs.versions
        self._loads = Loads(self.pool)
        self._events: deque[Event] = deque()
        self._applying = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._slow_tick = True
        self._closed = False
        self._performer = Performer(self)
        self._loop = asyncio.get_running_loop()  # asked for at each call it would cost a system call
        self._deadlines: Deadlines[Run] = Deadlines(self._loop, clock.monotonic_ns, self._expire)
        self.ends = Ends(config.node, journal, self._deadlines, clock.monotonic_ns, observe)
        self.runs, self.together = self.ends.runs, self.ends.together
        self._spin = Spin(self._loop, clock.monotonic_ns, self.runs)
        self._guard: Callable[[FunctionVersion, Call], None] | None = None

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Ready the engine, drop what an earlier run left behind, begin keeping generic sandboxes."""
        self.config.socket_root.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self.engine.start()
        self.pool.flavours.setdefault(Flavour("python", "none"), 0)
        self._tick()

    async def drain(self, seconds: float) -> None:
        """Refuse new calls and let running ones finish for so long; then those that are left get a 503."""
        self.pool.shut_down()
        if self.runs:
            self.ends.none_left.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self.ends.none_left.wait()
            except TimeoutError:
                log.warning("%d calls were still running after %.0f s and are given up", len(self.runs), seconds)
        for run in list(self.runs.values()):
            self.ends.end(run, NoCapacity("the node shut down before the call finished; send it again"))

    async def close(self) -> None:
        """End what is left at once and remove every sandbox."""
        await self.drain(0)
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        self._deadlines.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in self.sessions.values():
            session.close()
        await self.engine.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside the loop; what it raises is a bug and is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a background task failed", exc_info=task.exception())

    # -- use cases --------------------------------------------------------------------------------------------------

    async def invoke(self, version: FunctionVersion, call: Call) -> Reply:
        """Run one call to its end. Failures come as ``Reply.error``; cancelling cancels a call that still waits.

        Raises what the guard refuses a call with, and ``LoopDetected``: neither leaves a record.
        """
        reply: asyncio.Future[Reply] = self._loop.create_future()
        run = self.submit(version, call, reply)
        try:
            return await reply
        except asyncio.CancelledError:
            self.abandon(run)
            raise

    def submit(self, version: FunctionVersion, call: Call, reply: Answering) -> Run:
        """Begin a call; ``reply`` is told how it ended, which may be before this returns. Raises as ``invoke`` does."""
        self.check(version, call)
        run = Run(call, version, reply, self._unix_ns(), self._now_ns())
        self.runs[call.id] = run
        self.apply(Submit(call.id, self._specs.of(version)))
        return run

    def check(self, version: FunctionVersion, call: Call) -> None:
        """Whether a call may begin now: raises what ``invoke`` would refuse it with."""
        if call.hops:
            check_hops(call.hops, version.namespace, version.name)
        if self._guard is not None:
            self._guard(version, call)

    def abandon(self, run: Run, *, stop: bool = False) -> None:
        """The caller has gone: a waiting call ends here, one that was sent as its function's ``on_disconnect`` says.

        ``stop``: it is ended whatever that says.
        """
        call = run.call.id
        if call not in self.runs:
            return
        if not run.sent:
            self.apply(Cancel(call))
            self.ends.end(run, None, Status.REJECTED)
        elif stop or run.version.manifest.on_disconnect == "cancel":
            self.apply(Cancel(call, stop=True))
        elif run.stream is not None:
            run.stream.close()

    async def load(self, version: FunctionVersion) -> int:
        """Have the version's module imported in a sandbox here; returns the time that took in ns.

        Raises ``FunctionFailed`` with the traceback when it can't be imported or has no handler, ``InstanceCrashed``
        or ``DeadlineExceeded`` when the import took its sandbox down or did not end, ``NoCapacity`` without room.
        """
        await self.content.attach(version)
        spec = self._specs.of(version)
        future = self._loads.wait_for(version.key)
        self.apply(Prepare(spec))
        try:
            async with asyncio.timeout(LOAD_LIMIT_S):
                return await future
        except TimeoutError:
            self.apply(Forget(version.key))
            reason = self.pool.boots.reason or "the node's memory budget is used up"
            raise NoCapacity(f"no sandbox to load {version.label} in: {reason}") from None
        except FaasError:
            self.apply(Forget(version.key))
            raise

    def keep(self, version: FunctionVersion) -> None:
        """Have the version loaded, and its ``min_instances`` running, without waiting for that."""
        self.apply(Prepare(self._specs.of(version)))

    async def forget(self, namespace: str, name: str, keep: int | None = None) -> None:
        """Let the sandboxes of every version but ``keep`` finish what they have, then go."""
        for key, version in list(self.versions.items()):
            if (version.namespace, version.name) == (namespace, name) and version.version != keep:
                self.apply(Forget(key))

    def limit(self, namespace: str, calls_max: int | None, memory_mb_max: int | None) -> None:
        """Hold a namespace to these limits from now on; None = what the configuration has for all."""
        self.apply(Limit(namespace, calls_max, memory_mb_max))

    def guard(self, guard: Callable[[FunctionVersion, Call], None] | None) -> None:
        """Ask this before each call from now on: it raises what a call is refused with. None = nobody."""
        self._guard = guard

    def describe(self, namespace: str | None, name: str | None) -> list[dict[str, Any]]:
        return describe(self.pool, self.versions, namespace, name, self._now_ns())

    def describe_generics(self, version: FunctionVersion) -> dict[str, Any]:
        flavour = Flavour(version.manifest.runtime, version.manifest.network)
        return describe_generics(self.pool, flavour, self._now_ns())

    def stats(self) -> dict[str, Any]:
        return stats(self.pool)

    # -- the owner --------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Hand an event to the pool and perform what it commands; events that arise meanwhile wait their turn."""
        if self._closed:
            return
        if self._applying:
            self._events.append(event)
            return
        self._applying = True
        try:
            self._step(event)
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._applying = False

    def _step(self, event: Event) -> None:
        now = self._now_ns()
        kind = type(event)
        key = self._bound_to(event.sandbox) if kind in _ABOUT_SANDBOXES else ""  # type: ignore[union-attr]
        for command in self.pool.step(event, now):
            if type(command) is Dispatch:
                self._dispatch(command, now)
            elif type(command) is Prefetch:
                self._prefetch(command)
            elif type(command) is Return:
                self._returned(command)
            elif type(command) is Reject or type(command) is Fail:
                run = self.runs.get(command.call)
                if run is not None:
                    self._failed(run, command)
            else:
                self._performer.perform(command, now)
        if key:
            self._settle_loads(key, event, now)
        if self.pool.queued or self.pool.ahead:
            self._look_often()

    def _look_often(self) -> None:
        """Calls wait."""
        if self._slow_tick and self._ticker is not None:
            self._tick()

    def _bound_to(self, sandbox: str) -> str:
        session = self.sessions.get(sandbox)
        return session.key if session is not None else ""

    def _settle_loads(self, key: str, event: Event, now: int) -> None:
        session = self.sessions.get(event.sandbox)  # type: ignore[union-attr]
        if type(event) is SandboxReady and session is not None:
            self._loads.loaded(key, now - session.bound_ns)
        else:
            self._loads.failed(key)

    def held(self) -> list[Held]:
        """What was held without serving since this was last asked."""
        return take(self.pool, self._now_ns())

    def _tick(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        self._slow_tick = False  # this one is on its way: see _look_often
        self.apply(Tick())
        self._loads.settle()
        self._slow_tick = not (self.pool.queued or self.pool.ahead)
        if self._specs.too_many(len(self.pool.functions)):
            self._drop_unused()
        seconds = TICK_IDLE_S if self._slow_tick else TICK_BUSY_S
        self._ticker = asyncio.get_running_loop().call_later(seconds, self._tick)

    def _drop_unused(self) -> None:
        """Forget versions that the pool has forgotten and no call holds."""
        held = {run.version.key for run in self.runs.values()}
        for key in self._specs.keep_only(self.pool.functions, held):
            self._performer.forget(key)

    def _dispatch(self, command: Dispatch, now: int) -> None:
        run = self.runs.get(command.call)
        channel = self.channels.get(command.instance)
        if run is None or channel is None:
            return  # the instance is going; its end is on the way and gives the call back: see _failed
        if not run.sent and not self._send(run, channel):
            return
        run.dispatched_ns = now
        run.start = command.start
        run.init_ns = command.init_ns
        self._deadlines.add(run, run.timeout_ms, now)
        if channel.brief and len(self.runs) == 1:
            self._spin.begin(now)
        if run.version.manifest.concurrency > 1:
            run.shared = channel.shared
            run.shared.begin(run.call.id, now)

    def _send(self, run: Run, channel: Channel) -> bool:
        deadline_ns = self._unix_ns() + run.timeout_ms * 1_000_000
        run.sent = channel.send(self._performer.invoke_frame(run, deadline_ns))
        return run.sent

    def _prefetch(self, command: Prefetch) -> None:
        run = self.runs.get(command.call)
        channel = self.channels.get(command.instance)
        if run is not None and channel is not None:
            self._send(run, channel)

    def _returned(self, command: Return) -> None:
        run = self.runs.get(command.call)
        if run is None:
            return
        if run.dispatched_ns:
            self._deadlines.remove(run, run.timeout_ms)
        run.sent, run.dispatched_ns = False, 0

    def _failed(self, run: Run, command: Reject | Fail) -> None:
        """The pool gives a call up. One that was never sent, its instance having ended before, is tried once more."""
        if type(command) is Fail and not run.sent and not run.again and not self.pool.closing:
            run.again = True
            self.apply(Submit(run.call.id, self._specs.of(run.version)))
        else:
            self.ends.end(run, command.error)

    def _expire(self, run: Run) -> None:
        self.apply(Expired(run.call.id))

    # -- what instances say -----------------------------------------------------------------------------------------

    def answered(self, channel: Channel, frame: Result | Error | Chunk | Stream) -> None:
        """An instance's frame about a call; one whose call has ended is dropped."""
        run = self.runs.get(frame.invocation_id)
        if run is None or not run.dispatched_ns:  # it has ended; or was sent ahead and cannot have been begun
            return
        if type(frame) is Result:
            self._result(channel, run, frame)
        elif type(frame) is Chunk:
            if run.stream is not None:
                run.stream.feed(frame.payload)
        elif type(frame) is Stream:
            self._stream(channel, run, frame)
        elif type(frame) is Error:
            run.cpu_ns, run.peak_memory_bytes = frame.cpu_ns, frame.peak_bytes
            run.end_sharing(self._now_ns())
            leaving = frame.kind in FINAL_ERROR_KINDS or channel.session.has_exited(channel.instance)
            self.apply(Finished(channel.instance, run.call.id, not leaving))
            self.ends.end(run, function_error(frame, run.version.manifest.memory_mb))

    def _result(self, channel: Channel, run: Run, frame: Result) -> None:
        run.cpu_ns = frame.cpu_ns
        run.peak_memory_bytes = frame.peak_bytes
        now = self._now_ns()
        run.end_sharing(now)  # before the next call begins on the instance
        channel.brief = 0 < frame.busy_ns < BRIEF_NS
        reusable = not channel.session.has_exited(channel.instance)
        busy_ns = min(frame.busy_ns or now - run.dispatched_ns, now - run.dispatched_ns)
        self.apply(Finished(channel.instance, run.call.id, reusable, busy_ns))
        if run.stream is not None:
            run.bytes_out = run.stream.bytes_out
            self.ends.end(run, None, now=now)
            return
        run.bytes_out = len(frame.payload)
        self.ends.end(run, None, now=now, response=frame)

    def _stream(self, channel: Channel, run: Run, frame: Stream) -> None:
        run.stream = ResponseStream(channel.pause_reading, channel.resume_reading, partial(self.abandon, run))
        provisional = run.record(Status.OK, self.config.node, self._now_ns())
        run.streamed = Reply(provisional, None, frame.status, frame.headers, b"", run.stream)
        if not run.reply.done():
            run.reply.set_result(run.streamed)
        else:
            run.stream.close()

    def logged(self, session: Session, frame: Log) -> None:
        version = self.versions.get(session.key)
        if version is not None:
            self._logs.write(
                LogLine(
                    frame.time_ns,
                    version.namespace,
                    version.name,
                    version.version,
                    frame.invocation_id,
                    frame.stream,
                    frame.text,
                )
            )

    def oom_kills(self, sandbox: str) -> int:
        return self.engine.oom_kills(sandbox)
