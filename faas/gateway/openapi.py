"""The OpenAPI 3.1 description of every route: made by hand, and held to the routes by a test."""

from __future__ import annotations

from typing import Any, Final

from faas import __version__
from faas.billing.present import focus
from faas.gateway import bills_api
from faas.gateway.auth import SCOPES
from faas.gateway.usage_api import FILTERS, FORMATS
from faas.metering.sums import DIMENSIONS

_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_TIME: Final = {"type": "string", "format": "date-time"}
_FREE: Final = {"type": "object", "additionalProperties": True}
_ANY: Final[dict[str, Any]] = {}

_CODES: Final = {
    "400": "invalid-request",
    "401": "unauthenticated",
    "403": "forbidden",
    "404": "not-found",
    "405": "method-not-allowed",
    "409": "conflict",
    "413": "payload-too-large",
    "422": "invalid-manifest or invalid-prices: every error at once, each with line and key",
    "429": "throttled: the function's own limit, or its namespace's",
    "500": "function-error, or internal",
    "502": "instance-crashed",
    "503": "no-capacity, store-unavailable, engine-unavailable or dependencies-unavailable",
    "504": "timeout",
}
_CALL_CODES: Final = ("400", "401", "403", "404", "405", "413", "429", "500", "502", "503", "504")
_READ_CODES: Final = ("400", "401", "403", "404", "503")
_WRITE_CODES: Final = ("400", "401", "403", "404", "409", "413", "422", "503")


def _object(properties: dict[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required or properties)}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(name: str, where: str, what: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": where, "description": what, "required": where == "path", "schema": schema or _TEXT}


_NAME: Final = _parameter(
    "name", "path", "The function's name.", {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,62}$"}
)
_TARGET: Final = _parameter("name", "path", "The function's name, with `@VERSION` for one that is not the latest.")
_NAMESPACES: Final = [
    _parameter("namespace", "query", "The namespace; by default the key's, or `default`."),
    _parameter("Faas-Namespace", "header", "The same as the query parameter `namespace`."),
]
_LIMIT: Final = _parameter("limit", "query", "How many at most, the newest ones.", _WHOLE)


def _json(schema: dict[str, Any], what: str = "Done.") -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}


