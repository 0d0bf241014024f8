"""CloudEvents 1.0 over HTTP: from a request to what a function gets, and from what it returns to a response.

A function sees one form only, the structured JSON event as a dict, whatever the mode it came in. Sources: the core
specification, the JSON event format and the HTTP protocol binding, all v1.0.2 (github.com/cloudevents/spec). Where a
receiver may choose, what is wrong is refused, with everything that is wrong named at once.

The data of a binary event goes into the JSON text as it came. That it is JSON is checked first; so it is one value and
can add no attribute to the event around it.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from faas.model.errors import InvalidRequest

Pairs = Sequence[tuple[bytes, bytes]]

MARKS: Final = frozenset({b"ce-specversion", b"ce-id", b"ce-source", b"ce-type"})  # one of them: a binary event
MEDIA_TYPE: Final = b"application/cloudevents"
STRUCTURED_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"
REQUIRED: Final = ("specversion", "id", "source", "type")
ERRORS_MAX: Final = 50  # that are named in one answer

_PREFIX: Final = b"ce-"
_NAME: Final = re.compile(r"[a-z0-9]+\Z")
_NO_TEXT: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, halves of surrogate pairs
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+\Z")
_MEDIA: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+ *(;.*)?\Z")
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d):([0-5]\d|60)(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)\Z")
_TEXTUAL: Final = ("text/", "application/xml", "application/javascript", "application/x-www-form-urlencoded")
_CHARSETS: Final = {"": "utf-8", "utf-8": "utf-8", "us-ascii": "ascii", "iso-8859-1": "latin-1"}
# What stands in a header as it is (HTTP binding, 3.1.3.2): printable ASCII but space, double quote and percent.
_SAFE: Final = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')


class Mode(StrEnum):
    BINARY = "binary"
    STRUCTURED = "structured"
    BATCH = "batch"


class Response(NamedTuple):
    """Headers, ``content-type`` among them, and body of an answer that is an event, or several."""

    headers: tuple[tuple[bytes, bytes], ...]
    payload: bytes


# -- in ---------------------------------------------------------------------------------------------------------------


def mode_of(headers: Mapping[bytes, bytes]) -> Mode | None:
    """How a request carries events; None when it carries none. Raises ``InvalidRequest`` for a format we don't read.

    >>> mode_of({b"content-type": b"application/cloudevents+json; charset=UTF-8"})
    <Mode.STRUCTURED: 'structured'>
    >>> mode_of({b"content-type": b"text/plain", b"ce-id": b"1"})
    <Mode.BINARY: 'binary'>
    >>> mode_of({b"content-type": b"application/json"})
    """
    content_type = headers.get(b"content-type", b"")
    if content_type[: len(MEDIA_TYPE)].lower() == MEDIA_TYPE:
        kind = content_type.partition(b";")[0].strip().lower().decode("latin-1")
        if kind == STRUCTURED_TYPE:
            return Mode.STRUCTURED
        if kind == BATCH_TYPE:
            return Mode.BATCH
        raise InvalidRequest(f"CloudEvents are read as {STRUCTURED_TYPE}, {BATCH_TYPE} or in binary mode.")
    return None if MARKS.isdisjoint(headers) else Mode.BINARY


def read(mode: Mode, headers: Pairs, payload: bytes) -> bytes:
    """JSON text of the event, or of the list of them. Raises ``InvalidRequest`` with every error."""
    if mode is Mode.BINARY:
        return _read_binary(headers, payload)
    value = _json(payload)
    if mode is Mode.STRUCTURED:
        _refuse(problems(value))
    elif isinstance(value, list):
        _refuse([f"event {number}: {each}" for number, event in enumerate(value) for each in problems(event)])
    else:
        _refuse(["a batch is a JSON array"])
    return payload.removeprefix(codecs.BOM_UTF8)


def problems(event: Any) -> list[str]:
    """What is wrong with a structured event; nothing when it is valid.

    >>> problems({"specversion": "1.0", "id": "1", "type": "made", "source": "/here", "subject": None})
    []
    >>> problems({"specversion": "0.3", "id": "", "source": "/here"})
    ["'specversion' must be '1.0', this is '0.3'", "'id' must be a text that is not empty", "'type' is missing"]
    """
    if not isinstance(event, dict):
        return ["an event is a JSON object"]
    found = []
    for name in REQUIRED:
        value = event.get(name)
        if value is None:
            found.append(f"'{name}' is missing")
        elif not isinstance(value, str) or not value:
            found.append(f"'{name}' must be a text that is not empty")
        elif name == "specversion" and value != "1.0":
            found.append(f"'specversion' must be '1.0', this is '{value[:20]}'")
    for name, value in event.items():
        if name not in ("data", "data_base64") and value is not None:
            found += _wrong(name, value)
    if event.get("data_base64") is not None:
        if event.get("data") is not None:
            found.append("only one of 'data' and 'data_base64' may be there")
        if not isinstance(event["data_base64"], str) or _decoded(event["data_base64"]) is None:
            found.append("'data_base64' must be base64")
    return found


def attributes_of(event: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of a valid event, as texts."""
    return {
        name: _text(value) for name, value in event.items() if name not in ("data", "data_base64") and value is not None
    }


