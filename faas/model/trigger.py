"""What wakes a function besides a request: a queue, or a schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from faas.model.manifest import CronTrigger, QueueTrigger
from faas.model.message import QueueName


class TriggerSpec(BaseModel):
    """One trigger. ``id`` is unique in its namespace and stays the same over deployments that do not change it.

    Example ids: ``order-worker.orders`` (function, queue), ``report.cron-3f2a91`` (function, hash of what it says).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    namespace: str
    function: str
    queue: QueueTrigger | None = None  # exactly one of the two
    cron: CronTrigger | None = None
    enabled: bool = True
    source: Literal["manifest", "added"] = "manifest"  # stands in the function's manifest, or was added by request
    since_ms: int = (
        0  # of a schedule: Unix ms of the deployment, of being added or resumed; nothing before is made up for
    )

    @property
    def key(self) -> str:
        """Unique over namespaces."""
        return f"{self.namespace}/{self.id}"

    @property
    def queue_name(self) -> QueueName | None:
        return QueueName(self.namespace, self.queue.name) if self.queue is not None else None
