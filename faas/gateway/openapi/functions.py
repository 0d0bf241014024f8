"""Functions, calls and logs, as OpenAPI has them."""

from __future__ import annotations

from typing import Any, Final

from faas.gateway.openapi import invocations
from faas.gateway.openapi.words import (
    ANY,
    CALL_CODES,
    FREE,
    LIMIT,
    NAME,
    NAMESPACES,
    TARGET,
    TEXT,
    TIME,
    WHOLE,
    WRITE_CODES,
    json,
    list_of,
    operation,
    parameter,
    record,
    ref,
)


def paths() -> dict[str, Any]:
    return {**_calls(), **_functions(), **invocations.paths()}


def schemas() -> dict[str, Any]:
    texts = ("id", "namespace", "function", "key_id", "trigger", "status", "start", "node")
    wholes = (
        "version", "queue_ns", "init_ns", "run_ns", "billed_ms", "memory_mb", "peak_memory_bytes", "cpu_ns",
        "bytes_in", "bytes_out", "attempt",
    )  # fmt: skip
    invocation: dict[str, Any] = {**dict.fromkeys(texts, TEXT), **dict.fromkeys(wholes, WHOLE), "started_at": TIME}
    invocation |= {"cost": {**TEXT, "description": "At list prices: a decimal."}, "currency": TEXT}
    function = {
        "name": TEXT, "namespace": TEXT, "version": WHOLE, "url": TEXT, "public": {"type": "boolean"},
        "settings": FREE, "manifest": FREE, "bundle": TEXT, "lock": TEXT, "created_at": TIME,
    }  # fmt: skip
    deployed = {**function, "new": {"type": "boolean"}, "init_ms": {"type": "number"}, "warnings": list_of(TEXT)}
    line = dict.fromkeys(("function", "invocation_id", "stream", "text"), TEXT)
    line_schema = record({"time": TIME, "version": WHOLE, **line})
    return {
        "Function": record(function),
        "Listed": record({**function, "instances": FREE}),
        "Deployed": record(deployed),
        "Invocation": {**record(invocation | invocations.LATER, ("id",)), "additionalProperties": True},
        "LogLine": line_schema,
    }


_FACTS: Final = {
    name: {"description": what, "schema": schema}
    for name, what, schema in (
        ("Faas-Invocation-Id", "Under which the record and the log lines are found.", TEXT),
        ("Faas-Version", "The version that answered.", WHOLE),
        ("Faas-Start", "How its instance came to be: cold, prewarmed, parked or warm.", TEXT),
        ("Faas-Billed-Ms", "Billed milliseconds (not on streamed answers).", WHOLE),
        ("Server-Timing", "queue, init and run in ms.", TEXT),
        ("traceparent", "W3C trace context of the invocation.", TEXT),
        ("Idempotency-Replayed", "`true`: the answer of an earlier request with the same Idempotency-Key.", TEXT),
    )
}
_PREFER: Final = parameter(
    "Prefer", "header", "`respond-async`: answer with 202 once the call is stored, and run it without a caller.", TEXT
)
_ONCE: Final = parameter(
    "Idempotency-Key",
    "header",
    "Sent again with the same key, the function runs once and its answer is given again. With another request: 422; "
    "while the first one runs for too long: 409. Up to 255 printable characters.",
    {"type": "string", "minLength": 1, "maxLength": 255},
)
_WRITING: Final = ("post", "put", "patch", "delete")
_RESULT: Final = {
    "description": "What the function returned, as it is.",
    "headers": _FACTS,
    "content": {"*/*": {"schema": ANY}},
}


