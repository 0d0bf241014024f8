"""Control groups: what is written where, in each layout; and the freezer of a real v2 hierarchy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faas.engines import cgroup, proc
from faas.engines.cgroup import FREEZER, Cgroup, cpu_weight
from faas.engines.freezer_file import FreezerFile
from faas.ports import FULL_CORE_MB, cpu_share
from tests.contract.conftest import need
from tests.contract.traces import alive

MB = 1024**2
V2 = {
    "memory.max": "max", "memory.swap.max": "max", "memory.current": str(30 * MB),
    "memory.stat": f"anon {20 * MB}\nfile {10 * MB}\ninactive_file {8 * MB}\nactive_file {2 * MB}",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0",
    "cpu.max": "max 100000", "cpu.weight": "100", "cgroup.freeze": "0", "cgroup.events": "populated 1\nfrozen 0",
}  # fmt: skip
V1 = {
    "memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.memsw.limit_in_bytes": "9223372036854771712",
    "memory/memory.usage_in_bytes": str(30 * MB),
    "memory/memory.stat": f"cache 1\ninactive_file 5\ntotal_cache 3\ntotal_inactive_file {8 * MB}",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
    "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.shares": "1024", "freezer/freezer.state": "THAWED",
}  # fmt: skip


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.fixture
def v2(tmp_path: Path) -> Cgroup:
    """A group of the unified layout, as files that remember what was written."""
    root = written(tmp_path, V2)
    return Cgroup(dict.fromkeys((*cgroup.CONTROLLERS, FREEZER), root), unified=True)


@pytest.fixture
def v1(tmp_path: Path) -> Cgroup:
    root = written(tmp_path, V1)
    return Cgroup({name: root / name for name in ("memory", "cpu", FREEZER)}, unified=False)


def said(group: Cgroup, controller: str, name: str) -> str:
    """What was written last: the kernel's files take a value whole, these keep the rest of a longer one."""
    return (group.paths[controller] / name).read_text().partition("\n")[0]


# -- processor time -------------------------------------------------------------------------------------------------


def test_a_share_follows_memory_and_instances() -> None:
    assert cpu_share(FULL_CORE_MB) == 1.0
    assert cpu_share(128) == pytest.approx(0.0724, abs=0.0001)
    assert cpu_share(128, instances=10) == pytest.approx(0.724, abs=0.001)
    assert cpu_share(128, instances=0) == cpu_share(128)  # a zygote alone has work, too
    assert cpu_share(10_240) == pytest.approx(5.79, abs=0.01)
    one, beside = cpu_share(128), cpu_share(FULL_CORE_MB)  # the example in its documentation
    assert one / (one + beside) == pytest.approx(0.067, abs=0.001)
    assert 10 * one / (10 * one + beside) == pytest.approx(0.42, abs=0.001)


@pytest.mark.parametrize(("unified", "least", "core", "most"), [(True, 1, 100, 10_000), (False, 2, 1024, 262_144)])
def test_a_weight_is_in_proportion_within_what_the_kernel_takes(
    unified: bool, least: int, core: int, most: int
) -> None:
    weights = [cpu_weight(cpu_share(mb), unified=unified) for mb in range(64, 10_241, 64)]
    assert weights == sorted(weights)
    assert cpu_weight(1.0, unified=unified) == core
    assert cpu_weight(3.0, unified=unified) == 3 * core
    assert cpu_weight(0.0001, unified=unified) == least
    assert cpu_weight(1e9, unified=unified) == most
    assert weights[0] == pytest.approx(core * 64 / FULL_CORE_MB, rel=0.12)


def test_limits_on_v2(v2: Cgroup) -> None:
    v2.limit(128 * MB, cpus=1.5, share=0.5)
    assert said(v2, "memory", "memory.max") == str(128 * MB)
    assert said(v2, "memory", "memory.swap.max").startswith("0")
    assert said(v2, "cpu", "cpu.max") == "150000 100000"
    assert said(v2, "cpu", "cpu.weight").startswith("50")
    v2.limit(128 * MB)
    assert said(v2, "cpu", "cpu.max").startswith("max 100000")
    assert said(v2, "cpu", "cpu.weight").startswith("50")  # as it was
    v2.limit(128 * MB, cpus=0.001)
    assert said(v2, "cpu", "cpu.max").startswith("1000 100000")


def test_limits_on_v1(v1: Cgroup) -> None:
    v1.limit(128 * MB, cpus=0.25, share=0.5)
    assert said(v1, "memory", "memory.limit_in_bytes").startswith(str(128 * MB))
    assert said(v1, "memory", "memory.memsw.limit_in_bytes").startswith(str(128 * MB))
    assert said(v1, "cpu", "cpu.cfs_quota_us") == "25000"
    assert said(v1, "cpu", "cpu.shares").startswith("512")
    v1.limit(128 * MB)
    assert said(v1, "cpu", "cpu.cfs_quota_us").startswith("-1")


def test_what_it_holds_is_without_the_cache_that_goes_first(v2: Cgroup) -> None:
    assert v2.memory_bytes() == 22 * MB
    assert v2.oom_kills() == 1
    v2.paths["memory"].joinpath("memory.current").unlink()
    assert v2.memory_bytes() == 0


