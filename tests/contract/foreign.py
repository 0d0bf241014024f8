"""RabbitMQ and NATS servers of our own: real ones, as ordinary processes on free ports, with data of their own.

Nothing of a system's service is used or touched: RabbitMQ has its own name, cookie, directories and epmd.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one on PATH changes the user
UP_S = 100.0


def find_nats() -> str | None:
    return shutil.which("nats-server", path="/usr/sbin:/usr/bin:/usr/local/bin")


def connectable(valkey_url: str) -> str:
    """The path of its socket."""
    return unquote(valkey_url.removeprefix("unix://"))


def free_port() -> int:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return int(probing.getsockname()[1])


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + UP_S
    while time.monotonic() < end:
        assert process.poll() is None, f"it ended:\n{log.read_text(errors='replace')[-3000:]}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}:\n{log.read_text(errors='replace')[-3000:]}")


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running_rabbitmq() -> Iterator[str]:
    """Its URL. Three quarters of its start are Erlang loading code: some seconds of processor time."""
    directory = Path(tempfile.mkdtemp(prefix="faas-rabbitmq-"))
    port, dist, names = free_port(), free_port(), free_port()
    for name in ("no-plugins", "mnesia", "log"):
        (directory / name).mkdir()
    (directory / "plugins").write_text("[].")
    settings = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(directory),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"faas-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(dist),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_CONFIG_FILE": str(directory / "none"),
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_PLUGINS_DIR": str(directory / "no-plugins"),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_FEATURE_FLAGS": "quorum_queue",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-start_epmd false +S 1:1 +sbwt none",
    }
    log = directory / "output.log"
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        output = stack.enter_context(log.open("ab"))
        epmd = subprocess.Popen(
            ["epmd", "-port", str(names), "-address", "127.0.0.1"], env=settings, stdout=output, stderr=output
        )
        stack.callback(ended, epmd)
        wait_for_port(names, epmd, log)
        server = subprocess.Popen([RABBITMQ], env=settings, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        stack.callback(ended, server)
        wait_for_port(port, server, log)
        yield f"amqp://guest:guest@127.0.0.1:{port}/"


class Nats:
    """A server with JetStream that can be stopped and started again, with what it has stored."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="faas-nats-"))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    def start(self) -> None:
        log = self._directory / "output.log"
        binary = find_nats()
        assert binary is not None
        arguments = [binary, "-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", str(self._directory / "data")]
        with log.open("ab") as output:
            self._process = subprocess.Popen(arguments, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        wait_for_port(self._port, self._process, log)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


class Cut:
    """A way to a server that can be cut and mended: what a client sees of a server that restarts."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port  # or the path of a socket, and 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._target
        there, back = await (asyncio.open_connection(host, port) if port else asyncio.open_unix_connection(host))
        self._open |= {writer, back}
        with contextlib.suppress(asyncio.CancelledError):  # the test is over
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        self._open -= {writer, back}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
