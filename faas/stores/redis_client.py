"""The client of the shared Redis or Valkey, and the edge where its errors become ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, cast

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ConnectionError,  # noqa: A004 - the library's name, used in this file alone
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)

from faas.model.errors import StoreUnavailable
from faas.stores.redis_sending import sending

if TYPE_CHECKING:
    from redis.commands.core import AsyncScript

Client = redis.asyncio.Redis

CONNECTIONS_MAX: Final = 1000
CONNECT_TIMEOUT_S: Final = 2.0
ANSWER_TIMEOUT_S: Final = 5.0
_DAY_MS: Final = 86_400_000
# Of one command, for a connection that the server closed; every command we send may be repeated. One that was not
# answered in time is not: whoever waits for a server that hangs hears so after ANSWER_TIMEOUT_S.
RETRIES: Final = 2
RETRY_BASE_S: Final = 0.02
RETRY_CAP_S: Final = 0.2
PING_S: Final = 10.0  # how soon a subscription notices that its connection was silently lost


def connect(url: str) -> Client:
    """A client for ``redis://``, ``rediss://`` or ``unix://`` (``valkey://`` and ``valkeys://`` mean the same).

    Nothing is sent until the first command. Raises ``StoreUnavailable`` on a URL that is none.
    """
    for alias, scheme in (("valkey://", "redis://"), ("valkeys://", "rediss://")):
        if url.startswith(alias):
            url = scheme + url.removeprefix(alias)
    try:
        client = redis.asyncio.Redis.from_url(
            url,
            protocol=2,
            decode_responses=False,
            max_connections=CONNECTIONS_MAX,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=ANSWER_TIMEOUT_S,
            retry=Retry(ExponentialWithJitterBackoff(base=RETRY_BASE_S, cap=RETRY_CAP_S), RETRIES, (ConnectionError,)),
        )
    except ValueError as error:
        raise StoreUnavailable(
            f"FAAS_REDIS_URL is not a Redis URL ({error}). It looks like redis://HOST:6379 or unix:///PATH.sock."
        ) from error
    client.connection_pool.connection_class = sending(client.connection_pool.connection_class)
    return client


@contextmanager
def edge() -> Iterator[None]:
    """Translates what the library raises; everything that talks to Redis does so inside of it."""
    try:
        yield
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise StoreUnavailable(f"Redis refuses the credentials in FAAS_REDIS_URL: {error}") from error
    except (ConnectionError, TimeoutError, OSError) as error:
        raise StoreUnavailable(f"Redis does not answer ({error}). Check that it runs, and FAAS_REDIS_URL.") from error
    except OutOfMemoryError as error:
        raise StoreUnavailable(f"Redis is full: {error}. Raise its maxmemory.") from error
    except ReadOnlyError as error:
        raise StoreUnavailable(f"This Redis is a replica: {error}. Point FAAS_REDIS_URL at the primary.") from error
    except RedisError as error:
        raise StoreUnavailable(f"Redis could not do it: {error}") from error


async def ask(reply: Awaitable[Any] | Any) -> Any:
    """The answer to a command, through ``edge``. The library types replies as "maybe awaitable"; here they all are."""
    with edge():
        return await cast("Awaitable[Any]", reply)


async def subscription(client: Client, channel: str) -> AsyncGenerator[bytes]:
    """What is published there; first ``b""`` once the subscription stands: what came before it was not heard.

    Raises ``StoreUnavailable`` when the connection is lost; iterate anew.
    """
    # A client of its own: a subscription that reconnected unnoticed would hide what was missed meanwhile.
    async with client.pubsub(ignore_subscribe_messages=False) as pubsub:
        with edge():
            await pubsub.subscribe(channel)
            subscribed = False
            while True:
                message = await pubsub.get_message(timeout=PING_S)
                if message is None:
                    await pubsub.ping()
                elif message["type"] == "subscribe":
                    if subscribed:
                        raise StoreUnavailable(f"The subscription to {channel} was lost and made again.")
                    subscribed = True
                    yield b""
                elif message["type"] == "message":
                    yield message["data"]


async def changes(client: Client, key: str, start_ms: int, end_ms: int) -> int:
    """The sum of a hash's counters by day, of the days in a range."""
    days = range(start_ms // _DAY_MS, -(-end_ms // _DAY_MS))
    counts = await ask(client.hmget(key, [str(day) for day in days])) if days else []
    return sum(int(count) for count in counts if count is not None)


@cache
def lua(name: str) -> str:
    """Text of ``faas/stores/lua/NAME.lua``. Its header names each key and type it touches."""
    return (files("faas.stores") / "lua" / f"{name}.lua").read_text()


def script(client: Client, *names: str, head: str = "") -> AsyncScript:
    """A callable ``await script(keys=[...], args=[...])``: sent by its digest, loaded where the server lacks it.

    Of several names, one text after the other is one script: what scripts share comes first.
    """
    return client.register_script(head + "".join(map(lua, names)))
