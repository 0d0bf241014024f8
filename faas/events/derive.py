"""Which triggers a function has: those of its manifest, and those that were added to it.

An id says what the trigger is, so that it stays the same over deployments that leave the trigger as it is, and with it
a pause and the memory of the last run: ``FUNCTION.QUEUE``, and ``FUNCTION.cron-HASH`` over what a schedule says (when,
where, with what; not how it treats lateness). A pause holds for as long as its function lives, also while a version
without the trigger is the latest: rolling back and forth does not resume what somebody has paused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping

from faas.model.function import FunctionVersion
from faas.model.manifest import CronTrigger, QueueTrigger
from faas.model.trigger import TriggerSpec


def cron_id(function: str, cron: CronTrigger) -> str:
    """
    >>> cron_id("report", CronTrigger(schedule="0 6 * * *"))
    'report.cron-4eb8a8'
    """
    said = json.dumps([cron.schedule, cron.timezone, cron.payload], sort_keys=True, separators=(",", ":"))
    return f"{function}.cron-{hashlib.sha256(said.encode()).hexdigest()[:6]}"


def queue_id(function: str, queue: str) -> str:
    return f"{function}.{queue}"


def of_manifest(version: FunctionVersion) -> list[TriggerSpec]:
    """By id. The second of two that say the same gets ``-2`` after its id, and so on."""
    made: dict[str, TriggerSpec] = {}

    def put(wanted: str, queue: QueueTrigger | None, cron: CronTrigger | None) -> None:
        free, number = wanted, 1
        while free in made:
            number += 1
            free = f"{wanted}-{number}"
        made[free] = TriggerSpec(
            id=free,
            namespace=version.namespace,
            function=version.name,
            queue=queue,
            cron=cron,
            since_ms=version.created_at_ms if cron is not None else 0,
        )

    for queue in version.manifest.queues:
        put(queue_id(version.name, queue.name), queue, None)
    for cron in version.manifest.crons:
        put(cron_id(version.name, cron), None, cron)
    return [made[each] for each in sorted(made)]


def triggers_of(
    version: FunctionVersion, added: Iterable[TriggerSpec], paused: frozenset[str], since_ms: Mapping[str, int]
) -> list[TriggerSpec]:
    """All of a function, by id. Where both know an id, the manifest's counts."""
    found = {trigger.id: trigger for trigger in (*added, *of_manifest(version))}
    return [
        found[each].model_copy(
            update={
                "enabled": each not in paused,
                "since_ms": max(found[each].since_ms, since_ms.get(each, 0)) if found[each].cron is not None else 0,
            }
        )
        for each in sorted(found)
    ]
