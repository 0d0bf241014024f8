"""Bad manifests and bundles: 422 with every problem, its key and its line; nothing is deployed, nothing breaks."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from typing import Any

import httpx2
import pytest

from tests.e2e.node import Node, code

GOOD = "def handler(event, context):\n    return event\n"

# key as the problem names it, and settings that are wrong there and nowhere else
BAD: list[tuple[str, dict[str, Any]]] = [
    ("name", {"name": "Upper"}),
    ("name", {"name": "other-than-the-url"}),
    ("name", {"name": 7}),
    ("entry", {"entry": "../../etc/passwd"}),
    ("entry", {"entry": "missing"}),
    ("entry", {"entry": ["a"]}),
    ("handler", {"handler": "no such thing"}),
    ("handler", {"handler": "missing.handler"}),
    ("handler", {"handler": 1}),
    ("runtime", {"runtime": "cobol"}),
    ("requires-python", {"requires-python": "newest"}),
    ("requires-python", {"requires-python": ">=4"}),
    ("dependencies", {"dependencies": "six"}),
    ("dependencies[0]", {"dependencies": ["not a requirement !"]}),
    ("dependencies[0]", {"dependencies": ["six @ file:///etc/passwd"]}),
    ("dependencies[0]", {"dependencies": [3]}),
    ("memory", {"memory": "1MB"}),
    ("memory", {"memory": "100GB"}),
    ("memory", {"memory": "much"}),
    ("memory", {"memory": -1}),
    ("memory", {"memory": True}),
    ("memory", {"memory": [128]}),
    ("cpus", {"cpus": -1}),
    ("cpus", {"cpus": "2"}),
    ("timeout", {"timeout": "1ms"}),
    ("timeout", {"timeout": "2h"}),
    ("timeout", {"timeout": "soon"}),
    ("timeout", {"timeout": -5}),
    ("concurrency", {"concurrency": 0}),
    ("concurrency", {"concurrency": "many"}),
    ("min_instances", {"min_instances": -1}),
    ("min_instances", {"min_instances": 3, "max_instances": 2}),
    ("max_instances", {"max_instances": 0}),
    ("max_instances", {"max_instances": 10**9}),
    ("max_instances", {"max_instances": 1.5}),
    ("network", {"network": "host"}),
    ("network", {"network": ["none"]}),
    ("keep_alive", {"keep_alive": "for ever"}),
    ("keep_alive", {"keep_alive": "-1s"}),
    ("idempotency", {"idempotency": "1000d"}),
    ("env", {"env": "A=1"}),
    ("env.1A", {"env": {"1A": "x"}}),
    ("env.FAAS_SOCKET", {"env": {"FAAS_SOCKET": "x"}}),
    ("env.A", {"env": {"A": {"b": "c"}}}),
    ("env.A", {"env": {"A": "nul\0"}}),
    ("env", {"env": {"A": "x" * 100_000}}),
    ("secrets", {"secrets": "S3"}),
    ("secrets[0]", {"secrets": ["not ok"]}),
    ("secrets[0]", {"secrets": ["A"], "env": {"A": "1"}}),
    ("retry", {"retry": 3}),
    ("retry.attempts", {"retry": {"attempts": 0}}),
    ("retry.max_age", {"retry": {"max_age": "never"}}),
    ("retry.often", {"retry": {"often": 1}}),
    ("on_failure", {"on_failure": "http://plain.example"}),
    ("on_failure", {"on_failure": "queue:Not A Name"}),
    ("on_success", {"on_success": "function:hostile-manifest"}),
    ("http", {"http": True}),
    ("http.public", {"http": {"public": "yes"}}),
    ("http.methods", {"http": {"methods": ["BREW"]}}),
    ("http.methods", {"http": {"methods": "GET"}}),
    ("http.cors", {"http": {"cors": ["*"]}}),
    ("http.cors.origins[0]", {"http": {"cors": {"origins": ["not an origin"]}}}),
    ("http.port", {"http": {"port": 80}}),
    ("queue", {"queue": {"name": "q"}}),
    ("queue[0].name", {"queue": [{}]}),
    ("queue[0].name", {"queue": [{"name": "Q!"}]}),
    ("queue[1].name", {"queue": [{"name": "q"}, {"name": "q"}]}),
    ("queue[0].batch", {"queue": [{"name": "q", "batch": 0}]}),
    ("queue[0].window", {"queue": [{"name": "q", "window": "1h"}]}),
    ("queue[0].max_concurrency", {"queue": [{"name": "q", "max_concurrency": 0}]}),
    ("queue[0].lease", {"queue": [{"name": "q", "lease": "1s"}]}),
    ("cron", {"cron": "* * * * *"}),
    ("cron[0].schedule", {"cron": [{}]}),
    ("cron[0].schedule", {"cron": [{"schedule": "61 * * * *"}]}),
    ("cron[0].schedule", {"cron": [{"schedule": "0 0 31 2 *"}]}),
    ("cron[0].timezone", {"cron": [{"schedule": "* * * * *", "timezone": "Mars/Olympus"}]}),
    ("memroy", {"memroy": "128MB"}),
    ("deep", {"deep": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}),
]


def deploy(node: Node, settings: Any, source: str = GOOD) -> httpx2.Response:
    return node.put("hostile-manifest", {"hostile_manifest.py": source}, settings)


def problems(response: httpx2.Response) -> dict[str, str]:
    assert code(response) == (422, "invalid-manifest"), response.text
    return {error["key"]: error["message"] for error in response.json()["errors"]}


def test_each_wrong_setting_is_named(node: Node) -> None:
    for key, settings in BAD:
        found = problems(deploy(node, settings))
        assert list(found) == [key], (settings, found)
        assert len(found[key]) > 10
    assert code(node.call("hostile-manifest")) == (404, "not-found")
    node.healthy()


def test_every_error_at_once(node: Node) -> None:
    settings = {"memory": "1MB", "timeout": "no", "network": "host", "queue": [{"batch": 0}], "zzz": 1}
    wanted = {"memory", "timeout", "network", "queue[0].batch", "queue[0].name", "zzz"}
    assert set(problems(deploy(node, settings))) == wanted


def test_errors_of_the_file_have_its_lines(node: Node) -> None:
    source = '# /// script\n# [tool.faas]\n# memory = "1MB"\n#\n# timeout = "no"\n# ///\n' + GOOD
    response = deploy(node, {}, source)
    assert code(response) == (422, "invalid-manifest")
    assert [(e["line"], e["key"]) for e in response.json()["errors"]] == [(3, "memory"), (5, "timeout")]


@pytest.mark.parametrize(
    "source",
    [
        "# /// script\n# [tool.faas\n# ///\n" + GOOD,
        "# /// script\n# [tool.faas]\n" + GOOD,
        "# /// script\n# ///\n# /// script\n# ///\n" + GOOD,
        "def handler(:\n",
        "x = 1\n",
        "import no_such_module_anywhere\n" + GOOD,
        "raise RuntimeError('at import')\n" + GOOD,
        "handler = 5\n",
        "\0",
    ],
)
def test_a_file_that_does_not_load(node: Node, source: str) -> None:
    response = deploy(node, {}, source)
    assert code(response) == (422, "invalid-manifest"), response.text
    assert response.json()["errors"]
    assert code(node.call("hostile-manifest")) == (404, "not-found")


def test_an_import_error_brings_its_traceback(node: Node) -> None:
    response = deploy(node, {}, "def load():\n    raise LookupError('not here')\nload()\n")
    problem = response.json()
    assert problem["error_type"] == "LookupError"
    assert problem["message"] == "not here"
    assert "line 2" in problem["traceback"]
    assert "zygote" not in problem["traceback"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os\nos._exit(9)\n", "exit"),
        ("import ctypes\nctypes.string_at(0)\n", "exit"),
        ("import sys\nsys.exit(3)\n", "error_type"),
        ("x = bytearray(3_000_000_000)\n", "exit"),
        ("import os\nos.closerange(0, 4096)\n", "exit"),
    ],
)
def test_a_module_that_takes_its_sandbox_down_while_it_loads(node: Node, source: str, said: str) -> None:
    response = deploy(node, {"memory": "64MB"}, source + GOOD)
    assert code(response) == (422, "invalid-manifest"), response.text
    assert response.json()[said]
    node.healthy()


def test_a_mended_deploy_runs_the_mended_code(node: Node) -> None:
    """Under the version number that the broken one would have had."""
    for broken in ("handler = 5\n", "raise LookupError\n", "import os\nos._exit(1)\n"):
        assert code(deploy(node, {"memory": "64MB"}, broken)) == (422, "invalid-manifest")
    mended = deploy(node, {"memory": "128MB"}, "def handler(event, context): return context.memory_limit_in_mb")
    assert mended.json()["version"] == 1
    assert int(node.call("hostile-manifest").json()) == 128
    assert code(deploy(node, {}, "handler = 5\n")) == (422, "invalid-manifest")
    assert int(node.call("hostile-manifest").json()) == 128
    node.delete("hostile-manifest")


def zipped(name: str, data: bytes = b"") -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr("fn.py", GOOD)
        archive.writestr(name, data)
    return memory.getvalue()


def tarred(name: str, link: str) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, link
        archive.addfile(info)
    return memory.getvalue()


def test_bundles_that_are_none(node: Node) -> None:
    def upload(bundle: bytes) -> httpx2.Response:
        parts = {"manifest": (None, b"{}", "application/json"), "bundle": ("b", bundle, "application/zip")}
        return node.client.put("/v1/functions/hostile-bundle", files=parts)

    for bundle in (
        b"not an archive",
        b"PK\x03\x04 torn",
        b"\x1f\x8b torn",
        zipped("../outside.py"),
        zipped("/absolute.py"),
        zipped("x.py")[:-30],
        tarred("link.py", "/etc/passwd"),
        tarred("link.py", "../../outside"),
    ):
        assert code(upload(bundle)) == (422, "invalid-manifest"), bundle[:40]
    assert code(upload(b"")) == (400, "invalid-request")
    assert code(upload(b"x" * 51_000_000)) == (413, "payload-too-large")
    assert code(upload(zipped("big", bytes(300 * 1024 * 1024)))) == (413, "payload-too-large")
    node.healthy()


def test_uploads_that_are_none(node: Node) -> None:
    url = "/v1/functions/hostile-upload"
    form = {"content-type": "multipart/form-data; boundary=x"}
    for response in (
        node.client.put(url, json={}),
        node.client.put(url, content=b"--y\r\n", headers={"content-type": "multipart/form-data"}),
        node.client.put(url, content=b"garbage", headers=form),
        node.client.put(url, content=b'--x\r\nContent-Disposition: form-data; name="bundle"\r\n\r\n', headers=form),
        node.client.put(url, files={"bundle": b"x", "manifest": b"{"}),
        node.client.put(url, files={"bundle": b"x", "manifest": b"[]"}),
        node.client.put(url, files={"bundle": b"x", "manifest": b"[" * 100_000}),
        node.client.put(url, files={"bundle": b"x", "other": b"x"}),
        node.client.put(url, files={"manifest": json.dumps({}).encode()}),
        node.client.put("/v1/functions/Not%20A%20Name", files={"bundle": b"x"}),
    ):
        assert code(response) == (400, "invalid-request"), response.text
    node.healthy()
