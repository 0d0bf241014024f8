"""What the two Redis adapters share: a client without retries of its own, since the pump has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from faas.model.connection import masked
from faas.triggers.connectors.source import CONNECT_TIMEOUT_S, FETCH_WAIT_S, SourceFailed

HEALTH_S: Final = 10  # an idle connection is asked whether it is one


def client_of(url: str) -> redis.asyncio.Redis:
    """Raises ``SourceFailed`` on a URL that the library does not take."""
    scheme, separator, rest = url.partition("://")
    plain = {"valkey": "redis", "valkeys": "rediss"}.get(scheme, scheme) + separator + rest
    with edge(url):
        return redis.asyncio.Redis.from_url(
            plain,
            protocol=2,
            decode_responses=False,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=FETCH_WAIT_S + CONNECT_TIMEOUT_S,
            health_check_interval=HEALTH_S,
            retry=Retry(NoBackoff(), 0),
        )


@contextlib.contextmanager
def edge(url: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError, ValueError) as error:
        raise SourceFailed(f"Redis at {masked(url)}: {error or type(error).__name__}") from error
