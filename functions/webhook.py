# /// script
# requires-python = ">=3.11"
#
# [tool.faas]
# name = "webhook"
# memory = "64MB"
# timeout = "10s"
# env = { TOLERANCE_S = "300" }
# # Give the shared secret at deploy: faas deploy webhook.py --env WEBHOOK_SECRET=...
#
# [tool.faas.http]
# public = true
# methods = ["POST"]
# ///
"""Receives webhooks and lets through only those that are signed with the shared secret WEBHOOK_SECRET.

Two schemes, told apart by their header. GitHub: ``X-Hub-Signature-256: sha256=HEX`` over the body. Stripe:
``Stripe-Signature: t=UNIX,v1=HEX[,v1=HEX]`` over ``UNIX.BODY``, where a time further off than TOLERANCE_S seconds is
refused, so that a captured request cannot be sent again later. Put what should happen into ``accept``.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import time

log = logging.getLogger("webhook")
log.setLevel("INFO")


class Refused(Exception):
    """The request is not what its sender should have sent; the text says why and gives nothing away."""


def accept(event_type, payload):
    """Do something with a genuine event; what it returns goes back to the sender."""
    log.info("accepted %s", event_type)
    return {"accepted": event_type}


def handler(event, context):
    secret = os.environ.get("WEBHOOK_SECRET", "")
    if not secret:
        log.error("WEBHOOK_SECRET is not set: every webhook is refused")
        return answer(500, {"error": "this webhook is not set up"})
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    body = event.get("body") or ""
    body = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    try:
        verify(secret.encode(), headers, body, time.time())
    except Refused as error:
        log.warning("refused: %s", error)
        return answer(401, {"error": str(error)})
    try:
        payload = json.loads(body)
    except ValueError:
        return answer(400, {"error": "the body is not JSON"})
    kind = headers.get("x-github-event") or (payload.get("type") if isinstance(payload, dict) else None)
    return answer(200, accept(kind or "event", payload))


def verify(secret, headers, body, now):
    """Return when the signature is right, else raise ``Refused``. Takes equally long for every wrong signature."""
    if "x-hub-signature-256" in headers:
        given, signed = [headers["x-hub-signature-256"].removeprefix("sha256=")], body
    elif "stripe-signature" in headers:
        parts = [part.strip().partition("=") for part in headers["stripe-signature"].split(",")]
        given = [value for key, _, value in parts if key == "v1"]
        moment = next((value for key, _, value in parts if key == "t"), "")
        if not (moment.isascii() and moment.isdecimal() and len(moment) <= 12):
            raise Refused("the signature has no valid time")
        if abs(now - int(moment)) > float(os.environ.get("TOLERANCE_S", "300")):
            raise Refused("the signature is too old, or from the future")
        signed = moment.encode() + b"." + body
    else:
        raise Refused("there is no signature")
    expected = hmac.new(secret, signed, hashlib.sha256).hexdigest().encode()
    if True not in [hmac.compare_digest(expected, one.encode()) for one in given]:
        raise Refused("the signature does not match")


def answer(status, document):
    return {"statusCode": status, "headers": {"content-type": "application/json"}, "body": json.dumps(document)}
