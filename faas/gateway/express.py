"""The HTTP protocol of the server: uvicorn's, with a shorter way for the plainest and most frequent request there is.

Theory of operation. A call whose key and function are known and which arrived whole in one read needs none of
ASGI: no scope, no cycle, no task, no future. ``ExpressProtocol`` holds a request's head back until it has seen whether
it is such a one (``plain``). If so, the call goes to the invoker from within the parser's
callback, and its answer leaves in one system call from within the callback that read it from the instance. If not, or
if anything about the request is unusual (a body still on its way, a pipelined predecessor, a header with a meaning of
its own), uvicorn gets the request as if nothing had happened.

Callers repeat themselves, so the head of such a request is remembered: when the same bytes come again with a whole body
behind them, nothing is parsed at all. Who may call what is looked up anew every time, as it is on the long way, and
both ways make their answers with ``answers``.

Contract. While a call is in flight it stands where uvicorn keeps its request-response cycle, so that uvicorn's own
rules for pipelining, graceful shutdown and lost connections hold. A response that streams is handed to a real cycle.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from faas.gateway.answers import fact_lines
from faas.gateway.cork import Cork
from faas.gateway.headers import as_lines
from faas.gateway.problems import problem
from faas.model.errors import FaasError
from faas.model.invocation import Call, Reply

if TYPE_CHECKING:
    from faas.gateway.invocations import Invocations
    from faas.gateway.plain import Asked, Plain

_HEAD_END: Final = b"\r\n\r\n"
HEADS_MAX: Final = 1_000
HEAD_BYTES_MAX: Final = 2_048


class _Deaf:
    """Stands in for the event by which a cycle hears of news: a call in flight reads nothing more."""

    def set(self) -> None:
        return None


class Express:
    """One call in flight on the short way. For the invoker it is where the reply goes, for uvicorn the cycle."""

    __slots__ = ("call", "disconnected", "handle", "keep_alive", "plain", "protocol", "response_complete")
    message_event: Final = _Deaf()

    def __init__(self, protocol: ExpressProtocol, plain: Plain, call: Call) -> None:
        self.protocol = protocol
        self.plain = plain
        self.call = call
        self.handle: object = None
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def done(self) -> bool:
        return self.response_complete or self.disconnected

    def set_result(self, reply: Reply) -> None:
        self.protocol.answer(self, reply)


class Heads:
    """What was asked by request heads that were parsed before, by the caller's address. Full, it begins anew."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Asked] = {}
        self.get = self._known.get

    def __len__(self) -> int:
        return len(self._known)

    def add(self, address: str, head: bytes, asked: Asked) -> None:
        if len(head) <= HEAD_BYTES_MAX:
            if len(self._known) >= HEADS_MAX:
                self._known.clear()
            self._known[address, head] = asked


