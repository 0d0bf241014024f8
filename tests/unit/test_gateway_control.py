"""The control API: deploys, reads, usage, keys, logs, probes, metrics and the description of it all."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import compile_path

from faas.gateway import params
from faas.gateway.openapi.document import document
from faas.gateway.services import Limits
from faas.metering.present import invocation_record
from faas.model import errors
from faas.model.invocation import Call, Trigger
from faas.model.manifest import Http
from faas.model.usage import UsageRecord
from faas.packaging.bundle import Prepared
from faas.ports import LogLine, UsageRow
from faas.stores.memory import MemoryPrices
from tests.unit.gateway_fakes import ADMIN, Answered, Bench, make_bench, make_record, make_scope, make_version
from tests.usage_samples import make_record as make_usage_record

pytestmark = pytest.mark.anyio

HELLO = make_version(http=Http(public=True))
SOURCE = b"""# /// script
# [tool.faas]
# memory = "256MB"
# [tool.faas.http]
# public = true
# ///
def handler(event, context):
    return "hi"
"""


def zipped(source: bytes = SOURCE, name: str = "hello.py") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, source)
    return data.getvalue()


def multipart(parts: Sequence[tuple[str, bytes, str]]) -> tuple[bytes, tuple[str, str]]:
    """``(name, content, file name or "")`` as a body and its content type."""
    body = b""
    for name, content, file in parts:
        named = f'; filename="{file}"' if file else ""
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'.encode() + content + b"\r\n"
    return body + b"--xyz--\r\n", ("content-type", "multipart/form-data; boundary=xyz")


async def deploy(
    bench: Bench,
    settings: dict[str, Any] | None = None,
    *,
    bundle: bytes | None = None,
    path: str = "/v1/functions/hello",
    accept: str = "*/*",
    key: str = ADMIN,
) -> Answered:
    parts = [("bundle", zipped() if bundle is None else bundle, "hello.zip")]
    if settings is not None:
        parts.insert(0, ("manifest", json.dumps(settings).encode(), ""))
    body, content_type = multipart(parts)
    return await bench.call("PUT", path, body, key=key, headers=[content_type, ("accept", accept)])


def empty(**changes: Any) -> Bench:
    bench = make_bench(**changes)
    bench.registry.__init__()  # type: ignore[misc]
    return bench


# -- deploy ---------------------------------------------------------------------------------------------------------


async def test_a_deploy_makes_version_one_then_two() -> None:
    bench = empty()
    first = await deploy(bench)
    assert first.status == 201
    made = first.json()
    assert (made["name"], made["namespace"], made["version"], made["new"]) == ("hello", "default", 1, True)
    assert (made["url"], made["public"], made["init_ms"]) == ("http://node:8080/fn/hello", True, 5.0)
    assert made["settings"]["memory"] == "256MB"
    assert made["manifest"]["memory_mb"] == 256
    second = await deploy(bench, {"memory": "512MB"})
    assert (second.status, second.json()["version"], second.json()["new"]) == (200, 2, False)
    assert second.json()["manifest"]["memory_mb"] == 512
    assert bench.invoker.loaded == ["default/hello@1", "default/hello@2"]
    assert bench.invoker.forgotten == [("default", "hello", 1), ("default", "hello", 2)]
    assert made["bundle"] in bench.registry.blobs


async def test_the_new_version_answers_the_next_call() -> None:
    bench = empty()
    for version in ("1", "2"):
        await deploy(bench)
        assert (await bench.call("GET", "/fn/hello", key=None)).header("faas-version") == version


async def test_numbers_are_not_used_again_after_a_delete() -> None:
    bench = empty()
    await deploy(bench)
    assert (await bench.call("DELETE", "/v1/functions/hello")).status == 204
    again = await deploy(bench)
    assert (again.status, again.json()["version"]) == (201, 2)


async def test_what_does_not_load_is_not_there() -> None:
    bench = empty()
    bench.invoker.load_error = errors.FunctionFailed("ImportError", "no module named x", "line 1")
    answer = await deploy(bench)
    problem = answer.problem()
    assert (answer.status, problem["code"], problem["error_type"]) == (422, "invalid-manifest", "ImportError")
    assert (problem["message"], problem["traceback"]) == ("no module named x", "line 1")
    assert (await bench.call("GET", "/v1/functions/hello")).status == 404
    assert bench.invoker.forgotten == [("default", "hello", None)]


async def test_a_failed_redeploy_leaves_the_version_that_serves() -> None:
    bench = empty()
    await deploy(bench)
    bench.invoker.load_error = errors.InstanceCrashed("killed", "oom")
    answer = await deploy(bench)
    assert (answer.status, answer.problem()["exit"]) == (422, "oom")
    assert (await bench.call("GET", "/v1/functions/hello")).json()["version"] == 1
    assert bench.invoker.forgotten[-1] == ("default", "hello", 1)


async def test_no_room_to_load_is_the_platforms_fault() -> None:
    bench = empty()
    bench.invoker.load_error = errors.NoCapacity("full", 3)
    answer = await deploy(bench)
    assert (answer.status, answer.problem()["code"], answer.header("retry-after")) == (503, "no-capacity", "3")


async def test_every_manifest_error_comes_at_once_with_its_line() -> None:
    source = b"# /// script\n# [tool.faas]\n# memory = '1MB'\n# timeout = 'x'\n# ///\ndef handler(e, c): ...\n"
    answer = await deploy(empty(), {"colour": "red"}, bundle=zipped(source))
    problem = answer.problem()
    assert (answer.status, problem["code"]) == (422, "invalid-manifest")
    assert {(e["line"], e["key"]) for e in problem["errors"]} == {(3, "memory"), (4, "timeout"), (None, "colour")}


async def test_a_conflict_with_another_node_is_tried_again() -> None:
    bench = empty()
    bench.registry.conflicts = 2
    answer = await deploy(bench)
    assert (answer.status, answer.json()["version"]) == (201, 3)
    bench.registry.conflicts = 100
    answer = await deploy(bench)
    assert (answer.status, answer.problem()["code"]) == (409, "conflict")


async def test_deploys_of_one_function_are_one_after_another() -> None:
    bench = empty()
    answers = await asyncio.gather(*(deploy(bench) for _ in range(5)))
    assert sorted(a.json()["version"] for a in answers) == [1, 2, 3, 4, 5]
    assert [a.status for a in answers].count(201) == 1


async def test_dependencies_are_locked_with_progress() -> None:
    async def lock(dependencies: Sequence[str], *, progress: Any = None) -> bytes:
        progress("Resolved 1 package")
        return b"x==1 --hash=sha256:00\n"

    def prepare(archive: bytes, settings: Any, name: str) -> Prepared:
        return Prepared(HELLO.manifest, archive, ("x",), ("a warning",))

    bench = empty(lock=lock, prepare=prepare)
    answer = await deploy(bench, accept="application/x-ndjson")
    assert (answer.status, answer.header("content-type")) == (200, "application/x-ndjson")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["progress"] for line in lines[:-1]] == [
        "reading the bundle", "resolving the dependencies", "Resolved 1 package", "loading version 1",
    ]  # fmt: skip
    result = lines[-1]["result"]
    assert result["warnings"] == ["a warning"]
    assert bench.registry.blobs[result["lock"]].startswith(b"x==1")


async def test_a_narrated_deploy_ends_with_its_problem() -> None:
    bench = empty()
    bench.invoker.load_error = errors.FunctionFailed("ImportError", "no module named x", "line 1")
    answer = await deploy(bench, accept="application/x-ndjson")
    last = json.loads(answer.body.splitlines()[-1])
    assert (answer.status, last["status"], last["error"]["code"]) == (200, 422, "invalid-manifest")
    assert last["error"]["traceback"] == "line 1"


async def test_a_narrated_deploy_of_nonsense_is_refused_before_it_begins() -> None:
    answer = await deploy(empty(), bundle=b"", accept="application/x-ndjson")
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ([], 400, "invalid-request"),
        ([("manifest", b"{}", "")], 400, "invalid-request"),
        ([("bundle", b"not a zip", "b.zip")], 422, "invalid-manifest"),
        ([("bundle", zipped(), "b.zip"), ("manifest", b"{", "")], 400, "invalid-request"),
        ([("bundle", zipped(), "b.zip"), ("manifest", b"[]", "")], 400, "invalid-request"),
        ([("bundle", zipped(), "b.zip"), ("manifest", b"[" * 100_000, "")], 400, "invalid-request"),
        ([("bundle", zipped(), "b.zip"), ("manifest", b"\xff", "m.json")], 400, "invalid-request"),
        ([("bundle", zipped(), "b.zip"), ("other", b"1", "")], 400, "invalid-request"),
        ([("bundle", zipped(), "b.zip")] * 3, 400, "invalid-request"),
        ([("bundle", zipped(), "b.zip"), ("manifest", b'{"name": "other"}', "")], 422, "invalid-manifest"),
        ([("bundle", zipped(), "b.zip"), ("manifest", b"x" * 2_000_000, "")], 400, "invalid-request"),
    ],
)
async def test_uploads_that_are_no_deploy(parts: list[tuple[str, bytes, str]], status: int, code: str) -> None:
    bench = empty()
    body, content_type = multipart(parts)
    answer = await bench.call("PUT", "/v1/functions/hello", body, headers=[content_type])
    assert (answer.status, answer.problem()["code"]) == (status, code)
    assert not bench.registry.current


@pytest.mark.parametrize(
    "content_type", ["application/json", "multipart/form-data", "multipart/form-data; boundary=other", ""]
)
async def test_bodies_that_are_no_multipart(content_type: str) -> None:
    body, _ = multipart([("bundle", zipped(), "b.zip")])
    answer = await empty().call("PUT", "/v1/functions/hello", body, headers=[("content-type", content_type)])
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")


async def test_a_bundle_over_the_limit() -> None:
    bench = empty(limits=Limits(bundle_bytes_max=1000))
    answer = await deploy(bench, bundle=b"x" * 1001)
    assert (answer.status, answer.problem()["code"]) == (413, "payload-too-large")
    answer = await deploy(bench, bundle=b"x" * 3_000_000)
    assert (answer.status, answer.problem()["code"]) == (413, "payload-too-large")


@pytest.mark.parametrize("name", ["Hello", "a_b", "9a", "a" * 64, "a.b", "a@1", "%2e%2e", "%00"])
async def test_names_that_are_none(name: str) -> None:
    bench = empty()
    answer = await deploy(bench, path=f"/v1/functions/{name}")
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")


async def test_settings_are_changed_by_a_new_version_of_the_same_code() -> None:
    bench = empty()
    bundle = (await deploy(bench, {"env": {"A": "1"}})).json()["bundle"]
    answer = await bench.call("PATCH", "/v1/functions/hello", json.dumps({"memory": "1GB", "env": {"B": "2"}}).encode())
    made = answer.json()
    assert (answer.status, made["version"], made["bundle"]) == (200, 2, bundle)
    assert (made["manifest"]["memory_mb"], made["public"]) == (1024, True)
    assert made["manifest"]["env"] == {"A": "1", "B": "2"}


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"memory": "1GB"}', "text/plain", 400),
        (b'{"memory": "1"}', "application/json", 422),
        (b'{"name": "x"}', "application/json", 422),
        (b" " * 1_000_001, "application/json", 413),
    ],
)
async def test_changes_that_are_none(body: bytes, content_type: str, status: int) -> None:
    answer = await make_bench(HELLO).call(
        "PATCH", "/v1/functions/hello", body, headers=[("content-type", content_type)]
    )
    assert answer.status == status
    answer.problem()


async def test_a_change_of_nothing_there_is_not_found() -> None:
    assert (await make_bench(HELLO).call("PATCH", "/v1/functions/nope", b"{}")).status == 404


# -- reading --------------------------------------------------------------------------------------------------------


async def test_listing_shows_one_namespace_or_all_of_them() -> None:
    bench = make_bench(make_version("a"), make_version("b", namespace="team"))
    bench.keys.put("team", "team", "read")

    async def names(path: str, key: str = ADMIN) -> list[str]:
        return [f["name"] for f in (await bench.call("GET", path, key=key)).json()["functions"]]

    assert await names("/v1/functions") == ["a"]
    assert await names("/v1/functions?namespace=team") == ["b"]
    assert await names("/v1/functions?namespace=*") == ["a", "b"]
    assert await names("/v1/functions", "team") == ["b"]
    for other in ("default", "*"):
        assert (await bench.call("GET", f"/v1/functions?namespace={other}", key="team")).status == 403
    assert (await bench.call("GET", "/v1/functions?namespace=No%20Such")).status == 400


async def test_listing_counts_instances_by_state() -> None:
    bench = make_bench(HELLO)
    bench.invoker.describe = lambda namespace, name: [  # type: ignore[method-assign]
        {"namespace": "default", "function": "hello", "instances": [{"state": "IDLE"}, {"state": "IDLE"}]},
        {"namespace": None, "function": None, "instances": []},
    ]
    (shown,) = (await bench.call("GET", "/v1/functions")).json()["functions"]
    assert shown["instances"] == {"IDLE": 2}


async def test_urls_of_other_namespaces_carry_them() -> None:
    bench = make_bench(make_version(namespace="team"), public_url="https://faas.example/")
    shown = (await bench.call("GET", "/v1/functions/hello?namespace=team")).json()
    assert shown["url"] == "https://faas.example/fn/hello.team"


async def test_versions_newest_first() -> None:
    bench = make_bench(*(make_version(version=n) for n in (3, 4, 5)))
    shown = (await bench.call("GET", "/v1/functions/hello/versions")).json()["versions"]
    assert [v["version"] for v in shown] == [5, 4, 3]


@pytest.mark.parametrize("path", ["", "/versions", "/instances", "/invocations", "/logs"])
async def test_a_near_miss_of_any_kind_is_not_found(path: str) -> None:
    answer = await make_bench(HELLO).call("GET", f"/v1/functions/helo{path}")
    assert (answer.status, answer.problem()["code"]) == (404, "not-found")


async def test_instances() -> None:
    shown = (await make_bench(HELLO).call("GET", "/v1/functions/hello/instances")).json()
    assert shown["sandboxes"][0]["function"] == "hello"
    assert shown["generic"]["why"] == "for hello"


async def test_records() -> None:
    bench = make_bench(HELLO)
    bench.records.kept["default", "ab" * 16] = kept = invocation_record(make_usage_record(0xAB), {})
    assert (await bench.call("GET", f"/v1/invocations/{'ab' * 16}")).json() == {**kept, "cost": "0", "currency": "USD"}
    assert len((await bench.call("GET", "/v1/functions/hello/invocations?limit=5")).json()["invocations"]) == 1
    assert (await bench.call("GET", f"/v1/invocations/{'cd' * 16}")).status == 404
    assert (await bench.call("GET", f"/v1/invocations/{'ab' * 16}?namespace=team")).status == 404
    for limit in ("0", "-1", "x", "1001", "9" * 30, "٣"):
        assert (
            await bench.call("GET", f"/v1/functions/hello/invocations?limit={limit}".encode().decode("latin-1"))
        ).status == 400


# -- logs -----------------------------------------------------------------------------------------------------------

LINE = LogLine(1_700_000_000_000_000_001, "default", "hello", 1, "ab" * 16, "stdout", "héllo")


async def test_log_lines() -> None:
    bench = make_bench(HELLO)
    bench.logs.write(LINE)
    (line,) = (await bench.call("GET", "/v1/functions/hello/logs?invocation=abab")).json()["lines"]
    assert line == {
        "time": "2023-11-14T22:13:20.000000001Z", "function": "hello", "version": 1,
        "invocation_id": "ab" * 16, "stream": "stdout", "text": "héllo",
    }  # fmt: skip
    assert bench.logs.asked == ("default", "hello", 0, "abab")
    for wrong in ("since=yesterday", "since=5x", "follow=perhaps", "limit=-1"):
        assert (await bench.call("GET", f"/v1/functions/hello/logs?{wrong}")).status == 400


async def test_following_sends_lines_as_they_come_and_ends_when_the_node_drains() -> None:
    bench = make_bench(HELLO)
    bench.logs.write(LINE)
    got: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        got.append(message.get("body", b""))

    headers = [(b"authorization", b"Bearer faas_admin")]
    scope = make_scope("GET", "/v1/functions/hello/logs?follow=1&since=5m", headers)
    task = asyncio.create_task(bench.gateway(scope, receive, send))
    async with asyncio.timeout(10):
        while not any(b"data: " in piece for piece in got):
            await asyncio.sleep(0.002)
        bench.logs.write(LINE)
        while sum(b"data: " in piece for piece in got) < 2:
            await asyncio.sleep(0.002)
        bench.gateway.begin_drain()
        await task
    events = b"".join(got).decode().split("\n\n")
    assert json.loads(events[1].removeprefix("data: "))["text"] == "héllo"
    assert events[-2].startswith("event: end")
    assert bench.logs.followers == 0


async def test_a_follower_who_leaves_is_let_go() -> None:
    bench = make_bench(HELLO)
    leave = asyncio.Event()

    async def receive() -> Any:
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if bench.logs.followers:
            leave.set()

    scope = make_scope("GET", "/v1/functions/hello/logs?follow=1", [(b"authorization", b"Bearer faas_admin")])
    bench.logs.write(LINE)
    async with asyncio.timeout(10):
        await bench.gateway(scope, receive, send)
    assert bench.logs.followers == 0


# -- usage ----------------------------------------------------------------------------------------------------------


async def test_usage_is_exact() -> None:
    bench = make_bench(HELLO)
    bench.ledger.rows = [
        UsageRow({"function": "a"}, {"invocations": 1, "mb_ms": 128}),
        UsageRow({"function": "b"}, {"invocations": 2, "mb_ms": 1_024_000 * 10**20}),
    ]
    shown = (await bench.call("GET", "/v1/usage?from=2025-01&to=2025-02-01T00:00:00%2B01:00&by=function,day")).json()
    assert shown["from"] == "2025-01-01T00:00:00.000Z"
    assert shown["to"] == "2025-01-31T23:00:00.000Z"
    assert shown["rows"][0] == {"function": "a", "invocations": 1, "mb_ms": 128, "gb_seconds": "0.000125"}
    assert shown["rows"][1]["gb_seconds"] == "1" + "0" * 20
    assert shown["totals"]["invocations"] == 3
    assert shown["totals"]["gb_seconds"] == "1" + "0" * 20 + ".000125"
    assert bench.ledger.asked is not None
    assert bench.ledger.asked[2:] == (["function", "day"], {})


class FakeHeld:
    """``HeldStore``."""

    async def held(self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]) -> list[UsageRow]:
        names = ("idle_mb_ms", "parked_mb_ms", "provisioned_mb_ms", "generic_mb_ms")
        rows = [("a", (1, 2, 0, 0)), ("", (0, 0, 0, 7))]
        return [UsageRow({"function": name}, dict(zip(names, sums, strict=True))) for name, sums in rows]

    async def held_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        yield await self.held(start_ms, end_ms, by, where)

    async def changes(self, start_ms: int, end_ms: int) -> int:
        return 0

    async def provisioned(self, start_ms: int, end_ms: int) -> dict[tuple[str, str], int]:
        return {}


async def test_what_is_held_without_serving_is_beside_usage() -> None:
    prices = MemoryPrices()
    machine = "machine = { cost_per_month = 5_382_144, memory_gb = 1 }"  # 2.048 for each second of a month
    await prices.set(f'name = "ours"\ncurrency = "EUR"\n{machine}\n[namespaces.default]\nper_gb_second = 9', 0, "k")
    bench = make_bench(HELLO, held=FakeHeld(), prices=prices)
    shown = (await bench.call("GET", "/v1/usage?by=function&month=2025-01")).json()
    assert shown["rows"] == []
    assert shown["held"] == {
        "rows": [{"function": "a", "idle_mb_ms": 1, "parked_mb_ms": 2, "provisioned_mb_ms": 0, "cost": "0.000006"}],
        "totals": {"idle_mb_ms": 1, "parked_mb_ms": 2, "provisioned_mb_ms": 0, "generic_mb_ms": 7, "cost": "0.00002"},
        "rate": {"per_gb_second": "2.048", "currency": "EUR", "book": "ours"},
    }
    bench.keys.put("team", "default", "read")
    shown = (await bench.call("GET", "/v1/usage?by=function", key="team")).json()["held"]
    assert "rate" not in shown, "what a machine costs is its operator's affair"
    assert "cost" not in shown["totals"]
    for query in ("by=function,key", "by=function&status=ok"):
        assert "held" not in (await bench.call("GET", f"/v1/usage?{query}")).json(), "only calls have a key or a status"


async def test_money_held_goes_by_an_example_where_no_machine_is_known() -> None:
    bench = make_bench(HELLO, held=FakeHeld())
    rate = (await bench.call("GET", "/v1/usage")).json()["held"]["rate"]
    assert (rate["book"], rate["currency"]) == ("at-cost", "EUR")


class HeldByHour(FakeHeld):
    """At 1, 2 and 4 o'clock."""

    async def held_by_time(
        self, start_ms: int, end_ms: int, by: Sequence[str], where: Mapping[str, str]
    ) -> AsyncIterator[list[UsageRow]]:
        for hour in (1, 2, 4):
            rows = await self.held(start_ms, end_ms, by, where)
            yield [UsageRow({**row.labels, "hour": str(hour)}, row.sums) for row in rows]


