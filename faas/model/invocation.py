"""What goes into an invocation and what comes out of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from faas.model.errors import FaasError
from faas.model.usage import UsageRecord


class Trigger(StrEnum):
    HTTP = "http"
    DIRECT = "direct"
    ASYNC = "async"
    QUEUE = "queue"
    CRON = "cron"


AWAITED: Final = frozenset({Trigger.HTTP, Trigger.DIRECT})  # somebody holds a connection open for the answer
TIMEOUT_SYNC_MS_MAX: Final = 15 * 60_000  # of such a call, whatever its function says


class StartKind(StrEnum):
    """How the instance that served an invocation came to be."""

    COLD = "cold"  # a container had to be made
    PREWARMED = "prewarmed"  # a generic sandbox was bound
    PARKED = "parked"
    WARM = "warm"  # an instance of this version, or its zygote, was there


class Status(StrEnum):
    OK = "ok"
    FUNCTION_ERROR = "function_error"
    TIMEOUT = "timeout"  # stopped: past its deadline, or its caller's patience (``on_disconnect``)
    CRASHED = "crashed"
    OOM = "oom"
    REJECTED = "rejected"
    PLATFORM_ERROR = "platform_error"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """The HTTP trigger's request as the runtime needs it to build the payload 2.0 event."""

    method: str
    path: str  # percent-decoded path below the function, begins with "/"
    raw_path: str  # as it came, percent-encoded, whole (rawPath of the event)
    query: str  # raw query string
    headers: tuple[tuple[str, str], ...]  # lower-case names, in order, repeats kept
    source_ip: str
    protocol: str  # "HTTP/1.1"


@dataclass(slots=True)
class Call:
    """One attempt at an invocation, as handed to the invoker. ``payload`` is never looked into by the node."""

    id: str
    trigger: Trigger
    payload: bytes
    content_type: str = ""  # "" or a JSON type = JSON event; others = bytes
    key_id: str = ""
    attempt: int = 1
    trace_parent: str = ""
    http: HttpRequest | None = None
    hops: int = 0  # calls of functions by functions that led to this one (``faas.model.hops``)


@dataclass(slots=True)
class Reply:
    """What became of a call. Exactly one of ``error`` and a response (``status`` and so on) counts.

    ``headers`` are lower-case byte pairs ready for ASGI. When ``stream`` is set, ``payload`` is empty, the chunks
    come from the iterator, and ``record`` is complete only after its end.
    """

    record: UsageRecord
    error: FaasError | None = None
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    payload: bytes = b""
    stream: AsyncIterator[bytes] | None = None
