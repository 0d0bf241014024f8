"""Reports over a month with a million records, and what it costs a node to hand them all out."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from faas.metering.sums import HOUR_MS
from faas.model.usage import UsageRecord
from faas.ports import Entry
from faas.stores.batch import Batch
from faas.stores.codec import Encoder
from faas.stores.embedded import EmbeddedValkey
from faas.stores.ledger import DAY_MS, RedisLedger
from faas.stores.redis_client import connect
from faas.stores.segments import frame
from tests.bench import report
from tests.bench.node import BenchError, Node, running_node
from tests.bench.processes import rss_bytes
from tests.bench.report import Bar, Row
from tests.bench.stats import median

RECORDS = 1_000_000
DAYS = 30
BATCH = 1_000  # about an hour of it; a node sends 500 at most
FUNCTIONS = 20
ROUNDS = 7
READ_BYTES = 1 << 20
REPORT = Bar("<= 1 s", 1.0)
EXPORT = Bar("<= 16 MB", 16e6)
BY = "function,day"


@dataclass(frozen=True, slots=True)
class Export:
    """A table that came over HTTP. ``rss_bytes`` of the node: before it, and the most while it came."""

    lines: int
    bytes: int
    seconds: float
    rss_before_bytes: int
    rss_most_bytes: int


def measure(engine: str, temporary: Path, say: report.Say) -> list[Row]:
    """The rows. Fills a Valkey of its own through the ledger and puts a node of its own on it."""
    with _filled(temporary, say) as (url, from_ms, filled_s), running_node(engine, temporary, redis_url=url) as node:
        say("reports over a month")
        query = f"from={_rfc3339(from_ms)}&to={_rfc3339(from_ms + DAYS * DAY_MS)}"
        took_s, rows = [], 0
        for _ in range(ROUNDS):
            began = time.perf_counter()
            found = json.loads(node.checked("GET", f"/v1/usage?by={BY}&{query}").body)
            took_s.append(time.perf_counter() - began)
            rows = len(found["rows"])
            if found["totals"]["invocations"] != RECORDS:
                raise BenchError(f"the report counts {found['totals']['invocations']:,} of {RECORDS:,} records")
        say("every record as CSV")
        export = _export(node, f"/v1/usage/records?format=csv&{query}")
        return [report_row(took_s, rows, filled_s), export_row(export)]


def report_row(took_s: list[float], rows: int, filled_s: float) -> Row:
    middle_s = median(took_s)
    return Row(
        f"month by function and day, {RECORDS:,} records",
        report.duration(middle_s * 1e9),
        bar=REPORT.text,
        verdict=REPORT.judge(middle_s),
        note=f"over HTTP, {rows} rows; rounds between {min(took_s):.2f} and {max(took_s):.2f} s; "
        f"the ledger took the records in {filled_s:.0f} s",
        values={"seconds": took_s, "rows": rows, "filled_s": filled_s},
    )


def export_row(export: Export) -> Row:
    if export.lines != RECORDS + 1:
        raise BenchError(f"the export has {export.lines:,} lines for {RECORDS:,} records and a head")
    grown_bytes = export.rss_most_bytes - export.rss_before_bytes
    return Row(
        f"node's memory while {RECORDS:,} records leave as CSV",
        f"+{report.megabytes(grown_bytes)}",
        bar=EXPORT.text,
        verdict=EXPORT.judge(grown_bytes),
        note=f"{export.bytes / 1e6:.0f} MB in {export.seconds:.0f} s, from {report.megabytes(export.rss_before_bytes)}",
        values={"grown_bytes": grown_bytes, "seconds": export.seconds, "bytes": export.bytes},
    )


def _export(node: Node, path: str) -> Export:
    """Read it all, looking at the node's memory after each piece."""
    before = most = rss_bytes(node.pid)
    lines = size = 0
    began = time.perf_counter()
    connection = http.client.HTTPConnection(node.host, node.port, timeout=60)
    try:
        connection.request("GET", path, headers=node.headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise BenchError(f"GET {path}: {answer.status} {answer.read(600).decode(errors='replace')}")
        while piece := answer.read(READ_BYTES):
            lines, size, most = lines + piece.count(b"\n"), size + len(piece), max(most, rss_bytes(node.pid))
    finally:
        connection.close()
    return Export(lines, size, time.perf_counter() - began, before, most)


# -- filling ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _filled(temporary: Path, say: report.Say) -> Iterator[tuple[str, int, float]]:
    """A server with all records in its ledger: its URL, when the first began, and how long it took to take them."""
    server = EmbeddedValkey(temporary / "ledger")
    url = asyncio.run(server.start())
    try:
        say(f"filling a ledger with {RECORDS:,} records")
        from_ms = (int(time.time() * 1000) // HOUR_MS) * HOUR_MS - DAYS * DAY_MS
        began = time.perf_counter()
        asyncio.run(_fill(url, from_ms))
        yield url, from_ms, time.perf_counter() - began
    finally:
        asyncio.run(server.stop())


async def _fill(url: str, from_ms: int) -> None:
    client = connect(url)
    try:
        ledger, encoder = RedisLedger(client, keep_ms=2 * DAYS * DAY_MS), Encoder()
        made, first = records(from_ms), 1
        while some := list(islice(made, BATCH)):
            frames = [frame(first + at, encoder.pack(Entry(record))) for at, record in enumerate(some)]
            await ledger.apply("bench@0", Batch(first, frames))
            first += len(some)
    finally:
        await client.aclose()


def records(from_ms: int) -> Iterator[UsageRecord]:
    """A month of 20 functions, some much busier than others, in the order of time; always the same."""
    rng = random.Random(4)
    names = [f"function-{number}" for number in range(FUNCTIONS)]
    busy = [1 / (number + 1) for number in range(FUNCTIONS)]  # Zipf's law
    chosen = rng.choices(range(FUNCTIONS), busy, k=RECORDS)
    for number, which in enumerate(chosen):
        started_ms = from_ms + number * DAYS * DAY_MS // RECORDS
        luck = rng.random()
        run_ns = int(1_000_000 * rng.expovariate(0.2)) + 200_000
        yield UsageRecord(
            f"{started_ms:012x}{number:020x}-1",
            "default" if which % 3 else "team-a",
            names[which],
            1 + 2 * number // RECORDS,  # deployed again in the middle of the month
            f"k{which % 4}",
            "http" if which % 2 else "direct",
            "ok" if luck > 0.01 else "function_error",
            "warm" if luck < 0.98 else "prewarmed",
            started_ms * 1_000_000,
            20_000,
            0,
            run_ns,
            -(-run_ns // 1_000_000),
            128 << which % 3,
            30_000_000 + int(luck * 10_000_000),
            run_ns // 2,
            100,
            2_000,
            "bench-node",
            1,
        )


def _rfc3339(unix_ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix_ms / 1000))
