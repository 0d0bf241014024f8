"""Serving in threads: plain handlers and WSGI apps of functions with a ``concurrency`` above 1.

The main thread reads frames and hands them to worker threads, of which it starts as many as are busy at once, up to
the function's concurrency. What a handler returns to be awaited goes to one event loop, in a thread of its own that
lives as long as the instance; the worker waits for it. CANCEL reaches only that: a thread can't be asked to stop.
"""

from __future__ import annotations

from _contextvars import copy_context
from _queue import SimpleQueue
from threading import Condition, Thread

from . import codec
from .instance import EXIT_RETIRED
from .loader import WSGI

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .aio import LoopThread
    from .instance import Call
    from .shared import SharedInstance


def serve(instance: SharedInstance) -> int:
    """Answer until drained or disconnected."""
    return _Server(instance).run()


class _Server:
    def __init__(self, instance: SharedInstance) -> None:
        self._instance = instance
        self._frames: SimpleQueue[list[Any]] = SimpleQueue()
        self._workers = 0
        self._changed = Condition()
        self._unanswered = 0
        self._loop: LoopThread | None = None

    def run(self) -> int:
        channel = self._instance.channel
        assert channel is not None
        while True:
            frame = channel.receive()
            if frame is None:
                return EXIT_RETIRED
            if frame[0] == codec.INVOKE:
                self._hand_on(frame)
            elif frame[0] == codec.CANCEL and self._loop is not None:
                self._loop.cancel(frame[1])
            elif frame[0] == codec.DRAIN:
                with self._changed:
                    self._changed.wait_for(lambda: not self._unanswered)
                return self._instance.retire()

    def _hand_on(self, frame: list[Any]) -> None:
        with self._changed:
            self._unanswered += 1
            wanted = self._unanswered
        if self._workers < min(wanted, self._instance.threads):
            try:
                Thread(target=self._work, name=f"invocations-{self._workers + 1}", daemon=True).start()
            except RuntimeError:  # no more threads can be had: those that are there must do
                if not self._workers:
                    raise
            else:
                self._workers += 1
        self._frames.put(frame)

    def _work(self) -> None:
        while True:
            copy_context().run(self._serve, self._frames.get())
            with self._changed:
                self._unanswered -= 1
                self._changed.notify()

    def _serve(self, frame: list[Any]) -> None:
        instance = self._instance
        call = instance.begin(frame)
        try:
            if instance.function.kind == WSGI:
                from . import wsgi

                instance.finish(call.id, *wsgi.run(instance, call))
                return
            value = instance.function.call(instance.event(frame), call.context)
            awaited = instance.conclude(frame, call.context, value)
            if awaited is not None:
                self._await(*awaited)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an answer
            instance.fail(call.id, error)

    def _await(self, call: Call, value: Any) -> None:
        from .aio import LoopThread

        with self._changed:
            if self._loop is None:
                self._loop = LoopThread(self._instance)
        running = self._instance.running[call.id]
        running.stop()
        try:
            response = self._loop.wait_for(call, value)
        finally:
            running.start()
        if response is None:
            self._instance.end_stream(call)
        else:
            self._instance.finish(call.id, *response)
