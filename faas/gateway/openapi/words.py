"""What the descriptions of routes are made of."""

from __future__ import annotations

from typing import Any, Final

TEXT: Final = {"type": "string"}
WHOLE: Final = {"type": "integer"}
TIME: Final = {"type": "string", "format": "date-time"}
FREE: Final = {"type": "object", "additionalProperties": True}
ANY: Final[dict[str, Any]] = {}

CODES: Final = {
    "400": "invalid-request, or loop-detected: functions call each other without end",
    "401": "unauthenticated",
    "402": "budget-exhausted: of the namespace, the function or the key; says when it starts anew",
    "403": "forbidden",
    "404": "not-found",
    "405": "method-not-allowed",
    "409": "conflict",
    "413": "payload-too-large",
    "422": "invalid-manifest or invalid-prices: every error at once, each with line and key; or invalid-request: the "
    "Idempotency-Key came with another request before",
    "429": "throttled: the function's own limit, or its namespace's",
    "500": "function-error, or internal",
    "502": "instance-crashed",
    "503": "no-capacity, store-unavailable, engine-unavailable or dependencies-unavailable",
    "504": "timeout",
}
CALL_CODES: Final = ("400", "401", "402", "403", "404", "405", "409", "413", "422", "429", "500", "502", "503", "504")
READ_CODES: Final = ("400", "401", "403", "404", "503")
WRITE_CODES: Final = ("400", "401", "403", "404", "409", "413", "422", "503")


def record(properties: dict[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required or properties)}


def list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def parameter(name: str, where: str, what: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": where, "description": what, "required": where == "path", "schema": schema or TEXT}


NAME: Final = parameter("name", "path", "The function's name.", {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"})
TARGET: Final = parameter("name", "path", "The function's name, with `@VERSION` for one that is not the latest.")
NAMESPACES: Final = [
    parameter("namespace", "query", "The namespace; by default the key's, or `default`."),
    parameter("Faas-Namespace", "header", "The same as the query parameter `namespace`."),
]
LIMIT: Final = parameter("limit", "query", "How many at most, the newest ones.", WHOLE)


def json(schema: dict[str, Any], what: str = "Done.") -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def tables(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that comes as CSV and as lines of JSON, too."""
    lines = {"text/csv": {"schema": TEXT}, "application/x-ndjson": {"schema": TEXT}}
    return {**answer, "content": {**answer.get("content", {}), **lines}}


def operation(
    name: str,
    summary: str,
    answers: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    codes: tuple[str, ...] = READ_CODES,
    open_to_all: bool = False,
) -> dict[str, Any]:
    problems = {code: {"$ref": f"#/components/responses/Problem{code}"} for code in codes}
    described: dict[str, Any] = {"operationId": name, "summary": summary, "responses": {**answers, **problems}}
    if parameters:
        described["parameters"] = parameters
    if body:
        described["requestBody"] = body
    if open_to_all:
        described["security"] = []
    return described