async def test_the_table_has_what_was_held_in_the_order_of_time() -> None:
    bench = make_bench(HELLO, held=HeldByHour())
    bench.ledger.rows = [
        UsageRow({"function": name, "hour": str(h)}, {"mb_ms": 128}) for h, name in ((2, "a"), (3, "b"))
    ]
    head, *lines, _ = text_of(await bench.call("GET", "/v1/usage?format=csv&by=function,hour"))
    assert head.endswith(",memory_mb,idle_mb_ms,parked_mb_ms,provisioned_mb_ms,generic_mb_ms")
    rows = [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
    names = ("hour", "function", "mb_ms", "idle_mb_ms", "generic_mb_ms")
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("1", "a", "", "1", "0"), ("1", "", "", "0", "7"), ("2", "a", "128", "1", "0"), ("2", "", "", "0", "7"),
        ("3", "b", "128", "0", "0"), ("4", "a", "", "1", "0"), ("4", "", "", "0", "7"),
    ]  # fmt: skip
    answer = await bench.call("GET", "/v1/usage?format=csv&by=function,hour&attempt=retry")
    assert text_of(answer)[0].endswith(",memory_mb"), "what is held has no attempt"


async def test_a_report_that_cuts_an_hour_whose_records_are_gone_says_so() -> None:
    bench = make_bench(HELLO)
    shown = (await bench.call("GET", "/v1/usage?from=2023-01-01T00:30:00Z&to=2023-01-02T12:59:00Z")).json()
    assert shown["partial"] == ["2023-01-01T00:00:00Z", "2023-01-02T12:00:00Z"]
    for query in ("", "?from=2023-01&to=2023-02", "?from=2023-01&to=2099-01-01T00:30:00Z"):
        assert "partial" not in (await bench.call("GET", f"/v1/usage{query}")).json(), "no hour is cut"


