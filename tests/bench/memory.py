"""What an idle instance and an idle sandbox hold."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faas.engines import cgroup
from faas.engines.bubblewrap import MARK
from tests.bench import load, processes, report
from tests.bench.node import BenchError, Node, invocations
from tests.bench.report import Bar, Row, Verdict
from tests.bench.starts import HELLO, WAIT, wait_parked

INSTANCES = 21
INSTANCE = Bar("<= 2 MB", 2_000_000)
PARKED = Bar("<= 15 MB", 15_000_000)
NAME = "bench-memory"


@dataclass(frozen=True, slots=True)
class Held:
    """A sandbox's memory. ``group_bytes`` is what its control group is charged, the kernel's part too; 0 = no group."""

    instances: int
    pss_bytes: int
    private_bytes: tuple[int, ...]  # of each instance
    group_bytes: int
    shim_bytes: int  # of the engine's process that watches the container; 0 = none


def measure(node: Node, say: report.Say) -> list[Row]:
    """The rows for one more idle instance, and for a parked sandbox."""
    say("memory")
    try:
        return [_instance(node), _sandbox(node)]
    except PermissionError as error:
        note = f"this user may not look at the instances' memory: {error}"
        return [Row("memory of one more idle instance", verdict=Verdict.FAILED, note=note)]


def _instance(node: Node) -> Row:
    node.settle()
    node.deploy(WAIT, NAME, keep_alive="5m")
    try:
        node.call(NAME, {"ms": 1})
        before = _held(node, NAME)
        body = json.dumps({"ms": 300})
        request = load.request_text("POST", invocations(NAME), f"{node.host}:{node.port}", node.headers, body)
        outcome = load.run(load.Job(node.host, node.port, request, INSTANCES))
        if outcome.refused:
            raise BenchError(f"calls were refused: {outcome.first_refusal}")
        return instance_row(before, _held(node, NAME))
    finally:
        node.delete(NAME)


def instance_row(before: Held, after: Held) -> Row:
    """The difference per instance: by the control group where there is one, else by the processes' share (PSS)."""
    what = "memory of one more idle instance"
    more = after.instances - before.instances
    if more < 1:
        return Row(what, verdict=Verdict.FAILED, note=f"no instances were added: {before.instances}, {after.instances}")
    pss = (after.pss_bytes - before.pss_bytes) / more
    private = sum(after.private_bytes) / len(after.private_bytes)
    group = (after.group_bytes - before.group_bytes) / more
    value, how = (group, "its control group's charge, kernel memory included") if after.group_bytes else (pss, "PSS")
    return Row(
        what,
        report.megabytes(value),
        bar=INSTANCE.text,
        verdict=INSTANCE.judge(value),
        note=f"{how}; {more} more instances; by PSS {report.megabytes(pss)}, private pages {report.megabytes(private)}",
        values={"group_bytes": group, "pss_bytes": pss, "private_bytes": private, "instances": more},
    )


def _sandbox(node: Node) -> Row:
    node.settle()
    node.deploy(HELLO, NAME)  # a deploy loads the version and starts no instance
    try:
        wait_parked(node, NAME)
        held = _held(node, NAME)
    finally:
        node.delete(NAME)
    shim = f"; the container's shim has another {report.megabytes(held.shim_bytes)}" if held.shim_bytes else ""
    group = f"; charged to its control group {report.megabytes(held.group_bytes)}" if held.group_bytes else ""
    return Row(
        "memory of a parked hello sandbox, without the engine's shim",
        report.megabytes(held.pss_bytes),
        bar=PARKED.text,
        verdict=PARKED.judge(held.pss_bytes),
        note=f"PSS{shim}; no instance, {held.instances} forked ahead{group}",
        values={"pss_bytes": held.pss_bytes, "shim_bytes": held.shim_bytes, "group_bytes": held.group_bytes},
    )


def _held(node: Node, name: str) -> Held:
    """Look at the function's one sandbox."""
    found = node.sandboxes(name)
    if len(found) != 1:
        raise BenchError(f"wanted one sandbox of {name}, there are {len(found)}")
    sandbox: str = found[0]["sandbox"]
    zygote, mark = _docker_zygote(sandbox) if node.engine == "docker" else _process_zygote(sandbox)
    instances = processes.children(zygote)
    sizes = {pid: processes.memory_bytes(pid) for pid in (zygote, *instances)}
    group = cgroup.of_process(zygote, mark)
    shim = processes.parent(zygote) if node.engine == "docker" else 0
    return Held(
        len(instances),
        sum(pss for pss, _ in sizes.values()),
        tuple(sizes[pid][1] for pid in instances),
        _charged(group) if group is not None else 0,
        processes.memory_bytes(shim)[0] if shim else 0,
    )


def _charged(group: cgroup.Cgroup) -> int:
    name = "memory.current" if group.unified else "memory.usage_in_bytes"
    return int((group.paths["memory"] / name).read_text())


def _docker_zygote(sandbox: str) -> tuple[int, str]:
    """Its process id, and what its control group's path contains: the container's id."""
    import docker

    client = docker.from_env()
    try:
        container: dict[str, Any] = client.api.inspect_container(f"faas-{sandbox}")
    finally:
        client.close()
    return int(container["State"]["Pid"]), str(container["Id"])


def _process_zygote(sandbox: str) -> tuple[int, str]:
    """The first process with the sandbox's mark that is the interpreter itself and not what wraps it."""
    marked = {}
    for pid in processes.all_pids():
        with contextlib.suppress(OSError):
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if any(v.startswith(f"{MARK}=".encode()) and v.endswith(f".{sandbox}".encode()) for v in variables):
                marked[pid] = processes.command(pid)
    interpreters = {pid for pid, words in marked.items() if words and "python" in Path(words[0]).name}
    for pid in interpreters:
        if processes.parent(pid) not in interpreters:
            return pid, sandbox
    raise BenchError(f"there is no zygote of the sandbox {sandbox}")
