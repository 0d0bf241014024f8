"""The whole description."""

from __future__ import annotations

from typing import Any, Final

from faas import __version__
from faas.gateway.openapi import administration, functions, money, queues, triggers
from faas.gateway.openapi.words import CODES, TEXT, WHOLE, list_of, record, ref


def document(server_url: str) -> dict[str, Any]:
    """The whole description, for a platform reached at ``server_url``."""
    problem = {"application/problem+json": {"schema": ref("Problem")}}
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
        "paths": {
            **functions.paths(),
            **money.paths(),
            **queues.paths(),
            **triggers.paths(),
            **administration.paths(),
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "responses": {f"Problem{code}": {"description": what, "content": problem} for code, what in CODES.items()},
            "schemas": {
                **functions.schemas(),
                **money.schemas(),
                **queues.schemas(),
                **triggers.schemas(),
                **administration.schemas(),
                "Problem": _problem(),
            },
        },
    }


_PLACES: Final = {
    "line": {"type": ["integer", "null"], "description": "Of a file."},
    "index": {"type": ["integer", "null"], "description": "In a list of messages."},
}


def _problem() -> dict[str, Any]:
    problem = {
        "type": TEXT, "title": TEXT, "status": WHOLE, "detail": TEXT, "code": TEXT, "invocation_id": TEXT,
        "error_type": TEXT, "message": TEXT, "traceback": TEXT, "exit": TEXT, "retry_after_s": WHOLE,
        "errors": list_of(record({**_PLACES, "key": TEXT, "message": TEXT}, ("key", "message"))),
    }  # fmt: skip
    return {
        **record(problem, ("type", "title", "status", "detail", "code")),
        "additionalProperties": True,
        "description": "RFC 9457. `code` is stable; `detail` says what to do.",
    }
