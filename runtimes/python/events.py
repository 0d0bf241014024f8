"""From an INVOKE frame to the event a handler gets."""

from __future__ import annotations

import json
import time

from .failures import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_WHITESPACE = " \t\n\r"
CLOUD_EVENTS = "application/cloudevents"  # what content types of CloudEvents begin with: the JSON is the event


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)
scan = _decoder.scan_once  # type: ignore[attr-defined] # the half of ``decode`` that is C; the other looks for white space around the value


def is_json(content_type: str) -> bool:
    """ "" counts: whoever says nothing means JSON."""
    if not content_type:
        return True
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def direct(content_type: str, payload: bytes) -> Any:
    """The event of an invocation whose payload it is. Raises ``Failure`` of kind ``bad_event``."""
    if content_type != "application/json" and not is_json(content_type):
        return payload
    if not payload:
        return {}
    try:
        text = payload.decode()
        try:
            value, end = scan(text, 0)
        except StopIteration:  # it begins with white space, a byte order mark or an error
            end = -1
        return value if end == len(text) else _decoder.decode(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:
        message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Failure("bad_event", type(error).__name__, f"the request body is not JSON: {message}") from None


def http(invocation_id: str, request: list[Any], payload: bytes, function: str, namespace: str) -> dict[str, Any]:
    """API Gateway's payload format 2.0."""
    method, path, raw_path, query, pairs, source_ip, protocol = request
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for name, value in pairs:
        if name == "cookie":
            cookies.extend(part.strip() for part in value.split(";") if part.strip())
        elif name in headers:
            headers[name] += "," + value
        else:
            headers[name] = value
    host = headers.get("host", "")
    now_ms = time.time_ns() // 1_000_000
    event: dict[str, Any] = {"version": "2.0", "routeKey": "$default", "rawPath": raw_path, "rawQueryString": query}
    if cookies:
        event["cookies"] = cookies
    event["headers"] = headers
    if query:
        event["queryStringParameters"] = _parameters(query)
    event["requestContext"] = {
        "accountId": namespace,
        "apiId": function,
        "domainName": host,
        "domainPrefix": host.partition(".")[0],
        "http": {
            "method": method,
            "path": path,
            "protocol": protocol,
            "sourceIp": source_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": invocation_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": _clf_time(now_ms // 1000),
        "timeEpoch": now_ms,
    }
    if payload:
        event["body"], event["isBase64Encoded"] = _body(headers.get("content-type", ""), payload)
    else:
        event["isBase64Encoded"] = False
    return event


def _clf_time(seconds: int) -> str:
    t = time.gmtime(seconds)
    return f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"


def _parameters(query: str) -> dict[str, str]:
    """Decoded; repeats joined by commas."""
    parameters: dict[str, str] = {}
    for part in query.split("&"):
        if not part:
            continue
        name, _, value = part.partition("=")
        name, value = unquote_plus(name), unquote_plus(value)
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


def unquote_plus(text: str) -> str:
    return unquote(text.replace("+", " "))


def unquote(text: str) -> str:
    """As ``urllib.parse.unquote``, which costs 8 ms to import."""
    if "%" not in text:
        return text
    first, *parts = text.encode().split(b"%")
    whole = bytearray(first)
    for part in parts:
        digits = part[:2]
        if len(digits) == 2 and not digits.strip(b"0123456789abcdefABCDEF"):
            whole.append(int(digits, 16))
            whole += part[2:]
        else:
            whole += b"%" + part
    return whole.decode("utf-8", "replace")


_TEXTUAL = (
    "text/",
    "application/json",
    "application/xml",
    "application/javascript",
    "application/x-www-form-urlencoded",
)


def _body(content_type: str, payload: bytes) -> tuple[str, bool]:
    """Text as it is, anything else in base64."""
    kind = content_type.partition(";")[0].strip().lower()
    if not kind or kind.startswith(_TEXTUAL) or kind.endswith(("+json", "+xml")):
        try:
            return payload.decode(), False
        except UnicodeDecodeError:
            pass
    import binascii

    return binascii.b2a_base64(payload, newline=False).decode(), True
