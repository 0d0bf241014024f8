"""CloudEvents, from HTTP to the function's event and back; the specification's examples, and what it forbids."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cloudevents.core.bindings import http as sdk
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from faas.events.cloudevents import BATCH_TYPE, STRUCTURED_TYPE, Mode, attributes_of, mode_of, problems, read, write
from faas.model.errors import InvalidRequest

NOW = "2026-01-02T03:04:05Z"
# HTTP binding, 3.1.4
BINARY = [
    (b"ce-specversion", b"1.0"),
    (b"ce-type", b"com.example.someevent"),
    (b"ce-time", b"2018-04-05T03:56:24Z"),
    (b"ce-id", b"1234-1234-1234"),
    (b"ce-source", b"/mycontext/subcontext"),
]
EVENT = {
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
}
# JSON format, 3.2 and 4.1
IN_JSON: list[dict[str, Any]] = [
    {
        "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "subject": None,
        "id": "C234-1234-1234", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value",
        "comexampleothervalue": 5, "datacontenttype": "application/vnd.apache.thrift.binary",
        "data_base64": base64.b64encode(b"\x80\x01").decode(),
    },
    {
        "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "subject": None,
        "id": "B234-1234-1234", "time": "2018-04-05T17:31:00Z", "comexampleextension1": "value",
        "comexampleothervalue": 5, "unsetextension": None, "datacontenttype": "application/xml",
        "data": '<much wow="xml"/>',
    },
    {
        "specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext/9", "subject": None,
        "id": "C234-1234-1234", "time": "2018-04-05T17:31:05Z", "comexampleextension1": "value",
        "comexampleothervalue": 5, "datacontenttype": "application/json",
        "data": {"appinfoA": "abc", "appinfoB": 123, "appinfoC": True},
    },
]  # fmt: skip


def binary(body: bytes = b"", content_type: bytes = b"", *more: tuple[bytes, bytes]) -> dict[str, Any]:
    kind = [(b"content-type", content_type)] if content_type else []
    event = json.loads(read(Mode.BINARY, [*BINARY, *kind, *more], body))
    assert isinstance(event, dict)
    return event


def refused(mode: Mode, headers: list[tuple[bytes, bytes]], body: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(mode, headers, body)
    return caught.value.message


@pytest.mark.parametrize(
    ("headers", "mode"),
    [
        ({b"content-type": b"application/json"}, None),
        ({}, None),
        ({b"ce-time": b"x", b"content-type": b"text/plain"}, None),
        ({b"ce-source": b"x"}, Mode.BINARY),
        ({b"content-type": b"Application/CloudEvents+JSON ; charset=utf-8"}, Mode.STRUCTURED),
        ({b"content-type": b"application/cloudevents-batch+json", b"ce-id": b"1"}, Mode.BATCH),
    ],
)
def test_the_mode(headers: dict[bytes, bytes], mode: Mode | None) -> None:
    assert mode_of(headers) is mode


@pytest.mark.parametrize("kind", [b"application/cloudevents", b"application/cloudevents+avro"])
def test_formats_that_are_not_read(kind: bytes) -> None:
    with pytest.raises(InvalidRequest, match="read as application/cloudevents"):
        mode_of({b"content-type": kind})


@pytest.mark.parametrize(
    ("body", "content_type", "member"),
    [
        (b' {"a": [1.50, "\xc3\xa9"]} \n', b"application/json; charset=utf-8", {"data": {"a": [1.5, "é"]}}),
        (b"\xef\xbb\xbf[1]", b"application/vnd.x+json", {"data": [1]}),
        (b"null", b"text/json", {"data": None}),
        (b"hello", b"", {"data": "hello"}),
        (b'{"a":1}', b"", {"data": {"a": 1}}),
        (b"\xff", b"", {"data_base64": "/w=="}),
        (b"caf\xc3\xa9", b"text/plain", {"data": "café"}),
        (b"caf\xe9", b'text/plain; charset="ISO-8859-1"', {"data": "café"}),
        (b"caf\xe9", b"text/plain", {"data_base64": "Y2Fm6Q=="}),
        (b"\x00\x01", b"text/plain; charset=ebcdic", {"data_base64": "AAE="}),
        (b"<a/>", b"image/svg+xml", {"data": "<a/>"}),
        (b"\x89PNG", b"image/png", {"data_base64": "iVBORw=="}),
        (b"", b"application/json", {}),
    ],
)
def test_binary_data(body: bytes, content_type: bytes, member: dict[str, Any]) -> None:
    expected = {**EVENT, **({"datacontenttype": content_type.decode()} if content_type else {}), **member}
    assert binary(body, content_type) == expected


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        (b'"a \\"quoted\\" text%2c"', 'a "quoted" text,'),
        ("naïve".encode(), "naïve"),
        (b"100%", "100%"),
        (b"a%2525", "a%25"),
    ],
)
def test_headers_are_decoded_once(sent: bytes, text: str) -> None:
    assert binary(b"", b"", (b"ce-subject", sent))["subject"] == text


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((b"ce-data", b'{"id":"2"}'), "'ce-data' has no place"),
        ((b"ce-data_base64", b"AAAA"), "'ce-data_base64' has no place"),
        ((b"ce-datacontenttype", b"text/plain"), "'ce-datacontenttype' has no place"),
        ((b"ce-id", b"2"), "'ce-id' was sent more than once"),
        ((b"ce-subject", b"%ff"), "'ce-subject' is not UTF-8"),
        ((b"ce-subject", b"a%0d%0aset-cookie:x"), "'subject' holds a control character"),
        ((b"ce-my-own", b"x"), "'my-own': names of attributes have a-z and 0-9 only"),
        ((b"ce-", b"x"), "'': names"),
        ((b"ce-time", b"yesterday"), "more than once"),
        ((b"ce-dataschema", b"no/scheme"), "'dataschema' must be an absolute URI"),
        ((b"content-type", b"weird"), "'datacontenttype' must be a media type"),
    ],
)
def test_headers_that_are_refused(header: tuple[bytes, bytes], said: str) -> None:
    assert said in refused(Mode.BINARY, [*BINARY, header], b"")


@pytest.mark.parametrize(
    "body", [b"{", b'1,"id":"other"', b'1}{"id":"2"', b"NaN", b'"\xff"', '{"a":1}'.encode("utf-16"), b"[" * 100_000]
)
def test_data_that_is_not_json_adds_nothing_to_the_event(body: bytes) -> None:
    said = refused(Mode.BINARY, [*BINARY, (b"content-type", b"application/json")], body)
    assert said.startswith("The CloudEvent's body is not JSON")


def test_every_error_is_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(Mode.BINARY, [(b"ce-specversion", b"0.3"), (b"ce-id", b""), (b"ce-time", b"2018-02-30T00:00:00Z")], b"")
    assert caught.value.details["errors"] == [
        "'specversion' must be '1.0', this is '0.3'",
        "'id' must be a text that is not empty",
        "'source' is missing",
        "'type' is missing",
        "'time' must be as RFC 3339 has it, such as 2024-05-01T12:00:00Z",
    ]


@pytest.mark.parametrize("event", IN_JSON)
def test_the_examples_of_the_json_format(event: dict[str, Any]) -> None:
    text = json.dumps(event).encode()
    assert read(Mode.STRUCTURED, [], text) == text
    batch = json.dumps([event, event]).encode()
    assert read(Mode.BATCH, [], batch) == batch
    assert read(Mode.BATCH, [], b"[]") == b"[]"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"id": 5}, "'id' must be a text"),
        ({"id": "\ud800"}, "'id' holds a control character, or half of a surrogate pair"),
        ({"source": "a b"}, "'source' must be a URI reference"),
        ({"Upper": "x"}, "'Upper': names"),
        ({"ext": 1.5}, "'ext' must be"),
        ({"ext": 2**31}, "'ext' must be"),
        ({"ext": {}}, "'ext' must be"),
        ({"subject": ""}, "'subject' must be"),
        ({"time": 1}, "'time' must be"),
        ({"time": "2018-04-05 17:31:00Z"}, "'time' must be"),
        ({"time": "2018-04-05T25:31:00Z"}, "'time' must be"),
        ({"data": 1, "data_base64": "AAAA"}, "only one of"),
        ({"data_base64": "A"}, "'data_base64' must be base64"),
        ({"data_base64": 7}, "'data_base64' must be base64"),
    ],
)
def test_structured_events_that_are_refused(change: dict[str, Any], said: str) -> None:
    text = json.dumps({**EVENT, **change}).encode()
    assert said in refused(Mode.STRUCTURED, [], text)
    assert f"event 1: {said}" in refused(Mode.BATCH, [], b"[%b,%b]" % (json.dumps(EVENT).encode(), text))


@pytest.mark.parametrize(
    "time", ["2018-04-05T17:31:00.123456789+02:00", "2016-12-31T23:59:60Z", "1985-04-12t23:20:50z"]
)
def test_times_of_rfc_3339(time: str) -> None:
    assert problems({**EVENT, "time": time, "ext": True, "other": -(2**31), "none": None}) == []


@pytest.mark.parametrize(
    ("mode", "body"),
    [(Mode.STRUCTURED, b""), (Mode.STRUCTURED, b"[]"), (Mode.BATCH, b"{}"), (Mode.BATCH, b"[1]")],
)
def test_bodies_that_are_no_events(mode: Mode, body: bytes) -> None:
    assert refused(mode, [], body)


def test_errors_named_are_bounded() -> None:
    said = refused(Mode.BATCH, [], json.dumps([{}] * 1000).encode())
    assert len(said) < 5000
    assert "and 3950 more" in said


def test_attributes_are_texts() -> None:
    assert attributes_of({**EVENT, "n": 5, "yes": True, "no": None, "data": {"a": 1}}) == {
        **EVENT,
        "n": "5",
        "yes": "true",
    }


# -- out --------------------------------------------------------------------------------------------------------------


def told(mode: Mode, value: Any) -> tuple[dict[str, str], bytes]:
    response = write(mode, json.dumps(value).encode(), NOW)
    assert response is not None
    return {n.decode(): v.decode() for n, v in response.headers}, response.payload


@pytest.mark.parametrize(
    ("member", "content_type", "body"),
    [
        ({"data": {"a": "é"}}, "application/json", '{"a":"é"}'.encode()),
        ({"data": "hi", "datacontenttype": "text/plain"}, "text/plain", b"hi"),
        ({"data": "é", "datacontenttype": "text/plain; charset=ISO-8859-1"}, "text/plain; charset=ISO-8859-1", b"\xe9"),
        ({"data": "hi", "datacontenttype": "application/x+json"}, "application/x+json", b'"hi"'),
        ({"data": [1], "datacontenttype": "text/plain"}, "text/plain", b"[1]"),
        ({"data_base64": "/w==", "datacontenttype": "image/png"}, "image/png", b"\xff"),
        ({"data_base64": "/w=="}, None, b"\xff"),
        ({}, None, b""),
    ],
)
def test_binary_answers(member: dict[str, Any], content_type: str | None, body: bytes) -> None:
    headers, sent = told(Mode.BINARY, {**EVENT, **member, "subject": 'a "€"%', "n": 5, "yes": True, "no": None})
    assert (headers.pop("content-type", None), sent) == (content_type, body)
    expected = {f"ce-{name}": value for name, value in EVENT.items()}
    assert headers == {**expected, "ce-subject": "a%20%22%E2%82%AC%22%25", "ce-n": "5", "ce-yes": "true"}


def test_time_is_filled_in_and_nothing_else() -> None:
    timeless = {name: value for name, value in EVENT.items() if name != "time"}
    assert json.loads(told(Mode.STRUCTURED, timeless)[1]) == {**timeless, "time": NOW}
    assert told(Mode.BINARY, timeless)[0]["ce-time"] == NOW
    for required in ("id", "source", "type", "specversion"):
        less = json.dumps({name: value for name, value in EVENT.items() if name != required})
        assert write(Mode.BINARY, less.encode(), NOW) is None


def test_batches_and_several_events() -> None:
    for mode in Mode:
        headers, sent = told(mode, [EVENT, EVENT])
        assert (headers, json.loads(sent)) == ({"content-type": BATCH_TYPE}, [EVENT, EVENT])
    headers, sent = told(Mode.BATCH, EVENT)
    assert (headers, json.loads(sent)) == ({"content-type": BATCH_TYPE}, [EVENT])
    assert told(Mode.STRUCTURED, EVENT)[0] == {"content-type": STRUCTURED_TYPE}


@pytest.mark.parametrize(
    "value",
    [b"{}", b"[]", b"5", b"nonsense", b'[{"id":"1"}]', b"", b"[" * 100_000, json.dumps({**EVENT, "e": {}}).encode()],
)
def test_what_is_no_event_goes_out_as_it_is(value: bytes) -> None:
    for mode in Mode:
        assert write(mode, value, NOW) is None


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@settings(max_examples=40)
@given(
    TEXTS,
    st.dictionaries(st.sampled_from(["a", "b1", "zz9"]), TEXTS),
    st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers()),
)
def test_the_official_sdk_and_ours_understand_each_other(
    subject: str, more: dict[str, str], data: dict[str, int]
) -> None:
    attributes = {
        "type": "t",
        "source": "/s",
        "id": "1",
        "subject": subject,
        "datacontenttype": "application/json",
        **more,
    }
    theirs = CloudEvent(attributes, data)
    message = sdk.to_binary(theirs, JSONFormat())
    pairs = [(n.lower().encode(), v.encode()) for n, v in message.headers.items()]
    event = json.loads(read(Mode.BINARY, pairs, message.body))
    time = theirs.get_time()
    assert time is not None
    assert event == {**attributes, "specversion": "1.0", "data": data, "time": event["time"]}
    for mode in (Mode.BINARY, Mode.STRUCTURED):
        headers, body = told(mode, event)
        back = sdk.from_http(sdk.HTTPMessage(headers, body), JSONFormat())
        assert (back.get_attributes(), back.get_data()) == (theirs.get_attributes(), data)
