"""Processor time in proportion: ``resize`` gives each sandbox its weight, and a limit where one was asked for."""

from __future__ import annotations

import asyncio

import pytest

from faas.engines import cgroup
from faas.engines.docker_client import connect
from faas.ports import cpu_share
from tests.contract.conftest import LIMITED, AnyEngine, Boot
from tests.contract.sandboxes import MB, Probe, peer

pytestmark = pytest.mark.anyio
limited = pytest.mark.parametrize("engine", [*LIMITED, "docker+api"], indirect=True)

# Both on one processor; what each got of it while both wanted it. The first to end leaves the rest to the other, so
# each looks at the clock and not at the work it has done.
SPIN = """
    import os, time
    os.sched_setaffinity(0, {{{cpu}}})
    while time.time() < {begin}:
        time.sleep(0.001)
    used = time.process_time()
    while time.time() < {begin} + 1.5:
        pass
    answer = time.process_time() - used
"""
AFFINITY = "import os; answer = sorted(os.sched_getaffinity(0))"


async def contest(probes: list[Probe]) -> list[float]:
    instances = [await probe.instance() for probe in probes]
    cpu = (await probes[0].ask(AFFINITY, instances[0]))[-1]
    begin = await probes[0].ask("import time; answer = time.time() + 0.5", instances[0])
    source = SPIN.format(cpu=cpu, begin=begin)
    return list(await asyncio.gather(*(probe.ask(source, at) for probe, at in zip(probes, instances, strict=True))))


def periods(group: cgroup.Cgroup) -> tuple[int, int]:
    """In how many periods the group wanted to run, and in how many it had to wait for the next: the kernel's count."""
    lines = (group.paths["cpu"] / "cpu.stat").read_text().splitlines()
    counters = dict(line.split() for line in lines)
    return int(counters["nr_periods"]), int(counters["nr_throttled"])


def quota_us(group: cgroup.Cgroup) -> str:
    name = "cpu.max" if group.unified else "cpu.cfs_quota_us"
    return (group.paths["cpu"] / name).read_text().split()[0]


@limited
async def test_time_is_shared_in_proportion_to_memory(engine: AnyEngine, boot: Boot) -> None:
    small, large = await boot(), await boot()
    await engine.resize(small.id, 224 * MB, share=cpu_share(256))
    await engine.resize(large.id, 1120 * MB, share=cpu_share(1024))
    less, more = await contest([small, large])
    assert 2.5 < more / less < 6.0  # 4


@limited
async def test_many_small_instances_weigh_as_much_as_a_large_one(engine: AnyEngine, boot: Boot) -> None:
    many, one = await boot(), await boot()
    await engine.resize(many.id, 608 * MB, share=cpu_share(128, instances=4))
    await engine.resize(one.id, 608 * MB, share=cpu_share(512))
    first, second = await contest([many, one])
    assert 0.6 < first / second < 1.7


@limited
async def test_memory_gives_the_weight_when_nothing_else_does(engine: AnyEngine, boot: Boot) -> None:
    small, large = await boot(), await boot()
    await engine.resize(small.id, 256 * MB)
    await engine.resize(large.id, 1024 * MB)
    less, more = await contest([small, large])
    assert 2.5 < more / less < 6.0


@limited
async def test_a_limit_holds_for_all_instances_together_and_can_be_lifted(engine: AnyEngine, boot: Boot) -> None:
    probe = await boot()
    group = cgroup.of_process(peer(probe.zygote)[0], "")
    assert group is not None
    source = "import time; end = time.process_time() + 0.024\nwhile time.process_time() < end: pass"
    instances = [await probe.instance() for _ in range(2)]
    await engine.resize(probe.id, 256 * MB, cpus=2 * 0.03)  # so little that a busy machine has it, too
    assert quota_us(group) == "6000"  # of each 100 ms
    before, _ = periods(group)
    await asyncio.gather(*(probe.ask(source, each) for each in instances))
    after, held_back = periods(group)
    assert held_back > 0
    assert after - before >= 5  # 48 ms of work at 6 ms each are 8; the kernel may lend a few
    await engine.resize(probe.id, 256 * MB)
    assert quota_us(group) in ("-1", "max")
    await probe.ask(source)
    assert periods(group)[1] == held_back


@pytest.mark.parametrize("engine", ["docker", "docker+api"], indirect=True)
async def test_the_engine_itself_agrees(engine: AnyEngine, boot: Boot, kind: str) -> None:
    """Written by us or asked for: what the container's group says is the same."""
    probe = await boot()
    await engine.resize(probe.id, 300 * MB, cpus=0.5, share=0.25)
    client = connect()
    try:
        state = client.inspect_container(f"faas-{probe.id}")
        if kind == "docker+api":
            host = state["HostConfig"]
            assert (host["CpuShares"], host["CpuQuota"], host["Memory"]) == (256, 50_000, 300 * MB)
        stats = client.stats(state["Id"], stream=False, one_shot=True)
        assert stats["memory_stats"]["limit"] == 300 * MB
    finally:
        client.close()