def text_of(answer: Answered) -> list[str]:
    return answer.body.decode().split("\r\n")


async def test_usage_as_csv_and_lines_comes_in_pieces() -> None:
    bench = make_bench(HELLO)
    bench.ledger.rows = [
        UsageRow({"function": "a"}, {"invocations": 1, "mb_ms": 128}, {"peak_memory_bytes": 9, "memory_mb": 128}),
        UsageRow({"function": "b,c"}, {"invocations": 2, "mb_ms": 0}),
    ]
    answer = await bench.call("GET", "/v1/usage?format=csv")
    head, *lines, end = text_of(answer)
    assert head.startswith("function,invocations,errors,billed_ms,mb_ms,")
    assert head.endswith(",gb_seconds,peak_memory_bytes,memory_mb")
    found = [dict(zip(head.split(","), next(csv.reader([line])), strict=True)) for line in lines]
    assert (found[0]["mb_ms"], found[0]["gb_seconds"], found[0]["peak_memory_bytes"]) == ("128", "0.000125", "9")
    assert (found[1]["function"], found[1]["invocations"], found[1]["peak_memory_bytes"], end) == ("b,c", "2", "", "")
    lines = (await bench.call("GET", "/v1/usage?format=ndjson")).body.decode().splitlines()
    assert json.loads(lines[1]) == {"function": "b,c", "invocations": 2, "mb_ms": 0, "gb_seconds": "0"}
    bench.ledger.rows = []
    assert text_of(await bench.call("GET", "/v1/usage?format=csv"))[1:] == [""]
    assert (await bench.call("GET", "/v1/usage?format=ndjson")).body == b""


