"""Invocations as resources: their records, and of those that nobody waited for also state, result and cancelling."""

from __future__ import annotations

import base64
import builtins
from collections.abc import Callable
from typing import Any, Final

from starlette.responses import Response

from faas.events.destinations import shown
from faas.gateway import params
from faas.gateway.awaited import Awaited
from faas.gateway.headers import clean
from faas.gateway.prices_api import with_cost
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.model.call import CallRecord, CallStatus
from faas.model.errors import (
    Conflict,
    DeadlineExceeded,
    FaasError,
    FunctionFailed,
    InstanceCrashed,
    InvalidRequest,
    NotFound,
)
from faas.model.invocation import Status
from faas.packaging.sizes import parse_duration_ms

RECORDS_MAX: Final = 1_000
OPEN_MAX: Final = 1_000
ID_CHARS_MAX: Final = 64
WAIT_MS_MAX: Final = 60_000
_ATTEMPT: Final = ("attempt", "status", "started_at", "start", "version", "node", "run_ns", "billed_ms", "error")
_STATUS: Final = {
    FunctionFailed.code: Status.FUNCTION_ERROR,
    DeadlineExceeded.code: Status.TIMEOUT,
    InstanceCrashed.code: Status.CRASHED,
}


class InvocationsApi:
    """``run`` it as long as the node serves."""

    def __init__(self, services: Services, leaving: Callable[[], bool]) -> None:
        self._registry = services.registry
        self._records = services.records
        self._prices = services.prices
        self._calls = services.calls
        self._secrets = services.webhook_secrets
        self._awaited = Awaited(services.calls, leaving)
        self.run = self._awaited.run

    def operations(self) -> list[Operation]:
        return [
            Operation("GET", "/v1/functions/{name}/invocations", "read", self.list),
            Operation("GET", "/v1/invocations/{id}", "read", self.read),
            Operation("DELETE", "/v1/invocations/{id}", "invoke", self.cancel),
            Operation("GET", "/v1/invocations/{id}/result", "invoke", self.result),
            Operation("GET", "/v1/webhooks/secret", "admin", self.secret),
        ]

    async def list(self, context: Context) -> Response:
        """Those that have not ended first, then those on record; each newest first."""
        limit = params.whole(context.query("limit"), "limit", 100, 1, RECORDS_MAX)
        found = await self._records.list(context.namespace, context.name, limit)
        calls = await self._calls.open(context.namespace, context.name, min(limit, OPEN_MAX))
        if not found and not calls and await self._registry.latest(context.namespace, context.name) is None:
            where = "" if context.namespace == "default" else f" in the namespace '{context.namespace}'"
            raise NotFound(f"There is no function '{context.name}'{where}.")
        known = {record["invocation_id"]: record for record in found}
        open_ids = {call.id for call in calls}
        documents = [document(call, [known[call.id]] if call.id in known else []) for call in calls]
        documents += [record for record in found if record["invocation_id"] not in open_ids]
        return Json({"invocations": await self._priced(documents[:limit])})

    async def read(self, context: Context) -> Response:
        """The record, with the result where there is one. ``wait``: once it has ended, or after so long."""
        invocation_id = _id(context)
        call = await self._awaited.ended(context.namespace, invocation_id, _wait_s(context))
        return Json(await self._document(context, invocation_id, call))

    async def cancel(self, context: Context) -> Response:
        """Have it never run, or stop it where it runs. ``Conflict`` once it has ended."""
        invocation_id = _id(context)
        before = await self._calls.cancel(context.namespace, invocation_id)
        if before is None:
            if await self._records.get(context.namespace, invocation_id) is None:
                raise _unknown(invocation_id)
            raise Conflict("Somebody waited for this call, and it has ended: there is nothing to cancel.")
        if before.final:
            raise Conflict(f"The call has {_WORDS[before]}; there is nothing to cancel.")
        call = await self._calls.get(context.namespace, invocation_id)
        return Json(await self._document(context, invocation_id, call))

    async def result(self, context: Context) -> Response:
        """What the function returned, as a caller who waits would get it: 202 while it has not ended."""
        invocation_id = _id(context)
        call = await self._awaited.ended(context.namespace, invocation_id, _wait_s(context))
        if call is None:
            raise _unknown(invocation_id)
        about = {"faas-invocation-id": call.id}
        if not call.status.final:
            headers = {**about, "location": f"/v1/invocations/{call.id}"}
            return Json({"id": call.id, "status": call.status.value}, 202, headers)
        if call.status is CallStatus.CANCELLED:
            raise Conflict("The call was cancelled: it has no result.")
        if call.status is CallStatus.FAILED:
            raise error_of(call)
        if call.response is None:
            raise NotFound("The call succeeded, but its result was given up: newer ones needed the room.")
        answer = Response(call.response.payload, call.response.status)
        kept = [pair for pair in clean(call.response.headers) if pair[0] != b"content-length"]
        length = (b"content-length", b"%d" % len(call.response.payload))
        own = [(name.encode(), value.encode()) for name, value in about.items()]
        answer.raw_headers = [*kept, length, *own, (b"faas-version", b"%d" % call.version)]
        return answer

    async def secret(self, context: Context) -> Response:
        """What deliveries to this namespace's https destinations are signed with."""
        if context.namespace == "*":
            raise InvalidRequest("Each namespace has a secret of its own; name one.")
        secret = await self._secrets.secret(context.namespace)
        return Json({"namespace": context.namespace, "secret": secret}, headers={"cache-control": "no-store"})

    async def _document(self, context: Context, invocation_id: str, call: CallRecord | None) -> dict[str, Any]:
        attempts = await self._records.attempts(context.namespace, invocation_id)
        if call is not None:
            found = document(call, attempts)
        elif attempts:
            found = attempts[-1]
        else:
            raise _unknown(invocation_id)
        priced: builtins.list[dict[str, Any]] = await self._priced([found])
        return priced[0]

    async def _priced(self, documents: builtins.list[dict[str, Any]]) -> builtins.list[dict[str, Any]]:
        """Each with its cost, where usage of it is on record."""
        used = [each for each in documents if "billed_ms" in each]
        priced = iter(await with_cost(self._prices, used))
        return [next(priced) if "billed_ms" in each else each for each in documents]


