"""A real node as its users have it: ``faas up`` in a process of its own, driven over HTTP.

Every wait has a bound, so a test that would hang fails instead. What the node says goes to ``node.log``.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import httpx2

from faas.engines.identity import home_hash
from tests.e2e import processes
from tests.e2e.processes import Process, Sandbox, wait_until

FAAS = Path(sys.executable).with_name("faas")
READY_S = 240.0  # the runtime image may have to be built first
STOP_S = 60.0
HANG_S = 60.0  # no call may take longer: what does, hangs
_READY = re.compile(r"ready (http://\S+) engine=(\w+)\s*\Z")


class Node:
    """One FAAS_HOME and the node on it. ``start``, ``stop``, ``kill`` as often as you like; ``close`` removes all."""

    def __init__(self, engine: str, **settings: str) -> None:
        self.engine = engine
        self.root = Path(tempfile.mkdtemp(prefix="faas-e2e-"))
        self.home = self.root / "home"
        self.log = self.root / "node.log"
        self.url = ""
        self.client = httpx2.Client()
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._ready = threading.Event()

    def anyone(self, **headers: str) -> httpx2.Client:
        """A caller without the node's key."""
        return httpx2.Client(base_url=self.url, headers=headers, timeout=HANG_S, trust_env=False)

    # -- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Returns when it serves; fails with what it said."""
        assert self._process is None
        self._ready.clear()
        self.url = ""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [FAAS, "up"],
                env=self.environment(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=_as_after_login,
            )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self._ready.wait(READY_S)
        if not self.url:
            said = self.said()
            self.kill()
            raise AssertionError(f"the node did not come up:\n{said}")
        self.client.close()
        self.client = httpx2.Client(base_url=self.url, headers=self.headers, timeout=HANG_S, trust_env=False)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._gone()

    def kill(self) -> None:
        """``kill -9``: nothing of it gets to tidy up."""
        assert self._process is not None
        self._process.kill()
        self._gone()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it, see that it left nothing, remove its home."""
        try:
            if self._process is not None:
                left = [*self.below()]
                self.stop()
                wait_until(lambda: not [p for p in left if p.alive], "all of the node's processes are gone")
            assert not self.containers()
        finally:
            self.client.close()
            shutil.rmtree(self.root, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def environment(self) -> dict[str, str]:
        """For the node and for the CLI against it."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FAAS_")}
        mine = {"FAAS_HOME": str(self.home), "FAAS_PORT": "0", "FAAS_ENGINE": self.engine}
        return {**kept, **mine, **{f"FAAS_{name.upper()}": value for name, value in self._settings.items()}}

    def state(self) -> str:
        """What stands where, and the load of the machine; for people."""
        try:
            shown = self.client.get("/v1/nodes", timeout=5.0).text
        except httpx2.HTTPError as error:
            shown = f"no answer: {error!r}"
        return f"{shown}\nload average {os.getloadavg()}"

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-8000:]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout, self.log.open("a") as log:
            for line in process.stdout:
                log.write(line)
                log.flush()
                found = _READY.match(line)
                if found:
                    self.url = found[1]
                    assert self.engine in ("auto", found[2])
                    self._ready.set()
        self._ready.set()

    def _gone(self) -> int:
        assert self._process is not None
        assert self._reader is not None
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(f"the node did not end in {STOP_S:g} s:\n{self.said()}") from None
        finally:
            self._reader.join(STOP_S)
            self._process = None
        return code

    # -- what runs --------------------------------------------------------------------------------------------------

    def below(self) -> list[Process]:
        """Every process of this node but itself, those in its containers included."""
        roots = [self.pid, *self._containers_pids()] if self._process is not None else self._containers_pids()
        table = processes.everything()
        inits = [p for p in table if p.pid in roots and p.pid != (self._process.pid if self._process else 0)]
        return inits + [p for p in processes.below(roots, table) if p not in inits]

    def sandboxes(self) -> list[Sandbox]:
        return processes.sandboxes(self.below())

    def valkey(self) -> Process:
        found = [p for p in processes.below([self.pid], processes.everything()) if "valkey-server" in p.command]
        assert len(found) == 1, found
        return found[0]

    def containers(self) -> list[str]:
        """Ids of this node's containers, in whatever state."""
        if self.engine == "process":
            return []
        with docker_api() as api:
            return [str(each["Id"]) for each in api.containers(all=True, filters=self.label())]

    def _containers_pids(self) -> list[int]:
        if self.engine == "process":
            return []
        with docker_api() as api:
            found = []
            for each in api.containers(filters=self.label()):
                try:
                    found.append(int(api.inspect_container(each["Id"])["State"]["Pid"]))
                except docker.errors.NotFound:
                    continue
            return [pid for pid in found if pid > 0]

    def label(self) -> dict[str, str]:
        return {"label": f"faas.home={home_hash(self.home)}"}

    # -- what it answers --------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        return str(tomllib.loads((self.home / "client.toml").read_text())["key"])

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def put(self, name: str, files: Mapping[str, str], settings: Mapping[str, Any]) -> httpx2.Response:
        """Deploy as any HTTP client would; the answer, whatever it is."""
        parts = {
            "manifest": (None, json.dumps(settings).encode(), "application/json"),
            "bundle": ("bundle.zip", bundle(files), "application/zip"),
        }
        return self.client.put(f"/v1/functions/{name}", files=parts, timeout=180)

    def deploy(self, name: str, source: str, **settings: Any) -> dict[str, Any]:
        """One file's source, dedented; the version as JSON."""
        response = self.put(name, {f"{name.replace('-', '_')}.py": textwrap.dedent(source)}, settings)
        assert response.status_code in (200, 201), response.text
        found = response.json()
        assert isinstance(found, dict)
        return found

    def call(self, name: str, value: Any = None, **more: Any) -> httpx2.Response:
        """A direct call with ``value`` as JSON, or with what ``more`` says (``content=``, ``headers=``)."""
        if "content" not in more:
            more["content"] = json.dumps(value).encode()
            more["headers"] = {"content-type": "application/json", **more.get("headers", {})}
        return self.client.post(f"/v1/functions/{name}/invocations", **more)

    def fetch(self, path: str, method: str = "GET", **more: Any) -> httpx2.Response:
        """Through the HTTP trigger: ``fetch("/fn/hello")``; or any other path."""
        return self.client.request(method, path, **more)

    def get(self, path: str, **query: Any) -> Any:
        """JSON of a control route."""
        response = self.client.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    def delete(self, name: str) -> None:
        response = self.client.delete(f"/v1/functions/{name}")
        assert response.status_code in (200, 204), response.text

    def record(self, response: httpx2.Response) -> dict[str, Any]:
        """The invocation record of an answer, once the ledger has it."""
        path = f"/v1/invocations/{response.headers['faas-invocation-id']}"
        answers: list[httpx2.Response] = []

        def there() -> bool:
            answers.append(self.client.get(path))
            return answers[-1].status_code == 200

        wait_until(there, f"{path} is in the ledger")
        found = answers[-1].json()
        assert isinstance(found, dict)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry ``labels``; 0 when there are none."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if re.match(rf"{name}(\{{|\Z)", sample) and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += float(value)
        return total

    def settled(self) -> None:
        """Wait until every record made so far is in the ledger."""
        wait_until(lambda: self.metric("faas_journal_pending_records") == 0, "the journal is flushed", 30)

    def healthy(self) -> None:
        """The same process still serves."""
        assert self.running, self.said()
        assert self.client.get("/healthz").status_code == 200
        assert self.client.get("/readyz").status_code == 200


def _as_after_login() -> None:
    """The limits a login usually has, whatever this machine's are."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def bundle(files: Mapping[str, str]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return memory.getvalue()


def code(response: httpx2.Response) -> tuple[int, str]:
    """Status and problem code of an error, which must be a complete problem document (RFC 9457)."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem["status"] == response.status_code
    assert {"type", "title", "detail"} <= problem.keys()
    return response.status_code, str(problem["code"])


@contextmanager
def docker_api() -> Iterator[docker.APIClient]:
    api = docker.APIClient(timeout=60)
    try:
        yield api
    finally:
        api.close()
