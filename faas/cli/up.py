"""`faas up`: run a node in the foreground.

The node's own code is imported here and nowhere else in the CLI, and only when the verb runs. A first SIGINT or SIGTERM
asks the node to stop: it takes no new calls, lets running ones end, removes its sandboxes. A second one gives up
waiting; a third ends the process on the spot (the next start removes what is left).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faas.cli import out
from faas.cli.out import CliError
from faas.cli.verb import json_option, option, verb

if TYPE_CHECKING:
    from faas.settings import Settings
    from faas.wiring import NodeInfo

Say = Callable[[str], None]


@verb("faas up", "FAAS_PORT=0 faas up --demo")
@option("--host", metavar="ADDRESS", help="Where to listen. [FAAS_HOST, default 127.0.0.1]")
@option("--port", metavar="PORT", type=int, help="0 takes a free one. [FAAS_PORT, default 8080]")
@option("--engine", metavar="auto|docker|process", help="What makes sandboxes. [FAAS_ENGINE, default auto]")
@option("--demo", is_flag=True, help="Deploy the hello function, call it, say what it cost.")
@option("--new-admin-key", is_flag=True, help="Make another admin key, though the store has one.")
@json_option
def up(host: str | None, port: int | None, engine: str | None, demo: bool, new_admin_key: bool, as_json: bool) -> None:
    """Run a node in the foreground until Ctrl-C.

    It prints `ready http://HOST:PORT engine=ENGINE` when it serves. Every setting is an environment variable or a
    line in FAAS_HOME/faas.toml; `faas doctor` lists them.
    """
    settings = _settings(host=host, port=port, engine=engine)
    _log_to_stderr(settings.log_format)
    say: Say = out.note if as_json else out.say
    prepare_home(settings.home)
    with only_node_of(settings.home):
        sys.exit(_run(settings, demo, new_admin_key, as_json, say))


def _run(settings: Settings, demo: bool, new_admin_key: bool, as_json: bool, say: Say) -> int:
    from faas.cli.client import DEFAULT_NAMESPACE, Node, read_client_file, write_client_file

    written = read_client_file(settings.home)
    namespace = written.get("namespace") or DEFAULT_NAMESPACE

    def keep(key: str) -> None:
        write_client_file(settings.home, written.get("url", ""), key, namespace)

    async def on_ready(info: NodeInfo) -> None:
        key = info.key or written.get("key", "")
        write_client_file(settings.home, info.url, key, namespace)
        say(f"engine {info.engine}: {info.isolation}" + (f" ({info.engine_reason})" if info.engine_reason else ""))
        if demo:
            import asyncio

            from faas.cli.demo import run_demo

            await asyncio.to_thread(run_demo, Node(info.url, key, DEFAULT_NAMESPACE), own_command(), say)
        if as_json:
            out.emit_json({"ready": True, "url": info.url, "engine": info.engine, "isolation": info.isolation})
        else:
            out.say(f"ready {info.url} engine={info.engine}")

    from faas.stores.access import Access
    from faas.wiring import serve

    raise_descriptor_limit()
    access = Access(written.get("key", ""), keep, anew=new_admin_key)
    return run_until_signalled(serve(settings, access, on_ready, say), say, settings.drain_timeout_ms)


def raise_descriptor_limit() -> None:
    """As many open files as this user may have: a login's usual 1,024 would be the limit of callers and instances."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _settings(**flags: Any) -> Settings:
    from faas.settings import SettingsError, load, unknown_variables

    try:
        settings, _ = load(**flags)
    except SettingsError as error:
        raise CliError(
            "the settings are not valid", "\n".join(error.problems), "see them all: faas doctor", code=2
        ) from error
    for sentence in unknown_variables(os.environ):
        out.note(out.paint("warning: ", out.YELLOW, sys.stderr) + sentence)
    return settings


def _log_to_stderr(log_format: str) -> None:
    """The node's own log: lines for people, or one JSON object a line for a collector. Warnings and above."""
    import logging

    from faas.cli.nodelog import JsonLines, SayOnce

    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else text)
    handler.addFilter(SayOnce())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("faas").setLevel(logging.INFO)


def prepare_home(home: Path) -> None:
    """FAAS_HOME exists, is ours and is writable, else an error that says so."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = home / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CliError(
            f"cannot write to FAAS_HOME, {home}", error.strerror or "", "choose another: FAAS_HOME=DIR faas up"
        ) from error


@contextlib.contextmanager
def only_node_of(home: Path) -> Iterator[None]:
    """Hold FAAS_HOME for this process: two nodes would write over each other's store and journal."""
    with (home / "node.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise CliError(
                f"a node runs with this FAAS_HOME already (process {lock.read().strip() or 'unknown'})",
                str(home),
                "use that one, or give this one a home of its own: FAAS_HOME=DIR FAAS_PORT=0 faas up",
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def own_command() -> str:
    """How this person has to type `faas`: by its name where the shell finds it, else by the path they used."""
    found, used = shutil.which("faas"), Path(sys.argv[0]).absolute()
    if found and used.exists() and Path(found).resolve() == used.resolve():
        return "faas"
    try:
        return shlex.quote(str(used.relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(str(used))


def run_until_signalled(serving: Coroutine[Any, Any, None], say: Say, drain_timeout_ms: int) -> int:
    """Run the node; the exit code. Raises `CliError` when it could not start."""
    import asyncio

    import uvloop

    from faas.model.errors import FaasError

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            stopped = runner.run(_supervise(serving, say, drain_timeout_ms))
    except FaasError as error:
        raise CliError("the node could not start", error.message, "see what is wrong: faas doctor") from error
    except OSError as error:
        raise CliError(
            "the node could not start", error.strerror or str(error), "see what is wrong: faas doctor"
        ) from error
    if stopped:
        say("stopped")
    return 0


async def _supervise(serving: Coroutine[Any, Any, None], say: Say, drain_timeout_ms: int) -> bool:
    """True when a signal ended the node, False when it ended by itself."""
    import asyncio

    task = asyncio.ensure_future(serving)
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            say(f"stopping: running calls have {out.milliseconds(drain_timeout_ms)} to end (again to stop at once)")
        elif signals == 2:
            say("stopping at once")
        else:
            os._exit(1)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait([task])
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    if not task.cancelled():
        task.result()
    return signals > 0
