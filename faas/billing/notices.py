"""Warnings that a budget is nearly used up: what they say, how they are signed, when they are sent again.

The form is that of Standard Webhooks 1.0 (https://www.standardwebhooks.com): ``webhook-id`` stays the same over all
attempts, so that a receiver can tell a repetition; ``webhook-signature`` covers id, time of the attempt and body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Any, Final

from faas.billing.budget_words import Month, shown
from faas.billing.budgets import Account

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
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


def secret_bytes(secret: str) -> bytes:
    """The key in a secret; raises ``ValueError`` that says what a secret looks like."""
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ValueError(f"a secret is {SECRET_PREFIX} and base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes")
    return key


def secret_of(key: bytes) -> str:
    return SECRET_PREFIX + base64.b64encode(key).decode()


def headers(notice: Notice, secret: str, unix_s: int) -> dict[str, str]:
    """Of one attempt.

    >>> sent = Notice("msg_p5jXN8AQM9LWM0D4loKWxJek", "", '{"test": 2432232314}')
    >>> headers(sent, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 1614265330)["webhook-signature"]
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    signed = f"{notice.id}.{unix_s}.{notice.body}".encode()
    signature = hmac.new(secret_bytes(secret), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": notice.id,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }


def backoff_ms(tries: int, random: float) -> int:
    """How long to wait after the ``tries``-th attempt: doubling, up to an hour, the upper half of it at random.

    >>> backoff_ms(1, 0.0), backoff_ms(1, 1.0), backoff_ms(3, 1.0), backoff_ms(19, 1.0)
    (1000, 2000, 8000, 3600000)
    """
    whole = min(BACKOFF_MS << min(tries - 1, 20), BACKOFF_MAX_MS)
    return whole // 2 + int(whole / 2 * random)
