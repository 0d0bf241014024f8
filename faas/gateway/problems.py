"""The one map from the error tree to HTTP: ``application/problem+json`` (RFC 9457) with a stable ``code``.

What a caller learns depends on who asks: the function's own error type, message and traceback go only to callers
that may read the function (``internals=True``). Platform internals go to nobody; an unexpected exception becomes an
``internal`` problem with an id under which the node's log has the rest.
"""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass
from typing import Any, Final

from faas.model import errors

log = logging.getLogger("faas.gateway")

CONTENT_TYPE: Final = b"application/problem+json"

_HTTP: Final[dict[type[errors.FaasError], tuple[int, str]]] = {
    errors.InvalidRequest: (400, "The request is not valid"),
    errors.KeyReused: (422, "The idempotency key was used for another request"),
    errors.LoopDetected: (400, "Functions call each other in a loop"),
    errors.Unauthenticated: (401, "An API key is needed"),
    errors.BudgetExhausted: (402, "The budget is used up"),
    errors.Forbidden: (403, "The API key may not do this"),
    errors.NotFound: (404, "There is no such thing"),
    errors.MethodNotAllowed: (405, "The method is not allowed here"),
    errors.Conflict: (409, "Something else changed it first"),
    errors.StillRunning: (409, "The same request is still being answered"),
    errors.PayloadTooLarge: (413, "The request is too large"),
    errors.InvalidManifest: (422, "The function's settings are not valid"),
    errors.InvalidPrices: (422, "The price book is not valid"),
    errors.Throttled: (429, "Too many calls at once"),
    errors.CallerLeft: (499, "The caller went away"),  # nginx's; nobody is left to read it
    errors.FunctionFailed: (500, "The function failed"),
    errors.InstanceCrashed: (502, "The function's process ended without an answer"),
    errors.NoCapacity: (503, "There is no room on this node now"),
    errors.EngineUnavailable: (503, "The container engine is not available"),
    errors.StoreUnavailable: (503, "The store is not available"),
    errors.DependenciesUnavailable: (503, "The function's packages cannot be had"),
    errors.DeadlineExceeded: (504, "The function ran past its timeout"),
}
_INTERNAL: Final = (500, "Something went wrong inside the platform")
# Errors of ours whose message may name hosts, sockets or paths: callers get these words instead.
_HIDDEN: Final = {
    errors.EngineUnavailable.code: "The node cannot start containers at the moment; try again shortly.",
    errors.StoreUnavailable.code: "The node cannot reach its store at the moment; try again shortly.",
}
_STORE_RETRY_S: Final = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it goes over HTTP. ``headers`` are ASGI byte pairs and contain content-type and content-length."""

    status: int
    document: dict[str, Any]
    headers: list[tuple[bytes, bytes]]
    body: bytes


def problem(error: BaseException, *, internals: bool = False, invocation_id: str = "") -> Problem:
    """Any exception as a problem. What is not of the error tree is logged here, once, with the id callers see."""
    if not isinstance(error, errors.FaasError) or type(error) is errors.FaasError:
        return _unexpected(error)
    status, title = _lookup(type(error))
    document: dict[str, Any] = {
        "type": f"urn:faas:problem:{error.code}",
        "title": title,
        "status": status,
        "detail": error.message,
        "code": error.code,
    }
    for name, value in error.details.items():
        document.setdefault(name, value)
    if invocation_id:
        document["invocation_id"] = invocation_id
    headers: list[tuple[bytes, bytes]] = []
    _particulars(error, document, headers, internals)
    return _build(status, document, headers)


def _lookup(kind: type[errors.FaasError]) -> tuple[int, str]:
    for ancestor in kind.__mro__:
        found = _HTTP.get(ancestor)
        if found is not None:
            return found
    return _INTERNAL


def _particulars(
    error: errors.FaasError, document: dict[str, Any], headers: list[tuple[bytes, bytes]], internals: bool
) -> None:
    match error:
        case errors.Unauthenticated():
            headers.append((b"www-authenticate", b"Bearer"))
        case errors.MethodNotAllowed():
            document["allow"] = list(error.allow)
            headers.append((b"allow", ", ".join(error.allow).encode("latin-1", "replace")))
        case errors.InvalidManifest():
            document["errors"] = [{"line": p.line, "key": p.key, "message": p.message} for p in error.problems]
        case errors.Throttled() | errors.NoCapacity() | errors.StillRunning():
            document["retry_after_s"] = error.retry_after_s
            headers.append((b"retry-after", b"%d" % error.retry_after_s))
        case errors.InstanceCrashed():
            document["exit"] = error.exit
        case errors.FunctionFailed() if internals:
            document["error_type"] = error.error_type
            document["message"] = error.message
            document["traceback"] = error.traceback
            document["detail"] = f"{error.error_type}: {error.message}" if error.error_type else error.message
        case errors.FunctionFailed():
            document["detail"] = "The function raised an error; its owner finds the reason under the invocation id."
        case errors.EngineUnavailable() | errors.StoreUnavailable():
            log.warning("%s: %s", error.code, error.message)
            document["detail"] = _HIDDEN[error.code]
            headers.append((b"retry-after", b"%d" % _STORE_RETRY_S))


def _unexpected(error: BaseException) -> Problem:
    error_id = secrets.token_hex(8)
    log.error("internal error %s", error_id, exc_info=error)
    status, title = _INTERNAL
    return _build(
        status,
        {
            "type": "urn:faas:problem:internal",
            "title": title,
            "status": status,
            "detail": f"This is the platform's fault; the node's log has the reason under {error_id}.",
            "code": "internal",
            "error_id": error_id,
        },
        [],
    )


def _build(status: int, document: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> Problem:
    body = json.dumps(document, ensure_ascii=False, default=str).encode("utf-8", "replace")
    headers.append((b"content-type", CONTENT_TYPE))
    headers.append((b"content-length", b"%d" % len(body)))
    return Problem(status, document, headers, body)
