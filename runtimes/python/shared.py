"""An instance with several invocations at once, and what of it belongs to which.

Each invocation runs in a context of its own (``contextvars``), be it a task's (``aio``) or a thread's (``threads``).
The context knows the invocation's share of the output, so a line goes out under the invocation that printed it,
whatever runs beside it. Code in no invocation's context, such as a thread that a handler started, counts as part of the
only open one; when there are several, as part of none. The same holds for descriptors 1 and 2, which know no contexts:
the slot that the zygote looks at (see ``pump``) has an id while exactly one invocation is open.

CPU time is counted by the clock of the thread that runs the handler, from step to step.

An invocation that ends the process (``sys.exit``, memory) does so when the others have ended.
"""

from __future__ import annotations

import os
from _contextvars import ContextVar
from _thread import allocate_lock
from resource import RUSAGE_SELF, getrusage
from time import monotonic_ns, thread_time_ns

from .instance import Call, Instance
from .loader import ASYNCHRONOUS
from .output import Scope

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Generator
    from typing import Any

    from .loader import Function
    from .output import Output

SETTLE_S = 0.02  # for output whose owner can't be told a moment later; not longer, the others wait too


class Running:
    """An open invocation: its scope and its clock, which runs from ``start`` to ``stop``, as often as needed."""

    __slots__ = ("_began_ns", "cpu_ns", "opened_ns", "scope")

    def __init__(self, invocation_id: str) -> None:
        self.scope = Scope(invocation_id)
        self.cpu_ns = 0
        self.opened_ns = monotonic_ns()
        self._began_ns = thread_time_ns()

    def start(self) -> None:
        self._began_ns = thread_time_ns()

    def stop(self) -> None:
        """Count until now, and from now on if there is no other ``start``."""
        now_ns = thread_time_ns()
        self.cpu_ns += now_ns - self._began_ns
        self._began_ns = now_ns


class Metered:
    """A coroutine whose steps are counted."""

    __slots__ = ("_coroutine", "_running")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], running: Running) -> None:
        self._coroutine = coroutine
        self._running = running

    def __await__(self) -> Generator[Any, Any, Any]:
        return self

    def __iter__(self) -> Metered:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        self._running.start()
        try:
            return self._coroutine.send(value)
        finally:
            self._running.stop()

    def throw(self, kind: Any, value: Any = None, _traceback: Any = None) -> Any:
        error = value if isinstance(value, BaseException) else kind
        self._running.start()
        try:
            return self._coroutine.throw(error)
        finally:
            self._running.stop()

    def close(self) -> None:
        self._coroutine.close()


class SharedInstance(Instance):
    """``Instance`` for a ``concurrency`` above 1."""

    is_shared = True

    def __init__(self, function: Function, config: dict[str, Any], output: Output, concurrency: int) -> None:
        super().__init__(function, config, output)
        self.running: dict[str, Running] = {}
        self._here: ContextVar[Scope] = ContextVar("invocation")
        self._lock = allocate_lock()
        self._leaving = 0  # invocations that are no longer in ``running`` and whose answer is not yet sent
        self._exit_code: int | None = None  # what to end with once the last has been answered
        if function.kind not in ASYNCHRONOUS:
            from . import threads  # noqa: F401 - once here, and not in each instance

            self.threads = concurrency

    def _serve(self) -> int:
        self.output.here = self._scope
        if self.function.kind in ASYNCHRONOUS:
            from .aio import serve as serve_tasks

            return serve_tasks(self)
        from .threads import serve as serve_threads

        return serve_threads(self)

    def _scope(self) -> Scope:
        """Whose code this is."""
        scope = self._here.get(None)
        if scope is not None:
            return scope if scope.id else self.output.scope
        running = list(self.running.values())
        return running[0].scope if len(running) == 1 else self.output.scope

    # -- one invocation ----------------------------------------------------------------------------------------------

    def begin(self, frame: list[Any]) -> Call:
        """To be called in the invocation's context."""
        call = Call(frame)
        running = Running(call.id)
        with self._lock:
            self.running[call.id] = running
            if len(self.running) == 1:
                self.gauge.begin(call.id)
            elif len(self.running) == 2:
                self.gauge.end(SETTLE_S)
        self._here.set(running.scope)
        self.output.mend()
        return call

    def metered(self, invocation_id: str, work: Awaitable[Any]) -> Awaitable[Any]:
        return Metered(work, self.running[invocation_id])  # type: ignore[arg-type]

    def busy(self, invocation_id: str) -> int:
        running = self.running.get(invocation_id)
        return monotonic_ns() - running.opened_ns if running is not None else 0

    def used(self, invocation_id: str) -> tuple[int, int]:
        running = self.running.get(invocation_id)
        if running is not None:
            running.stop()
        return running.cpu_ns if running is not None else 0, getrusage(RUSAGE_SELF).ru_maxrss * 1024

    def answer(self, invocation_id: str, data: bytes, more: bytes = b"") -> None:
        self._leave_to_parent()
        with self._lock:
            running = self.running.pop(invocation_id, None)
            if running is None:  # what should have been its answer could not be sent
                return
            self._leaving += 1
            if not self.running:
                self.gauge.end()
            elif len(self.running) == 1:
                self.gauge.end(SETTLE_S)
                self.gauge.begin(next(iter(self.running)))
        self._send_last(running.scope, data, more)
        with self._lock:
            self._leaving -= 1
            self._end_if_last()

    def end(self, code: int) -> None:
        with self._lock:
            if self._exit_code is None:
                self._exit_code = code
            self._end_if_last()

    def _end_if_last(self) -> None:
        if self._exit_code is not None and not self.running and not self._leaving:
            os._exit(self._exit_code)
