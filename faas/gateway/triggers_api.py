"""Triggers over HTTP: those that stand in manifests, and those that are added, paused and taken away by request."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

from starlette.responses import Response

from faas.events.derive import cron_id, queue_id
from faas.events.schedule import at_ms, in_zone, next_tick
from faas.gateway.catalog import NAME
from faas.gateway.resources import Context, Json, Operation
from faas.gateway.services import Services
from faas.model.connection import misfit
from faas.model.errors import InvalidManifest, InvalidRequest, ManifestProblem, NotFound
from faas.model.manifest import CronTrigger, Manifest, QueueTrigger
from faas.model.message import QueueName
from faas.model.trigger import TriggerSpec
from faas.packaging.manifest import cron_settings, parse_trigger, queue_settings
from faas.packaging.sizes import format_duration_ms

READ_AT_ONCE: Final = 50
KINDS: Final = ("queue", "cron")
_NS_PER_MS: Final = 1_000_000
Documents = list[dict[str, Any]]
_ADDED: Final = (
    "A trigger is added with 'function' and one of 'queue' and 'cron', and with 'enabled' if it begins paused"
)


class TriggersApi:
    def __init__(self, services: Services) -> None:
        self._triggers = services.triggers
        self._queues = services.queues
        self._registry = services.registry
        self._clock = services.clock
        self._connections = services.connections
        self._connector = services.connector

    def operations(self) -> list[Operation]:
        one = "/v1/triggers/{id}"
        return [
            Operation("GET", "/v1/triggers", "read", self.list),
            Operation("POST", "/v1/triggers", "deploy", self.add),
            Operation("GET", one, "read", self.read),
            Operation("PATCH", one, "deploy", self.change),
            Operation("DELETE", one, "deploy", self.delete),
        ]

    # -- looking ----------------------------------------------------------------------------------------------------

    async def list(self, context: Context) -> Response:
        function, kind = context.query("function"), context.query("kind")
        if kind is not None and kind not in KINDS:
            raise InvalidRequest(f"kind={kind[:60]!r} is neither 'queue' nor 'cron'.")
        found = await self._triggers.list(None if context.namespace == "*" else context.namespace)
        chosen = [
            each
            for each in found
            if function in (None, each.function) and (kind is None or (kind == "cron") == (each.cron is not None))
        ]
        depths: dict[QueueName, int] = {}
        for namespace in sorted({each.namespace for each in chosen if each.queue is not None}):
            depths |= {state.queue: state.depth for state in await self._queues.states(namespace)}
        return Json({"triggers": await self._documents(chosen, depths)})

    async def read(self, context: Context) -> Response:
        found = await self._triggers.get(_one_namespace(context), context.request.path_params["id"])
        return Json(await self._document(found))

    async def _document(self, trigger: TriggerSpec) -> dict[str, Any]:
        queue = trigger.queue_name
        state = None if queue is None else await self._queues.state(queue)
        depths = {} if queue is None or state is None else {queue: state.depth}
        return (await self._documents([trigger], depths))[0]

    async def _documents(self, triggers: Sequence[TriggerSpec], depths: dict[QueueName, int]) -> Documents:
        crons = [each.key for each in triggers if each.cron is not None]
        last_ms = await self._queues.last_ticks(crons) if crons else {}
        now = at_ms(self._clock.unix_ns() // _NS_PER_MS)
        made = []
        for index, each in enumerate(triggers):
            if index % READ_AT_ONCE == READ_AT_ONCE - 1:
                await asyncio.sleep(0)  # foreseeing a run takes about 0.1 ms, and calls wait meanwhile
            made.append({**_document(each, now, last_ms.get(each.key), depths), **self._fed(each)})
        return made

    def _fed(self, trigger: TriggerSpec) -> dict[str, Any]:
        """How the connector that feeds its queue goes on this node."""
        queue = trigger.queue_name
        if trigger.queue is None or trigger.queue.source is None or queue is None:
            return {}
        return {"connector": self._connector(queue, trigger.queue.source)}

    # -- changing ---------------------------------------------------------------------------------------------------

    async def add(self, context: Context) -> Response:
        namespace = _one_namespace(context)
        asked = await context.json()
        function = asked.get("function")
        latest = None
        if isinstance(function, str) and NAME.match(function):
            latest = await self._registry.latest(namespace, function)
            if latest is None:
                where = "" if namespace == "default" else f" in the namespace '{namespace}'"
                raise NotFound(f"There is no function '{function}'{where}. Deploy it first; `faas ls` lists them.")
        trigger = parse(namespace, asked, latest.manifest if latest is not None else Manifest(name="x"))
        source = trigger.queue.source if trigger.queue is not None else None
        if source is not None and (why := misfit(source, self._connections)):
            raise InvalidManifest([ManifestProblem("queue.source.connection", why)])
        made = await self._triggers.add(trigger)
        return Json(await self._document(made), 201, {"location": f"/v1/triggers/{made.id}"})

    async def change(self, context: Context) -> Response:
        """Pause or resume."""
        namespace, trigger_id = _one_namespace(context), context.request.path_params["id"]
        asked = await context.json()
        if asked.keys() != {"enabled"} or not isinstance(asked["enabled"], bool):
            found = await self._triggers.get(namespace, trigger_id)
            other = (
                "remove it and add another" if found.source == "added" else "change the function's manifest and deploy"
            )
            raise InvalidRequest(
                f"Of a trigger one can change 'enabled', true or false, and nothing else; for that, {other}."
            )
        changed = await self._triggers.set_enabled(namespace, trigger_id, asked["enabled"])
        return Json(await self._document(changed))

    async def delete(self, context: Context) -> Response:
        await self._triggers.delete(_one_namespace(context), context.request.path_params["id"])
        return Response(status_code=204)


def _one_namespace(context: Context) -> str:
    if context.namespace == "*":
        raise InvalidRequest("A trigger is of one namespace; name it, as in ?namespace=default.")
    return context.namespace


# -- what is asked for ------------------------------------------------------------------------------------------------


def parse(namespace: str, asked: dict[str, Any], manifest: Manifest) -> TriggerSpec:
    """A trigger as callers write it, with the checks of a manifest. Raises ``InvalidManifest`` with every problem."""
    problems = [
        ManifestProblem(str(key)[:60], f"unknown key. {_ADDED}")
        for key in sorted(asked.keys() - {"function", "enabled", *KINDS})
    ]
    function, enabled = asked.get("function"), asked.get("enabled", True)
    if not isinstance(function, str) or not NAME.match(function):
        problems.append(ManifestProblem("function", "must be the name of a function that is deployed"))
        function = ""
    if not isinstance(enabled, bool):
        problems.append(ManifestProblem("enabled", "must be true or false"))
    given = [kind for kind in KINDS if kind in asked]
    if len(given) != 1:
        problems.append(ManifestProblem("", f"{'neither' if not given else 'both'} of 'queue' and 'cron'. {_ADDED}"))
    queue: QueueTrigger | None = None
    cron: CronTrigger | None = None
    for kind in given:
        try:
            parsed = parse_trigger(kind, asked[kind], manifest.timeout_ms)
        except InvalidManifest as error:
            problems += error.problems
        else:
            queue, cron = (parsed, cron) if isinstance(parsed, QueueTrigger) else (queue, parsed)
    if problems:
        raise InvalidManifest(problems)
    trigger_id = queue_id(function, queue.name) if queue is not None else ""
    if cron is not None:
        trigger_id = cron_id(function, cron)
    return TriggerSpec(
        id=trigger_id, namespace=namespace, function=function, queue=queue, cron=cron, enabled=enabled, source="added"
    )


# -- what is answered -------------------------------------------------------------------------------------------------


def _document(
    trigger: TriggerSpec, now: dt.datetime, last_ms: int | None, depths: dict[QueueName, int]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": trigger.id,
        "namespace": trigger.namespace,
        "function": trigger.function,
        "kind": "queue" if trigger.queue is not None else "cron",
        "enabled": trigger.enabled,
        "source": trigger.source,
    }
    if trigger.queue is not None:
        queue = trigger.queue_name
        assert queue is not None
        return {**document, "queue": queue_settings(trigger.queue), "depth": depths.get(queue, 0)}
    cron = trigger.cron
    assert cron is not None
    settings = {"timezone": cron.timezone, "missed": cron.missed, "jitter": format_duration_ms(cron.jitter_ms)}
    return {
        **document,
        "cron": {**settings, **cron_settings(cron)},
        "next_run": _next_run(cron, now) if trigger.enabled else None,
        "last_run": None if last_ms is None else _shown(in_zone(at_ms(last_ms), cron.timezone)),
    }


def _next_run(cron: CronTrigger, now: dt.datetime) -> str | None:
    try:
        found = next_tick(cron.schedule, cron.timezone, now)
    except (ValueError, KeyError, OSError):  # stored by a node that knows more zones
        return None
    return None if found is None else _shown(found)


def _shown(when: dt.datetime) -> str:
    """RFC 3339, with the offset of its zone."""
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")
