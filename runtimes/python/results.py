"""From what a handler returns to status, headers and payload."""

from __future__ import annotations

import json
import sys
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]

from .codec import HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX
from .failures import Failure, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Headers = list[tuple[bytes, bytes]]
Response = tuple[int, Headers, bytes]

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
TEXT = (b"content-type", b"text/plain; charset=utf-8")
JSON_HEADERS = [JSON]
BINARY_HEADERS = [BINARY]
TEXT_HEADERS = [TEXT]
# What most handlers return: it is neither bytes nor to be awaited or iterated.
PLAIN = frozenset({dict, list, tuple, str, int, float, bool, type(None)})
_PATH_DEPTH_MAX = 64
RECURSION_LIMIT_SAFE = 1000
# Those that say how bytes travel between two hops: the node's to set (RFC 9110, 7.6.1).
_HOP = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"}
    | {b"upgrade"}
)
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_VALUE = bytes(c for c in range(256) if c == 9 or (c >= 32 and c != 127))


def _default(value: Any) -> Any:
    """Decimals become floats, as in Lambda's Python runtime."""
    decimal = sys.modules.get("decimal")
    if decimal is not None and isinstance(value, decimal.Decimal):
        return float(value)
    raise TypeError


_encoder = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=_default)
_ascii_encoder = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_default)
# What ``_encoder.encode`` makes anew in each call. It does not look for values that contain themselves: the recursion
# limit finds them too, unless the user has raised it beyond what the stack can bear.
encode = c_make_encoder(None, _default, encode_basestring, None, ":", ",", False, False, False)


def to_json(value: Any) -> bytes:
    """``value`` as JSON text. Raises ``Failure`` of kind ``not_serialisable`` that names the place."""
    try:
        if sys.getrecursionlimit() > RECURSION_LIMIT_SAFE:
            return _encoder.encode(value).encode()
        return "".join(encode(value, 0)).encode()
    except UnicodeEncodeError:  # lone surrogates: JSON can say them, UTF-8 can't
        return _ascii_encoder.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        path, what = _culprit(value, "result", 0)
        message = f"{path} is {what}, which JSON cannot express" if path else text_of(error)
        raise Failure("not_serialisable", "NotSerialisable", message) from None


def _culprit(value: Any, path: str, depth: int) -> tuple[str, str]:
    """Where in ``value`` the first thing is that JSON cannot express, and what it is; two empty texts if nowhere."""
    if value is None or isinstance(value, (str, bool, int)):
        return "", ""
    if isinstance(value, float):
        return (path, repr(value)) if value != value or value in (float("inf"), -float("inf")) else ("", "")
    if depth > _PATH_DEPTH_MAX:
        return path, "nested too deeply or contains itself"
    inside: list[tuple[Any, str]] = []
    if isinstance(value, dict):
        for key in value:
            if not (key is None or isinstance(key, (str, int, float))):
                return f"a key of {path}", f"of type {type(key).__name__}"
        inside = [(each, f"{path}[{key!r}]") for key, each in value.items()]
    elif isinstance(value, (list, tuple)):
        inside = [(each, f"{path}[{index}]") for index, each in enumerate(value)]
    else:
        try:
            _default(value)
        except TypeError:
            return path, f"of type {type(value).__name__}"
    for each, where in inside:
        found = _culprit(each, where, depth + 1)
        if found[0]:
            return found
    return "", ""


def direct(value: Any) -> Response:
    """The response to a direct, async, queue or cron invocation."""
    if type(value) not in PLAIN and isinstance(value, (bytes, bytearray, memoryview)):
        return 200, BINARY_HEADERS, bytes(value)
    return 200, JSON_HEADERS, to_json(value)


def http(value: Any) -> Response:
    """The response to an HTTP request: the rules of API Gateway's payload format 2.0, and bytes."""
    if isinstance(value, dict) and "statusCode" in value:
        return _structured(value)
    if isinstance(value, str):
        return 200, TEXT_HEADERS, value.encode("utf-8", "backslashreplace")
    return direct(value)


def _structured(value: dict[str, Any]) -> Response:
    status, headers = head(value)
    body = value.get("body")
    named = any(name == b"content-type" for name, _ in headers)
    default = JSON
    if body is None:
        payload = b""
    elif isinstance(body, str):
        payload = _text_body(body, bool(value.get("isBase64Encoded")))
    elif isinstance(body, (bytes, bytearray, memoryview)):
        payload, default = bytes(body), BINARY
    else:
        payload = to_json(body)
    return status, headers if named else [*headers, default], payload


def _text_body(body: str, is_base64: bool) -> bytes:
    if not is_base64:
        return body.encode("utf-8", "backslashreplace")
    import binascii

    try:
        return binascii.a2b_base64(b"".join(body.encode().split()), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise _invalid(f"isBase64Encoded is set and the body is not base64: {error}") from None


def head(value: dict[str, Any]) -> tuple[int, Headers]:
    """Status and headers of a response dict."""
    status = value.get("statusCode", 200)
    try:
        number = int(status)
    except (TypeError, ValueError):
        number = 0
    if isinstance(status, bool) or not 200 <= number <= 599:
        raise _invalid(f"statusCode must be a number from 200 to 599, this is {status!r}")
    pairs: list[tuple[Any, Any]] = []
    headers = value.get("headers") or {}
    several = value.get("multiValueHeaders") or {}
    cookies = value.get("cookies") or []
    if not isinstance(headers, dict) or not isinstance(several, dict) or not isinstance(cookies, (list, tuple)):
        raise _invalid("headers must be a dict and cookies a list")
    for name, each in headers.items():
        pairs.extend((name, one) for one in (each if isinstance(each, (list, tuple)) else (each,)))
    for name, each in several.items():
        pairs.extend((name, one) for one in (each if isinstance(each, (list, tuple)) else (each,)))
    pairs.extend(("set-cookie", cookie) for cookie in cookies)
    return number, checked([(_bytes(name).lower(), _bytes(each)) for name, each in pairs])


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode("utf-8", "backslashreplace")


def checked(headers: Headers) -> Headers:
    """Lower-case headers that may be sent on, without those of the hop. Raises ``Failure`` naming the wrong one."""
    kept: Headers = []
    for name, value in headers:
        if not name or len(name) > HEADER_NAME_BYTES_MAX or name.translate(None, _TOKEN):
            raise _invalid(f"{name[:80]!r} is not the name of a header")
        if len(value) > HEADER_VALUE_BYTES_MAX or value.translate(None, _VALUE):
            raise _invalid(f"the value of header {name.decode()} is too long or has a control character")
        if name not in _HOP:
            kept.append((name, value))
    if len(kept) > HEADERS_MAX - 1:
        raise _invalid(f"{len(kept)} headers; at most {HEADERS_MAX - 1} are allowed")
    return kept


def _invalid(message: str) -> Failure:
    return Failure("not_serialisable", "InvalidResponse", message)
