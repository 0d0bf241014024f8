"""Keep-alive: how long a function that nobody calls is held, and when it is loaded again before it is called.

Policies have one interface (``KeepAlive``) and are chosen by name: ``adaptive`` (ours), ``histogram`` (the published
one) or ``fixed``. Like all of the pool they are pure: time is an argument.
"""

from __future__ import annotations

from faas.pool.keepalive.adaptive import Adaptive
from faas.pool.keepalive.budget import BudgetSettings
from faas.pool.keepalive.histogram import Histogram
from faas.pool.keepalive.policy import MINUTE_NS, Decision, Fixed, KeepAlive, Outlook

__all__ = ["MINUTE_NS", "POLICIES", "Adaptive", "Decision", "Fixed", "Histogram", "KeepAlive", "Outlook", "policy_of"]

POLICIES = ("fixed", "histogram", "adaptive")


def policy_of(name: str, fixed_ns: int = 10 * MINUTE_NS) -> KeepAlive:
    """The policy of this name. ``fixed_ns`` is what it holds for (fixed), falls back to, or may not cost more than.

    Raises ``ValueError`` for a name that is not in ``POLICIES``.
    """
    if name == "fixed":
        return Fixed(fixed_ns)
    if name == "histogram":
        return Histogram(fixed_ns)
    if name == "adaptive":
        return Adaptive(BudgetSettings(fixed_ns=fixed_ns))
    raise ValueError(f"no keep-alive policy is called {name!r}; there are {', '.join(POLICIES)}")
