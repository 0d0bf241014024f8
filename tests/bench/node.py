"""The servers under measurement, started as users start them and ended by us alone, and a small client for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from faas.packaging.pack import pack
from tests.bench import load

ROOT = Path(__file__).resolve().parents[2]
FAAS = str(Path(sys.executable).with_name("faas"))
START_S = 300.0  # the first start may have to build the runtime image
STOP_S = 45.0
SETTLE_S = 30.0
JSON_HEADERS = {"Content-Type": "application/json"}
_BOUNDARY = "faas-bench-0d1f7a"


class BenchError(Exception):
    """A server or the node's answer was not what the benchmark needs."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Server:
    """A server of ours on this machine; ``key`` goes with every request, so that both get the same bytes."""

    host: str
    port: int
    pid: int
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {**JSON_HEADERS, "Authorization": f"Bearer {self.key}"}

    def request(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Node(Server):
    """A node of the platform."""

    home: Path = field(default_factory=Path)
    engine: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """For the CLI: it finds the node by its FAAS_HOME."""
        return _environment(FAAS_HOME=str(self.home))

    def checked(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """As ``request``; raises `BenchError` with the node's words unless it succeeds."""
        reply = self.request(method, path, body, headers)
        if reply.status >= 300:
            raise BenchError(f"{method} {path}: {reply.status} {reply.body[:600].decode(errors='replace')}")
        return reply

    def deploy(self, source: Path, name: str, **settings: Any) -> int:
        """Deploy a file under another name, through HTTP alone; the version."""
        body, headers = upload(pack(source), {"name": name, **settings})
        return int(json.loads(self.checked("PUT", f"/v1/functions/{name}", body, headers).body)["version"])

    def call(self, name: str, event: Any) -> Reply:
        return self.checked("POST", invocations(name), json.dumps(event).encode())

    def delete(self, name: str) -> None:
        self.checked("DELETE", f"/v1/functions/{name}")

    def tenant(self, namespace: str) -> Node:
        """The same node as seen with a key of its own that is bound to ``namespace``."""
        asked = json.dumps({"namespace": namespace, "scopes": ["admin"]}).encode()
        return replace(self, key=json.loads(self.checked("POST", "/v1/keys", asked).body)["secret"])

    def request_text(self, name: str, event: Any) -> str:
        """A direct call as a load generator sends it."""
        where = f"{self.host}:{self.port}"
        return load.request_text("POST", invocations(name), where, self.headers, json.dumps(event))

    def sandboxes(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.checked("GET", f"/v1/functions/{name}/instances").body)[
            "sandboxes"
        ]
        return found

    def counts(self, noun: str) -> dict[str, int]:
        """``faas_sandboxes`` or ``faas_instances`` by state, from /metrics."""
        found = {}
        start = f'faas_{noun}{{state="'
        for line in self.checked("GET", "/metrics").body.decode().splitlines():
            if line.startswith(start):
                state, _, value = line.removeprefix(start).partition('"} ')
                found[state] = int(float(value))
        return found

    def settle(self) -> None:
        """Wait until every function is at zero, a generic sandbox is ready and nothing is on its way."""
        end = time.monotonic() + SETTLE_S
        while True:
            counts = self.counts("sandboxes")
            if counts.pop("generic", 0) and not any(counts.values()):
                time.sleep(0.05)
                return
            if time.monotonic() > end:
                raise BenchError(f"the node did not come to rest in {SETTLE_S:.0f} s: {counts}")
            time.sleep(0.03)

    def stand_still(self) -> None:
        """Wait until the engine has had nothing to do for a second: sandboxes that start take processors from calls."""
        end = time.monotonic() + SETTLE_S
        still_since = time.monotonic()
        while time.monotonic() - still_since < 1.0:
            counts = self.counts("sandboxes")
            if any(counts.get(state) for state in ("booting", "binding", "removed")):
                still_since = time.monotonic()
            if time.monotonic() > end:
                raise BenchError(f"sandboxes kept starting or ending for {SETTLE_S:.0f} s: {counts}")
            time.sleep(0.1)


def invocations(name: str) -> str:
    return f"/v1/functions/{name}/invocations"


def upload(archive: bytes, settings: Mapping[str, Any]) -> tuple[bytes, dict[str, str]]:
    """A deploy's body and headers (multipart/form-data, RFC 7578)."""
    head = '--{0}\r\nContent-Disposition: form-data; name="{1}"{2}\r\nContent-Type: {3}\r\n\r\n'
    parts = (
        head.format(_BOUNDARY, "manifest", "", "application/json").encode(),
        json.dumps(settings).encode(),
        b"\r\n",
        head.format(_BOUNDARY, "bundle", '; filename="bundle.zip"', "application/zip").encode(),
        archive,
        f"\r\n--{_BOUNDARY}--\r\n".encode(),
    )
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


# -- starting and ending ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_echo(key: str) -> Iterator[Server]:
    """The floor, until the context is left."""
    with _running([sys.executable, "-m", "tests.bench.echo_server"], _environment()) as (process, line):
        parts = urlsplit(line.split()[1])
        yield Server(str(parts.hostname), int(parts.port or 0), process.pid, key)


@contextlib.contextmanager
def running_node(
    engine: str, temporary: Path, *, redis_url: str = "", command: Sequence[str] = (FAAS, "up")
) -> Iterator[Node]:
    """A node with a home of its own and every other setting at its default, until the context is left."""
    home = Path(tempfile.mkdtemp(prefix="home-", dir=temporary))
    environment = _environment(FAAS_HOME=str(home), FAAS_PORT="0", FAAS_ENGINE=engine)
    if redis_url:
        environment["FAAS_REDIS_URL"] = redis_url
    with _running([*command], environment) as (process, line):
        _, url, used = line.split()
        parts = urlsplit(url)
        key = tomllib.loads((home / "client.toml").read_text())["key"]
        node = Node(str(parts.hostname), int(parts.port or 0), process.pid, key, home, used.removeprefix("engine="))
        yield node


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its ``ready`` line. What it says goes into a file, which is shown when it does not come up."""
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=words, text=True, start_new_session=True
        )
        try:
            yield process, _ready_line(process, words)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _ready_line(process: subprocess.Popen[str], words: Any) -> str:
    """The first line that begins with ``ready``; raises `BenchError` with what the process said instead."""
    assert process.stdout is not None
    end, said, rest = time.monotonic() + START_S, [], ""
    while time.monotonic() < end:
        if not select.select([process.stdout], [], [], 1.0)[0]:
            continue
        piece = os.read(process.stdout.fileno(), 65_536).decode(errors="replace")
        if not piece:
            break
        *lines, rest = (rest + piece).split("\n")
        for line in lines:
            if line.startswith("ready "):
                return line
            said.append(line)
    words.seek(0)
    raise BenchError("the server did not come up:\n" + "\n".join([*said, words.read()[-4000:]]))


def _environment(**more: str) -> dict[str, str]:
    """Ours without any setting of the platform: defaults are what is measured."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("FAAS_")}, **more}
