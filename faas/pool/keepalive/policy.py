"""What the pool asks of a keep-alive policy: the questions, the answers, and the simplest policy, a fixed time."""

from __future__ import annotations

from typing import NamedTuple, Protocol

MINUTE_NS = 60_000_000_000


class Decision(NamedTuple):
    """Hold the function's idle sandbox (a parked one, say) from now on, or do not.

    ``until_ns`` is when to ask again; ``None``: not before the next call. Going from False to True is a pre-warming.
    """

    keep: bool
    until_ns: int | None


class Outlook(NamedTuple):
    """What will be if no call comes, for people: ``keep_until_ns`` is ``None`` for what is not held now."""

    keep_until_ns: int | None
    prewarm_at_ns: int | None
    prewarm_until_ns: int | None
    why: str


class KeepAlive(Protocol):
    """A policy. State changes only by these calls and depends on nothing else: no clock, no randomness.

    ``function`` is the key of a function version. ``idle`` comes when its last running call has ended, ``called`` when
    a call comes for a function that is idle. Between the two the pool asks ``decide`` at once and then whenever the
    last answer said so, and does what it is told; if it could not (evicted for memory), it says ``released``.

    The pool holds through idle times under half a minute anyway and need not report them, so that nothing of this is on
    the path of a busy function: it may tell ``idle`` as late as that, with the time at which it began. Otherwise times
    never go back.
    """

    def called(self, function: str, now_ns: int) -> None: ...

    def idle(self, function: str, hold_mb: float, warm_mb: float, now_ns: int, load_ns: int = 0) -> None:
        """From now on holding it takes ``hold_mb`` (parked, say); ``warm_mb`` is what it would take kept warm.

        ``load_ns`` is what a call waits for its module when it is not held; 0 = not known, as short as most are.
        """
        ...

    def decide(self, function: str, now_ns: int) -> Decision: ...

    def released(self, function: str, now_ns: int) -> None: ...

    def outlook(self, function: str, now_ns: int) -> Outlook: ...

    def forget(self, function: str, now_ns: int) -> None:
        """The function version is gone."""
        ...


class Fixed:
    """Hold everything for the same time, as most platforms do.

    >>> policy = Fixed(keep_ns=10 * MINUTE_NS)
    >>> policy.idle("f", hold_mb=15, warm_mb=128, now_ns=0)
    >>> policy.decide("f", now_ns=0), policy.decide("f", now_ns=11 * MINUTE_NS)
    (Decision(keep=True, until_ns=600000000001), Decision(keep=False, until_ns=None))
    """

    def __init__(self, keep_ns: int) -> None:
        self.keep_ns = keep_ns
        self._idle_ns: dict[str, int] = {}

    def called(self, function: str, now_ns: int) -> None:  # noqa: ARG002
        self._idle_ns.pop(function, None)

    def idle(self, function: str, hold_mb: float, warm_mb: float, now_ns: int, load_ns: int = 0) -> None:  # noqa: ARG002
        self._idle_ns[function] = now_ns

    def decide(self, function: str, now_ns: int) -> Decision:
        since_ns = self._idle_ns.get(function)
        if since_ns is None or now_ns - since_ns > self.keep_ns:
            return Decision(False, None)
        return Decision(True, since_ns + self.keep_ns + 1)

    def released(self, function: str, now_ns: int) -> None:  # noqa: ARG002
        self._idle_ns.pop(function, None)

    def outlook(self, function: str, now_ns: int) -> Outlook:
        decision = self.decide(function, now_ns)
        why = f"every idle function is kept for {in_words(self.keep_ns)}"
        return Outlook(decision.until_ns if decision.keep else None, None, None, why)

    def forget(self, function: str, now_ns: int) -> None:  # noqa: ARG002
        self._idle_ns.pop(function, None)


def in_words(duration_ns: int) -> str:
    """A duration for people, two figures at most.

    >>> in_words(45_000_000_000), in_words(150 * MINUTE_NS), in_words(1500 * MINUTE_NS)
    ('45 s', '2 h 30 min', '25 h')
    """
    seconds = round(duration_ns / 1_000_000_000)
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest and hours < 10 else f"{hours} h"
