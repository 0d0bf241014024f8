"""Serving with an event loop: ``async def`` handlers, async generators, ASGI apps.

One loop for the life of the instance, so clients and pools that a handler keeps in module variables go on working.
Frames come through a reader on the loop; each invocation is a task; CANCEL cancels it.
"""

from __future__ import annotations

import asyncio

from . import codec
from .failures import Failure, failure
from .instance import EXIT_RETIRED
from .loader import ASGI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .instance import Call, Instance


def serve(instance: Instance, first: tuple[Call, Any] | None = None) -> int:
    """Answer until drained or disconnected. ``first`` is a call whose handler was found out to be asynchronous."""
    return _Server(instance).run(first)


class _Server:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._loop = asyncio.new_event_loop()
        self._tasks: dict[str, asyncio.Task[None]] = {}
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
            self._start(first[0], self._finish(*first))
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
        for frame in frames:
            kind = frame[0]
            if kind == codec.INVOKE:
                call = self._instance.begin(frame)
                self._start(call, self._app.run(call) if self._app is not None else self._invoke(call))
            elif kind == codec.CANCEL:
                task = self._tasks.get(frame[1])
                if task is not None:
                    task.cancel()
            elif kind == codec.DRAIN:
                self._draining = True
                if not self._tasks:
                    self._loop.stop()

    def _start(self, call: Call, work: Any) -> None:
        self._tasks[call.id] = self._loop.create_task(self._guard(call, work))

    async def _guard(self, call: Call, work: Any) -> None:
        """Whatever happens, the invocation gets its answer."""
        try:
            response = await work
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an answer
            if isinstance(error, asyncio.CancelledError):
                error = Failure(
                    "function",
                    "CancelledError",
                    "the invocation was cancelled",
                    failure(error, self._instance.function.roots).traceback,
                )
            self._instance.fail(call, error)
        else:
            if response is None:
                self._instance.end_stream(call)
            else:
                self._instance.finish(call, *response)
        finally:
            del self._tasks[call.id]
            if self._draining and not self._tasks:
                self._loop.stop()

    async def _invoke(self, call: Call) -> Any:
        instance = self._instance
        return await self._finish(call, instance.function.call(instance.event(call), call.context))

    async def _finish(self, call: Call, value: Any) -> Any:
        """The response that ``value`` is or becomes; None when it was streamed."""
        if hasattr(value, "__await__"):
            value = await value
        if hasattr(value, "__anext__"):
            try:
                async for chunk in value:
                    self._instance.chunk(call, chunk)
            finally:
                close = getattr(value, "aclose", None)
                if close is not None:
                    await close()
            return None
        if hasattr(value, "__next__"):
            for chunk in value:
                self._instance.chunk(call, chunk)
            return None
        return self._instance.respond(call, value)
