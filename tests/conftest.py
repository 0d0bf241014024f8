"""Fixtures for every kind of test, and what may run beside what."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class GroupScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it is untyped
    """Tests of one group run one after the other in one process; groups run beside each other.

    A group is a file, so that what a file's tests share is started once. The end-to-end tests of an engine are one
    group: they share a node. What is only computed is no group.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file.startswith(("tests/sim/", "tests/property/")):
            return nodeid
        engine = next((name for name in ("docker", "process") if f"[{name}" in test), "")
        return f"end to end on {engine}" if engine and file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)
