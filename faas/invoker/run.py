"""A call under way: what the node measures of it, and how its end becomes a record and a reply."""

from __future__ import annotations

from typing import Any

from faas.invoker.streaming import ResponseStream
from faas.metering.meter import SharedTime, meter
from faas.model.errors import (
    CallerLeft,
    DeadlineExceeded,
    FaasError,
    Fault,
    FunctionFailed,
    InstanceCrashed,
    InvalidRequest,
)
from faas.model.function import FunctionVersion
from faas.model.invocation import AWAITED, TIMEOUT_SYNC_MS_MAX, Call, Reply, StartKind, Status
from faas.model.usage import UsageRecord
from faas.ports import Answering, Entry
from faas.wire import Error


class Run:
    """Times are the node's own: what an instance says of itself is not what is billed.

    The class attributes are what a run starts with; most runs never set most of them.
    """

    dispatched_ns = 0  # 0 = never
    sent = False  # to an instance, which may have begun it
    again = False  # it was given to an instance that had just ended
    start = StartKind.WARM
    init_ns = 0
    run_ns = 0
    queue_ns = 0
    cpu_ns = 0
    peak_memory_bytes = 0
    bytes_out = 0
    shared: SharedTime | None = None  # with the other calls of its instance, where it takes several at once
    shared_ns: int | None = None
    stream: ResponseStream | None = None
    streamed: Reply | None = None

    def __init__(
        self,
        call: Call,
        version: FunctionVersion,
        reply: Answering,
        started_at_ns: int,
        submitted_ns: int,
    ) -> None:
        self.call = call
        self.version = version
        self.reply = reply
        self.started_at_ns = started_at_ns  # Unix time
        self.submitted_ns = submitted_ns
        self.timeout_ms = version.manifest.timeout_ms
        if self.timeout_ms > TIMEOUT_SYNC_MS_MAX and call.trigger in AWAITED:
            self.timeout_ms = TIMEOUT_SYNC_MS_MAX

    def end_sharing(self, now_ns: int) -> None:
        """Settle its part of the instance's time, where several calls share it. Idempotent."""
        if self.shared is not None:
            self.shared_ns = self.shared.end(self.call.id, now_ns)
            self.shared = None

    def record(self, status: Status, node: str, now_ns: int) -> UsageRecord:
        """The usage record of an attempt that ends now."""
        dispatched_ns = self.dispatched_ns
        if dispatched_ns:
            self.queue_ns = max(0, dispatched_ns - self.submitted_ns - self.init_ns)
            self.run_ns = now_ns - dispatched_ns
        else:
            self.queue_ns = now_ns - self.submitted_ns
        return meter(self.call, self.version, self, status, node)

    def entry(self, record: UsageRecord, error: FaasError | None) -> Entry:
        """What the journal keeps: the record, why it failed, and the trace it belongs to."""
        detail: dict[str, Any] = {}
        if self.call.trace_parent:
            detail["trace_parent"] = self.call.trace_parent
        if error is not None:
            detail["error"] = described(error)
            if isinstance(error, InstanceCrashed):
                detail["exit"] = error.exit
        return Entry(record, detail)


def status_of(error: FaasError) -> Status:
    """The record's word for how an attempt ended."""
    if isinstance(error, DeadlineExceeded | CallerLeft):
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
    if isinstance(error, InstanceCrashed):
        shown["exit"] = error.exit
    return shown


def function_error(frame: Error, memory_mb: int) -> FaasError:
    """What an instance says went wrong, as the caller is told."""
    if frame.kind == "bad_event":
        return InvalidRequest(frame.message)
    if frame.kind == "oom":
        return InstanceCrashed(f"the function needed more than its {memory_mb} MB of memory; raise `memory`", "oom")
    return FunctionFailed(frame.error_type, frame.message, frame.traceback)
