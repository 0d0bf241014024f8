"""The composition root: the only place that names concrete adapters.

A node comes up from the bottom (store, journal, engine, invoker, gateway) and goes down from the top, each part closed
after everything that uses it: callers are let go first, then sandboxes, then the journal is flushed, then the store
stops. ``AsyncExitStack`` keeps that order, also when a part of the start fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from faas.engines.select import Selected, select
from faas.gateway.app import Gateway, build_app
from faas.gateway.services import Limits, Services
from faas.identity import Identity, identify, socket_root
from faas.invoker.clock import SystemClock
from faas.invoker.config import InvokerConfig
from faas.invoker.ids import new_id
from faas.invoker.invoker import Invoker
from faas.invoker.run import described
from faas.model.connection import systems_of
from faas.model.errors import FaasError
from faas.packaging import bundle, layers
from faas.packaging.content import ContentStore
from faas.pool.entities import PoolConfig
from faas.serving import http, listen, shown_host
from faas.settings import Settings
from faas.stores.access import Access, admin_key
from faas.stores.aof_sync import AofSync
from faas.stores.bills import RedisBills
from faas.stores.budgets import RedisBudgets
from faas.stores.calls import RedisCalls
from faas.stores.embedded import EmbeddedValkey
from faas.stores.export import Exporter
from faas.stores.flusher import Flusher
from faas.stores.held import HeldMeter, RedisHeld
from faas.stores.idempotency import RedisIdempotency
from faas.stores.journal import Journal
from faas.stores.keys import RedisKeyStore
from faas.stores.leases import RedisLeases
from faas.stores.ledger import RedisLedger, RedisRecords
from faas.stores.logs import RedisLogSink
from faas.stores.namespaces import RedisNamespaces
from faas.stores.prices import RedisPrices
from faas.stores.queues import RedisQueues
from faas.stores.redis_client import Client, ask, connect
from faas.stores.registry import RedisRegistry
from faas.stores.triggers import RedisTriggers
from faas.stores.webhooks import RedisWebhookSecrets
from faas.triggers.call_work import CallParts
from faas.triggers.cancels import Cancels
from faas.triggers.connectors.connectors import Connectors
from faas.triggers.consumers import Consumers
from faas.triggers.destinations import told
from faas.triggers.directory import Directory
from faas.triggers.queue_work import Parts
from faas.triggers.scheduler import Scheduler
from faas.triggers.webhook_work import Webhooks

log = logging.getLogger(__name__)

CATCH_UP_S = 5
WARM_NS = 60_000_000_000  # how long an instance of a function that says nothing stays before it is parked
GC_THRESHOLD = 20_000  # new objects between collections; a call makes some fifty and drops them
NS_PER_MS = 1_000_000
BYTES_PER_MB = 1024 * 1024

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node that serves says of itself. ``key`` is what its user gets in with, "" where they have none."""

    url: str
    key: str
    engine: str
    isolation: str
    engine_reason: str
    home: Path