_WORDS: Final = {
    CallStatus.SUCCEEDED: "succeeded already",
    CallStatus.FAILED: "failed already",
    CallStatus.CANCELLED: "been cancelled already",
}


def document(call: CallRecord, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """A call that nobody waited for: ``state`` says how far it is, ``status`` too until it has ended.

    The usage of its last attempt is in it as in every invocation record, once the ledger has it.
    """
    last: dict[str, Any] = {}
    if attempts and attempts[-1]["attempt"] == call.attempts:
        last = dict(attempts[-1])
    ended, error = call.status.final, call.error
    status = call.status.value
    if call.status is CallStatus.SUCCEEDED:
        status = Status.OK.value
    elif call.status is CallStatus.FAILED:
        status = str(last.get("status") or _STATUS.get(str((error or {}).get("code")), Status.REJECTED).value)
    found: dict[str, Any] = {
        "id": call.id,
        "invocation_id": call.id,
        "namespace": call.namespace,
        "function": call.function,
        "version": call.version or None,
        "key_id": call.key_id,
        "trigger": call.trigger.value,
        "node": call.node,
        "attempt": call.attempts,
        "exit": None,
        "trace_parent": call.trace_parent or None,
        **last,
        "status": status,
        "state": call.status.value,
        "error": None if call.status is CallStatus.SUCCEEDED else error or last.get("error"),
        "created_at": params.rfc3339_ms(call.created_at_ms),
        "ended_at": params.rfc3339_ms(call.ended_at_ms) if ended else None,
        "retry_at": params.rfc3339_ms(call.retry_at_ms) if call.status is CallStatus.RETRYING else None,
        "attempts": [{name: each.get(name) for name in _ATTEMPT} for each in attempts],
    }
    found.setdefault("started_at", params.rfc3339_ms(call.started_at_ms) if call.started_at_ms else None)
    if call.reason:
        found["reason"] = call.reason
    if call.deliveries:
        found["deliveries"] = dict(call.deliveries)
    return {**found, **_result(call)}


def _result(call: CallRecord) -> dict[str, Any]:
    if call.given_up:
        return {"result_given_up": True}
    if call.response is None:
        return {}
    payload, content_type = call.response.payload, call.response.content_type
    about = {"result_status": call.response.status, "result_type": content_type}
    value = shown(payload, content_type)
    if isinstance(value, dict) and value.keys() == {"base64"} and not payload.lstrip().startswith(b"{"):
        return {**about, "result_base64": base64.b64encode(payload).decode()}
    return {**about, "result": value}


def error_of(call: CallRecord) -> FaasError:
    """Why a call failed, as a caller who waited would have been told."""
    known = call.error or {}
    message = str(known.get("message", ""))
    match known.get("code"):
        case FunctionFailed.code:
            return FunctionFailed(str(known.get("error_type", "")), message, str(known.get("traceback", "")))
        case DeadlineExceeded.code:
            return DeadlineExceeded(message)
        case InstanceCrashed.code:
            return InstanceCrashed(message, str(known.get("exit", "")))
        case NotFound.code:
            return NotFound(message)
    return InvalidRequest(message or "The call could not be run.")


def _id(context: Context) -> str:
    invocation_id: str = context.request.path_params["id"]
    if len(invocation_id) > ID_CHARS_MAX:
        raise _unknown(invocation_id)
    return invocation_id


def _unknown(invocation_id: str) -> NotFound:
    shown_id = invocation_id[:ID_CHARS_MAX]
    return NotFound(f"There is no record of the invocation '{shown_id}'; records are kept for a limited time.")


def _wait_s(context: Context) -> float:
    text = context.query("wait")
    if text is None:
        return 0.0
    try:
        wait_ms = parse_duration_ms(int(text) if text.isascii() and text.isdigit() else text)
    except ValueError as error:
        raise InvalidRequest(f"wait={text[:60]!r} is not a duration such as 30s.") from error
    return min(wait_ms, WAIT_MS_MAX) / 1000
