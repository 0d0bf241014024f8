"""What is sent to a queue, as callers write it: one message or a list of them, every mistake said at once.

Sending is a hot path. So the checks are plain code in one pass over what the JSON parser gave, and words are found
only for what is wrong.

Other forms of a message come in by their content type: a ``Reader`` in ``READERS`` takes the body and the request's
headers, and makes messages with the ``Sender`` it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn

from faas.gateway.body import too_large
from faas.model.errors import InvalidRequest
from faas.model.message import BODY_BYTES_MAX, DELAY_MS_MAX, SEND_MAX, Message
from faas.packaging.sizes import format_duration_ms, parse_duration_ms

JSON_TYPE: Final = "application/json"
TEXT_TYPE: Final = "text/plain"  # of a body that is a JSON string: it is stored as that string
ATTRIBUTES_MAX: Final = 64
NAME_CHARS_MAX: Final = 256
ID_CHARS_MAX: Final = 128  # of a group and of a dedup id: as SQS has it
ERRORS_SHOWN_MAX: Final = 100
FORM: Final = '{"body": ANY JSON, "attributes": {NAME: TEXT}, "delay": "10s", "dedup_id": TEXT, "group": TEXT}'
_KEYS: Final = frozenset({"body", "attributes", "delay", "dedup_id", "group"})
_MISSING: Final = object()


class Asked(NamedTuple):
    messages: list[Message]
    many: bool  # a list was sent, so a list is answered


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends: what all messages of a request have in common."""

    new_id: Callable[[], str]
    key_id: str
    trace_parent: str
    hops: int


Headers = Mapping[bytes, bytes]
Reader = Callable[[bytes, Headers, Sender], Asked]


@dataclass(slots=True)
class _Mistakes:
    """All that is wrong with a request. ``index`` is None where one message was sent, not a list."""

    index: int | None = None
    found: list[dict[str, Any]] = field(default_factory=list)

    def add(self, key: str, message: str) -> None:
        self.found.append({"index": self.index, "key": key, "message": message})

    def check(self) -> None:
        """Raises ``InvalidRequest`` with all of them."""
        if not self.found:
            return
        shown = self.found[:ERRORS_SHOWN_MAX]
        more = len(self.found) - len(shown)
        raise InvalidRequest(
            "; ".join(_in_words(**each) for each in shown) + (f"; and {more} more" if more else "") + ".", errors=shown
        )


def _in_words(index: int | None, key: str, message: str) -> str:
    """
    >>> _in_words(3, "delay", "is no duration"), _in_words(None, "", "is no object")
    ("message 3: 'delay' is no duration", 'the message is no object')
    """
    if index is None:
        return f"'{key}' {message}" if key else f"the message {message}"
    return f"message {index}: '{key}' {message}" if key else f"message {index} {message}"


def read_json(raw: bytes, _: Headers, sender: Sender) -> Asked:
    """One message object, or a list of them. Raises ``InvalidRequest``, ``PayloadTooLarge``."""
    try:
        value = json.loads(raw, parse_constant=_no_json)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(
            f"The body is not JSON: {error}. A message is {FORM}, and a list of them will do."
        ) from error
    mistakes = _Mistakes()
    if isinstance(value, dict):
        one = _message(value, sender, mistakes)
        mistakes.check()
        assert one is not None
        return Asked([one], many=False)
    if not isinstance(value, list):
        raise InvalidRequest(f"The body is neither a message nor a list of them. A message is {FORM}.")
    if not 0 < len(value) <= SEND_MAX:
        raise InvalidRequest(f"A list has from 1 to {SEND_MAX} messages, this one {len(value)}; send it in parts.")
    made: list[Message] = []
    for index, each in enumerate(value):
        mistakes.index = index
        message = _message(each, sender, mistakes)
        if message is not None:
            made.append(message)
    mistakes.check()
    return Asked(made, many=True)


READERS: Final[Mapping[str, Reader]] = {"": read_json, JSON_TYPE: read_json}


