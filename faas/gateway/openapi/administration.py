"""Namespaces, keys, nodes and how a node is doing, as OpenAPI has them."""

from __future__ import annotations

from typing import Any

from faas.gateway.auth import SCOPES
from faas.gateway.openapi.words import FREE, NAME, TEXT, TIME, WHOLE, json, list_of, operation, parameter, record, ref


def paths() -> dict[str, Any]:
    key = record({"id": TEXT, "namespace": TEXT, "scopes": list_of({"enum": list(SCOPES)}), "created_at": TIME})
    asked = record({"namespace": TEXT, "scopes": list_of({"enum": list(SCOPES)})}, ("scopes",))
    return {
        "/v1/nodes": {
            "get": operation("listNodes", "The nodes.", {"200": json(record({"nodes": list_of(FREE)}))}),
        },
        "/v1/runtimes": {
            "get": operation("listRuntimes", "The runtimes.", {"200": json(record({"runtimes": list_of(FREE)}))}),
        },
        **_namespaces(),
        "/v1/keys": {
            "get": operation("listKeys", "Keys without their secrets.", {"200": json(record({"keys": list_of(key)}))}),
            "post": operation(
                "createKey",
                "A new key; its secret is shown once.",
                {"201": json({**key, "properties": {**key["properties"], "secret": TEXT}}, "The key and its secret.")},
                body={"required": True, "content": {"application/json": {"schema": asked}}},
                codes=("400", "401", "403", "413", "503"),
            ),
        },
        "/v1/keys/{id}": {
            "delete": operation(
                "revokeKey",
                "Revoke a key; it stops working within seconds on every node.",
                {"204": {"description": "Gone."}},
                parameters=[parameter("id", "path", "The key's id.")],
            )
        },
        "/healthz": {
            "get": operation("health", "The node's process answers.", {"200": json(FREE)}, codes=(), open_to_all=True)
        },
        "/readyz": {
            "get": operation(
                "ready",
                "Whether the node should be sent calls, and if not, why.",
                {"200": json(ref("Readiness")), "503": json(ref("Readiness"), "Not now.")},
                codes=(),
                open_to_all=True,
            )
        },
        "/metrics": {
            "get": operation(
                "metrics",
                "Prometheus metrics.",
                {"200": {"description": "The exposition.", "content": {"text/plain": {"schema": TEXT}}}},
                codes=("401", "403", "503"),
            )
        },
        "/openapi.json": {
            "get": operation("openapi", "This document.", {"200": json(FREE)}, codes=("401", "403", "503"))
        },
    }


def schemas() -> dict[str, Any]:
    namespace = {
        "name": TEXT, "max_concurrency": {"type": ["integer", "null"]}, "memory": {"type": ["string", "null"]},
        "functions": WHOLE, "calls": WHOLE, "memory_used": TEXT, "created_at": {"type": ["string", "null"]},
    }  # fmt: skip
    return {
        "Namespace": record(namespace),
        "Readiness": record({"status": {"enum": ["ready", "not ready"]}, "reasons": list_of(TEXT)}),
    }


def _namespaces() -> dict[str, Any]:
    limits = {
        "max_concurrency": {"type": ["integer", "null"], "minimum": 1, "description": "Calls at once, on each node."},
        "memory": {"type": ["string", "null"], "description": "Of its instances together, on each node: `2GB`."},
    }
    name = parameter("name", "path", "The namespace's name.", NAME["schema"])
    asked = {"required": True, "content": {"application/json": {"schema": record(limits, ())}}}
    named = {
        "required": True,
        "content": {"application/json": {"schema": record({"name": TEXT, **limits}, ("name",))}},
    }
    one = json(ref("Namespace"))
    return {
        "/v1/namespaces": {
            "get": operation(
                "listNamespaces",
                "Those that were created or have functions, with their limits; null is the node's.",
                {"200": json(record({"namespaces": list_of(ref("Namespace"))}))},
            ),
            "post": operation(
                "createNamespace",
                "A namespace with limits. Without, one need not be created: deploy into it.",
                {"201": one},
                body=named,
                codes=("400", "401", "403", "409", "413", "503"),
            ),
        },
        "/v1/namespaces/{name}": {
            "parameters": [name],
            "get": operation("readNamespace", "Its limits, and what it uses of them here.", {"200": one}),
            "put": operation(
                "setNamespace",
                "Set all its limits; one that is not named is the node's. Needs a key for every namespace.",
                {"200": one, "201": one},
                body=asked,
                codes=("400", "401", "403", "413", "503"),
            ),
            "delete": operation(
                "deleteNamespace",
                "Forget a namespace that has no functions.",
                {"204": {"description": "Gone."}},
                codes=("401", "403", "404", "409", "503"),
            ),
        },
    }
