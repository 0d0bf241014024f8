"""Every error the platform answers with, as one tree.

Each class carries a stable ``code`` (the contract with callers), whose ``fault`` it is, and a message
that says what to do. Adapters translate library errors into these at their edge; ``gateway/problems.py``
is the only place that maps them to HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar


class Fault(StrEnum):
    """Whose doing an error is; decides who pays: a platform fault bills 0."""

    CALLER = "caller"
    FUNCTION = "function"
    PLATFORM = "platform"


class FaasError(Exception):
    """Base of the tree. ``details`` are extra members of the problem document."""

    code: ClassVar[str] = "internal"
    fault: ClassVar[Fault] = Fault.PLATFORM

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidRequest(FaasError):
    code = "invalid-request"
    fault = Fault.CALLER


class LoopDetected(InvalidRequest):
    """A chain of functions that call each other has grown too long. Calling again makes it no shorter."""

    code = "loop-detected"


class KeyReused(InvalidRequest):
    """An idempotency key that came with another request before."""


class Unauthenticated(FaasError):
    code = "unauthenticated"
    fault = Fault.CALLER


class BudgetExhausted(FaasError):
    code = "budget-exhausted"
    fault = Fault.CALLER


class Forbidden(FaasError):
    code = "forbidden"
    fault = Fault.CALLER


class NotFound(FaasError):
    code = "not-found"
    fault = Fault.CALLER


class MethodNotAllowed(FaasError):
    code = "method-not-allowed"
    fault = Fault.CALLER

    def __init__(self, message: str, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow


class Conflict(FaasError):
    code = "conflict"
    fault = Fault.CALLER


class StillRunning(Conflict):
    """The first request of the same idempotency key has no answer yet. ``retry_after_s`` is at least 1."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class PayloadTooLarge(FaasError):
    code = "payload-too-large"
    fault = Fault.CALLER


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """One thing wrong with a manifest. ``line`` is 1-based in the user's file, None when unknown."""

    key: str
    message: str
    line: int | None = None


class InvalidManifest(FaasError):
    """Carries every problem at once, so that one round of editing mends them all."""

    code = "invalid-manifest"
    fault = Fault.CALLER

    def __init__(self, problems: list[ManifestProblem], message: str | None = None, **details: Any) -> None:
        listed = "; ".join(
            (f"line {p.line}: " if p.line else "") + (f"{p.key}: " if p.key else "") + p.message for p in problems
        )
        super().__init__(message or listed, **details)
        self.problems = problems


class InvalidPrices(InvalidManifest):
    """A price book that does not hold; every problem at once, as of a manifest."""

    code = "invalid-prices"


class Throttled(FaasError):
    """The function's or tenant's own limit. ``retry_after_s`` is a whole number of seconds, at least 1."""

    code = "throttled"
    fault = Fault.CALLER

    def __init__(self, message: str, retry_after_s: int = 1, **details: Any) -> None:
        super().__init__(message, **details)
        self.retry_after_s = retry_after_s


class FunctionFailed(FaasError):
    """The handler (or its import) raised. ``traceback`` is trimmed to the user's own frames."""

    code = "function-error"
    fault = Fault.FUNCTION

    def __init__(self, error_type: str, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.error_type = error_type
        self.traceback = traceback


class InstanceCrashed(FaasError):
    """The process ended without an answer. ``exit`` is ``oom``, ``signal:SIGSEGV`` or ``code:3``."""

    code = "instance-crashed"
    fault = Fault.FUNCTION

    def __init__(self, message: str, exit: str) -> None:  # noqa: A002 - the contract's name
        super().__init__(message)
        self.exit = exit


class NoCapacity(FaasError):
    code = "no-capacity"
    fault = Fault.PLATFORM

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(FaasError):
    """The function ran past its timeout and its instance was killed."""

    code = "timeout"
    fault = Fault.FUNCTION


class CallerLeft(FaasError):
    """The caller went away and the function does not want to go on without it. Nobody is told; the record is."""

    code = "cancelled"
    fault = Fault.CALLER


class EngineUnavailable(FaasError):
    """The container engine does not answer or refused; the message carries its words and the way out."""

    code = "engine-unavailable"


class StoreUnavailable(FaasError):
    """Redis or Valkey does not answer."""

    code = "store-unavailable"


class DependenciesUnavailable(FaasError):
    """A function's packages cannot be had: the index does not answer, or serves other files than were locked."""

    code = "dependencies-unavailable"