async def test_usage_records_as_csv_and_lines() -> None:
    bench = make_bench(HELLO)
    call = Call("0190" * 8, Trigger.HTTP, b"", key_id="k1")
    bench.ledger.raw = [make_record(HELLO, call), make_record(HELLO, call, status="timeout")]
    answer = await bench.call("GET", "/v1/usage/records?status=timeout&key=k1")
    assert [json.loads(line)["status"] for line in answer.body.decode().splitlines()] == ["ok", "timeout"]
    assert bench.ledger.asked is not None
    assert bench.ledger.asked[3] == {"status": "timeout", "key": "k1"}
    head, line, *_ = text_of(await bench.call("GET", "/v1/usage/records?format=csv"))
    row = dict(zip(head.split(","), line.split(","), strict=True))
    assert (row["id"], row["started_at"], row["mb_ms"]) == ("0190" * 8 + "-1", "2023-11-14T22:13:20.123456789Z", "256")
    assert (await bench.call("GET", "/v1/usage/records?format=json")).problem()["code"] == "invalid-request"


async def test_a_table_that_breaks_off_is_no_whole_table() -> None:
    bench = make_bench(HELLO)
    bench.ledger.breaks = True
    answer = await bench.call("GET", "/v1/usage?format=csv")
    assert (answer.status, answer.problem()["code"]) == (503, "store-unavailable")
    bench.ledger.rows = [UsageRow({"function": "a"}, {"invocations": 1})]
    answer = await bench.call("GET", "/v1/usage?format=csv")
    assert (answer.status, answer.complete) == (200, False)


