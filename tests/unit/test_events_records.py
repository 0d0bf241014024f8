"""Records as SQS shows them, answers as Lambda reads them, and when a failure is tried again."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from typing import Any

import pytest

from faas.events.records import Failures, body_text, events, failures
from faas.events.retry import BASE_MS, CAP_MS, ceiling_ms, decide
from faas.model.manifest import Retry
from faas.model.message import Delivery, Message, QueueName

QUEUE = QueueName("shop", "orders")
PLAIN = Delivery(Message("m1", b'{"a": "\xc3\xa9"}'), "r1", 1, 1000, 0)


def only(delivery: Delivery) -> dict[str, Any]:
    (event,), oversized = events(QUEUE, [delivery], 10_000_000)
    assert not oversized
    (found,) = json.loads(event.payload)["Records"]
    assert isinstance(found, dict)
    return found


def test_a_record_is_what_sqs_would_deliver() -> None:
    full = replace(
        PLAIN.message, attributes={"kind": 'a"b'}, group="g", dedup_id="d", key_id="k1", trace_parent="00-ab-cd-01"
    )
    assert only(Delivery(full, "r2", 3, 1000, 1500)) == {
        "messageId": "m1",
        "receiptHandle": "r2",
        "body": '{"a": "é"}',
        "attributes": {
            "ApproximateReceiveCount": "3", "SentTimestamp": "1000", "ApproximateFirstReceiveTimestamp": "1500",
            "SenderId": "k1", "MessageGroupId": "g", "MessageDeduplicationId": "d", "AWSTraceHeader": "00-ab-cd-01",
        },
        "messageAttributes": {"kind": {"stringValue": 'a"b', "dataType": "String"}},
        "md5OfBody": hashlib.md5('{"a": "é"}'.encode()).hexdigest(),
        "eventSource": "faas:queue",
        "eventSourceARN": "arn:faas:shop:queue:orders",
        "awsRegion": "local",
    }  # fmt: skip
    assert "MessageGroupId" not in only(PLAIN)["attributes"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'"hello"', "hello"),
        (b'"a\\u00e9"', "aé"),
        (b'"\\ud800"', "\ud800"),
        (b"42", "42"),
        (b"not json", "not json"),
        (b'"half', '"half'),
        (b"\xff\xfe", "��"),
        (b"", ""),
    ],
)
def test_a_body_is_always_text(body: bytes, text: str) -> None:
    assert body_text(body) == text
    shown = only(replace(PLAIN, message=replace(PLAIN.message, body=body)))["body"]
    assert shown == text.encode("utf-8", "replace").decode()


def test_text_in_quotes_that_is_not_json_stays_as_it_was_sent() -> None:
    assert only(replace(PLAIN, message=replace(PLAIN.message, body=b'"x"', content_type="text/plain")))["body"] == '"x"'


def test_a_batch_too_large_for_one_event_is_split_in_order() -> None:
    batch = [Delivery(Message(f"m{i}", b"x" * size), f"r{i}", 1, 0, 0) for i, size in enumerate([900] * 5 + [9000])]
    made, oversized = events(QUEUE, batch, 3200)
    assert [[d.message.id for d in event.deliveries] for event in made] == [["m0", "m1"], ["m2", "m3"], ["m4"]]
    assert [d.message.id for d in oversized] == ["m5"]
    for event in made:
        assert len(event.payload) <= 3200
        assert [r["messageId"] for r in json.loads(event.payload)["Records"]] == [
            d.message.id for d in event.deliveries
        ]


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b"{}", b'"done"', b"[1, 2]", b"not json", b'{"batchItemFailures": []}',
     b'{"batchItemFailures": null}', b'{"statusCode": 500}'],
)  # fmt: skip
def test_an_answer_that_names_no_failure_means_all_are_done(answer: bytes) -> None:
    assert failures(answer, {"a"}) == Failures(frozenset())


def test_an_answer_names_those_that_failed() -> None:
    answer = b'{"batchItemFailures": [{"itemIdentifier": "a"}, {"itemIdentifier": "a"}, {"itemIdentifier": "c"}]}'
    assert failures(answer, {"a", "b", "c"}) == Failures(frozenset({"a", "c"}))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ('{"batchItemFailures": "a"}', "not a list"),
        ('{"batchItemFailures": ["a"]}', "itemIdentifier"),
        ('{"batchItemFailures": [{"itemIdentifier": ""}]}', "itemIdentifier"),
        ('{"batchItemFailures": [{"itemIdentifier": null}]}', "itemIdentifier"),
        ('{"batchItemFailures": [{"id": "a"}]}', "itemIdentifier"),
        ('{"batchItemFailures": [{"itemIdentifier": "zzz"}]}', "not in the batch: zzz"),
        ('{"batchItemFailures": [', "no JSON"),
        ('"batchItemFailures"', "no object"),
    ],
)
def test_an_answer_that_makes_no_sense_fails_the_batch_and_says_why(answer: str, said: str) -> None:
    found = failures(answer.encode(), {"a"})
    assert not found.ids
    assert said in found.reason


def test_pauses_grow_to_a_cap_and_are_spread_over_their_whole_range() -> None:
    draw = random.Random(7)
    retry = Retry(attempts=100, max_age_ms=10**12)
    assert ceiling_ms(1) == BASE_MS
    assert ceiling_ms(10**6) == CAP_MS
    for attempt in range(1, 40):
        pauses = [decide(retry, attempt=attempt, age_ms=0, jitter=draw.random()) for _ in range(500)]
        assert all(isinstance(p, int) and 0 <= p < ceiling_ms(attempt) for p in pauses)
        assert min(p for p in pauses if isinstance(p, int)) < ceiling_ms(attempt) * 0.05
        assert max(p for p in pauses if isinstance(p, int)) > ceiling_ms(attempt) * 0.95


def test_it_is_given_up_after_its_attempts_or_when_it_would_be_too_old() -> None:
    assert decide(Retry(attempts=1), attempt=1, age_ms=0, jitter=0) == "the only attempt failed"
    assert "3 attempts" in str(decide(Retry(attempts=3), attempt=4, age_ms=0, jitter=0))
    old = Retry(attempts=10, max_age_ms=60_000)
    assert decide(old, attempt=1, age_ms=59_000, jitter=0.999) == 999
    assert "max_age, 60 s" in str(decide(old, attempt=1, age_ms=59_100, jitter=0.999))
