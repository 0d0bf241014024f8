"""An instance: the process that runs invocations. Forked from the zygote; one connection of its own to the node.

Blocking and single-threaded: wait for a frame, run the handler, answer. A handler that turns out to be asynchronous
moves the instance into ``aio``, for the rest of its life. What both have in common is here: how an invocation begins
(``begin``) and the four ways it ends (``finish``, ``fail``, a stream's end, the end of the process).
"""

from __future__ import annotations

import os
import resource
import time

from . import codec, events, process, results
from .channel import Channel
from .context import Context, describe
from .failures import Failure, failure
from .loader import ASGI, ASYNC, ASYNC_GENERATOR, WSGI, Function
from .output import last_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .output import Output
    from .pump import Gauge

    Hooks = list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]

_RUSAGE_SELF = resource.RUSAGE_SELF
EXIT_RETIRED = 0
_NO_REQUEST_HEADERS: list[list[str]] = []


class Call:
    """One invocation in this instance."""

    __slots__ = ("content_type", "context", "cpu_ns", "http", "id", "payload", "streaming")

    def __init__(self, frame: list[Any]) -> None:
        _, self.id, deadline_ns, trigger, attempt, self.content_type, trace_parent, self.http, self.payload = frame
        self.context = Context(self.id, deadline_ns, trigger, attempt, trace_parent)
        self.streaming = False
        self.cpu_ns = time.process_time_ns()

    def request(self) -> list[Any]:
        """The HTTP request; for an app that is called directly, a POST of the payload to "/"."""
        if self.http is not None:
            request: list[Any] = self.http
            return request
        headers = [["content-type", self.content_type or "application/json"]]
        return ["POST", "/", "/", "", headers, "", "HTTP/1.1"]