async def test_usage_of_a_namespace() -> None:
    bench = make_bench(HELLO)
    bench.keys.put("team", "team", "read")
    for path, key, where in (
        ("/v1/usage?namespace=team&function=a", ADMIN, {"function": "a", "namespace": "team"}),
        ("/v1/usage?namespace=*", ADMIN, {}),
        ("/v1/usage", "team", {"namespace": "team"}),
    ):
        answer = await bench.call("GET", path, key=key)
        assert (answer.status, answer.json()["totals"]["invocations"]) == (200, 0)
        assert bench.ledger.asked is not None
        assert bench.ledger.asked[3] == where
    assert (await bench.call("GET", "/v1/usage?namespace=default", key="team")).status == 403


@pytest.mark.parametrize(
    "query",
    ["by=colour", "from=soon", "from=2025-13", "from=2025-02&to=2025-01", "to=99999999999999d", "from=5", "format=xml"],
)
async def test_usage_questions_that_are_none(query: str) -> None:
    answer = await make_bench(HELLO).call("GET", f"/v1/usage?{query}")
    assert (answer.status, answer.problem()["code"]) == (400, "invalid-request")


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:01Z", 1000),
        ("1970-01-01T01:00:01+01:00", 1000),
        ("1970-01-02", 86_400_000),
        ("1970-02", 31 * 86_400_000),
        ("1h30m", 10**9 - 5_400_000),
        ("1960-01-01", 0),
        ("1970-01-01T00:00:01.2345678Z", 1234),
    ],
)
def test_points_in_time(text: str, ms: int) -> None:
    assert params.time_ms(text, "since", 10**9) == ms