async def serve(settings: Settings, access: Access, on_ready: Callable[[NodeInfo], Awaitable[None]], say: Say) -> None:
    """Run a node until cancelled. ``on_ready`` is called once it answers; what it raises ends the node.

    ``access`` is how this node's user gets in.

    Raises ``FaasError`` or ``OSError`` when it can't come up.
    """
    async with AsyncExitStack() as stack:
        listener = listen(settings)
        stack.callback(listener.close)
        store = await _store(settings, stack, say)
        identity = identify(settings.home)
        clock = SystemClock()
        client = store.client
        registry, keys = RedisRegistry(client), RedisKeyStore(client, clock)
        key = await admin_key(keys, access, ours=store.embedded is not None, say=say)
        ledger = RedisLedger(client, keep_ms=settings.record_retention_ms, synced=store.synced)
        logs = RedisLogSink(client, clock, stream_lines_max=settings.log_lines)
        await stack.enter_async_context(_running(logs.run(), logs.close))
        journal = Journal(settings.home / "journal")
        stack.callback(journal.close)
        flusher = Flusher(journal, ledger)
        await stack.enter_async_context(_running(flusher.run(), flusher.close))
        exporter = await _exporter(settings, journal, stack)

        selected = await _engine(settings, identity, say)
        engine = selected.engine
        stack.push_async_callback(engine.close)
        content = ContentStore(settings.home / "store", identity.secret, registry, engine.python_version)
        budgets = RedisBudgets(client)
        queues = RedisQueues(client, synced=store.synced)
        triggers = Directory(registry, RedisTriggers(client))
        events = _Events(
            queues,
            RedisCalls(client, keep_ms=settings.record_retention_ms),
            RedisWebhookSecrets(client),
            triggers,
            Connectors(triggers, queues, RedisLeases(client), settings.connections, identity.node),
            clock,
        )
        observers: list[Gateway] = []
        invoker = Invoker(
            _invoker_config(settings, identity),
            engine,
            content,
            flusher,
            logs,
            clock,
            observe=lambda record, sequence: observers[0].observe(record, sequence),
        )
        gateway = build_app(
            Services(
                invoker=invoker,
                registry=registry,
                namespaces=RedisNamespaces(client),
                keys=keys,
                ledger=ledger,
                bills=RedisBills(client, synced=store.synced),
                budgets=budgets,
                notices=budgets,
                records=RedisRecords(client),
                prices=RedisPrices(client),
                queues=events.queues,
                triggers=events.triggers,
                calls=events.calls,
                webhook_secrets=events.secrets,
                held=RedisHeld(client),
                logs=logs,
                idempotency=RedisIdempotency(client),
                clock=clock,
                new_id=new_id,
                node=identity.node,
                engine=engine.name,
                isolation=engine.isolation,
                runtimes=({"name": "python", "version": engine.python_version},),
                limits=Limits(body_bytes_max=settings.max_body_bytes),
                connections=systems_of(settings.connections),
                connector=events.connectors.shown,
                ready=partial(_not_ready, client),
                journal_pending=lambda: flusher.pending,
                export=exporter,
                journal_id=lambda: journal.id,
                prepare=partial(_prepare, engine.python_version),
                revise=partial(bundle.revise, python_version=engine.python_version),
                lock=partial(layers.lock, python_version=engine.python_version),
            )
        )
        observers.append(gateway)
        await gateway.limits.reload()
        await gateway.budgets.reload()
        if gateway.budgets.some:
            await _caught_up(flusher)
            await gateway.budgets.refresh()
        await invoker.start()
        stack.push_async_callback(invoker.close)
        held = HeldMeter(client, clock, invoker.held)
        await stack.enter_async_context(_running(held.run(), held.close))
        server = await stack.enter_async_context(http(gateway, listener))
        consumers = await _wake(settings, identity, events, gateway, invoker, stack)
        stack.push_async_callback(_drain, gateway, consumers, invoker, settings.drain_timeout_ms / 1000)
        await _keep_minimum(invoker, registry)
        url = f"http://{shown_host(settings.host)}:{listener.getsockname()[1]}"
        _settle_memory()
        await on_ready(NodeInfo(url, key, engine.name, engine.isolation, selected.reason, settings.home))
        await asyncio.wait([server])  # and not `await server`, which would hand our cancellation on to it
        server.result()


# -- parts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Store:
    client: Client
    embedded: EmbeddedValkey | None
    synced: Callable[[], Awaitable[None]] | None  # all that the embedded one has answered for is on disk


async def _store(settings: Settings, stack: AsyncExitStack, say: Say) -> Store:
    """Redis or Valkey where the settings point, else one of our own in FAAS_HOME, watched over."""
    url, embedded = settings.redis_url, None
    if not url:
        embedded = EmbeddedValkey(settings.home / "valkey")
        url = await embedded.start()
        stack.push_async_callback(embedded.stop)
        await stack.enter_async_context(_running(embedded.supervise()))
    client = connect(url)
    stack.push_async_callback(client.aclose)
    await ask(client.ping())
    syncing = AofSync(embedded.files, client) if embedded is not None else None
    if syncing is not None:
        await stack.enter_async_context(_running(syncing.run()))
    say(
        f"store: embedded Valkey, data in {settings.home / 'valkey'}"
        if embedded
        else "store: the one at FAAS_REDIS_URL"
    )
    return Store(client, embedded, syncing.sync if syncing is not None else None)


async def _exporter(settings: Settings, journal: Journal, stack: AsyncExitStack) -> Exporter | None:
    """Sends usage events where the settings say; None where they say nothing."""
    if not settings.export_url:
        return None
    from faas.stores.export_http import HttpDestination  # 0.1 s that a node without an export need not wait

    destination = HttpDestination(settings.export_url, settings.export_token)
    stack.push_async_callback(destination.close)
    names = [name.strip() for name in settings.export_namespaces.split(",") if name.strip()]
    exporter = Exporter(journal, destination, namespaces=names, backlog_bytes_max=settings.export_backlog_bytes)
    await stack.enter_async_context(_running(exporter.run(), exporter.close))
    return exporter