def test_the_same_on_v1(v1: Cgroup) -> None:
    assert v1.memory_bytes() == 22 * MB
    assert v1.oom_kills() == 3


def test_the_freezer_of_each_layout(tmp_path: Path) -> None:
    root = written(tmp_path / "v2", V2)
    v2 = FreezerFile.of(root)
    assert v2 is not None
    assert not v2.is_asked()
    v2.freeze()
    assert (root / "cgroup.freeze").read_text() == "1\n"
    assert v2.is_asked()
    assert not v2.is_frozen()  # asked for, and the kernel has not said yet that it is so
    (root / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert v2.is_frozen()
    v2.thaw()
    assert (root / "cgroup.freeze").read_text() == "0\n"
    state = written(tmp_path / "v1", V1) / "freezer" / "freezer.state"
    v1 = FreezerFile.of(state.parent)
    assert v1 is not None
    v1.freeze()
    assert state.read_text() == "FROZEN\n"
    assert (v1.is_frozen(), v1.is_asked()) == (True, True)
    state.write_text("FREEZING\n")
    assert (v1.is_frozen(), v1.is_asked()) == (False, True)
    v1.thaw()
    assert state.read_text().startswith("THAWED")
    assert FreezerFile.of(tmp_path) is None


# -- a real v2 hierarchy --------------------------------------------------------------------------------------------


@pytest.fixture
def hierarchy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Makes the machine's v2 hierarchy, wherever it is, the only one; a parent group's name for the test."""
    root = cgroup.ROOT if cgroup.is_unified() else cgroup.ROOT / cgroup.HYBRID
    if not (root / "cgroup.controllers").exists() or not os.access(root, os.W_OK):
        need("there is no cgroup v2 hierarchy that this user may write")
    present = (root / "cgroup.controllers").read_text().split()
    monkeypatch.setattr(cgroup, "ROOT", root)
    monkeypatch.setattr(cgroup, "CONTROLLERS", tuple(each for each in cgroup.CONTROLLERS if each in present))
    yield (parent := f"faas-test-{os.getpid()}")
    for left in cgroup.children(parent).values():
        left.remove()
    cgroup.remove_parent(parent)
    assert not (root / parent).exists()


@pytest.fixture
def spinner() -> Iterator[subprocess.Popen[bytes]]:
    program = "print(flush=True)\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def ticks(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


def freeze(group: Cgroup) -> FreezerFile:
    """Frozen, and seen to be so."""
    freezer = group.freezer
    assert freezer is not None
    freezer.freeze()
    while not freezer.is_frozen():  # at most as long as a test may take
        time.sleep(0.001)
    return freezer


def test_v2_freezes_for_real(hierarchy: str, spinner: subprocess.Popen[bytes]) -> None:
    group = cgroup.make(hierarchy, "s1")
    assert group.unified
    assert group.freezer is not None
    assert group.freezer.works()
    assert cgroup.may_freeze()
    (group.paths[FREEZER] / "cgroup.procs").write_text(str(spinner.pid))
    assert group.processes() == {spinner.pid}
    assert cgroup.holds(spinner.pid, f"{hierarchy}/s1")
    assert not cgroup.holds(spinner.pid, f"{hierarchy}/s2")
    freezer = freeze(group)
    before = ticks(spinner.pid)
    time.sleep(0.2)
    assert ticks(spinner.pid) == before
    freezer.thaw()
    assert not freezer.is_frozen()
    time.sleep(0.2)
    assert ticks(spinner.pid) != before


def test_v2_kills_what_is_frozen(hierarchy: str, spinner: subprocess.Popen[bytes]) -> None:
    group = cgroup.make(hierarchy, "s1")
    (group.paths[FREEZER] / "cgroup.procs").write_text(str(spinner.pid))
    group.kill_frozen()
    assert spinner.poll() is None  # it is not
    freezer = freeze(group)
    left = cgroup.children(hierarchy)  # as a starting node finds it
    assert list(left) == ["s1"]
    left["s1"].kill_frozen()
    assert spinner.wait(10) < 0
    assert left["s1"].remove()
    assert not group.paths[FREEZER].exists()
    with pytest.raises(FileNotFoundError):
        freezer.thaw()
    assert not freezer.works()


# -- processes ------------------------------------------------------------------------------------------------------


def test_a_tree_is_found_with_and_without_the_kernels_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, threading, time\n"
        "threading.Thread(target=lambda: os.fork() or time.sleep(600), daemon=True).start()\n"  # a thread's child
        "if os.fork() == 0: os.fork()\n"
        "print('x', end='', flush=True)\ntime.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", program], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.read(3) == b"xxx"
            found = {seen.pid for seen in proc.tree(process.pid)}
            assert len(found) == 4
            assert process.pid in found
            monkeypatch.setattr(proc, "_children", lambda pid: None)
            assert {seen.pid for seen in proc.tree(process.pid)} == found
            assert list(proc.tree(2**22 - 1)) == []
            assert proc.memory_bytes(found) > 3 * MB
        finally:
            for seen in reversed(list(proc.tree(process.pid))):
                os.kill(seen.pid, 9)
    assert not alive(process.pid)