# -- keys, nodes, runtimes ------------------------------------------------------------------------------------------


async def test_keys_are_made_shown_once_and_revoked() -> None:
    bench = make_bench(HELLO)
    made = await bench.call("POST", "/v1/keys", json.dumps({"namespace": "team", "scopes": ["read"]}).encode())
    assert made.status == 201
    secret, key_id = made.json()["secret"], made.json()["id"]
    assert made.header("cache-control") == "no-store"
    assert (await bench.call("GET", "/v1/functions", key=secret)).status == 200
    listed = (await bench.call("GET", "/v1/keys")).json()["keys"]
    assert {"id": key_id, "namespace": "team", "scopes": ["read"]}.items() <= listed[-1].items()
    assert secret not in json.dumps(listed)
    assert (await bench.call("DELETE", f"/v1/keys/{key_id}")).status == 204
    assert (await bench.call("GET", "/v1/functions", key=secret)).status == 401
    assert (await bench.call("DELETE", f"/v1/keys/{key_id}")).status == 404


@pytest.mark.parametrize(
    "asked",
    [
        {"namespace": "No"}, {"namespace": 3}, {"scopes": []}, {"scopes": ["root"]}, {"scopes": "admin"},
        {"scopes": [["read"]]}, {"secret": "mine"},
    ],
)  # fmt: skip
async def test_keys_that_cannot_be(asked: dict[str, Any]) -> None:
    assert (await make_bench(HELLO).call("POST", "/v1/keys", json.dumps(asked).encode())).status == 400


