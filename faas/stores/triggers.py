"""Triggers that were added by request, and which triggers are paused, in Redis. The Lua files name every key.

One small hash per function. The script that deletes a function deletes its hash in the same step, and no script writes
one for a function that is not there: so a function that is made anew begins without the triggers and pauses of the one
before, whatever dies in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from faas.model.errors import Conflict, NotFound
from faas.model.trigger import TriggerSpec
from faas.ports.events import Overlay
from faas.stores.redis_client import Client, edge, script
from faas.stores.registry import CHANGES, no_function

FIELDS_MAX: Final = 1000  # of one function; a trigger that was added takes up to three
FUNCTIONS_PER_READ: Final = 1000


class RedisTriggers:
    """``TriggerStore``."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._add = script(client, "add_trigger")
        self._pause = script(client, "pause_trigger")
        self._delete = script(client, "delete_trigger")

    async def read(self, functions: Sequence[tuple[str, str]]) -> list[Overlay]:
        found: list[Overlay] = []
        for start in range(0, len(functions), FUNCTIONS_PER_READ):
            async with self._client.pipeline(transaction=False) as pipe:
                for namespace, name in functions[start : start + FUNCTIONS_PER_READ]:
                    pipe.hgetall(_key(f"{namespace}/{name}"))
                with edge():
                    found += map(overlay, await pipe.execute())
        return found

    async def add(self, trigger: TriggerSpec) -> None:
        function = f"{trigger.namespace}/{trigger.function}"
        stored = trigger.model_copy(update={"enabled": True, "since_ms": 0, "source": "added"}).model_dump_json()
        with edge():
            answer = await self._add(
                keys=["faas:functions", _key(function)],
                args=[function, trigger.id, stored, "0" if trigger.enabled else "1", FIELDS_MAX, CHANGES],
            )
        if answer == 0:
            raise has_it_already(trigger.id, trigger.function)
        _check(answer, trigger.namespace, trigger.function)

    async def set_enabled(self, namespace: str, function: str, trigger_id: str, enabled: bool) -> None:
        key = f"{namespace}/{function}"
        with edge():
            answer = await self._pause(
                keys=["faas:functions", _key(key)],
                args=[key, trigger_id, "1" if enabled else "0", FIELDS_MAX, CHANGES],
            )
        _check(answer, namespace, function)

    async def delete(self, namespace: str, function: str, trigger_id: str) -> bool:
        key = f"{namespace}/{function}"
        with edge():
            return bool(await self._delete(keys=[_key(key)], args=[key, trigger_id, CHANGES]))


def _key(function: str) -> str:
    return f"faas:triggers:{function}"


def _check(answer: int, namespace: str, function: str) -> None:
    if answer == -1:
        raise no_function(namespace, function)
    if answer == -2:
        raise too_many(function)


def overlay(stored: Mapping[bytes, bytes]) -> Overlay:
    """What one function's hash says."""
    parts: Iterable[tuple[str, str, bytes]] = ((*_split(key), value) for key, value in stored.items())
    added, paused, since_ms = [], set(), {}
    for kind, trigger_id, value in parts:
        if kind == "added":
            added.append(TriggerSpec.model_validate_json(value))
        elif kind == "paused":
            paused.add(trigger_id)
        elif kind == "since":
            since_ms[trigger_id] = int(value)
    return Overlay(sorted(added, key=lambda trigger: trigger.id), frozenset(paused), since_ms)


def _split(field: bytes) -> tuple[str, str]:
    kind, _, trigger_id = field.decode().partition(":")
    return kind, trigger_id


def has_it_already(trigger_id: str, function: str) -> Conflict:
    return Conflict(
        f"The function '{function}' has the trigger '{trigger_id}' already; `faas trigger ls` shows it. "
        f"To change it, remove it first: `faas trigger rm {trigger_id}`."
    )


def too_many(function: str) -> Conflict:
    return Conflict(f"The function '{function}' has too many triggers; remove some: `faas trigger ls` lists them.")


def no_trigger(trigger_id: str) -> NotFound:
    return NotFound(f"There is no trigger '{trigger_id[:160]}'; `faas trigger ls` lists them.")
