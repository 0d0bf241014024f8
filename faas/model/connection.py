"""Connections to systems that are not ours: named by the operator in the settings, used by name in functions.

A name keeps the address and the password out of the function. Which system it is stands in the address's scheme.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from faas.model.manifest import Manifest, QueueSource


class System(StrEnum):
    RABBITMQ = "RabbitMQ"
    NATS = "NATS"
    REDIS = "Redis"


SCHEMES: Final[Mapping[str, System]] = {
    "amqp": System.RABBITMQ,
    "amqps": System.RABBITMQ,
    "nats": System.NATS,
    "tls": System.NATS,
    "redis": System.REDIS,
    "rediss": System.REDIS,
    "valkey": System.REDIS,
    "valkeys": System.REDIS,
    "unix": System.REDIS,
}


def system_of(url: str) -> System | None:
    """Which system an address means; None when it means none.

    >>> system_of("amqps://user:secret@rabbit.example/vhost")
    <System.RABBITMQ: 'RabbitMQ'>
    """
    scheme, separator, rest = url.partition("://")
    return SCHEMES.get(scheme) if separator and rest else None


def systems_of(urls: Mapping[str, str]) -> dict[str, System]:
    """By name, of connections by name."""
    return {name: system for name, url in urls.items() if (system := system_of(url)) is not None}


def masked(url: str) -> str:
    """The address without passwords, and without user names alone, which are tokens in NATS.

    >>> masked("nats://ann:secret@a:4222,nats://token@b:4222"), masked("unix:///s?password=x&db=1")
    ('nats://ann:***@a:4222,nats://***@b:4222', 'unix:///s?password=***&db=1')
    """
    hidden = re.sub(r"((?:password|token)=)[^&]*", r"\1***", url)
    if system_of(url) is System.NATS:
        return ",".join(_without_password(part, name_is_secret=True) for part in hidden.split(","))
    return _without_password(hidden, name_is_secret=False)


def _without_password(url: str, *, name_is_secret: bool) -> str:
    scheme, separator, rest = url.rpartition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    if not at or not (colon or name_is_secret):
        return url
    return f"{scheme}{separator}{user + colon if colon else ''}***@{host}"


def wanted(source: QueueSource) -> System:
    """Which system a source speaks of."""
    if source.queue:
        return System.RABBITMQ
    return System.NATS if source.stream else System.REDIS


def described(source: QueueSource) -> str:
    """For people: ``rabbit, queue orders``."""
    place = next(key for key in ("queue", "stream", "list", "channel") if getattr(source, key))
    subject = f", subject {source.subject}" if source.subject else ""
    return f"{source.connection}, {place} {getattr(source, place)}{subject}"


def misfit(source: QueueSource, connections: Mapping[str, System]) -> str:
    """Why this source cannot be served by a node with these connections, as a sentence; "" when it can."""
    system = connections.get(source.connection)
    if system is None:
        names = ", ".join(sorted(connections)) or "none"
        return f'this node has no connection "{source.connection}" (there is: {names}); FAAS_CONNECTIONS names them'
    if system is not wanted(source):
        return f'"{source.connection}" is a connection to {system}, and this needs one to {wanted(source)}'
    return ""


def misfits(manifest: Manifest, connections: Mapping[str, System]) -> list[tuple[str, str]]:
    """Key and sentence for each source of a manifest that this node could not serve."""
    found = [
        (f"queue[{index}].source.connection", misfit(queue.source, connections))
        for index, queue in enumerate(manifest.queues)
        if queue.source is not None
    ]
    return [(key, sentence) for key, sentence in found if sentence]
