"""Usage events: valid CloudEvents that say exactly what the record says."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

from cloudevents.core.bindings.http import HTTPMessage, from_http
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from faas.metering.events import EVENT_TYPE, EventWriter, gb_seconds
from faas.metering.meter import VALUE_MAX
from faas.metering.present import rfc3339_ns, usage_record
from faas.model.usage import FIELDS
from tests.usage_samples import make_record

AMOUNTS = st.integers(0, VALUE_MAX - 1)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)

WRITER = EventWriter()  # one for all: what it keeps must not get mixed up


def test_an_event_has_openmeters_shape() -> None:
    record = make_record(7, key_id="k9", billed_ms=6, started_at_ns=1_500_000_000_000_000_001)
    assert json.loads(WRITER.event(record)) == {
        "specversion": "1.0",
        "id": f"{7:032x}-1",
        "source": "node-1",
        "type": "faas.invocation",
        "subject": "default",
        "time": "2017-07-14T02:40:00.000000001Z",
        "data": {
            "function": "hello",
            "version": 1,
            "key": "k9",
            "trigger": "http",
            "status": "ok",
            "start": "warm",
            "attempt": 1,
            "memory_mb": 128,
            "billed_ms": 6,
            "mb_ms": 768,
            "gb_seconds": "0.00075",
            "queue_ns": 5,
            "init_ns": 0,
            "run_ns": 1_500_000,
            "cpu_ns": 1_000_000,
            "peak_memory_bytes": 9_000_000,
            "bytes_in": 10,
            "bytes_out": 20,
        },
    }


@given(
    names=st.fixed_dictionaries(dict.fromkeys(("namespace", "function", "key_id", "trigger", "node"), NAMES)),
    amounts=st.fixed_dictionaries(
        dict.fromkeys(("queue_ns", "init_ns", "run_ns", "cpu_ns", "peak_memory_bytes", "bytes_in"), AMOUNTS)
    ),
    memory_mb=st.integers(64, 10_240),
    billed_ms=st.integers(0, 10**8),
    started_at_ns=st.integers(0, 2**62),
    attempt=st.integers(1, 100),
)
def test_any_record_is_a_valid_cloudevent_with_the_same_values(
    names: dict[str, Any], amounts: dict[str, Any], **values: Any
) -> None:
    record = make_record(**names, **amounts, **values)
    text = WRITER.event(record)
    message = HTTPMessage({"content-type": "application/cloudevents+json"}, text.encode())
    parsed = from_http(message, JSONFormat())  # raises on what is no CloudEvent
    assert (parsed.get_id(), parsed.get_source(), parsed.get_type()) == (record.id, record.node, EVENT_TYPE)
    assert parsed.get_subject() == record.namespace
    event = json.loads(text)
    assert event["time"] == rfc3339_ns(record.started_at_ns)
    shown = usage_record(record)
    said = event["data"]
    assert said.pop("key") == record.key_id
    assert Fraction(said.pop("gb_seconds")) * 1_024_000 == record.mb_ms
    assert said == {name: shown[name] for name in (*FIELDS, "mb_ms") if name in said}
    assert {*FIELDS} - {*said} == {"id", "namespace", "key_id", "started_at_ns", "node"}


@given(st.lists(st.integers(0, 2**70), max_size=20))
def test_gb_seconds_are_exact_in_sum(sums: list[int]) -> None:
    shown = [gb_seconds(mb_ms) for mb_ms in sums]
    assert all(re.fullmatch(r"\d+(\.\d{1,13})?", text) for text in shown)
    assert sum(map(Fraction, shown)) * 1_024_000 == sum(sums)