async def test_a_namespaces_admin_rules_only_there() -> None:
    bench = make_bench(HELLO)
    bench.keys.put("team", "team", "admin")
    assert [k["namespace"] for k in (await bench.call("GET", "/v1/keys", key="team")).json()["keys"]] == ["team"]
    for namespace in ("*", "default"):
        body = json.dumps({"namespace": namespace, "scopes": ["admin"]}).encode()
        assert (await bench.call("POST", "/v1/keys", body, key="team")).status == 403
    assert (await bench.call("DELETE", "/v1/keys/k1", key="team")).status == 404


async def test_nodes_and_runtimes() -> None:
    bench = make_bench(HELLO)
    (node,) = (await bench.call("GET", "/v1/nodes")).json()["nodes"]
    assert {"name": "n1", "state": "ready", "engine": "process", "instances": {"idle": 1}}.items() <= node.items()
    assert (await bench.call("GET", "/v1/runtimes")).json() == {"runtimes": [{"name": "python", "version": "3.11"}]}


# -- probes, routes, metrics, description ---------------------------------------------------------------------------


async def test_readiness_says_why_not() -> None:
    async def down() -> list[str]:
        return ["the store does not answer"]

    async def broken() -> list[str]:
        raise OSError("/secret/path")

    async def unavailable() -> list[str]:
        raise errors.StoreUnavailable("redis://10.0.0.7")

    for probe, reason in ((down, "the store does not answer"), (broken, "failed"), (unavailable, "store-unavailable")):
        answer = await make_bench(HELLO, ready=probe).call("GET", "/readyz", key=None)
        assert (answer.status, answer.json()["status"]) == (503, "not ready")
        assert reason in answer.json()["reasons"][0]
        assert "10.0.0.7" not in answer.body.decode()
        assert "/secret" not in answer.body.decode()


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/v1/functions", "GET, HEAD"),
        ("PUT", "/v1/functions/hello/invocations", "GET, HEAD, POST"),
        ("POST", "/v1/functions/hello", "DELETE, GET, HEAD, PATCH, PUT"),
        ("POST", "/healthz", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
    ],
)
async def test_methods_a_route_does_not_take(method: str, path: str, allow: str) -> None:
    answer = await make_bench(HELLO).call(method, path)
    assert (answer.status, answer.header("allow")) == (405, allow)
    answer.problem()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1", "/v2/functions", "/v1/functions/", "/v1/functions/hello/", "/v1/functions/a/b/c", "/ui/",
        "/v1/queues/", "/v1/triggers/", "/v1/bills", "/v1/price", "/v1/secrets",
        "/v1/functions/hello/aliases/prod", "/fn", "//fn/hello", "/v1/functions/..%2f..%2fetc%2fpasswd", "/%00",
    ],
)  # fmt: skip
async def test_routes_that_are_not_there(path: str) -> None:
    answer = await make_bench(HELLO).call("GET", path)
    assert (answer.status, answer.problem()["code"]) == (404, "not-found")