class ExpressProtocol(HttpToolsProtocol):
    """See the module's docstring. ``calls`` and ``heads`` are set by ``protocol_for``."""

    calls: Invocations
    heads: Heads

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._plain: Plain | None = None  # a request held back: its head is recognised, its body not complete
        self._body = b""
        self._within = False  # a request: its first byte has come and its last has not
        self._data = b""  # what is being parsed
        self._address = ""  # the caller's
        self._call: Express | None = None
        self._idle_since_s = -1.0  # < 0: not idle, or idle after an answer of uvicorn's, which has its own timer
        self._keeper: asyncio.TimerHandle | None = None
        self._date: list[tuple[bytes, bytes]] = []
        self._date_lines = b""

    # -- the connection ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._cork = Cork(cast("asyncio.Transport", transport))
        super().connection_made(cast("asyncio.Transport", self._cork))
        self._address = self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._keeper is not None:
            self._keeper.cancel()
        call = self._call
        if call is not None:
            call.disconnected = True
            if call.handle is not None:
                self.calls.abandon(call.handle)
            self._left(call)

    def data_received(self, data: bytes) -> None:
        self._idle_since_s = -1.0
        if not self._within and self._seen_before(data):
            return
        self._data = data
        super().data_received(data)
        self._data = b""
        if self._plain is not None and not self.transport.is_closing():
            self._plain = None  # the rest of its body is still on its way
            self._long_way()
            if self._body:
                super().on_body(self._body)

    def _seen_before(self, data: bytes) -> bool:
        """Serve a request whose head has been parsed before, byte for byte; False when it has to be parsed."""
        end = data.find(_HEAD_END) + len(_HEAD_END)
        asked = self.heads.get((self._address, data[:end]))
        if asked is None or len(data) - end != asked.body_bytes or not self._at_rest() or self.calls.draining:
            return False
        plain = self.calls.plain.plain(asked)
        if plain is None:
            return False
        self._unset_keepalive_if_required()
        self._begin(plain, data[end:])
        return True

    def _at_rest(self) -> bool:
        """Whether no answer is under way."""
        cycle = self.cycle
        return (cycle is None or cycle.response_complete) and not self.flow.write_paused

    # -- the parser's callbacks -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._within = True

    def on_headers_complete(self) -> None:
        parser = self.parser
        if self._at_rest() and parser.should_keep_alive() and parser.get_http_version() == "1.1":
            plain_calls = self.calls.plain
            asked = plain_calls.ask(parser.get_method(), self.url, self.headers, self._address)
            if asked is not None and not self.calls.draining:
                self._plain = plain_calls.plain(asked)
                self._body = b""
        if self._plain is None:
            self._long_way()

    def on_body(self, body: bytes) -> None:
        if self._plain is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        self._within = False
        plain = self._plain
        if plain is None:
            super().on_message_complete()
            return
        self._plain = None
        data, body = self._data, self._body
        end = data.find(_HEAD_END) + len(_HEAD_END)
        if len(data) - end == len(body):  # one request and nothing else
            self.heads.add(self._address, data[:end], plain.asked)
        self._begin(plain, body)

    def _long_way(self) -> None:
        """Give the request's head to uvicorn, as it would have had it from the parser."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    # -- a call -----------------------------------------------------------------------------------------------------

    def _begin(self, plain: Plain, body: bytes) -> None:
        call = Express(self, plain, self.calls.plain.call(plain, body))
        self._call = call
        self.cycle = cast("RequestResponseCycle", call)
        self.calls.express.add(call)
        turnstile, namespace = self.calls.turnstile, plain.target.version.namespace
        if turnstile.free(namespace, self.loop):
            self._submit(call)
        else:
            turnstile.wait(namespace, partial(self._submit, call))

    def _submit(self, call: Express) -> None:
        if call.disconnected:  # while it waited for its turn
            return
        plain = call.plain
        try:
            call.handle = self.calls.submit(plain.target.version, call.call, call)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is becomes a clean 500 and a log line
            self._refuse(call, error, b"")

    def answer(self, call: Express, reply: Reply) -> None:
        if reply.stream is not None:
            self._stream(call, reply)
            return
        error: Exception | None = reply.error
        about = fact_lines(call.call, reply.record)
        if error is None:
            try:
                status, head, body = self.calls.answers.lines(reply)
            except FaasError as wrong:
                error = wrong
            else:
                self._write(call, status, head + about, body)
                return
        self._refuse(call, error, about)

    def _refuse(self, call: Express, error: Exception, about: bytes) -> None:
        grant = call.plain.grant
        made = problem(error, internals=grant is not None and grant.may_read, invocation_id=call.call.id)
        if self.calls.draining:
            call.keep_alive = False
        self._write(call, made.status, as_lines(made.headers) + about, made.body)

    def _write(self, call: Express, status: int, lines: bytes, body: bytes) -> None:
        state = self.server_state
        if self._date is not state.default_headers:
            self._date = state.default_headers
            self._date_lines = as_lines(self._date)
        call.response_complete = True
        self._left(call)
        end = b"\r\n" if call.keep_alive else b"connection: close\r\n\r\n"
        self._cork.write_through(b"".join((STATUS_LINE[status], self._date_lines, lines, end, body)))
        if not call.keep_alive:
            self.transport.close()
        if self.pipeline or not call.keep_alive:
            self.on_response_complete()
            return
        state.total_requests += 1
        self._idle_since_s = self.loop.time()
        if self._keeper is None:
            self._keeper = self.loop.call_later(self.timeout_keep_alive, self._keep)

    def _left(self, call: Express) -> None:
        self._call = None
        self.calls.express.discard(call)

    def _stream(self, call: Express, reply: Reply) -> None:
        """A response in pieces: from here on it is a request like any other that uvicorn serves."""
        plain = call.plain
        cycle = RequestResponseCycle(
            scope={  # type: ignore[typeddict-item]
                "type": "http",
                "method": "POST" if plain.asked.http is None else plain.asked.http.method,
                "http_version": "1.1",
                "headers": list(plain.asked.headers),
                "client": self.client,
                "path": "",
                "query_string": b"",
            },
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=call.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.more_body = False
        if self.cycle is cast("RequestResponseCycle", call):
            self.cycle = cycle
        self._left(call)
        self._start_asgi_task(cycle, partial(self.calls.stream, plain, call.call, reply))

    # -- idle connections -------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Close the connection if it has been idle for long enough. One timer per connection, not one per answer."""
        self._keeper = None
        if self._idle_since_s < 0 or self.transport.is_closing():
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._keeper = self.loop.call_later(left_s, self._keep)
        else:
            self.transport.close()


def protocol_for(calls: Invocations) -> type[ExpressProtocol]:
    """The protocol class of one gateway; uvicorn wants a class and fills in the rest."""
    return type("ExpressProtocol", (ExpressProtocol,), {"calls": calls, "heads": Heads()})