def _calls() -> dict[str, Any]:
    anything = {"required": False, "content": {"*/*": {"schema": ANY}}}
    trigger = {
        method: operation(
            f"trigger{method.capitalize()}",
            "Call a function through its HTTP trigger (payload format 2.0). Public functions need no key.",
            {"default": _RESULT},
            parameters=[
                parameter("name", "path", "`NAME`, `NAME.NAMESPACE` or either with `@VERSION`."),
                *([_ONCE] if method in _WRITING else []),
            ],
            body=None if method in ("get", "head", "delete", "options") else anything,
            codes=CALL_CODES,
        )
        | {"security": [{"key": []}, {}]}
        for method in ("get", "head", "post", "put", "patch", "delete", "options")
    }
    below = {
        method: {
            **described,
            "operationId": described["operationId"] + "Below",
            "parameters": [
                *described["parameters"],
                parameter("path", "path", "Handed to the function; may contain slashes."),
            ],
        }
        for method, described in trigger.items()
    }
    return {
        "/v1/functions/{name}/invocations": {
            "post": operation(
                "invoke",
                "Call a function. A JSON body is the event; any other content type arrives as bytes. CloudEvents 1.0, "
                "binary, structured or batched, arrive as dicts, and those that it returns go out in the same mode.",
                {"200": _RESULT, "202": invocations.ACCEPTED},
                parameters=[TARGET, *NAMESPACES, _ONCE, _PREFER],
                body=anything,
                codes=CALL_CODES,
            ),
            "get": operation(
                "listInvocations",
                "Its calls that have not ended and that nobody waits for, then its latest invocations; newest first.",
                {"200": json(record({"invocations": list_of(ref("Invocation"))}))},
                parameters=[NAME, LIMIT, *NAMESPACES],
            ),
        },
        "/fn/{name}": trigger,
        "/fn/{name}/{path}": below,
    }


def _functions() -> dict[str, Any]:
    lines = {"application/x-ndjson": {"schema": TEXT}}
    version = {
        "description": "The version, which has loaded.",
        "content": {**json(ref("Deployed"))["content"], **lines},
    }
    upload = record({"manifest": TEXT, "bundle": {"type": "string", "format": "binary"}}, ("bundle",))
    return {
        "/v1/functions": {
            "get": operation(
                "listFunctions",
                "Every function's latest version.",
                {"200": json(record({"functions": list_of(ref("Listed"))}))},
                parameters=NAMESPACES,
            )
        },
        "/v1/functions/{name}": {
            "parameters": [NAME, *NAMESPACES],
            "get": operation("readFunction", "The latest version.", {"200": json(ref("Function"))}),
            "put": operation(
                "deploy",
                "Deploy: answers once the new version has loaded. With `Accept: application/x-ndjson` the answer is "
                'lines of `{"progress": TEXT}`, at last `{"result": VERSION}` or `{"error": PROBLEM, "status": N}`.',
                {"200": version, "201": version},
                body={"required": True, "content": {"multipart/form-data": {"schema": upload}}},
                codes=WRITE_CODES,
            ),
            "patch": operation(
                "changeFunction",
                "Change settings, which makes a version of the same code. Tables merge, lists and values replace.",
                {"200": version},
                body={"required": True, "content": {"application/json": {"schema": FREE}}},
                codes=WRITE_CODES,
            ),
            "delete": operation(
                "deleteFunction", "Delete it and its versions; calls in flight end.", {"204": {"description": "Gone."}}
            ),
        },
        "/v1/functions/{name}/versions": {
            "get": operation(
                "listVersions",
                "Newest first.",
                {"200": json(record({"versions": list_of(ref("Function"))}))},
                parameters=[NAME, *NAMESPACES],
            )
        },
        "/v1/functions/{name}/instances": {
            "get": operation(
                "listInstances",
                "What is warm or starting on this node, and why.",
                {"200": json(record({"sandboxes": list_of(FREE), "generic": FREE}))},
                parameters=[NAME, *NAMESPACES],
            )
        },
        "/v1/functions/{name}/logs": {"get": _logs()},
    }


def _logs() -> dict[str, Any]:
    lines = json(record({"lines": list_of(ref("LogLine"))}), "Lines, oldest first.")
    lines["content"]["text/event-stream"] = {"schema": TEXT}
    return operation(
        "readLogs",
        "Log lines; with `follow=1` Server-Sent Events, one line's JSON in each.",
        {"200": lines},
        parameters=[
            NAME,
            parameter("since", "query", "An RFC 3339 time, a date, or how long ago (`5m`)."),
            parameter("invocation", "query", "Only lines of this invocation."),
            parameter("follow", "query", "1 to go on as lines come.", {"enum": ["0", "1"]}),
            LIMIT,
            *NAMESPACES,
        ],
    )
