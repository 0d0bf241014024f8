"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

LOAD_QUIET_MAX = 0.7


def facts(engine: str, load_before: float) -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "engine": engine,
        "load_before": load_before,
    }


def sentence(machine: dict[str, Any]) -> str:
    """The facts as one line."""
    busy = machine["load_before"]
    return (
        f"{machine['cores']} cores ({machine['processor']}), {machine['ram_gb']} GB RAM, Linux {machine['kernel']}, "
        f"Python {machine['python']}, engine {machine['engine']}"
        + (f"; it was busy with other work (load {busy} before the start)" if busy > LOAD_QUIET_MAX else "")
    )


def engine_words(engine: str) -> str:
    """The engine with its version, where it has one."""
    if engine != "docker":
        return engine
    import docker

    client = docker.from_env()
    try:
        return f"docker {client.version()['Version']}"
    finally:
        client.close()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