def _wrong(name: str, value: Any) -> list[str]:
    """Of an attribute that has a value."""
    if not _NAME.match(name):
        return [f"'{name[:80]}': names of attributes have a-z and 0-9 only"]
    if isinstance(value, str):
        if _NO_TEXT.search(value):
            return [f"'{name}' holds a control character, or half of a surrogate pair"]
    elif not isinstance(value, int) or not -(2**31) <= value < 2**31:
        return [f"'{name}' must be a text, a 32-bit whole number, true or false"]
    text = value if isinstance(value, str) else ""
    if name == "source" and text and re.search(r"\s", text):
        return ["'source' must be a URI reference"]
    if name == "time" and not _is_time(text):
        return ["'time' must be as RFC 3339 has it, such as 2024-05-01T12:00:00Z"]
    if name == "dataschema" and not _URI.match(text):
        return ["'dataschema' must be an absolute URI"]
    if name == "datacontenttype" and not _MEDIA.match(text):
        return ["'datacontenttype' must be a media type"]
    if name == "subject" and not text:
        return ["'subject' must be a text that is not empty"]
    return []


def _is_time(text: str) -> bool:
    match = _TIME.match(text)
    if match is None:
        return False
    try:
        datetime.fromisoformat(f"{match[1]}T{match[2]}")
    except ValueError:
        return False
    return True


def _read_binary(headers: Pairs, payload: bytes) -> bytes:
    event: dict[str, str] = {}
    wrong = []
    for raw, value in headers:
        if raw == b"content-type" and value.strip():
            event["datacontenttype"] = value.strip().decode("latin-1")
        if not raw.startswith(_PREFIX):
            continue
        name = raw[len(_PREFIX) :].decode("latin-1")
        text = _header_text(value)
        if name in ("data", "data_base64", "datacontenttype"):
            wrong.append(f"'ce-{name}' has no place in a header: the body is the data, Content-Type its type")
        elif name in event:
            wrong.append(f"'ce-{name}' was sent more than once")
        elif text is None:
            wrong.append(f"'ce-{name}' is not UTF-8")
        else:
            event[name] = text
    _refuse([*wrong, *problems(event)])
    ordered = {name: event[name] for name in (*REQUIRED, *sorted(event.keys() - set(REQUIRED)))}
    text = json.dumps(ordered, ensure_ascii=False, separators=(",", ":"))
    if payload:
        text = f"{text[:-1]},{_data_member(event.get('datacontenttype', ''), payload)}}}"
    return text.encode()


def _header_text(value: bytes) -> str | None:
    """HTTP binding, 3.1.3.2: quoted or not, percent-encoded UTF-8.

    >>> _header_text(b"Euro%20%E2%82%AC%20%F0%9F%98%80")
    'Euro € 😀'
    """
    value = value.strip()
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        value = re.sub(rb"\\(.)", rb"\1", value[1:-1])
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        return None


