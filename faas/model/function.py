"""A function and its immutable versions."""

from __future__ import annotations

from functools import cached_property

from pydantic import BaseModel, ConfigDict

from faas.model.manifest import Manifest


class FunctionVersion(BaseModel):
    """One immutable version of a function: what the pool binds a sandbox to.

    ``bundle`` is the SHA-256 hex digest of the bundle archive; ``lock`` that of the hash-locked requirements, or ""
    when the function has no dependencies. Both are fetched from the registry by digest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespace: str
    name: str
    version: int
    manifest: Manifest
    bundle: str
    lock: str = ""
    created_at_ms: int = 0

    @property
    def label(self) -> str:
        """``namespace/name@version``, for people."""
        return f"{self.namespace}/{self.name}@{self.version}"

    @cached_property
    def key(self) -> str:
        """``label`` and what makes it unique: a number whose version did not load is given to the next attempt."""
        return f"{self.label}+{self.created_at_ms:x}.{self.bundle[:12]}"

    @property
    def arn(self) -> str:
        return f"arn:faas:{self.namespace}:function:{self.name}:{self.version}"
