"""An asynchronous call as people ask for it: how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from faas.model.invocation import Trigger


class CallStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"  # an attempt failed, the next one waits
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset({CallStatus.SUCCEEDED, CallStatus.FAILED, CallStatus.CANCELLED})


@dataclass(frozen=True, slots=True)
class Response:
    """What a call returned. ``headers`` are lower-case and include the content type."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    payload: bytes = b""

    @property
    def content_type(self) -> str:
        return next((value.decode("latin-1") for name, value in self.headers if name == b"content-type"), "")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """All times are Unix ms by the store's clock; 0 = not yet. ``error`` is that of the last attempt that failed."""

    id: str
    namespace: str
    function: str
    status: CallStatus = CallStatus.QUEUED
    trigger: Trigger = Trigger.ASYNC
    qualifier: str = ""
    key_id: str = ""
    trace_parent: str = ""
    version: int = 0  # that ran last; 0 = none has
    node: str = ""  # where it ran last
    attempts: int = 0
    created_at_ms: int = 0
    started_at_ms: int = 0  # of the last attempt
    ended_at_ms: int = 0
    retry_at_ms: int = 0
    error: Mapping[str, Any] | None = None  # code, message, error_type, traceback
    reason: str = ""  # why there is no further attempt
    response: Response | None = None
    given_up: bool = False  # its result was too old or too large to be kept
    deliveries: Mapping[str, str] = field(default_factory=dict)  # URL of a destination -> what became of it
