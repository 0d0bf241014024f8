"""What every engine promises (``faas.ports.Engine``), and what the confined ones promise besides."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from faas.engines.identity import PIDS_MAX, TMP_BYTES
from faas.model.errors import EngineUnavailable
from faas.ports import SandboxSpec
from tests.contract.conftest import CONFINED, EVERY, LIMITED, OWN_USER, AnyEngine, Boot
from tests.contract.sandboxes import MB, Dialled, Gone, closed, new_id, peer
from tests.contract.traces import alive, remains

pytestmark = pytest.mark.anyio
every = pytest.mark.parametrize("engine", EVERY, indirect=True)
confined = pytest.mark.parametrize("engine", CONFINED, indirect=True)
own_user = pytest.mark.parametrize("engine", OWN_USER, indirect=True)
watched = pytest.mark.parametrize("engine", [*EVERY, "docker+api"], indirect=True)
limited = pytest.mark.parametrize("engine", LIMITED, indirect=True)

# -- life -----------------------------------------------------------------------------------------------------------


@every
async def test_a_sandbox_boots_dials_and_answers(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    assert await probe.ask("answer = 6 * 7") == 42
    assert engine.isolation


@every
async def test_remove_kills_every_process_and_is_idempotent(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    instance = await probe.instance()
    await probe.ask(
        """
        import os, signal, time
        for number in set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        """,
        instance,
    )
    pids = [peer(probe.zygote)[0], peer(instance)[0]]
    await asyncio.gather(engine.remove(probe.id), engine.remove(probe.id))
    await engine.remove(probe.id)
    await engine.remove("s-never-was")
    await closed(instance)
    await closed(probe.zygote)
    assert not any(alive(pid) for pid in pids)
    assert remains(engine) == []


@every
async def test_an_id_is_used_once(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    with pytest.raises(EngineUnavailable, match="exists already"):
        await engine.boot(probe.dialled.spec)
    assert await probe.ask("answer = 'unharmed'") == "unharmed"


@every
async def test_an_unknown_runtime_is_refused(engine: AnyEngine, home: Path) -> None:
    with pytest.raises(EngineUnavailable, match="cobol"):
        await engine.boot(SandboxSpec("s1", "cobol", "none", home, MB))


@every
async def test_a_boot_that_is_cancelled_leaves_nothing(engine: AnyEngine, home: Path) -> None:
    for number in range(3):
        spec = SandboxSpec(new_id(), "python", "none", home / str(number), 256 * MB)
        listening = Dialled(spec)
        await listening.listen()
        task = asyncio.create_task(engine.boot(spec))
        await asyncio.sleep(0.02 * number)
        task.cancel()
        await asyncio.wait([task])
        await engine.remove(spec.id)
        await listening.close()
    assert remains(engine) == []


@every
async def test_many_at_once(engine: AnyEngine, boot: Boot) -> None:
    probes = await asyncio.gather(*(boot() for _ in range(6)))
    answers = await asyncio.gather(*(probe.ask(f"answer = {number}") for number, probe in enumerate(probes)))
    assert answers == list(range(6))
    await asyncio.gather(*(engine.remove(probe.id) for probe in probes))
    assert remains(engine) == []


@every
async def test_close_leaves_nothing(engine: AnyEngine, boot: Boot) -> None:
    probes = [await boot(), await boot()]
    await engine.close()
    for probe in probes:
        await closed(probe.zygote)
    assert remains(engine) == []


# -- confinement ----------------------------------------------------------------------------------------------------


@confined
async def test_the_root_is_read_only(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    source = """
        import os, sys
        places = ["/", "/usr", "/usr/bin", "/etc", "/opt", "/opt/faas/runtime", "/opt/faas/store", "/run", "/run/faas",
                  "/root", "/proc/sys/kernel", "/dev", sys.base_prefix]
        answer = []
        for place in places:
            try:
                with open(place + "/written", "w"):
                    answer.append(place)
            except OSError:
                pass
        try:
            os.unlink("/run/faas/node.sock")
            answer.append("node.sock")
        except OSError:
            pass
    """
    assert await probe.ask(source) == []


@confined
async def test_no_rights_and_no_way_to_get_any(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    status = await probe.ask("answer = dict(l.split(':\\t', 1) for l in open('/proc/self/status').read().splitlines())")
    assert all(int(uid) > 0 for uid in status["Uid"].split())
    assert all(int(gid) > 0 for gid in status["Gid"].split())
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    source = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        answer = []
        for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000):  # new user, mount, pid, network namespaces
            if libc.unshare(flag) == 0:
                answer.append(flag)
        for change in (lambda: os.setuid(0), lambda: os.chroot("/tmp"), lambda: os.mknod("/tmp/sda", 0o60666, 0x800)):
            try:
                answer.append(repr(change()))
            except OSError:
                pass
        if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
            answer.append("mounted")
    """
    assert await probe.ask(source) == []


