"""Warnings that a budget is nearly used up: what they say, how they are signed, when they are sent again.

The form is that of Standard Webhooks (``faas.model.webhook``).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Final

from faas.billing.budget_words import Month, shown
from faas.billing.budgets import Account
from faas.model.webhook import signed_headers

EVENT: Final = "budget.threshold_reached"
TRIES_MAX: Final = 20  # about 7 hours
BACKOFF_MS: Final = 2_000
BACKOFF_MAX_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Notice:
    """One warning. ``body`` is sent as it is, each time."""

    id: str
    namespace: str
    body: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A notice that is to be sent now, for the ``tries``-th time."""

    notice: Notice
    tries: int


def notice_id(account: Account, month: Month, threshold: int) -> str:
    """The same on every node and after every restart, for one limit, month and threshold."""
    limit = account.limit
    most = shown(limit.unit, limit.most)
    named = (month.name, limit.namespace, limit.scope, limit.name, limit.unit, most, str(threshold))
    return "bn_" + hashlib.sha256("\0".join(named).encode()).hexdigest()[:32]


def notice(account: Account, month: Month, threshold: int, at: str) -> Notice:
    """``at`` is when it was noticed, RFC 3339."""
    limit = account.limit
    data: dict[str, Any] = {
        "namespace": limit.namespace,
        "scope": limit.scope,
        "name": limit.name,
        "unit": limit.unit,
        "limit": shown(limit.unit, limit.most),
        "used": shown(limit.unit, account.used),
        "threshold_percent": threshold,
        "calls_stopped": threshold >= 100,
        "month": month.name,
        "renews_at": month.renews_at,
    }
    body = json.dumps({"type": EVENT, "timestamp": at, "data": data}, separators=(",", ":"))
    return Notice(notice_id(account, month, threshold), limit.namespace, body)


def headers(notice: Notice, secret: str, unix_s: int) -> dict[str, str]:
    """Of one attempt.

    >>> sent = Notice("msg_p5jXN8AQM9LWM0D4loKWxJek", "", '{"test": 2432232314}')
    >>> headers(sent, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330)["webhook-signature"]
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    return signed_headers(notice.id, notice.body.encode(), secret, unix_s)


def backoff_ms(tries: int, random: float) -> int:
    """How long to wait after the ``tries``-th attempt: doubling, up to an hour, the upper half of it at random.

    >>> backoff_ms(1, 0.0), backoff_ms(1, 1.0), backoff_ms(3, 1.0), backoff_ms(19, 1.0)
    (1000, 2000, 8000, 3600000)
    """
    whole = min(BACKOFF_MS << min(tries - 1, 20), BACKOFF_MAX_MS)
    return whole // 2 + int(whole / 2 * random)