def _data_member(content_type: str, payload: bytes) -> str:
    """``"data":...`` with JSON as it came and other text as a string, else ``"data_base64":...``.

    Without a content type, as the official SDK sends texts, it is JSON if it can be read as that.
    """
    if _is_json(content_type):
        with contextlib.nullcontext() if content_type else contextlib.suppress(InvalidRequest):
            _json(payload)
            return '"data":' + payload.decode("utf-8-sig").strip(" \t\r\n")
    kind, _, rest = content_type.lower().partition(";")
    kind = kind.strip()
    charset = re.search(r"charset *= *\"?([^\s;\"]+)", rest)
    encoding = _CHARSETS.get(charset[1] if charset is not None else "")
    if encoding is not None and (not kind or kind.startswith(_TEXTUAL) or kind.endswith("+xml")):
        try:
            return '"data":' + json.dumps(payload.decode(encoding), ensure_ascii=False)
        except UnicodeDecodeError:
            pass
    return f'"data_base64":"{base64.b64encode(payload).decode()}"'


def _is_json(content_type: str) -> bool:
    """ "" counts, as in a structured event without ``datacontenttype``."""
    kind = content_type.partition(";")[0].strip().lower()
    return not kind or kind.endswith(("/json", "+json"))


def _json(payload: bytes) -> Any:
    try:
        return json.loads(payload.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"The CloudEvent's body is not JSON: {why}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        named = list(wrong[:ERRORS_MAX])
        more = f" and {len(wrong) - ERRORS_MAX} more" if len(wrong) > ERRORS_MAX else ""
        raise InvalidRequest(f"The CloudEvent is not valid: {'; '.join(named)}{more}.", errors=named)


# -- out --------------------------------------------------------------------------------------------------------------


def write(mode: Mode, payload: bytes, now: str) -> Response | None:
    """What a function returned, as an answer in the mode of its request; None when it is no event.

    ``payload`` is JSON text; ``now`` (RFC 3339) the ``time`` of an event that says none. Several events go out as a
    batch, as there is no other way.
    """
    try:
        value = json.loads(payload)
        events = value if isinstance(value, list) else [value]
        if not events or any(problems(event) for event in events):
            return None
        events = [event if event.get("time") is not None else {**event, "time": now} for event in events]
        if mode is Mode.BATCH or isinstance(value, list):
            return Response(((b"content-type", BATCH_TYPE.encode()),), _dumped(events))
        if mode is Mode.STRUCTURED:
            return Response(((b"content-type", STRUCTURED_TYPE.encode()),), _dumped(events[0]))
        return _write_binary(events[0])
    except (ValueError, RecursionError):
        return None


def _write_binary(event: Mapping[str, Any]) -> Response:
    content_type = event.get("datacontenttype")
    headers = [
        (_PREFIX + name.encode(), quote(value, safe=_SAFE).encode())
        for name, value in attributes_of(event).items()
        if name != "datacontenttype"
    ]
    body = b""
    if event.get("data_base64") is not None:
        body = _decoded(event["data_base64"]) or b""
    elif event.get("data") is not None:
        body = _body(event["data"], content_type or "")
        content_type = content_type or "application/json"
    if content_type:
        headers.append((b"content-type", content_type.encode("latin-1")))
    return Response(tuple(headers), body)


def _body(data: Any, content_type: str) -> bytes:
    if isinstance(data, str) and not _is_json(content_type):
        charset = re.search(r"charset *= *\"?([^\s;\"]+)", content_type.lower())
        return data.encode(_CHARSETS.get(charset[1] if charset is not None else "", "utf-8"))
    return _dumped(data)


def _dumped(value: Any) -> bytes:
    """Raises ``ValueError`` for numbers JSON does not have, and for texts that are none."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _text(value: Any) -> str:
    """Of an attribute (core specification, 2.4).

    >>> _text(True), _text(-7), _text("a")
    ('true', '-7', 'a')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
