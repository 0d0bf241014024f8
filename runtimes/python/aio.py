"""Serving with an event loop: ``async def`` handlers, async generators, ASGI apps.

One loop for the life of the instance, so clients and pools that a handler keeps in module variables go on working.
Frames come through a reader on the loop; each invocation is a task; CANCEL cancels it.
"""

from __future__ import annotations

import asyncio
from _queue import SimpleQueue
from collections import deque
from contextvars import copy_context
from threading import Thread

from . import codec
from .failures import Failure, failure
from .instance import EXIT_RETIRED
from .loader import ASGI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextvars import Context as Variables
    from typing import Any

    from .instance import Call, Instance
    from .results import Response


def serve(instance: Instance, first: tuple[Call, Any] | None = None) -> int:
    """Answer until drained or disconnected. ``first`` is a call whose handler was found out to be asynchronous."""
    return _Server(instance).run(first)


class _Server:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sent_ahead: deque[list[Any]] = deque()  # invocations that wait for the one before, where only one may run
        self._draining = False
        self._app: Any = None

    def run(self, first: tuple[Call, Any] | None) -> int:
        channel = self._instance.channel
        assert channel is not None
        asyncio.set_event_loop(self._loop)
        if self._instance.function.kind == ASGI:
            from .asgi import App

            self._app = App(self._instance)
        self._loop.add_reader(channel.fileno(), self._readable)
        if first is not None:
            self._start(first[0], awaited(self._instance, *first), copy_context())
            self._loop.call_soon(self._take, channel.received())
        self._loop.run_forever()
        if self._app is not None:
            self._loop.run_until_complete(self._app.shutdown())
        return self._instance.retire() if self._draining else EXIT_RETIRED

    def _readable(self) -> None:
        channel = self._instance.channel
        assert channel is not None
        try:
            frames = channel.available()
        except OSError:  # the user closed the descriptor
            frames = None
        if frames is None:
            self._loop.stop()
            return
        self._take(frames)

    def _take(self, frames: list[list[Any]]) -> None:
        for frame in frames:
            kind = frame[0]
            if kind == codec.INVOKE:
                if self._tasks and not self._instance.is_shared:
                    self._sent_ahead.append(frame)
                else:
                    self._begin(frame)
            elif kind == codec.CANCEL:
                task = self._tasks.get(frame[1])
                if task is not None:
                    self._loop.call_soon(task.cancel)  # not at once: a task that has not begun could not answer
            elif kind == codec.DRAIN:
                self._draining = True
                if not self._tasks:
                    self._loop.stop()

    def _begin(self, frame: list[Any]) -> None:
        if not self._instance.take():
            return
        variables = copy_context()
        call = variables.run(self._instance.begin, frame)
        work = self._app.run(call) if self._app is not None else self._invoke(call, frame)
        self._start(call, work, variables)

    def _start(self, call: Call, work: Any, variables: Variables) -> None:
        self._tasks[call.id] = self._loop.create_task(self._guard(call, work), context=variables)

    async def _guard(self, call: Call, work: Any) -> None:
        """Whatever happens, the invocation gets its answer."""
        try:
            response = await self._instance.metered(call.id, work)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an answer
            self._instance.fail(call.id, told(self._instance, error))
        else:
            if response is None:
                self._instance.end_stream(call)
            else:
                self._instance.finish(call.id, *response)
        finally:
            del self._tasks[call.id]
            while self._sent_ahead and not self._tasks:
                self._begin(self._sent_ahead.popleft())
            if self._draining and not self._tasks:
                self._loop.stop()

    async def _invoke(self, call: Call, frame: list[Any]) -> Response | None:
        instance = self._instance
        return await awaited(instance, call, instance.function.call(instance.event(frame), call.context))


async def awaited(instance: Instance, call: Call, value: Any) -> Response | None:
    """The response that ``value`` is or becomes; None when it was streamed."""
    if hasattr(value, "__await__"):
        value = await value
    if hasattr(value, "__anext__"):
        try:
            async for chunk in value:
                instance.chunk(call, chunk)
        finally:
            close = getattr(value, "aclose", None)
            if close is not None:
                await close()
        return None
    if hasattr(value, "__next__"):
        for chunk in value:
            instance.chunk(call, chunk)
        return None
    return instance.respond(call.http, value)


def told(instance: Instance, error: BaseException) -> BaseException:
    """``error``, or what to say when it is a cancellation."""
    if not isinstance(error, asyncio.CancelledError):
        return error
    traceback = failure(error, instance.function.roots).traceback
    return Failure("function", "CancelledError", "the invocation was cancelled", traceback)


class LoopThread:
    """An event loop in a thread of its own, for what handlers in other threads return to be awaited."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        Thread(target=self._loop.run_forever, name="event-loop", daemon=True).start()

    def wait_for(self, call: Call, value: Any) -> Response | None:
        """What ``awaited`` returns or raises; in the caller's context."""
        outcome: SimpleQueue[tuple[Response | None, BaseException | None]] = SimpleQueue()
        self._loop.call_soon_threadsafe(self._start, call, value, outcome)
        response, error = outcome.get()
        if error is not None:
            raise error
        return response

    def cancel(self, invocation_id: str) -> None:
        self._loop.call_soon_threadsafe(self._cancel, invocation_id)

    def _start(self, call: Call, value: Any, outcome: SimpleQueue[Any]) -> None:
        self._tasks[call.id] = self._loop.create_task(self._run(call, value, outcome))

    def _cancel(self, invocation_id: str) -> None:
        task = self._tasks.get(invocation_id)
        if task is not None:
            self._loop.call_soon(task.cancel)

    async def _run(self, call: Call, value: Any, outcome: SimpleQueue[Any]) -> None:
        try:
            work = awaited(self._instance, call, value)
            outcome.put((await self._instance.metered(call.id, work), None))
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an answer
            outcome.put((None, told(self._instance, error)))
        finally:
            del self._tasks[call.id]
