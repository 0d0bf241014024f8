"""What is packed comes back as it was, whole or as a part; what is not whole is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faas.model.usage import UsageRecord
from faas.ports import Entry
from faas.stores.codec import CONTEXTS_MAX, Encoder, detail_of, unpack, unpack_part
from tests.property.test_ledger_sums import records
from tests.usage_samples import make_entry, make_record

ENCODER = Encoder()
ID = f"{7:032x}"

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
details = st.dictionaries(st.sampled_from(["error", "exit", "trace_parent", ""]), values, max_size=3)
traces = st.sampled_from(
    [
        f"00-{ID}-00f067aa0ba902b7-01",
        f"00-{ID}-",
        f"00-{ID}-x\0é",
        f"01-{ID}-00f067aa0ba902b7-01",
        f"00-{'f' * 32}-00f067aa0ba902b7-01",
        f"00-{ID}",
        "",
        None,
        [f"00-{ID}-00f067aa0ba902b7-01"],
    ]
)


def as_part(before_ms: int, packed: list[bytes]) -> bytes:
    """As the ledger's script puts entries of one context together."""
    length = 2 + int.from_bytes(packed[0][:2], "big")
    assert all(each[:length] == packed[0][:length] for each in packed)
    return bytes(msgpack.packb(before_ms)) + packed[0][2:length] + b"".join(each[length:] for each in packed)


@given(records(), details, st.integers(1, 1000))
def test_an_entry_comes_back(record: UsageRecord, detail: dict[str, Any], attempt: int) -> None:
    record.attempt, record.id = attempt, f"{record.invocation_id}-{attempt}"
    assert unpack(ENCODER.pack(Entry(record, detail))) == (record, detail)


@given(traces)
def test_a_trace_comes_back_however_odd(trace_parent: Any) -> None:
    entry = make_entry(7, {"trace_parent": trace_parent})
    assert unpack(ENCODER.pack(entry)) == (entry.record, entry.detail)


def test_a_trace_of_the_invocation_itself_is_not_kept_twice() -> None:
    own = ENCODER.pack(make_entry(7, {"trace_parent": f"00-{ID}-00f067aa0ba902b7-01"}))
    assert len(own) == len(ENCODER.pack(make_entry(7))) + len("00f067aa0ba902b7-01")


@given(st.lists(st.tuples(st.integers(0, 2**128 - 1), details), min_size=1, max_size=10), st.integers(0, 2**48))
def test_entries_of_one_context_come_back_from_a_part(found: list[tuple[int, dict[str, Any]]], before_ms: int) -> None:
    entries = [make_entry(number, detail, started_at_ns=10**18 + number % 1000) for number, detail in found]
    part = unpack_part(as_part(before_ms, [ENCODER.pack(entry) for entry in entries]))
    assert part.before_ms == before_ms
    assert [Entry(part.record(row), detail_of(row)) for row in part.rows] == entries


@given(st.integers(0, 10_000), records())
def test_what_is_cut_off_is_refused(at: int, record: UsageRecord) -> None:
    packed = ENCODER.pack(Entry(record, {"error": {"code": "x"}}))
    with pytest.raises(ValueError, match="a context"):
        unpack(packed[: at % len(packed)])
    wholes = [len(as_part(1, [packed] * count)) for count in (1, 2, 3)]
    kept = at % wholes[-1]
    bare = wholes[0] - (wholes[1] - wholes[0])  # without a row
    if kept not in (bare, *wholes):
        with pytest.raises(ValueError, match="part"):
            unpack_part(as_part(1, [packed] * 3)[:kept])


@given(st.binary(max_size=200))
def test_anything_else_is_refused_in_the_same_way(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(data)
    with contextlib.suppress(ValueError):
        assert unpack_part(data).rows == []


def test_a_retry_is_told_from_a_first_attempt() -> None:
    first, retry = (ENCODER.pack(make_entry(7, attempt=attempt)) for attempt in (1, 2))
    assert b"\0retry" in retry
    assert b"\0retry" not in first
    length = 2 + int.from_bytes(retry[:2], "big")
    with pytest.raises(ValueError, match="attempt 1 is among"):
        unpack(retry[:length] + first[2 + int.from_bytes(first[:2], "big") :])


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x" * 32 + "-1"},
        {"id": "ab" * 15 + "-1"},
        {"id": "AB" * 16 + "-1"},
        {"id": "ab" * 16 + "-2"},
        {"id": "ab" * 16},
        {"function": "a\0b"},
    ],
)
def test_what_could_not_come_back_is_not_packed(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ENCODER.pack(Entry(make_record(**changes)))


@pytest.mark.parametrize("changes", [{"billed_ms": "2"}, {"node": 3}, {"memory_mb": None}, {"cpu_ns": 1.5}])
def test_a_field_of_another_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="types"):
        unpack(ENCODER.pack(Entry(make_record(**changes))))


def test_an_encoder_keeps_no_more_contexts_than_it_may() -> None:
    encoder = Encoder()
    for number in range(2 * CONTEXTS_MAX + 10):
        record = make_record(number, version=number)
        assert unpack(encoder.pack(Entry(record)))[0] == record
        assert len(encoder._contexts) <= CONTEXTS_MAX
