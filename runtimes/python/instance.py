"""An instance: the process that runs invocations. Forked from the zygote; one connection of its own to the node.

Blocking and single-threaded (``plain``): wait for a frame, run the handler, answer. A handler that turns out to be
asynchronous moves the instance into ``aio``, for the rest of its life. Several invocations at once: ``shared`` and
``threads``. What all have in common is here: how an invocation begins (``begin``) and the four ways it ends
(``finish``, ``fail``, a stream's end, the end of the process).
"""

from __future__ import annotations

import os
from resource import RUSAGE_SELF, getrusage
from time import monotonic_ns

from . import codec, events, plain, process, results
from .channel import Channel
from .context import Context, describe
from .failures import Failure, failure
from .loader import ASYNCHRONOUS, WSGI, Function
from .output import last_words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Any

    from .output import Output, Scope
    from .pump import Gauge

    Hooks = list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]

EXIT_RETIRED = 0


class Call:
    """An invocation that is more than a handler called and a value returned: streamed, awaited, or an app's."""

    __slots__ = ("content_type", "context", "http", "id", "payload", "streaming")

    def __init__(self, frame: list[Any], context: Context | None = None) -> None:
        _, self.id, _, _, _, self.content_type, _, self.http, self.payload = frame
        self.context = context or Context(frame)
        self.streaming = False

    def request(self) -> list[Any]:
        """The HTTP request; for an app that is called directly, a POST of the payload to "/"."""
        if self.http is not None:
            request: list[Any] = self.http
            return request
        headers = [["content-type", self.content_type or "application/json"]]
        return ["POST", "/", "/", "", headers, "", "HTTP/1.1"]


