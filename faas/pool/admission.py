"""What callers are told whose call is not taken, or not served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faas.model.errors import FaasError, InstanceCrashed, NoCapacity, Throttled
from faas.pool import retry, tenants
from faas.pool.entities import Function
from faas.pool.messages import Cause, FunctionSpec

if TYPE_CHECKING:
    from faas.pool.pool import Pool


def refusal(pool: Pool, function: Function, now: int) -> FaasError | None:
    """Why a call that no instance can take at once may not wait either; None if it may."""
    if pool.closing:
        return NoCapacity("this node is shutting down; send the call again, another node or its successor takes it")
    if function.init.error is not None and now < function.init.until_ns and function.serving == 0:
        return function.init.error
    if tenants.too_big(function):
        return tenants.over_memory(function, "the call cannot start", now)
    waiting = len(function.queue) - function.starting * function.spec.concurrency
    if waiting < pool.config.queue_depth_max:
        return tenants.no_place(pool, function, now)
    return overload(pool, function, f"{len(function.queue)} calls are waiting already", now)


def overload(pool: Pool, function: Function, what: str, now: int) -> FaasError:
    """429 when the function's or the namespace's own limit is the reason, 503 when the node has no room."""
    if function.short_of == "namespace":
        return tenants.over_memory(function, what, now)
    starts_in_vain = function.serving == 0 and function.forks.failures > 0
    if function.short_of == "memory" or function.live == 0 or starts_in_vain:
        full = "the node's memory budget is used up" if function.short_of == "memory" else ""
        reason = full or pool.boots.reason or function.forks.reason or "its sandbox has not started yet"
        return NoCapacity(f"{what} and no instance could be started: {reason}", retry.node_s(pool, function, now))
    limit = function.spec.max_instances
    return Throttled(
        f"{what} for {function.spec.label} (max_instances {limit}); slow down or raise the limit",
        retry.function_s(function, now),
        limit="max_instances",
    )


def crash(spec: FunctionSpec, cause: Cause, exit_text: str) -> FaasError:
    """What the caller of an instance that died is told."""
    if cause is Cause.OOM:
        return InstanceCrashed(
            f"the function needed more than its {spec.memory_mb} MB of memory and was stopped; raise `memory`", "oom"
        )
    if cause is Cause.EXIT:
        return InstanceCrashed(f"the function's process ended before it answered ({exit_text})", exit_text)
    why = f" ({exit_text})" if exit_text and exit_text != cause.value else ""
    return InstanceCrashed(f"the function's sandbox ended before it answered{why}", cause.value)


def init_crash(spec: FunctionSpec, cause: Cause, reason: str) -> FaasError:
    """What those who wait for a module are told whose import took the sandbox down."""
    if cause is Cause.OOM:
        return InstanceCrashed(f"loading the function needed more than its {spec.memory_mb} MB; raise `memory`", "oom")
    why = f" ({reason})" if reason else ""
    return InstanceCrashed(f"the sandbox ended while it loaded the function{why}", cause.value)
