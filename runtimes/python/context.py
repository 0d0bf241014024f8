"""The second argument of a handler: the names of Lambda's context object, and a few of our own."""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Identity:
    """Lambda's, for code that looks at it; there is no Cognito here."""

    __slots__ = ()
    cognito_identity_id = None
    cognito_identity_pool_id = None


class Context:
    """About one invocation. What is the same for all of them is set on the class by ``describe``."""

    __slots__ = ("_deadline_ns", "attempt", "invocation_id", "trace_parent", "trigger")

    function_name = ""
    function_version = ""
    memory_limit_in_mb = 0
    invoked_function_arn = ""
    log_group_name = ""
    log_stream_name = ""
    namespace = ""
    client_context = None
    identity = Identity()

    invocation_id: str
    trigger: str
    attempt: int
    trace_parent: str
    _deadline_ns: int

    def __init__(self, frame: list[Any]) -> None:
        """From an INVOKE frame, without keeping it: its payload may be large."""
        _, self.invocation_id, self._deadline_ns, self.trigger, self.attempt, _, self.trace_parent, _, _ = frame

    @property
    def aws_request_id(self) -> str:
        return self.invocation_id

    @property
    def deadline(self) -> float:
        """Unix time in seconds at which the invocation is ended."""
        return self._deadline_ns / 1e9

    def get_remaining_time_in_millis(self) -> int:
        return max(0, (self._deadline_ns - time.time_ns()) // 1_000_000)

    def __repr__(self) -> str:
        return (
            f"Context(function_name={self.function_name!r}, function_version={self.function_version!r}, "
            f"invocation_id={self.invocation_id!r}, trigger={self.trigger!r}, attempt={self.attempt})"
        )


def describe(config: dict[str, object]) -> None:
    """Tell the class what function this is."""
    Context.function_name = str(config["function"])
    Context.function_version = str(config["version"])
    Context.memory_limit_in_mb = int(config["memory_mb"])  # type: ignore[call-overload]
    Context.invoked_function_arn = str(config["arn"])
    Context.log_group_name = str(config["log_group"])
    Context.namespace = str(config["namespace"])
