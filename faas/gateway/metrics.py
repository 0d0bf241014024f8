"""Prometheus metrics, under names that dashboards rely on.

Counting is on the path of every call, so it is a few additions to plain dicts; the Prometheus objects exist only while
a scrape is rendered. Gauges are read from the invoker and the journal at that moment.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from faas.gateway.services import ExportPort
from faas.model.errors import StoreUnavailable
from faas.model.invocation import StartKind, Status
from faas.model.message import QueueState
from faas.model.usage import UsageRecord

log = logging.getLogger("faas.gateway")

NS_PER_S: Final = 1_000_000_000
QUEUES_S: Final = 1.0  # a scrape waits no longer for what the store knows of queues
BUCKETS_NS: Final = (
    100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000,
    1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000, 30_000_000_000, 60_000_000_000, 300_000_000_000,
    900_000_000_000,
)  # fmt: skip
_COLD: Final = frozenset({StartKind.COLD.value, StartKind.PREWARMED.value})
_REJECTED: Final = Status.REJECTED.value


class Histogram:
    """Counts per bucket (the last is +Inf), not cumulative, and the exact sum."""

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_NS) + 1)
        self.sum_ns = 0

    def observe(self, duration_ns: int) -> None:
        self.counts[bisect_left(BUCKETS_NS, duration_ns)] += 1
        self.sum_ns += duration_ns

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [repr(ns / NS_PER_S) for ns in BUCKETS_NS] + ["+Inf"]
        total, rows = 0, []
        for bound, count in zip(bounds, self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


class QueuesPort(Protocol):
    """What is shown of queues: ``counts`` of messages by namespace, queue and outcome since the node started."""

    @property
    def counts(self) -> Mapping[tuple[str, str, str], int]: ...

    async def states(self) -> Sequence[QueueState]:
        """Raises ``StoreUnavailable``."""


class Metrics(Collector):
    """``observe`` takes every finished usage record; ``render`` answers a scrape, after ``look``; ``more``: what
    others count."""

    def __init__(
        self,
        stats: Callable[[], dict[str, Any]],
        journal_pending: Callable[[], int],
        export: ExportPort | None = None,
        more: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._stats = stats
        self._journal_pending = journal_pending
        self._export = export
        self.queues: QueuesPort | None = None
        self._states: Sequence[QueueState] = ()
        self._more = more
        self._invocations: dict[tuple[str, str, str, str], int] = {}
        self._queue, self._init, self._run = Histogram(), Histogram(), Histogram()
        self._cold_starts = 0
        self._mb_ms = 0
        self._throttled = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def observe(self, record: UsageRecord) -> None:
        """Count one finished attempt. Rejected ones never ran: they count, but have no start and no run time."""
        key = (record.namespace, record.function, record.trigger, record.status)
        self._invocations[key] = self._invocations.get(key, 0) + 1
        self._queue.observe(record.queue_ns)
        if record.status == _REJECTED:
            self._throttled += 1
            return
        self._run.observe(record.run_ns)
        self._mb_ms += record.memory_mb * record.billed_ms
        if record.start in _COLD:
            self._cold_starts += 1
            self._init.observe(record.init_ns)

    async def look(self) -> None:
        """Read what the store knows of queues; nothing is shown of them when it does not answer soon."""
        self._states = ()
        if self.queues is not None:
            try:
                async with asyncio.timeout(QUEUES_S):
                    self._states = await self.queues.states()
            except (StoreUnavailable, TimeoutError):
                log.debug("metrics are shown without queues: the store does not answer")

    def render(self) -> tuple[bytes, str]:
        """The exposition text and its content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        yield from self._counters()
        yield self._durations()
        yield from self._gauges()
        yield from self._of_queues()
        yield from self._more()

    def _counters(self) -> Iterator[Metric]:
        invocations = CounterMetricFamily(
            "faas_invocations",
            "Attempts at invocations that ended on this node.",
            labels=("namespace", "function", "trigger", "status"),
        )
        for labels, count in self._invocations.items():
            invocations.add_metric(labels, count)
        yield invocations
        yield CounterMetricFamily(
            "faas_cold_starts",
            "Attempts that had to wait for a module to be loaded (start cold or prewarmed).",
            value=self._cold_starts,
        )
        yield CounterMetricFamily(
            "faas_usage_mb_ms", "Billed use: memory in MB times billed milliseconds.", value=self._mb_ms
        )
        yield CounterMetricFamily("faas_throttled", "Attempts refused for want of room.", value=self._throttled)

    def _durations(self) -> Metric:
        durations = HistogramMetricFamily(
            "faas_invocation_duration_seconds",
            "How long the phases of attempts took: waiting for room, loading the module, running the handler.",
            labels=("phase",),
        )
        for phase, histogram in (("queue", self._queue), ("init", self._init), ("run", self._run)):
            durations.add_metric((phase,), histogram.cumulative(), histogram.sum_ns / NS_PER_S)
        return durations

    def _gauges(self) -> Iterator[Metric]:
        stats = self._stats()
        for noun in ("instances", "sandboxes"):
            gauge = GaugeMetricFamily(f"faas_{noun}", f"{noun.capitalize()} of this node by state.", labels=("state",))
            for state, count in stats.get(noun, {}).items():
                gauge.add_metric((str(state),), count)
            yield gauge
        yield GaugeMetricFamily(
            "faas_node_memory_bytes", "Memory given to sandboxes on this node.", value=stats.get("memory_bytes", 0)
        )
        yield GaugeMetricFamily(
            "faas_journal_pending_records",
            "Usage records in this node's journal that are not in the ledger yet.",
            value=self._journal_pending(),
        )
        if self._export is not None:
            yield from _exported(self._export)

    def _of_queues(self) -> Iterator[Metric]:
        labels = ("namespace", "queue")
        depth = GaugeMetricFamily("faas_queue_depth", "Messages of a queue still to be handled.", labels=labels)
        oldest = GaugeMetricFamily("faas_queue_oldest_seconds", "Age of a queue's oldest message.", labels=labels)
        dead = GaugeMetricFamily("faas_queue_dead_letters", "Messages that were given up.", labels=labels)
        for state in self._states:
            depth.add_metric(state.queue, state.depth)
            oldest.add_metric(state.queue, state.oldest_ms / 1000)
            dead.add_metric(state.queue, state.dead)
        messages = CounterMetricFamily(
            "faas_messages",
            "Messages, deliveries (@webhooks) and calls (@call) by outcome: acked, retried, released, dead, dropped.",
            labels=(*labels, "outcome"),
        )
        for key, count in (self.queues.counts if self.queues is not None else {}).items():
            messages.add_metric(key, count)
        yield from (depth, oldest, dead, messages)


def _exported(export: ExportPort) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "faas_export_pending_records",
        "Usage records in this node's journal that the destination of the export does not have yet.",
        value=export.pending,
    )
    missing = CounterMetricFamily(
        "faas_export_missing_records",
        "Usage records that will not reach the destination: it refused them, or the journal had to let them go.",
        labels=("reason",),
    )
    missing.add_metric(("refused",), export.refused)
    missing.add_metric(("lost",), export.lost)
    yield missing