def _tables(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that comes as CSV and as lines of JSON, too."""
    lines = {"text/csv": {"schema": _TEXT}, "application/x-ndjson": {"schema": _TEXT}}
    return {**answer, "content": {**answer.get("content", {}), **lines}}


def _operation(
    name: str,
    summary: str,
    answers: dict[str, Any],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
    codes: tuple[str, ...] = _READ_CODES,
    open_to_all: bool = False,
) -> dict[str, Any]:
    problems = {code: {"$ref": f"#/components/responses/Problem{code}"} for code in codes}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": {**answers, **problems}}
    if parameters:
        operation["parameters"] = parameters
    if body:
        operation["requestBody"] = body
    if open_to_all:
        operation["security"] = []
    return operation


_FACTS: Final = {
    name: {"description": what, "schema": schema}
    for name, what, schema in (
        ("Faas-Invocation-Id", "Under which the record and the log lines are found.", _TEXT),
        ("Faas-Version", "The version that answered.", _WHOLE),
        ("Faas-Start", "How its instance came to be: cold, prewarmed, parked or warm.", _TEXT),
        ("Faas-Billed-Ms", "Billed milliseconds (not on streamed answers).", _WHOLE),
        ("Server-Timing", "queue, init and run in ms.", _TEXT),
        ("traceparent", "W3C trace context of the invocation.", _TEXT),
    )
}
_RESULT: Final = {
    "description": "What the function returned, as it is.",
    "headers": _FACTS,
    "content": {"*/*": {"schema": _ANY}},
}


def _calls() -> dict[str, Any]:
    anything = {"required": False, "content": {"*/*": {"schema": _ANY}}}
    trigger = {
        method: _operation(
            f"trigger{method.capitalize()}",
            "Call a function through its HTTP trigger (payload format 2.0). Public functions need no key.",
            {"default": _RESULT},
            parameters=[_parameter("name", "path", "`NAME`, `NAME.NAMESPACE` or either with `@VERSION`.")],
            body=None if method in ("get", "head", "delete", "options") else anything,
            codes=_CALL_CODES,
        )
        | {"security": [{"key": []}, {}]}
        for method in ("get", "head", "post", "put", "patch", "delete", "options")
    }
    below = {
        method: {
            **operation,
            "operationId": operation["operationId"] + "Below",
            "parameters": [
                *operation["parameters"],
                _parameter("path", "path", "Handed to the function; may contain slashes."),
            ],
        }
        for method, operation in trigger.items()
    }
    return {
        "/v1/functions/{name}/invocations": {
            "post": _operation(
                "invoke",
                "Call a function. A JSON body is the event; any other content type arrives as bytes.",
                {"200": _RESULT},
                parameters=[_TARGET, *_NAMESPACES],
                body=anything,
                codes=_CALL_CODES,
            ),
            "get": _operation(
                "listInvocations",
                "The function's latest invocations, newest first.",
                {"200": _json(_object({"invocations": _list(_ref("Invocation"))}))},
                parameters=[_NAME, _LIMIT, *_NAMESPACES],
            ),
        },
        "/fn/{name}": trigger,
        "/fn/{name}/{path}": below,
    }


def _functions() -> dict[str, Any]:
    lines = {"application/x-ndjson": {"schema": _TEXT}}
    version = {
        "description": "The version, which has loaded.",
        "content": {**_json(_ref("Deployed"))["content"], **lines},
    }
    upload = _object({"manifest": _TEXT, "bundle": {"type": "string", "format": "binary"}}, ("bundle",))
    return {
        "/v1/functions": {
            "get": _operation(
                "listFunctions",
                "Every function's latest version.",
                {"200": _json(_object({"functions": _list(_ref("Listed"))}))},
                parameters=_NAMESPACES,
            )
        },
        "/v1/functions/{name}": {
            "parameters": [_NAME, *_NAMESPACES],
            "get": _operation("readFunction", "The latest version.", {"200": _json(_ref("Function"))}),
            "put": _operation(
                "deploy",
                "Deploy: answers once the new version has loaded. With `Accept: application/x-ndjson` the answer is "
                'lines of `{"progress": TEXT}`, at last `{"result": VERSION}` or `{"error": PROBLEM, "status": N}`.',
                {"200": version, "201": version},
                body={"required": True, "content": {"multipart/form-data": {"schema": upload}}},
                codes=_WRITE_CODES,
            ),
            "patch": _operation(
                "changeFunction",
                "Change settings, which makes a version of the same code. Tables merge, lists and values replace.",
                {"200": version},
                body={"required": True, "content": {"application/json": {"schema": _FREE}}},
                codes=_WRITE_CODES,
            ),
            "delete": _operation(
                "deleteFunction", "Delete it and its versions; calls in flight end.", {"204": {"description": "Gone."}}
            ),
        },
        "/v1/functions/{name}/versions": {
            "get": _operation(
                "listVersions",
                "Newest first.",
                {"200": _json(_object({"versions": _list(_ref("Function"))}))},
                parameters=[_NAME, *_NAMESPACES],
            )
        },
        "/v1/functions/{name}/instances": {
            "get": _operation(
                "listInstances",
                "What is warm or starting on this node, and why.",
                {"200": _json(_object({"sandboxes": _list(_FREE), "generic": _FREE}))},
                parameters=[_NAME, *_NAMESPACES],
            )
        },
        "/v1/functions/{name}/logs": {"get": _logs()},
        "/v1/invocations/{id}": {
            "get": _operation(
                "readInvocation",
                "The record of one invocation.",
                {"200": _json(_ref("Invocation"))},
                parameters=[_parameter("id", "path", "The invocation's id."), *_NAMESPACES],
            )
        },
    }


def _logs() -> dict[str, Any]:
    lines = _json(_object({"lines": _list(_ref("LogLine"))}), "Lines, oldest first.")
    lines["content"]["text/event-stream"] = {"schema": _TEXT}
    return _operation(
        "readLogs",
        "Log lines; with `follow=1` Server-Sent Events, one line's JSON in each.",
        {"200": lines},
        parameters=[
            _NAME,
            _parameter("since", "query", "An RFC 3339 time, a date, or how long ago (`5m`)."),
            _parameter("invocation", "query", "Only lines of this invocation."),
            _parameter("follow", "query", "1 to go on as lines come.", {"enum": ["0", "1"]}),
            _LIMIT,
            *_NAMESPACES,
        ],
    )


def _administration() -> dict[str, Any]:
    labels = ", ".join(DIMENSIONS)
    ranges = [
        _parameter("from", "query", "From when; by default the start of this month."),
        _parameter("to", "query", "Until when; by default now."),
        *(_parameter(name, "query", f"Only this {name}.") for name in FILTERS),
        *_NAMESPACES,
    ]
    period = _object(
        {
            "from": {**_TEXT, "description": "From when; by default the start of this month."},
            "to": {**_TEXT, "description": "Until when; by default now."},
        },
        (),
    )
    key = _object({"id": _TEXT, "namespace": _TEXT, "scopes": _list({"enum": list(SCOPES)}), "created_at": _TIME})
    asked = _object({"namespace": _TEXT, "scopes": _list({"enum": list(SCOPES)})}, ("scopes",))
    return {
        "/v1/usage": {
            "get": _operation(
                "readUsage",
                "Exact sums of what was used. `mb_ms` is the unit of all money: 1 GB-second is 1,024,000 of it.",
                {"200": _tables(_json(_ref("Usage"), "The report. As CSV and NDJSON its rows come in order of time."))},
                parameters=[
                    _parameter("by", "query", f"Comma-separated: {labels}. By default function."),
                    _parameter("format", "query", "By default json.", {"enum": list(FORMATS)}),
                    *ranges,
                ],
            )
        },
        "/v1/usage/records": {
            "get": _operation(
                "listUsageRecords",
                "The usage records themselves, as long as they are kept: by hour, then by function, then as they came.",
                {"200": _tables({"description": "A line for each."})},
                parameters=[
                    _parameter("format", "query", "By default ndjson.", {"enum": ["ndjson", "csv"]}),
                    *ranges,
                ],
            )
        },
        "/v1/usage/reconcile": {
            "post": _operation(
                "reconcileUsage",
                "Add the raw records up again and answer every sum that is not theirs: per hour, function and the rest "
                "of its labels. Whole hours; those whose records are not kept any more cannot be checked and are "
                "listed. `differences` has the first 1000.",
                {"200": _json(_ref("Reconciliation"))},
                parameters=_NAMESPACES,
                body={"required": False, "content": {"application/json": {"schema": period}}},
                codes=("400", "401", "403", "413", "503"),
            )
        },
        "/v1/nodes": {
            "get": _operation("listNodes", "The nodes.", {"200": _json(_object({"nodes": _list(_FREE)}))}),
        },
        "/v1/runtimes": {
            "get": _operation("listRuntimes", "The runtimes.", {"200": _json(_object({"runtimes": _list(_FREE)}))}),
        },
        **_bills(),
        **_prices(),
        **_namespaces(),
        "/v1/keys": {
            "get": _operation("listKeys", "Keys without their secrets.", {"200": _json(_object({"keys": _list(key)}))}),
            "post": _operation(
                "createKey",
                "A new key; its secret is shown once.",
                {
                    "201": _json(
                        {**key, "properties": {**key["properties"], "secret": _TEXT}}, "The key and its secret."
                    )
                },
                body={"required": True, "content": {"application/json": {"schema": asked}}},
                codes=("400", "401", "403", "413", "503"),
            ),
        },
        "/v1/keys/{id}": {
            "delete": _operation(
                "revokeKey",
                "Revoke a key; it stops working within seconds on every node.",
                {"204": {"description": "Gone."}},
                parameters=[_parameter("id", "path", "The key's id.")],
            )
        },
        "/healthz": {
            "get": _operation(
                "health", "The node's process answers.", {"200": _json(_FREE)}, codes=(), open_to_all=True
            )
        },
        "/readyz": {
            "get": _operation(
                "ready",
                "Whether the node should be sent calls, and if not, why.",
                {"200": _json(_ref("Readiness")), "503": _json(_ref("Readiness"), "Not now.")},
                codes=(),
                open_to_all=True,
            )
        },
        "/metrics": {
            "get": _operation(
                "metrics",
                "Prometheus metrics.",
                {"200": {"description": "The exposition.", "content": {"text/plain": {"schema": _TEXT}}}},
                codes=("401", "403", "503"),
            )
        },
        "/openapi.json": {
            "get": _operation("openapi", "This document.", {"200": _json(_FREE)}, codes=("401", "403", "503"))
        },
    }


def _bills() -> dict[str, Any]:
    month = _parameter(
        "month", "path", "A month of UTC, like 2026-11.", {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}
    )
    credit = {"amount": _TEXT, "currency": _TEXT, "reason": _TEXT, "namespace": _TEXT}
    asked = _object(credit, ("amount", "reason"))
    files = {kind: {"schema": _TEXT} for kind in ("text/csv", "text/html")}
    once = _parameter("Idempotency-Key", "header", "Asked again with the same key, there is still one credit note.")
    return {
        "/v1/bills/{month}": {
            "get": _operation(
                "readBill",
                "What a month costs, line by line; the lines sum to the total exactly. Of an open month, as of now.",
                {"200": {"description": "The bill.", "content": {**_json(_ref("Bill"))["content"], **files}}},
                parameters=[
                    month,
                    _parameter("format", "query", "json by default.", {"enum": list(bills_api.FORMATS)}),
                    _parameter("focus_version", "query", "Columns of which FOCUS.", {"enum": list(focus.COLUMNS)}),
                    *_NAMESPACES,
                ],
            )
        },
        "/v1/bills/{month}/close": {
            "post": _operation(
                "closeBill",
                "Freeze a month for all namespaces. One that is closed already stays as it is.",
                {"200": _json(_ref("Bill"))},
                parameters=[month],
                body={
                    "required": False,
                    "content": {"application/json": {"schema": _object({"force": {"type": "boolean"}}, ())}},
                },
                codes=("400", "401", "403", "409", "413", "503"),
            )
        },
        "/v1/bills/{month}/credits": {
            "parameters": [month, *_NAMESPACES],
            "get": _operation(
                "listCredits",
                "Credit notes on a closed month's bill.",
                {"200": _json(_object({"credits": _list(_ref("Credit"))}))},
            ),
            "post": _operation(
                "giveCredit",
                "Take an amount off what a namespace owes for a closed month: a line on the bill of the next open one.",
                {"201": _json(_ref("Credit"))},
                parameters=[once],
                body={"required": True, "content": {"application/json": {"schema": asked}}},
                codes=("400", "401", "403", "404", "409", "413", "503"),
            ),
        },
    }


def _prices() -> dict[str, Any]:
    number = {"type": ["number", "string"]}
    asked = {
        "function": _TEXT, "memory": {"type": ["string", "integer"]}, "min_instances": _WHOLE, "bytes_out": _WHOLE,
        "rps": {**number, "description": "Calls per second."},
        "duration": {**number, "description": "Of a call: milliseconds, or text such as `1.5s`."},
        "cpu": {**number, "description": "Processor time of a call, likewise; without it, all of its duration."},
        "month": {**_TEXT, "description": "Whose prices: `2026-01`; without it, this month's."},
    }  # fmt: skip
    toml = {"toml": {**_TEXT, "description": "The books as a file would have them."}}
    body = {"application/toml": {"schema": _TEXT}, "application/json": {"schema": _object(toml)}}
    return {
        "/v1/prices": {
            "get": _operation(
                "readPrices",
                "The prices in force for a namespace; with a key for every namespace also the books as they were set.",
                {"200": _json(_ref("Prices"))},
                parameters=[_parameter("month", "query", "In this month; by default now."), *_NAMESPACES],
            ),
            "put": _operation(
                "setPrices",
                "Set the price books, all at once. Needs a key for every namespace.",
                {"200": _json(_ref("Prices"))},
                body={"required": True, "content": body},
                codes=("400", "401", "403", "413", "422", "503"),
            ),
        },
        "/v1/estimates": {
            "post": _operation(
                "estimate",
                "What a steady load would cost in a month of 730 hours; decimals are text.",
                {"200": _json(_ref("Estimate"))},
                parameters=_NAMESPACES,
                body={
                    "required": True,
                    "content": {"application/json": {"schema": _object(asked, ("rps", "duration"))}},
                },
                codes=("400", "401", "403", "413", "503"),
            )
        },
    }


def _namespaces() -> dict[str, Any]:
    limits = {
        "max_concurrency": {"type": ["integer", "null"], "minimum": 1, "description": "Calls at once, on each node."},
        "memory": {"type": ["string", "null"], "description": "Of its instances together, on each node: `2GB`."},
    }
    name = _parameter("name", "path", "The namespace's name.", _NAME["schema"])
    asked = {"required": True, "content": {"application/json": {"schema": _object(limits, ())}}}
    named = {
        "required": True,
        "content": {"application/json": {"schema": _object({"name": _TEXT, **limits}, ("name",))}},
    }
    one = _json(_ref("Namespace"))
    return {
        "/v1/namespaces": {
            "get": _operation(
                "listNamespaces",
                "Those that were created or have functions, with their limits; null is the node's.",
                {"200": _json(_object({"namespaces": _list(_ref("Namespace"))}))},
            ),
            "post": _operation(
                "createNamespace",
                "A namespace with limits. Without, one need not be created: deploy into it.",
                {"201": one},
                body=named,
                codes=("400", "401", "403", "409", "413", "503"),
            ),
        },
        "/v1/namespaces/{name}": {
            "parameters": [name],
            "get": _operation("readNamespace", "Its limits, and what it uses of them here.", {"200": one}),
            "put": _operation(
                "setNamespace",
                "Set all its limits; one that is not named is the node's. Needs a key for every namespace.",
                {"200": one, "201": one},
                body=asked,
                codes=("400", "401", "403", "413", "503"),
            ),
            "delete": _operation(
                "deleteNamespace",
                "Forget a namespace that has no functions.",
                {"204": {"description": "Gone."}},
                codes=("401", "403", "404", "409", "503"),
            ),
        },
    }


def _schemas() -> dict[str, Any]:
    texts = ("id", "namespace", "function", "key_id", "trigger", "status", "start", "node")
    wholes = (
        "version", "queue_ns", "init_ns", "run_ns", "billed_ms", "memory_mb", "peak_memory_bytes", "cpu_ns",
        "bytes_in", "bytes_out", "attempt",
    )  # fmt: skip
    record: dict[str, Any] = {**dict.fromkeys(texts, _TEXT), **dict.fromkeys(wholes, _WHOLE), "started_at": _TIME}
    record |= {"cost": {**_TEXT, "description": "At list prices: a decimal."}, "currency": _TEXT}
    function = {
        "name": _TEXT, "namespace": _TEXT, "version": _WHOLE, "url": _TEXT, "public": {"type": "boolean"},
        "settings": _FREE, "manifest": _FREE, "bundle": _TEXT, "lock": _TEXT, "created_at": _TIME,
    }  # fmt: skip
    deployed = {**function, "new": {"type": "boolean"}, "init_ms": {"type": "number"}, "warnings": _list(_TEXT)}
    line = dict.fromkeys(("function", "invocation_id", "stream", "text"), _TEXT)
    line_schema = _object({"time": _TIME, "version": _WHOLE, **line})
    namespace = {
        "name": _TEXT, "max_concurrency": {"type": ["integer", "null"]}, "memory": {"type": ["string", "null"]},
        "functions": _WHOLE, "calls": _WHOLE, "memory_used": _TEXT, "created_at": {"type": ["string", "null"]},
    }  # fmt: skip
    bill = {
        "month": _TEXT, "status": {"enum": ["open", "closed"]}, "from": _TIME, "to": _TIME, "made_at": _TIME,
        "currency": {"type": ["string", "null"]}, "total": {"type": ["string", "null"]}, "totals": _FREE,
        "bills": _list(_FREE), "lines": _list(_FREE),
    }  # fmt: skip
    credit = {**dict.fromkeys(("id", "month", "namespace", "amount", "currency", "reason"), _TEXT), "made_at": _TIME}
    problem = {
        "type": _TEXT, "title": _TEXT, "status": _WHOLE, "detail": _TEXT, "code": _TEXT, "invocation_id": _TEXT,
        "error_type": _TEXT, "message": _TEXT, "traceback": _TEXT, "exit": _TEXT, "retry_after_s": _WHOLE,
        "errors": _list(_object({"line": {"type": ["integer", "null"]}, "key": _TEXT, "message": _TEXT})),
    }  # fmt: skip
    return {
        "Function": _object(function),
        "Listed": _object({**function, "instances": _FREE}),
        "Deployed": _object(deployed),
        "Invocation": {**_object(record, ("id",)), "additionalProperties": True},
        "LogLine": line_schema,
        "Namespace": _object(namespace),
        "Bill": _object(bill),
        "Credit": _object(credit),
        "Usage": _object(
            {
                "from": _TIME,
                "to": _TIME,
                "by": _list(_TEXT),
                "rows": _list(_FREE),
                "totals": _FREE,
                "held": {
                    **_object({"rows": _list(_FREE), "totals": _FREE}),
                    "description": "MB times ms held without serving: idle_mb_ms, parked_mb_ms, and of what "
                    "min_instances keeps provisioned_mb_ms; of generic sandboxes, in the totals, generic_mb_ms. "
                    "Not for labels that only calls have.",
                },
            },
            ("from", "to", "by", "rows", "totals"),
        ),
        "Prices": {
            **_object(
                {
                    "namespace": _TEXT,
                    "month": _TEXT,
                    "in_force": _FREE,
                    "set": {"type": "boolean"},
                    "set_at": {"type": ["string", "null"]},
                    "books": _list(_FREE),
                    "set_by": {"type": ["string", "null"]},
                    "toml": {"type": ["string", "null"]},
                },
                ("namespace", "month", "in_force", "set", "set_at", "books"),
            )
        },
        "Estimate": _object(
            {
                "function": _TEXT,
                "namespace": _TEXT,
                "month": _TEXT,
                "book": _TEXT,
                "currency": _TEXT,
                "requests": _WHOLE,
                "lines": _list(_FREE),
                "total": _TEXT,
                "notes": _list(_TEXT),
                "compare": _list(_FREE),
            }
        ),
        **_reconciliation(),
        "Readiness": _object({"status": {"enum": ["ready", "not ready"]}, "reasons": _list(_TEXT)}),
        "Problem": {
            **_object(problem, ("type", "title", "status", "detail", "code")),
            "additionalProperties": True,
            "description": "RFC 9457. `code` is stable; `detail` says what to do.",
        },
    }


def _reconciliation() -> dict[str, Any]:
    labels = ("namespace", "function", "version", "key", "trigger", "status", "start", "attempt", "metric")
    sums = dict.fromkeys(("ledger", "records", "difference"), _WHOLE)
    difference = _object({"hour": _TIME, **dict.fromkeys(labels, _TEXT), **sums})
    why = {"enum": ["expired", "incomplete"]}
    unchecked = _object({"first_hour": _TIME, "last_hour": _TIME, "hours": _WHOLE, "why": why})
    hour = {"type": ["string", "null"], "format": "date-time"}
    return {
        "Reconciliation": _object(
            {
                "from": _TIME,
                "to": _TIME,
                "equal": {"type": "boolean"},
                "difference_count": _WHOLE,
                "differences": _list(difference),
                "records": {**_WHOLE, "description": "How many were compared."},
                "hours": {**_WHOLE, "description": "How many were compared."},
                "first_hour": hour,
                "last_hour": hour,
                "unchecked": _list(unchecked),
            }
        )
    }


def document(server_url: str) -> dict[str, Any]:
    """The whole description, for a platform reached at ``server_url``."""
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "faas",
            "version": __version__,
            "description": "Deploy functions, call them, see what they did and what they cost.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "security": [{"key": []}],
        "paths": {**_calls(), **_functions(), **_administration()},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {f"Problem{code}": {"description": what, "content": problem} for code, what in _CODES.items()},
            "schemas": _schemas(),
        },
    }
