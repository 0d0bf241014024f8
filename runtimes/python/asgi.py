"""ASGI apps (version 3) on the HTTP trigger, with their lifespan."""

from __future__ import annotations

import asyncio
import contextlib

from . import results
from .failures import Failure, failure
from .wsgi import mount_point

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .instance import Call, Instance

    Message = dict[str, Any]

_VERSIONS = {"version": "3.0", "spec_version": "2.4"}


class App:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._target = instance.function.target
        self._lifespan = _Lifespan(self._target)
        self._started: asyncio.Task[None] | None = None

    async def run(self, call: Call) -> results.Response | None:
        """The response, or None when it was streamed."""
        if self._started is None:
            self._started = asyncio.ensure_future(self._lifespan.startup())
        if not self._started.done():
            await asyncio.shield(self._started)  # the others wait for it too, whatever becomes of this invocation
        self._started.result()
        exchange = _Exchange(self._instance, call)
        await self._target(_scope(call, self._lifespan.state), exchange.receive, exchange.send)
        return exchange.response()

    async def shutdown(self) -> None:
        if self._started is not None:
            try:
                await self._lifespan.shutdown()
            except Exception as error:  # noqa: BLE001
                text = failure(error, self._instance.function.roots).traceback
                self._instance.output.emit_text("stderr", text.split("\n"))


class _Exchange:
    """One request and its response. The first piece of body decides: the only one = buffered, more = streamed."""

    def __init__(self, instance: Instance, call: Call) -> None:
        self._instance = instance
        self._call = call
        self._asked = False
        self._done = asyncio.Event()
        self._head: tuple[int, results.Headers] | None = None
        self._body: bytes | None = None

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._call.payload, "more_body": False}
        await self._done.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._head is None:
            headers = [(bytes(n).lower(), bytes(v)) for n, v in message.get("headers", ())]
            status = int(message["status"])
            if not 200 <= status <= 599:
                raise Failure("not_serialisable", "InvalidResponse", f"{status} is not a final status")
            self._head = status, _mend_redirect(self._call, results.checked(headers))
        elif kind == "http.response.body" and self._head is not None and not self._done.is_set():
            self._piece(bytes(message.get("body", b"")), bool(message.get("more_body", False)))
            await asyncio.sleep(0)
        else:
            raise RuntimeError(f"the app sent {kind!r} where it makes no sense")

    def _piece(self, body: bytes, more: bool) -> None:
        assert self._head is not None
        if not more and not self._call.streaming:
            size_max = self._instance.function.result_bytes_max
            if len(body) > size_max:
                what = f"the response has {len(body)} bytes, {size_max} are allowed"
                raise Failure("too_large", "ResultTooLarge", what)
            self._body = body
        elif body or not more:
            if not self._call.streaming:
                self._instance.begin_stream(self._call, *self._head)
            self._instance.send_chunk(self._call, body)
        if not more:
            self._done.set()

    def response(self) -> results.Response | None:
        if not self._done.is_set():
            raise Failure("not_serialisable", "InvalidResponse", "the app returned before its response was complete")
        if self._call.streaming:
            return None
        assert self._head is not None
        return self._head[0], self._head[1], self._body or b""


class _Lifespan:
    """The app's start-up and shut-down; apps that don't have any raise on the scope, which is fine."""

    def __init__(self, target: Any) -> None:
        self.state: dict[str, Any] = {}
        self._target = target
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        self._task = asyncio.ensure_future(self._run())
        answer = await self._ask("lifespan.startup")
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            message = str(answer.get("message", "")) or "the app's start-up failed"
            raise Failure("exit", "StartupFailed", message)

    async def shutdown(self) -> None:
        if self._task is not None and not self._task.done():
            await self._ask("lifespan.shutdown")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": _VERSIONS, "state": self.state}
        with contextlib.suppress(Exception):  # it means "lifespan is not supported", says the specification
            await self._target(scope, self._messages.get, self._answers.put)

    async def _ask(self, what: str) -> Message | None:
        """Its answer; None when it has none because it has returned or raised."""
        assert self._task is not None
        await self._messages.put({"type": what})
        answer = asyncio.ensure_future(self._answers.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None


def _scope(call: Call, state: dict[str, Any]) -> dict[str, Any]:
    method, path, raw_path, query, headers, source_ip, protocol = call.request()
    scheme = next((value for name, value in headers if name == "x-forwarded-proto"), "http")
    return {
        "type": "http",
        "asgi": _VERSIONS,
        "http_version": protocol.rpartition("/")[2],
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": mount_point(path, raw_path),
        "headers": [(name.encode("latin-1", "replace"), value.encode("latin-1", "replace")) for name, value in headers],
        "client": (source_ip, 0) if source_ip else None,
        "server": None,
        "state": dict(state),
        "faas.context": call.context,
    }


def _mend_redirect(call: Call, headers: results.Headers) -> results.Headers:
    """Routers redirect /items to /items/ on the path they know; put the mount point back in front, as proxies do."""
    _, path, raw_path, _, request_headers, _, _ = call.request()
    mount = mount_point(path, raw_path)
    if not mount:
        return headers
    host = next((value for name, value in request_headers if name == "host"), "")
    mended = []
    for name, value in headers:
        if name == b"location":
            text = value.decode("latin-1")
            origin = next((o for o in (f"http://{host}", f"https://{host}") if host and text.startswith(o)), "")
            target = text[len(origin) :]
            if target.partition("?")[0].rstrip("/") == path.rstrip("/") and target.startswith("/"):
                value = f"{origin}{mount}{target}".encode("latin-1")
        mended.append((name, value))
    return mended
