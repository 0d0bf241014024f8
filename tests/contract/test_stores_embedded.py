"""The embedded Valkey: one per directory, ends with its node, loses nothing over a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from faas.cli import checks
from faas.model.errors import Conflict, StoreUnavailable
from faas.settings import Settings
from faas.stores import embedded
from faas.stores.embedded import EmbeddedValkey
from faas.stores.redis_client import connect
from tests.contract.valkeys import running_valkey

pytestmark = pytest.mark.anyio

NODE = """
import asyncio, sys
from pathlib import Path
from faas.stores.embedded import EmbeddedValkey

async def main():
    server = EmbeddedValkey(Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[EmbeddedValkey]:
    server = EmbeddedValkey(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def stored(server: EmbeddedValkey, key: str) -> bytes | None:
    async with connect(server.url) as client:
        found = await client.get(key)
        assert not isinstance(found, str)
        return found


async def store(server: EmbeddedValkey, key: str, value: str) -> None:
    async with connect(server.url) as client:
        await client.set(key, value)


def start_node(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Another process with a server of its own on ``directory``, and that server's process id."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    node = subprocess.Popen([sys.executable, "-c", NODE, str(directory)], stdout=subprocess.PIPE, env=environment)
    assert node.stdout is not None
    pid = int(node.stdout.readline())
    node.stdout.close()
    return node, pid


def runs(pid: int) -> bool:
    """Whether the process does; one that ended and was not yet reaped does not."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while runs(pid):
            await asyncio.sleep(0.01)


async def test_what_is_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    for life in range(3):
        async with running(tmp_path / "valkey") as server:
            assert await stored(server, "life") == (str(life - 1).encode() if life else None)
            await store(server, "life", str(life))
            pid = server.pid
        assert pid is not None
        await gone(pid)
        await server.stop()


async def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    async with running(tmp_path / "valkey") as server:
        assert server.socket.stat().st_mode & 0o777 == 0o600
        assert server.socket.parent.stat().st_mode & 0o777 == 0o700
        assert (tmp_path / "valkey").stat().st_mode & 0o777 == 0o700
        async with connect(server.url) as client:
            settings = await client.config_get("*")
    assert settings["port"] == "0"
    assert settings["maxmemory-policy"] == "noeviction"
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "no")


@pytest.mark.parametrize("name", ['with space and "quotes" #%', "ümläut\\n", "d" * 120])
async def test_any_directory_will_do(tmp_path: Path, name: str) -> None:
    async with running(tmp_path / name) as server:
        assert len(os.fsencode(server.socket)) <= 107
        await store(server, "a", "b")
    async with running(tmp_path / name) as server:
        assert await stored(server, "a") == b"b"


async def test_a_runtime_directory_that_is_not_ours_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    directory = home / ("d" * 120)
    async with running(directory) as server:
        predictable = server.socket.parent
    predictable.chmod(0o777)
    async with running(directory) as server:
        assert server.socket.parent != predictable


async def test_a_second_node_gets_a_clear_error_and_the_first_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        with pytest.raises(Conflict, match=rf"process {os.getpid()}.*FAAS_HOME"):
            await EmbeddedValkey(tmp_path).start()
        await store(server, "still", "here")
    async with running(tmp_path) as server:
        assert await stored(server, "still") == b"here"


async def test_a_killed_node_takes_its_server_along_and_loses_nothing(tmp_path: Path) -> None:
    node, pid = start_node(tmp_path)
    async with connect(f"unix://{tmp_path}/run/valkey.sock") as client:
        for number in range(500):
            await client.set(f"k{number}", number)
    node.kill()
    node.wait()
    async with running(tmp_path) as server:
        assert not runs(pid)
        assert await stored(server, "k499") == b"499"


async def test_a_server_that_outlived_its_node_is_ended_before_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it cannot act on the SIGTERM that the kernel sends: as if it hung."""
    monkeypatch.setattr(embedded, "STOP_WAIT_S", 0.3)
    node, pid = start_node(tmp_path)
    async with connect(f"unix://{tmp_path}/run/valkey.sock") as client:
        await client.set("a", "b")
        os.kill(pid, signal.SIGSTOP)
        node.kill()
        node.wait()
        async with running(tmp_path) as server:
            await gone(pid)
            assert await stored(server, "a") == b"b"


async def test_a_server_that_dies_is_started_again(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        watch = asyncio.create_task(server.supervise())
        for life in range(3):
            await store(server, "life", str(life))
            pid = server.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert await stored(server, "life") == str(life).encode()
                    except (RedisError, OSError):
                        await asyncio.sleep(0.02)
                    else:
                        break
        await server.stop()
        async with asyncio.timeout(5):
            await watch


async def test_a_server_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    (manifest,) = (tmp_path / "appendonlydir").glob("*.manifest")
    manifest.write_text("rubbish\n")
    with pytest.raises(StoreUnavailable, match=r"(?s)exit code 1.*valkey\.log.*manifest"):
        await EmbeddedValkey(tmp_path).start()
    manifest.unlink()
    (tmp_path / "appendonlydir").rename(tmp_path / "aside")
    async with running(tmp_path) as server:
        assert await stored(server, "a") is None


async def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 10)
    async with running(tmp_path):
        pass
    async with running(tmp_path):
        assert (tmp_path / "valkey.log.1").exists()


async def test_a_machine_without_a_binary_is_told_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(StoreUnavailable, match="FAAS_REDIS_URL"):
        await EmbeddedValkey(tmp_path).start()
    monkeypatch.undo()
    async with running(tmp_path):
        pass


def test_doctor_shows_how_a_server_of_the_operators_syncs(home: Path) -> None:
    with running_valkey() as url:
        (found,) = checks.store(Settings(redis_url=url))
    assert found.state == "ok"
    assert found.found.endswith(", appendfsync everysec)")
