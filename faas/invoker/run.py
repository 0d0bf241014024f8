"""A call under way: what the node measures of it, and how its end becomes a record and a reply."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from faas.invoker.streaming import ResponseStream
from faas.metering.meter import Measured, meter
from faas.model.errors import DeadlineExceeded, FaasError, Fault, FunctionFailed, InstanceCrashed
from faas.model.function import FunctionVersion
from faas.model.invocation import Call, Reply, StartKind, Status
from faas.model.usage import UsageRecord
from faas.ports import Entry


@dataclass(slots=True, eq=False)
class Run:
    """Times are the node's own: what an instance says of itself is not what is billed."""

    call: Call
    version: FunctionVersion
    reply: asyncio.Future[Reply]
    started_at_ns: int  # Unix time
    submitted_ns: int
    dispatched_ns: int = 0  # 0 = never
    start: StartKind = StartKind.WARM
    init_ns: int = 0
    timer: asyncio.TimerHandle | None = None
    stream: ResponseStream | None = None
    streamed: Reply | None = None
    cpu_ns: int = 0
    peak_bytes: int = 0
    bytes_out: int = 0
    detail: dict[str, Any] = field(default_factory=dict)

    def record(self, status: Status, node: str, now_ns: int) -> UsageRecord:
        """The usage record of an attempt that ends now."""
        waited_until = self.dispatched_ns or now_ns
        measured = Measured(
            status=status,
            start=self.start,
            started_at_ns=self.started_at_ns,
            queue_ns=max(0, waited_until - self.submitted_ns - self.init_ns),
            init_ns=self.init_ns,
            run_ns=now_ns - self.dispatched_ns if self.dispatched_ns else 0,
            peak_memory_bytes=self.peak_bytes,
            cpu_ns=self.cpu_ns,
            bytes_out=self.bytes_out,
        )
        return meter(self.call, self.version, measured, node)

    def entry(self, record: UsageRecord, error: FaasError | None) -> Entry:
        """What the journal keeps: the record, why it failed, and the trace it belongs to."""
        detail = self.detail
        if self.call.trace_parent:
            detail["trace_parent"] = self.call.trace_parent
        if error is not None:
            detail["error"] = described(error)
            if isinstance(error, InstanceCrashed):
                detail["exit"] = error.exit
        return Entry(record, detail)


def status_of(error: FaasError) -> Status:
    """The record's word for how an attempt ended."""
    if isinstance(error, DeadlineExceeded):
        return Status.TIMEOUT
    if isinstance(error, InstanceCrashed):
        return Status.OOM if error.exit == "oom" else Status.CRASHED
    if error.fault is Fault.FUNCTION:
        return Status.FUNCTION_ERROR
    return Status.PLATFORM_ERROR


def described(error: FaasError) -> dict[str, str]:
    """An error as the invocation record shows it."""
    shown = {"code": error.code, "message": error.message}
    if isinstance(error, FunctionFailed):
        shown["error_type"] = error.error_type
        shown["traceback"] = error.traceback
    return shown
