"""A namespace: whose functions are kept apart, counted and limited together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Namespace(BaseModel):
    """What is said of a namespace. One of which nothing is said exists as well, with the node's limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    max_concurrency: int | None = Field(default=None, ge=1)  # calls at once on a node; None = as its settings say
    memory_mb: int | None = Field(default=None, ge=1)  # of its instances on a node, together; likewise
    created_at_ms: int = 0