class _Events(NamedTuple):
    """What queues, schedules and calls that nobody waits for share."""

    queues: RedisQueues
    calls: RedisCalls
    secrets: RedisWebhookSecrets
    triggers: Directory
    connectors: Connectors
    clock: SystemClock


async def _wake(
    settings: Settings,
    identity: Identity,
    events: _Events,
    gateway: Gateway,
    invoker: Invoker,
    stack: AsyncExitStack,
) -> Consumers:
    """Begin to wake functions without requests: by queues, schedules, calls that wait, and what others' queues hold."""
    queues, calls, secrets, triggers, connectors, clock = events
    cancels = Cancels(calls)
    await stack.enter_async_context(_running(cancels.run()))
    bytes_max = settings.max_body_bytes
    work = Parts(gateway.latest, invoker.invoke, new_id, clock, bytes_max, partial(told, clock))
    later = CallParts(
        gateway.latest, gateway.known, invoker, calls, cancels, clock, identity.node, bytes_max, described
    )  # fmt: skip
    webhooks = Webhooks(secrets, calls, clock, anywhere=settings.webhook_addresses == "any")
    stack.push_async_callback(webhooks.close)
    hidden = (later.for_queue, webhooks.for_queue)
    consumers = Consumers(queues, triggers, identity.node, work.for_trigger, hidden)
    gateway.metrics.queues = consumers
    await stack.enter_async_context(_running(consumers.run(), consumers.close))
    stack.callback(webhooks.leave)
    await stack.enter_async_context(_running(connectors.run(), connectors.close))
    scheduler = Scheduler(triggers, queues, clock, new_id)
    await stack.enter_async_context(_running(scheduler.run()))
    await stack.enter_async_context(_running(triggers.run()))
    return consumers


async def _engine(settings: Settings, identity: Identity, say: Say) -> Selected:
    blocked: tuple[str, ...] = ()
    host = urlsplit(settings.redis_url).hostname
    if host:
        with contextlib.suppress(OSError):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
            blocked = tuple(sorted({str(address[4][0]) for address in found}))
    return await select(
        settings.engine, identity.node, settings.home, settings.home / "store", blocked=blocked, progress=say
    )


def _invoker_config(settings: Settings, identity: Identity) -> InvokerConfig:
    pool = PoolConfig(
        memory_budget_mb=settings.memory_budget_bytes // BYTES_PER_MB,
        queue_depth_max=settings.queue_depth,
        queue_wait_ns=settings.queue_wait_ms * NS_PER_MS,
        generic_sandboxes=settings.generic_sandboxes,
        namespace_calls_max=settings.namespace_concurrency or None,
        namespace_memory_mb_max=settings.namespace_memory_bytes // BYTES_PER_MB or None,
        keep_alive=settings.keep_alive_policy,
        fixed_keep_alive_ns=settings.keep_alive_ms * NS_PER_MS,
    )
    warm_ns = min(WARM_NS, pool.fixed_keep_alive_ns)
    return InvokerConfig(identity.node, socket_root(settings.home), pool, warm_ns)


async def _drain(gateway: Gateway, consumers: Consumers, invoker: Invoker, seconds: float) -> None:
    """New calls are refused, those in flight get so long to end; until they have, the server goes on serving.

    From queues nothing more is taken; what runs is settled by ``Consumers.close``.
    """
    gateway.begin_drain()
    await consumers.drain()
    await invoker.drain(seconds)


@asynccontextmanager
async def _running(work: Awaitable[None], close: Callable[[], Awaitable[None]] | None = None) -> AsyncIterator[None]:
    """Run ``work`` beside the node. On leaving: ``close`` (which ends it in order), then cancel what still runs."""
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        if close is not None:
            await close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _keep_minimum(invoker: Invoker, registry: RedisRegistry) -> None:
    """Functions with ``min_instances`` are warm before anyone calls."""
    for version in await registry.functions(None):
        if version.manifest.min_instances > 0:
            invoker.keep(version)


async def _caught_up(flusher: Flusher) -> None:
    """What an earlier run left in the journal counts in budgets; a ledger that does not take it is not waited for."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CATCH_UP_S):
            while flusher.pending:
                flusher.kick()
                await asyncio.sleep(0.02)


async def _not_ready(client: Client) -> Sequence[str]:
    try:
        await ask(client.ping())
    except FaasError:
        return ["the store does not answer"]
    return []


def _prepare(python_version: str, archive: bytes, settings: object, name: str) -> bundle.Prepared:
    return bundle.prepare(archive, settings, name, python_version=python_version)  # type: ignore[arg-type]


def _settle_memory() -> None:
    """What has been loaded stays: the collector need not look at it again, nor come as often as it does by default."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
