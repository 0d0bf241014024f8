"""What connectors cost a node that has none, and what a node says of sources that it cannot serve."""

from __future__ import annotations

import subprocess
import sys

import pytest

from faas.model.connection import System, described, masked, misfits, system_of, wanted
from faas.model.manifest import Manifest, QueueSource, QueueTrigger
from faas.triggers.connectors.source import message_of, text_of


def test_a_node_without_connectors_loads_none_of_their_libraries() -> None:
    program = (
        "import sys, faas.triggers.connectors.connectors\n"
        "print(sorted({'aio_pika', 'aiormq', 'nats'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://ann:secret@h:5672/v", "amqp://ann:***@h:5672/v"),
        ("amqps://h", "amqps://h"),
        ("nats://token@h", "nats://***@h"),
        ("nats://ann:secret@a:1,nats://ann:secret@b:2", "nats://ann:***@a:1,nats://ann:***@b:2"),
        ("redis://:p@ss@h/0", "redis://:***@h/0"),
        ("unix:///run/r.sock?password=secret&db=1", "unix:///run/r.sock?password=***&db=1"),
    ],
)
def test_addresses_are_shown_without_passwords(url: str, shown: str) -> None:
    assert masked(url) == shown


def test_schemes_say_which_system() -> None:
    assert [system_of(url) for url in ("amqps://h", "tls://h", "valkey://h", "http://h", "amqp://", "")] == [
        System.RABBITMQ, System.NATS, System.REDIS, None, None, None
    ]  # fmt: skip


def test_a_manifests_sources_must_fit_the_nodes_connections() -> None:
    sources = [
        QueueSource(connection="r", queue="q"),
        QueueSource(connection="n", stream="S", subject="s.>"),
        QueueSource(connection="gone", list="l"),
        QueueSource(connection="n", channel="c"),
    ]
    queues = tuple(QueueTrigger(name=f"q{index}", source=source) for index, source in enumerate(sources))
    found = misfits(Manifest(name="f", queues=queues), {"r": System.RABBITMQ, "n": System.NATS})
    assert [key for key, _ in found] == ["queue[2].source.connection", "queue[3].source.connection"]
    assert 'no connection "gone" (there is: n, r)' in found[0][1]
    assert "is a connection to NATS, and this needs one to Redis" in found[1][1]
    assert [wanted(source) for source in sources] == [System.RABBITMQ, System.NATS, System.REDIS, System.REDIS]
    assert described(sources[1]) == "n, stream S, subject s.>"


def test_a_foreign_message_keeps_its_body_and_is_told_apart_by_what_is_stable() -> None:
    source = QueueSource(connection="r", queue="q", group_by="customer")
    text = message_of(source, b"a", {"customer": "7", "traceparent": "00-x"}, stable=("id", b"a"))
    assert (text.body, text.content_type, text.group) == (b"a", "text/plain; charset=utf-8", "7")
    assert text.trace_parent == "00-x"
    again = message_of(source, b"a", {}, stable=("id", b"a"))
    other = message_of(source, b"b", {}, stable=("id", b"b"))  # a publisher whose ids are not unique
    assert again.dedup_id == text.dedup_id != other.dedup_id
    assert again.id != text.id
    assert message_of(source, b"\xff", {}).content_type == "application/octet-stream"
    assert message_of(source, b"\xff", {}, content_type="image/png").content_type == "image/png"
    assert message_of(source, b"a", {}).dedup_id == ""


def test_header_values_become_text() -> None:
    values = ["a", b"b", 3, True, None, {"x": [b"y"]}]
    assert [text_of(value) for value in values] == ["a", "b", "3", "true", "null", '{"x": ["y"]}']
