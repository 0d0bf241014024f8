"""The pool in words and numbers, for people, metrics and the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from faas.model.function import FunctionVersion
from faas.pool import upkeep
from faas.pool.entities import Function, Instance, Sandbox, Tenant
from faas.pool.messages import Flavour
from faas.pool.pool import Pool
from faas.pool.states import InstanceState, SandboxState
from faas.pool.tenants import calls

NS_PER_S = 1_000_000_000
BYTES_PER_MB = 1024 * 1024


def describe(
    pool: Pool, versions: Mapping[str, FunctionVersion], namespace: str | None, name: str | None, now: int
) -> list[dict[str, Any]]:
    """One entry per sandbox of the function (of all functions, and the generic ones, when ``name`` is None)."""
    shown = []
    for sandbox in pool.sandboxes.values():
        version = versions.get(sandbox.function.spec.key) if sandbox.function is not None else None
        if name is not None and (version is None or (version.namespace, version.name) != (namespace, name)):
            continue
        shown.append(
            {
                "sandbox": sandbox.id,
                "state": sandbox.state.value,
                "since_s": (now - sandbox.since_ns) // NS_PER_S,
                "namespace": version.namespace if version else None,
                "function": version.name if version else None,
                "version": version.version if version else None,
                "why": _why_sandbox(pool, sandbox, now),
                "instances": [_instance(instance, now) for instance in sandbox.instances.values()],
            }
        )
    return shown


def _instance(instance: Instance, now: int) -> dict[str, Any]:
    return {
        "instance": instance.id,
        "state": instance.state.value,
        "since_s": (now - instance.since_ns) // NS_PER_S,
        "invocations": list(instance.calls),
        "why": _why_instance(instance, now),
    }


def _why_instance(instance: Instance, now: int) -> str:
    function = instance.function
    if instance.state is InstanceState.IDLE:
        if function.wanted and function.live <= function.spec.min_instances:
            return f"kept by min_instances = {function.spec.min_instances}"
        spec = function.spec
        left = (spec.warm_ns - (now - instance.since_ns)) // NS_PER_S
        return f"idle, ends in {max(0, left)} s unless it is called"
    reasons = {
        InstanceState.STARTING: "being forked for a waiting call",
        InstanceState.BUSY: "serves a call",
        InstanceState.STOPPING: "told to end",
    }
    return reasons.get(instance.state, "ended")


def _why_sandbox(pool: Pool, sandbox: Sandbox, now: int) -> str:
    function = sandbox.function
    if function is not None and not sandbox.instances:
        if sandbox.state is SandboxState.PARKED:
            return f"parked: loaded and frozen, without an instance; {_why_held(pool, function, sandbox, now)}"
        if sandbox.state is SandboxState.BOUND:
            return f"loaded, about to be parked; {_why_held(pool, function, sandbox, now)}"
    reasons = {
        SandboxState.BOOTING: "the engine is starting it",
        SandboxState.GENERIC: f"ready for any function ({upkeep.generics(pool, sandbox.flavour, now).why})",
        SandboxState.BINDING: "loads the function's module",
        SandboxState.BOUND: "holds the instances below",
        SandboxState.PARKED: "loaded and frozen",
        SandboxState.DRAINING: "finishes what it has",
        SandboxState.REMOVED: "being removed",
    }
    return reasons[sandbox.state]


def _why_held(pool: Pool, function: Function, sandbox: Sandbox, now: int) -> str:
    keep_ns = function.spec.keep_alive_ns
    if keep_ns is not None:
        left = max(0, (keep_ns - (now - sandbox.used_ns)) // NS_PER_S)
        return f"keep_alive says so, for {left} s more"
    return pool.policy.outlook(function.spec.key, now).why if function.resting else "it was called just now"


def describe_generics(pool: Pool, flavour: Flavour, now: int) -> dict[str, Any]:
    """The sandboxes that the next cold start of this flavour finds booted, how many are meant to be there, and why."""
    ready, coming = upkeep.generics_there(pool, flavour)
    kept = upkeep.generics(pool, flavour, now)
    return {"ready": len(ready), "starting": coming, "kept": kept.number, "why": kept.why}


def stats(pool: Pool) -> dict[str, Any]:
    """Numbers for the metrics: counts by state, calls waiting, memory the pool counts as used, in all and by
    namespace.
    """
    return {
        "instances": dict(Counter(i.state.value for i in pool.instances.values())),
        "sandboxes": dict(Counter(s.state.value for s in pool.sandboxes.values())),
        "queued": pool.queued,
        "memory_bytes": pool.memory_mb * BYTES_PER_MB,
        "namespaces": {tenant.name: _tenant(pool, tenant) for tenant in pool.tenants.values()},
    }


def _tenant(pool: Pool, tenant: Tenant) -> dict[str, int]:
    return {
        "calls": calls(pool, tenant),
        "memory_mb": tenant.instances_mb,
        "held_mb": tenant.held_mb(pool.config.sandbox_overhead_mb),
    }
