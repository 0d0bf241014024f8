"""A function's settings after validation: defaults filled in, every quantity an integer with its unit.

What users write (``memory = "256MB"``) is parsed by ``faas.packaging.manifest``; this is what the platform
stores and works with. ``Manifest.model_dump_json`` and ``model_validate_json`` are the stored form.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Http(_Frozen):
    """The HTTP trigger. It exists for every function; ``public`` decides whether a key is needed."""

    public: bool = False
    methods: tuple[str, ...] = ()  # empty = any
    cors_origins: tuple[str, ...] = ()


class QueueSource(_Frozen):
    """What is pumped into a trigger's queue: by connection, and exactly one of queue, stream, list and channel."""

    connection: str  # a name in the node's settings, where the address and the password are
    queue: str = ""  # RabbitMQ
    stream: str = ""  # NATS JetStream
    subject: str = ""  # of that stream; "" = all
    list: str = ""  # Redis or Valkey
    end: Literal["right", "left"] = "right"  # of that list, from which is taken
    channel: str = ""  # Redis or Valkey pub/sub; a pattern when it holds *, ? or [
    group_by: str = ""  # the attribute whose value is the message's group; "" = no order


class QueueTrigger(_Frozen):
    name: str
    batch: int = 10
    window_ms: int = 0
    max_concurrency: int = 5
    lease_ms: int | None = None  # None = 6 x timeout
    filter: dict[str, Any] | None = None  # an event pattern (``faas.events.filters``); None = every message
    source: QueueSource | None = None  # None = what is sent to the queue itself


class CronTrigger(_Frozen):
    schedule: str
    timezone: str = "UTC"
    payload: Any = None
    missed: Literal["skip", "once"] = "skip"  # once: one run for all that a downtime took
    jitter_ms: int = 0  # each run begins so much later at most, at random


class Retry(_Frozen):
    attempts: int = 3
    max_age_ms: int = 6 * 3_600_000


class Manifest(_Frozen):
    name: str
    entry: str = ""  # module inside the bundle, e.g. "hello"; "" until the bundle was looked at
    handler: str = ""  # attribute of that module; "" = handler, else app, else main
    runtime: str = "python"
    requires_python: str = ">=3.11"
    dependencies: tuple[str, ...] = ()
    memory_mb: int = 128
    cpus: float | None = None  # cores per instance, a limit; None = none
    timeout_ms: int = 30_000
    concurrency: int = 1
    min_instances: int = 0
    max_instances: int = 100
    network: Literal["none", "egress"] = "none"
    keep_alive_ms: int | None = None  # None = auto
    on_disconnect: Literal["finish", "cancel"] = "finish"  # what becomes of a running call whose caller has gone
    idempotency_ms: int = 24 * 3_600_000
    env: dict[str, str] = Field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    retry: Retry = Retry()
    on_success: str | None = None
    on_failure: str | None = None
    http: Http = Http()
    queues: tuple[QueueTrigger, ...] = ()
    crons: tuple[CronTrigger, ...] = ()