@confined
async def test_it_sees_its_own_processes_only(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    source = """
        import os
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        answer = [os.getppid(), max(pids) < 100, len(pids)]
        try:
            os.kill(-1, 0)
        except OSError as error:
            answer.append(error.errno)
    """
    parent, small, count = (await probe.ask(source))[:3]
    assert (parent, small, count) == (1, True, 2)


@own_user
async def test_each_sandbox_is_a_user_of_its_own_on_the_host(engine: AnyEngine, boot: Boot) -> None:
    uids = [peer((await boot()).zygote)[1] for _ in range(3)]
    assert len(set(uids)) == 3
    assert min(uids) >= 200_000


@confined
async def test_no_network(engine: AnyEngine, boot: Boot) -> None:
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        name = f"faas-test-{os.getpid()}"
        abstract.bind("\0" + name)
        abstract.listen()
        probe = await boot()
        source = f"""
            import socket
            answer = [sorted(name for _, name in socket.if_nameindex())]
            for family, address in ((socket.AF_INET, ("127.0.0.1", {tcp.getsockname()[1]})),
                                    (socket.AF_INET, ("192.0.2.1", 80)), (socket.AF_UNIX, "\\0{name}")):
                with socket.socket(family) as s:
                    s.settimeout(3)
                    try:
                        s.connect(address)
                        answer.append(repr(address))
                    except OSError as error:
                        pass
        """
        answer = await probe.ask(source)
    assert set(answer.pop(0)) <= {"lo", "tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0"}
    assert answer == []


@confined
@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
async def test_temporary_files_have_a_cap_that_is_not_the_memory_limit(
    engine: AnyEngine, boot: Boot, place: str
) -> None:
    probe = await boot()
    source = f"""
        import errno, os
        written = 0
        try:
            with open("{place}/filler", "wb", buffering=0) as file:
                while True:
                    written += file.write(b"x" * 1048576)
        except OSError as error:
            answer = [errno.errorcode[error.errno], written]
        os.unlink("{place}/filler")
    """
    code, written = await probe.ask(source)
    assert code == "ENOSPC"
    assert TMP_BYTES - MB <= written <= TMP_BYTES
    assert engine.oom_kills(probe.id) == 0


@own_user
async def test_the_store_can_be_read_by_path_but_not_listed(engine: AnyEngine, boot: Boot, home: Path) -> None:
    secret = home / "store" / "b1946a"
    secret.mkdir(mode=0o755)
    (secret / "data").write_text("found")
    probe = await boot()
    source = f"""
        import os
        answer = [open("{engine.store_mount}/b1946a/data").read()]
        try:
            answer.append(os.listdir("{engine.store_mount}"))
        except PermissionError:
            answer.append("refused")
    """
    assert await probe.ask(source) == ["found", "refused"]


@confined
async def test_what_users_count_on_works(engine: AnyEngine, boot: Boot) -> None:
    """Threads, subprocesses, multiprocessing, running a file from /tmp, time zones, the user's home."""
    probe = await boot()
    source = """
        import multiprocessing, os, pathlib, subprocess, sys, tempfile, threading, zoneinfo
        threads = [threading.Thread(target=print) for _ in range(8)]
        [t.start() for t in threads], [t.join() for t in threads]
        with multiprocessing.get_context("fork").Pool(2) as pool:
            squares = pool.map(abs, [-1, -2])
        script = pathlib.Path(tempfile.mkdtemp()) / "script"
        script.write_text("#!/bin/sh\\necho ran")
        script.chmod(0o755)
        ran = subprocess.run([script], capture_output=True, text=True).stdout.strip()
        python = subprocess.run([sys.executable, "-c", "print(1)"], capture_output=True, text=True).stdout.strip()
        home = pathlib.Path.home().is_relative_to("/tmp") and os.access(pathlib.Path.home(), os.W_OK)
        answer = [squares, ran, python, home, zoneinfo.ZoneInfo("Europe/Berlin").key, sys.getfilesystemencoding()]
    """
    assert await probe.ask(source) == [[1, 2], "ran", "1", True, "Europe/Berlin", "utf-8"]


# -- limits ---------------------------------------------------------------------------------------------------------


FORK_BOMB = """
    import os, time
    children = 0
    try:
        while children < 5000:
            if os.fork() == 0:
                time.sleep(3600)
            children += 1
    except BlockingIOError:
        pass
    answer = children
"""


@pytest.mark.parametrize("engine", [*LIMITED, "docker+api"], indirect=True)
async def test_a_fork_bomb_ends_at_the_limit(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot(memory_bytes=768 * MB)
    instance = await probe.instance()
    assert PIDS_MAX - 20 < await probe.ask(FORK_BOMB, instance) < PIDS_MAX
    await engine.resize(probe.id, 768 * MB, pids=PIDS_MAX + 100)
    assert 90 < await probe.ask(FORK_BOMB, instance) <= 100
    await engine.resize(probe.id, 768 * MB)
    assert await probe.ask(FORK_BOMB, instance) == 0
    await engine.remove(probe.id)
    assert remains(engine) == []


@limited
async def test_memory_is_limited_kills_are_counted_and_the_zygote_lives(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot(memory_bytes=128 * MB)
    bystander = await boot()
    fill = "block = bytearray(100 * 1048576); answer = len(block)"
    assert await probe.ask(fill) == 100 * MB
    await engine.resize(probe.id, 64 * MB)
    with pytest.raises(Gone):
        await probe.ask(fill)
    assert engine.oom_kills(probe.id) == 1
    assert engine.oom_kills(bystander.id) == 0
    assert await probe.ask("answer = 'the zygote forks on'") == "the zygote forks on"
    await engine.resize(probe.id, 256 * MB)
    assert await probe.ask(fill) == 100 * MB
    assert engine.oom_kills(probe.id) == 1


@limited
async def test_cpu_is_limited(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    await engine.resize(probe.id, 256 * MB, cpus=0.25)
    source = """
        import time
        began, used = time.monotonic(), time.process_time()
        while time.monotonic() - began < 1.0:
            pass
        answer = (time.process_time() - used) / (time.monotonic() - began)
    """
    assert await probe.ask(source) < 0.5


@every
async def test_resizing_what_is_not_there_is_an_error(engine: AnyEngine) -> None:
    with pytest.raises(EngineUnavailable, match="s-nowhere"):
        await engine.resize("s-nowhere", 64 * MB)
    assert engine.oom_kills("s-nowhere") == 0


# -- endings --------------------------------------------------------------------------------------------------------


@watched
async def test_the_end_of_a_sandbox_is_heard_of(engine: AnyEngine, boot: Boot) -> None:
    probe, other = await boot(), await boot()
    ended, untouched = asyncio.create_task(engine.exited(probe.id)), asyncio.create_task(engine.exited(other.id))
    await probe.ask("answer = 1")
    assert not ended.done()
    await probe.dialled.close()  # a zygote ends with its connection
    await ended
    await engine.exited(probe.id)
    assert not untouched.done()
    await engine.remove(other.id)
    await untouched
    await asyncio.gather(engine.exited(probe.id), engine.exited("s-never-was"))


@watched
async def test_a_sandbox_that_ends_before_it_dials_is_heard_of(engine: AnyEngine, home: Path) -> None:
    sandbox = new_id()
    listening = Dialled(SandboxSpec(sandbox, "python", "none", home / "run", 256 * MB))
    await listening.listen()
    await listening.close()  # nobody will answer
    booting = asyncio.create_task(engine.boot(listening.spec))
    await asyncio.sleep(0)
    await engine.exited(sandbox)  # asked while it boots
    await booting
    await engine.exited(sandbox)
    assert "Connection" in await engine.output(sandbox) or "FileNotFound" in await engine.output(sandbox)
    await engine.remove(sandbox)
    assert remains(engine) == []


@watched
async def test_nobody_waits_for_the_end_of_what_never_began(
    engine: AnyEngine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError("no more of this")

    monkeypatch.setattr("faas.engines.docker.hand_over", fails)
    monkeypatch.setattr("faas.engines.process.hand_over", fails)
    sandbox = new_id()
    booting = asyncio.create_task(engine.boot(SandboxSpec(sandbox, "python", "none", home, 256 * MB)))
    await asyncio.sleep(0)
    await engine.exited(sandbox)
    with pytest.raises((EngineUnavailable, OSError), match="no more of this"):
        await booting