class Instance:
    """Made once, in the zygote; each fork then has its own and lets it ``become`` someone."""

    def __init__(self, function: Function, config: dict[str, Any], output: Output) -> None:
        self.id = ""
        self.function = function
        self.output = output
        self.channel: Channel | None = None
        self._gauge: Any = None  # a Gauge from ``become`` on
        self._pid = 0
        self._broken: Failure | None = None
        self._namespace = str(config["namespace"])
        self._name = str(config["function"])
        describe(config)

    # -- life --------------------------------------------------------------------------------------------------------

    def become(self, instance_id: str, gauge: Gauge) -> None:
        self.id = instance_id
        self._gauge = gauge
        self._pid = os.getpid()
        Context.log_stream_name = f"[{Context.function_version}]{instance_id}"

    def restore(self, hooks: Hooks) -> None:
        """Run what the user registered to run in every new instance. A failure is told to the first caller."""
        try:
            for hook, arguments, named in hooks:
                hook(*arguments, **named)
        except BaseException as error:  # noqa: BLE001
            self._broken = failure(error, self.function.roots)
            self._broken.kind = "exit"
        if hooks:  # what they printed belongs to no invocation
            self.output.flush()
            self._gauge.settle()

    def open(self, path: str) -> None:
        self.channel = self.output.channel = Channel(path)
        self.channel.send(codec.encode(codec.HELLO, codec.PROTOCOL, "instance", self.id, self._pid, {}))

    def abandon(self) -> None:
        """In a child that the user forked: the channel is not its own."""
        if self.channel is not None:
            self.channel.close()

    def serve(self) -> int:
        """Answer until drained or disconnected; the exit code."""
        if self.function.kind in (ASYNC, ASYNC_GENERATOR, ASGI):
            from .aio import serve

            return serve(self)
        assert self.channel is not None
        invoke = self._wsgi if self.function.kind == WSGI else self._invoke
        while True:
            frame = self.channel.receive()
            if frame is None:
                return EXIT_RETIRED
            kind = frame[0]
            if kind == codec.INVOKE:
                awaitable = invoke(frame)
                if awaitable is not None:
                    from .aio import serve

                    return serve(self, awaitable)
            elif kind == codec.DRAIN:
                return self.retire()

    def retire(self) -> int:
        """Leave as a program would: with its atexit functions."""
        import atexit

        try:
            atexit._run_exitfuncs()
        except BaseException as error:  # noqa: BLE001
            self.output.emit_text("stderr", failure(error, self.function.roots).traceback.split("\n"))
        self.output.flush()
        return EXIT_RETIRED

    # -- one invocation ----------------------------------------------------------------------------------------------

    def _invoke(self, frame: list[Any]) -> tuple[Call, Any] | None:
        """Run a handler; what it returned, with the call, if that must be awaited."""
        call = self.begin(frame)
        try:
            value = self.function.call(self.event(call), call.context)
            if hasattr(value, "__next__"):
                self._stream(call, value)
                return None
            if hasattr(value, "__await__") or hasattr(value, "__anext__"):
                return call, value
            response = self.respond(call, value)
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is an answer
            self.fail(call, error)
            return None
        self.finish(call, *response)
        return None

    def _wsgi(self, frame: list[Any]) -> None:
        from . import wsgi

        call = self.begin(frame)
        try:
            response = wsgi.run(self, call)
        except BaseException as error:  # noqa: BLE001
            self.fail(call, error)
            return
        self.finish(call, *response)

    def begin(self, frame: list[Any]) -> Call:
        call = Call(frame)
        self.output.invocation_id = call.id
        self._gauge.begin(call.id)
        self.output.mend()
        if self._broken is not None:
            self.fail(call, self._broken)
        return call

    def event(self, call: Call) -> Any:
        if call.http is not None:
            return events.http(call.id, call.http, call.payload, self._name, self._namespace)
        return events.direct(call.content_type, call.payload)

    def respond(self, call: Call, value: Any) -> results.Response:
        response = (results.direct if call.http is None else results.http)(value)
        size, size_max = len(response[2]), self.function.result_bytes_max
        if size > size_max:
            raise Failure("too_large", "ResultTooLarge", f"the result has {size} bytes, {size_max} are allowed")
        return response

    def finish(self, call: Call, status: int, headers: results.Headers, payload: bytes) -> None:
        """Answer with a RESULT. After STREAM, status and headers are ignored and the payload is empty."""
        head, more = codec.encode_result(call.id, status, headers, *self._used(call), payload)
        self._answer(head, more)

    def fail(self, call: Call, error: BaseException) -> None:
        """Answer with an ERROR; a final one ends the process."""
        if isinstance(error, MemoryError):
            process.unlimit()  # to have room for saying it
        told = failure(error, self.function.roots)
        if self._pid != os.getpid():  # in a child that the user forked: its parent will answer
            if not isinstance(error, SystemExit):
                self.output.emit_text("stderr", told.traceback.rstrip("\n").split("\n"))
            self.output.flush()
            os._exit(_exit_code(error))
        frame = codec.encode(
            codec.ERROR, call.id, told.kind, told.error_type, told.message, told.traceback, *self._used(call)
        )
        self._answer(frame)
        if told.kind in ("oom", "exit"):
            os._exit(_exit_code(error))

    def _used(self, call: Call) -> tuple[int, int]:
        return time.process_time_ns() - call.cpu_ns, resource.getrusage(_RUSAGE_SELF).ru_maxrss * 1024

    def _answer(self, data: bytes, more: bytes = b"") -> None:
        """Send the last frame of an invocation, after its last lines."""
        if os.getpid() != self._pid:  # a child that came back from the handler: its parent will answer
            self.output.flush()
            os._exit(0)
        self._gauge.settle()
        rest = self.output.rest()
        self.output.invocation_id = ""
        self._gauge.end()
        assert self.channel is not None
        try:
            self.channel.send(rest + data, more)
        except OSError as error:  # the user closed the channel's descriptor, or the node is gone
            last_words(f"the connection to the node is gone: {error}")
            os._exit(1)

    # -- streams -----------------------------------------------------------------------------------------------------

    def _stream(self, call: Call, chunks: Iterator[Any]) -> None:
        for chunk in chunks:
            self.chunk(call, chunk)
        self.end_stream(call)

    def begin_stream(self, call: Call, status: int, headers: results.Headers) -> None:
        call.streaming = True
        self._send(codec.encode(codec.STREAM, call.id, status, headers))

    def chunk(self, call: Call, chunk: Any) -> None:
        """One item that a generator yielded. The first may be a response dict without a body: status and headers."""
        if isinstance(chunk, str):
            data, header = chunk.encode("utf-8", "backslashreplace"), results.TEXT
        elif isinstance(chunk, (bytes, bytearray, memoryview)):
            data, header = bytes(chunk), results.BINARY
        elif isinstance(chunk, dict) and "statusCode" in chunk and not call.streaming:
            self.begin_stream(call, *results.head(chunk))
            return
        else:
            what = f"a generator must yield str or bytes, this one yielded {type(chunk).__name__}"
            raise Failure("not_serialisable", "NotSerialisable", what)
        if not call.streaming:
            self.begin_stream(call, 200, [header])
        self.send_chunk(call, data)

    def send_chunk(self, call: Call, data: bytes) -> None:
        for at in range(0, len(data), codec.CHUNK_BYTES_MAX):
            self._send(codec.encode(codec.CHUNK, call.id, data[at : at + codec.CHUNK_BYTES_MAX]))

    def end_stream(self, call: Call) -> None:
        if not call.streaming:
            self.begin_stream(call, 200, results.TEXT_HEADERS)
        self.finish(call, 200, [], b"")

    def _send(self, data: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        assert self.channel is not None
        self.channel.send(data)


def _exit_code(error: BaseException) -> int:
    """What the process would have ended with."""
    code = error.code if isinstance(error, SystemExit) else 1
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1
