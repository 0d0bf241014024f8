"""Engines and stores for the contract suites, all of them real.

Parts that are missing are a failure when CI is set and a skip with the reason otherwise (``need``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from faas.engines import cgroup
from faas.engines.docker import DockerEngine
from faas.engines.process import ProcessEngine
from faas.engines.select import probe_docker
from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec
from faas.stores.redis_client import Client
from tests.contract.foreign import RABBITMQ, Nats, find_nats, running_rabbitmq
from tests.contract.sandboxes import MB, Dialled, Probe, bind, new_id, write_probe
from tests.contract.valkeys import emptied, running_valkey

AnyEngine = DockerEngine | ProcessEngine
Boot = Callable[..., Awaitable[Probe]]


def process_ways() -> list[str]:
    """The ways of this user; root, which has a better one, tries a user's as well where the kernel has it."""
    if os.geteuid() != 0:
        return ["bwrap-user", "plain"]
    bwrap = shutil.which("bwrap")
    tried = [bwrap or "", "--unshare-user", "--ro-bind", "/", "/", "/bin/true"]
    users = bwrap is not None and subprocess.run(tried, capture_output=True, check=False).returncode == 0
    return ["bwrap-root", *(["bwrap-user"] if users else []), "plain"]


PROCESS_WAYS = process_ways()
CONFINED = ["docker", *(way for way in PROCESS_WAYS if way != "plain")]
OWN_USER = [kind for kind in CONFINED if kind != "bwrap-user"]
LIMITED = ["docker", *PROCESS_WAYS] if os.geteuid() == 0 else ["docker"]  # with a control group
EVERY = ["docker", *PROCESS_WAYS]
# the same engines where they can't do as they like best: "+api" may not touch control groups, "+signal" makes none,
# "+v1" has cgroup v1's freezer only
BOTH_FREEZERS = (cgroup.ROOT / "freezer").is_dir() and (cgroup.ROOT / cgroup.HYBRID).is_dir() and os.geteuid() == 0
STOPPING = [
    *EVERY,
    "docker+api",
    *([f"{way}+signal" for way in PROCESS_WAYS] if os.geteuid() == 0 else []),
    *([f"{kind}+v1" for kind in ("docker", PROCESS_WAYS[0], "plain")] if BOTH_FREEZERS else []),
]


def need(what: str) -> None:
    """Say that ``what`` is not here: fatal in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI may skip nothing, but {what}")
    pytest.skip(what)


@pytest.fixture(scope="session")
def docker_version() -> str:
    """The engine that answers, or no test."""
    try:
        return probe_docker()
    except EngineUnavailable as error:
        need(error.message)
        raise


@pytest.fixture
def home() -> Iterator[Path]:
    """A FAAS_HOME with a short path: socket names hold 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="faas-"))
    store = path / "store"
    store.mkdir()
    store.chmod(0o711)
    yield path
    shutil.rmtree(path)


def make_engine(kind: str, node_id: str, home: Path) -> AnyEngine:
    base, _, variant = kind.partition("+")
    store = home / "store"
    if base == "docker":
        return DockerEngine(node_id, home, store, direct=variant != "api")
    return ProcessEngine(node_id, home, store, way=base, cgroups=variant != "signal")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Which engine the test was given."""
    return str(request.node.callspec.params["engine"])


@pytest.fixture
async def engine(
    request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[AnyEngine]:
    """The engine that the test names with ``indirect`` parametrisation, started."""
    kind: str = request.param
    if kind.startswith("docker"):
        request.getfixturevalue("docker_version")
    elif not kind.startswith("plain") and shutil.which("bwrap") is None:
        need("bubblewrap is not installed")
    if kind.endswith("+v1"):
        monkeypatch.setattr(cgroup, "HYBRID", "not-here")
    made = make_engine(kind, "node-1", home)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def boot(engine: AnyEngine, home: Path) -> AsyncIterator[Boot]:
    """Boots sandboxes with the probing function: ``probe = await boot(memory_bytes=256 * MB)``."""
    dialled: list[Dialled] = []
    code = write_probe(home / "store", "4f6b0c")

    async def one(memory_bytes: int = 256 * MB, on: AnyEngine | None = None, network: str = "none") -> Probe:
        spec = SandboxSpec(new_id(), "python", network, home / "run" / str(len(dialled)), memory_bytes)
        dialled.append(listening := Dialled(spec))
        await listening.listen()
        await (on or engine).boot(spec)
        try:
            return await bind(on or engine, listening, code)
        except TimeoutError:
            pytest.fail(f"the zygote never dialled; it said: {await (on or engine).output(spec.id)}")

    yield one
    for each in dialled:
        await each.close()


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """A RabbitMQ of our own."""
    if not RABBITMQ.exists() or shutil.which("epmd") is None:
        need("RabbitMQ is not installed (Debian: rabbitmq-server)")
    with running_rabbitmq() as url:
        yield url


@pytest.fixture(scope="session")
def nats_server() -> Iterator[Nats]:
    """A NATS server of our own, with JetStream."""
    if find_nats() is None:
        need("NATS is not installed (Debian: nats-server)")
    server = Nats()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    """A Valkey for one test module."""
    with running_valkey() as url:
        yield url


@pytest.fixture
async def client(valkey_url: str) -> AsyncIterator[Client]:
    """Of that Valkey, with nothing in it."""
    async with emptied(valkey_url) as found:
        yield found