class Instance:
    """Made once, in the zygote; each fork then has its own and lets it ``become`` someone.

    This one has one invocation at a time; ``SharedInstance`` has several.
    """

    is_shared = False
    threads = 0  # how many it may start to run handlers in

    def __init__(self, function: Function, config: dict[str, Any], output: Output) -> None:
        self.id = ""
        self.function = function
        self.output = output
        self.channel: Channel | None = None
        self.gauge: Any = None  # a Gauge from ``become`` on
        self.number = 0  # of the INVOKEs that have come
        self.began_ns = 0  # the last of them, on the monotonic clock
        self.cpu_s = 0.0  # of this process, up to the last answer
        self._broken: Failure | None = None
        self._namespace = str(config["namespace"])
        self._name = str(config["function"])
        describe(config)

    # -- life --------------------------------------------------------------------------------------------------------

    def become(self, instance_id: str, gauge: Gauge) -> None:
        self.id = instance_id
        self.gauge = gauge
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
            self.gauge.settle()

    def open(self, channel: Channel) -> None:
        """Say hello to whoever is at the other end."""
        self.channel = self.output.channel = channel
        self.channel.send(codec.encode(codec.HELLO, codec.PROTOCOL, "instance", self.id, self.channel.pid, {}))
        self.used("")

    def abandon(self) -> None:
        """In a child that the user forked: the channel is not its own."""
        if self.channel is not None:
            self.channel.close()

    def serve(self) -> int:
        """Answer until drained or disconnected; the exit code."""
        assert self.channel is not None
        if self._broken is not None:
            return self._refuse(self._broken)
        return self._serve()

    def _serve(self) -> int:
        assert self.channel is not None
        if self.function.kind in ASYNCHRONOUS:
            from .aio import serve

            return serve(self)
        while True:
            frame = self.channel.receive() if self.function.kind == WSGI else plain.serve(self)
            if frame is None:
                return EXIT_RETIRED
            if isinstance(frame, tuple):
                from .aio import serve

                return serve(self, frame)
            if frame[0] == codec.INVOKE:
                if self.take():
                    self._wsgi(frame)
            elif frame[0] == codec.DRAIN:
                return self.retire()

    def _refuse(self, reason: Failure) -> int:
        """Answer the first invocation with ``reason``, which ends the process."""
        assert self.channel is not None
        while (frame := self.channel.receive()) is not None:
            if frame[0] != codec.INVOKE:
                return self.retire()
            if self.take():
                self.fail(self.begin(frame).id, reason)
        return EXIT_RETIRED

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

    def _wsgi(self, frame: list[Any]) -> None:
        from . import wsgi

        call = self.begin(frame)
        try:
            response = wsgi.run(self, call)
        except BaseException as error:  # noqa: BLE001
            self.fail(call.id, error)
            return
        self.finish(call.id, *response)

    def take(self) -> bool:
        """Count an INVOKE that has come; False when it was taken back, so that it must be passed over."""
        self.number += 1
        taken: bool = self.gauge.take(self.number)
        return taken

    def begin(self, frame: list[Any]) -> Call:
        call = Call(frame)
        self.began_ns = monotonic_ns()
        self.output.scope.id = call.id
        self.gauge.begin(call.id)
        self.output.mend()
        return call

    def metered(self, _invocation_id: str, work: Awaitable[Any]) -> Awaitable[Any]:
        """``work``, with a count of the CPU time it takes where ``used`` could not tell otherwise."""
        return work

    def event(self, frame: list[Any]) -> Any:
        _, invocation_id, _, _, _, content_type, _, request, payload = frame
        if request is None or content_type.startswith(events.CLOUD_EVENTS):
            return events.direct(content_type, payload)
        return events.http(invocation_id, request, payload, self._name, self._namespace)

    def conclude(self, frame: list[Any], context: Context, value: Any) -> tuple[Call, Any] | None:
        """Answer with what a handler returned; unless it must be awaited: then that, with the call."""
        if type(value) not in results.PLAIN:
            if hasattr(value, "__next__"):
                self._stream(Call(frame, context), value)
                return None
            if hasattr(value, "__await__") or hasattr(value, "__anext__"):
                return Call(frame, context), value
        self.finish(frame[1], *self.respond(frame[7], value))
        return None

    def respond(self, request: list[Any] | None, value: Any) -> results.Response:
        return self.capped(results.direct(value) if request is None else results.http(value))

    def capped(self, response: results.Response) -> results.Response:
        """``response``, if it is not too large."""
        size, size_max = len(response[2]), self.function.result_bytes_max
        if size > size_max:
            raise Failure("too_large", "ResultTooLarge", f"the result has {size} bytes, {size_max} are allowed")
        return response

    def finish(self, invocation_id: str, status: int, headers: results.Headers, payload: bytes) -> None:
        """Answer with a RESULT. After STREAM, status and headers are ignored and the payload is empty."""
        used = self.busy(invocation_id), *self.used(invocation_id)
        self.answer(invocation_id, *codec.encode_result(invocation_id, status, headers, *used, payload))

    def fail(self, invocation_id: str, error: BaseException) -> None:
        """Answer with an ERROR; a final one ends the process."""
        assert self.channel is not None
        if isinstance(error, MemoryError):
            process.unlimit()  # to have room for saying it
        told = failure(error, self.function.roots)
        if not self.channel.own[0]:  # in a child that the user forked: its parent will answer
            if not isinstance(error, SystemExit):
                self.output.emit_text("stderr", told.traceback.rstrip("\n").split("\n"))
            self.output.flush()
            os._exit(_exit_code(error))
        used = self.used(invocation_id)
        frame = codec.encode(
            codec.ERROR, invocation_id, told.kind, told.error_type, told.message, told.traceback, *used
        )
        self.answer(invocation_id, frame)
        if told.kind in ("oom", "exit"):
            self.end(_exit_code(error))

    def busy(self, _invocation_id: str) -> int:
        """For how long an invocation has kept the instance busy, in nanoseconds."""
        return monotonic_ns() - self.began_ns

    def used(self, _invocation_id: str) -> tuple[int, int]:
        """What an invocation has used of the CPU, in nanoseconds, and the process of memory at its peak, in bytes."""
        usage = getrusage(RUSAGE_SELF)
        cpu_s = usage.ru_utime + usage.ru_stime
        cpu_ns = int((cpu_s - self.cpu_s) * 1e9)
        self.cpu_s = cpu_s
        return cpu_ns, usage.ru_maxrss * 1024

    def answer(self, _invocation_id: str, data: bytes, more: bytes = b"") -> None:
        """Send the last frame of an invocation, after its last lines."""
        self._leave_to_parent()
        self.gauge.end()
        self._send_last(self.output.scope, data, more)

    def end(self, code: int) -> None:
        """The process ends for its own reasons."""
        os._exit(code)

    def _leave_to_parent(self) -> None:
        """End a child that the user forked and that came back from the handler: its parent will answer."""
        assert self.channel is not None
        if not self.channel.own[0]:
            self.output.flush()
            os._exit(0)

    def _send_last(self, scope: Scope, data: bytes, more: bytes) -> None:
        assert self.channel is not None
        rest = self.output.rest(scope)
        scope.id = ""
        try:
            self.channel.send(rest + data, more)
        except OSError as error:
            self.cut_off(error)

    def cut_off(self, error: OSError) -> None:
        """The node is gone, or the user has closed the channel's descriptor."""
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
        self.finish(call.id, 200, [], b"")

    def _send(self, data: bytes) -> None:
        assert self.channel is not None
        if not self.channel.own[0]:
            os._exit(0)
        self.channel.send(data)


def _exit_code(error: BaseException) -> int:
    """What the process would have ended with."""
    code = error.code if isinstance(error, SystemExit) else 1
    if code is None:
        return 0
    return code & 0xFF if isinstance(code, int) else 1


def template(function: Function, config: dict[str, Any], output: Output) -> Instance:
    """The kind of instance that a function needs. Loads what it needs: once here, and not in each instance."""
    concurrency = int(config["concurrency"])
    if function.kind in ASYNCHRONOUS:
        from . import aio  # noqa: F401 - 50 ms and 6 MB
    if concurrency == 1:
        return Instance(function, config, output)
    from .shared import SharedInstance

    return SharedInstance(function, config, output, concurrency)