def reader_for(headers: Headers) -> Reader:
    """What reads a request with these headers. Raises ``InvalidRequest`` where nothing does."""
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
    reader = READERS.get(content_type)
    if reader is None:
        raise InvalidRequest(
            f"A message is sent as {JSON_TYPE}, not as {content_type[:60]}: {FORM}, or a list of them. "
            'Text goes in as a JSON string: {"body": "any text"}.'
        )
    return reader


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON value")


def _message(value: Any, sender: Sender, mistakes: _Mistakes) -> Message | None:
    """None, and something in ``mistakes``, where it is not one."""
    before = len(mistakes.found)
    if not isinstance(value, dict):
        mistakes.add("", f"is no object; it must be {FORM}")
        return None
    if not value.keys() <= _KEYS:
        for name in sorted(value.keys() - _KEYS):
            mistakes.add(name[:60], f"is no key of a message; it has {', '.join(sorted(_KEYS))}")
    body, content_type = _body(value.get("body", _MISSING), mistakes)
    attributes = value.get("attributes")
    if attributes is not None or "attributes" in value:
        for problem in _wrong_attributes(attributes):
            mistakes.add("attributes", problem)
    delay_ms = _delay_ms(value["delay"], mistakes) if "delay" in value else 0
    group = _short(value, "group", mistakes)
    dedup_id = _short(value, "dedup_id", mistakes)
    if len(mistakes.found) > before:
        return None
    return Message(
        sender.new_id(),
        body,
        content_type,
        attributes or {},
        group,
        dedup_id,
        delay_ms,
        key_id=sender.key_id,
        trace_parent=sender.trace_parent,
        hops=sender.hops,
    )


def _body(value: Any, mistakes: _Mistakes) -> tuple[bytes, str]:
    """A string as it is, any other value as its JSON text."""
    try:
        if isinstance(value, str):
            body, content_type = value.encode(), TEXT_TYPE
        elif value is _MISSING:
            mistakes.add("body", "is missing; it may be any JSON value, null too")
            return b"", JSON_TYPE
        else:
            body, content_type = _json_text(value), JSON_TYPE
    except UnicodeEncodeError:
        mistakes.add("body", "holds half of a surrogate pair, which is no text")
        return b"", JSON_TYPE
    except (ValueError, RecursionError) as error:
        mistakes.add("body", f"has no JSON text: {error}")
        return b"", JSON_TYPE
    if len(body) > BODY_BYTES_MAX:
        raise too_large(BODY_BYTES_MAX)
    return body, content_type


def _json_text(value: Any) -> bytes:
    """
    >>> _json_text({"a": [1, None, "ä"]}).decode()
    '{"a":[1,null,"ä"]}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can write as an escape
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _wrong_attributes(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield "must be an object of texts by name"
        return
    if len(value) > ATTRIBUTES_MAX:
        yield f"are {len(value)}; a message may have {ATTRIBUTES_MAX}"
    for name, text in value.items():
        if not 0 < len(name) <= NAME_CHARS_MAX or not _is_text(name):
            yield f"must have names of 1 to {NAME_CHARS_MAX} characters"
        if not isinstance(text, str) or not _is_text(text):
            yield f"must be texts, '{name[:60]}' is not; quote it"


def _delay_ms(value: Any, mistakes: _Mistakes) -> int:
    try:
        delay_ms = parse_duration_ms(value)
    except ValueError as error:
        mistakes.add("delay", f"is wrong: {error}")
        return 0
    if delay_ms > DELAY_MS_MAX:
        mistakes.add("delay", f"may be at most {format_duration_ms(DELAY_MS_MAX)}")
    return delay_ms


def _short(value: dict[str, Any], key: str, mistakes: _Mistakes) -> str:
    if key not in value:
        return ""
    text = value[key]
    if isinstance(text, str) and 0 < len(text) <= ID_CHARS_MAX and _is_text(text):
        return text
    mistakes.add(key, f"must be a text of 1 to {ID_CHARS_MAX} characters; leave it out for none")
    return ""


def _is_text(text: str) -> bool:
    """Whether it can be written in UTF-8: JSON's escapes may spell half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
