"""Webhooks as Standard Webhooks 1.0 has them (https://www.standardwebhooks.com): secrets and signatures.

``webhook-id`` stays the same over all attempts, so that a receiver can tell a repetition; ``webhook-signature`` covers
id, time of the attempt and body.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what a secret begins with
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64
GONE: Final = 410  # the receiver wants no more of it


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


def signed_headers(webhook_id: str, body: bytes, secret: str, unix_s: int) -> dict[str, str]:
    """Of one attempt to deliver a JSON body.

    >>> sent = b'{"test": 2432232314}'
    >>> secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    >>> made = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", sent, secret, 1614265330)
    >>> made["webhook-signature"]
    'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE='
    """
    signed = f"{webhook_id}.{unix_s}.".encode() + body
    signature = hmac.new(secret_bytes(secret), signed, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(unix_s),
        "webhook-signature": "v1," + base64.b64encode(signature).decode(),
    }