async def test_a_call_by_an_unusual_spelling_of_its_path() -> None:
    bench = make_bench(HELLO)
    assert (await bench.call("POST", "/v1/functions/hello@1/invocation%73", b"[]")).body == b"[]"
    assert bench.invoker.calls[0][1].payload == b"[]"


def _samples(text: bytes) -> dict[tuple[str, str], float]:
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found[sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))] = sample.value
    return found


def _finished(bench: Bench, **changes: Any) -> UsageRecord:
    from faas.model.invocation import Call, Trigger

    record = make_record(HELLO, Call("ab" * 16, Trigger.HTTP, b""), **changes)
    bench.gateway.observe(record, 1)
    return record


async def test_metrics() -> None:
    bench = make_bench(HELLO, journal_pending=lambda: 7)
    _finished(bench, run_ns=3_000_000)
    _finished(bench, start="prewarmed", init_ns=8_000_000, run_ns=2_000_000_000_000, status="timeout", billed_ms=10)
    _finished(bench, status="rejected", billed_ms=0, start="warm")
    answer = await bench.call("GET", "/metrics")
    assert str(answer.header("content-type")).startswith("text/plain")
    found = _samples(answer.body)
    call = "function=hello,namespace=default,status={},trigger=http"
    assert found["faas_invocations_total", call.format("ok")] == 1
    assert found["faas_invocations_total", call.format("timeout")] == 1
    assert found["faas_invocations_total", call.format("rejected")] == 1
    assert found["faas_cold_starts_total", ""] == 1
    assert found["faas_throttled_total", ""] == 1
    assert found["faas_usage_mb_ms_total", ""] == 128 * 12
    assert found["faas_instances", "state=idle"] == 1
    assert found["faas_sandboxes", "state=bound"] == 1
    assert found["faas_journal_pending_records", ""] == 7
    assert found["faas_node_memory_bytes", ""] == 128_000_000
    duration = "faas_invocation_duration_seconds"
    assert found[f"{duration}_count", "phase=run"] == 2
    assert found[f"{duration}_count", "phase=init"] == 1
    assert found[f"{duration}_count", "phase=queue"] == 3
    assert found[f"{duration}_sum", "phase=run"] == 2000.003
    assert found[f"{duration}_bucket", "le=0.0025,phase=run"] == 0
    assert found[f"{duration}_bucket", "le=0.005,phase=run"] == 1
    assert found[f"{duration}_bucket", "le=900.0,phase=run"] == 1
    assert found[f"{duration}_bucket", "le=+Inf,phase=run"] == 2
    for name in ("faas_queue_depth", "faas_queue_oldest_seconds"):
        assert f"# TYPE {name} gauge" in answer.body.decode()


async def test_the_description_covers_every_route_and_no_other() -> None:
    bench = make_bench(HELLO)
    described = (await bench.call("GET", "/openapi.json")).json()
    assert described["servers"] == [{"url": "http://node:8080"}]
    routes = {(o.method.lower(), o.path) for o in bench.gateway.operations}
    routes |= {("get", "/healthz"), ("get", "/readyz")}
    methods = {"get", "head", "post", "put", "patch", "delete", "options"}
    listed = {(m, path) for path, item in described["paths"].items() for m in item if m in methods}
    trigger = {(m, path) for m in methods for path in ("/fn/{name}", "/fn/{name}/{path}")}
    assert listed == routes | trigger


def test_the_description_is_sound() -> None:
    described = document("http://x")
    assert described["openapi"].startswith("3.1")
    ids: list[str] = []
    for path, item in described["paths"].items():
        _, _, convertors = compile_path(path)
        shared = item.get("parameters", [])
        for method, operation in item.items():
            if method == "parameters":
                continue
            ids.append(operation["operationId"])
            assert operation["summary"], path
            assert operation["responses"], path
            named = {p["name"] for p in [*shared, *operation.get("parameters", [])] if p["in"] == "path"}
            assert named == set(convertors), path
            for status, response in operation["responses"].items():
                assert status == "default" or 200 <= int(status) < 600
                assert "$ref" in response or response["description"], path
    assert len(ids) == len(set(ids))
    for ref in _refs(described):
        place: Any = described
        for part in ref.removeprefix("#/").split("/"):
            place = place[part]
    problems = described["components"]["responses"]
    assert all("application/problem+json" in p["content"] for p in problems.values())


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in _refs(item)]
    if isinstance(value, list):
        return [ref for item in value for ref in _refs(item)]
    return []
