"""Accepting calls that nobody waits for.

Whatever can be refused at once is. Then the call's message goes to its function's own queue, and its record says
``queued``; only then is the caller told. The message comes first: a node that dies between the two leaves a call that
runs and has a record as soon as it begins, of which nobody was told; the other way round a record would wait for ever
for a call that does not come.
"""

from __future__ import annotations

from dataclasses import replace

from faas.gateway.outbox import Outbox
from faas.gateway.services import Services
from faas.model.errors import PayloadTooLarge
from faas.model.function import FunctionVersion
from faas.model.invocation import Call
from faas.model.message import BODY_BYTES_MAX, Message, Send, calls_of


class AsyncCalls:
    def __init__(self, services: Services) -> None:
        self._check = services.invoker.check
        self._outbox = Outbox(services.queues.send)
        self._calls = services.calls

    async def accept(self, version: FunctionVersion, call: Call, qualifier: str, dedup_id: str = "") -> None:
        """Returns once the store has it. ``qualifier``: which version will run is looked up when it does.

        Was it sent before under the same ``dedup_id``, by a node that died before it could say so, it is that call:
        ``call`` gets its id.

        Raises ``LoopDetected``, ``BudgetExhausted``, ``PayloadTooLarge``, ``StoreUnavailable``.
        """
        self._check(version, call)
        if len(call.payload) > BODY_BYTES_MAX:
            words = f"The payload of a call that nobody waits for may have {BODY_BYTES_MAX} bytes"
            raise PayloadTooLarge(f"{words}, this one has {len(call.payload)}.", bytes_max=BODY_BYTES_MAX)
        message = Message(
            id=call.id,
            body=call.payload,
            content_type=call.content_type,
            dedup_id=dedup_id,
            trigger=call.trigger,
            qualifier=qualifier,
            key_id=call.key_id,
            trace_parent=call.trace_parent,
            hops=call.hops,
        )
        (call.id,) = await self._outbox.send([Send(calls_of(version.namespace, version.name), message)])
        await self._calls.queued(version.namespace, version.name, replace(message, id=call.id))


def prefers_async(header: bytes) -> bool:
    """Whether ``Prefer`` (RFC 7240) has ``respond-async`` among its preferences.

    >>> prefers_async(b"wait=3, Respond-Async"), prefers_async(b"respond-asynchronously, handling=lenient")
    (True, False)
    """
    return any(each.partition(b";")[0].strip().lower() == b"respond-async" for each in header.split(b","))
