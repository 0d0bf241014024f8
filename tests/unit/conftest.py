"""A command line and a node that it speaks to, which answers what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faas.cli.app import run
from tests.unit.fake_node import Faas, FakeNode, fake_node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    """A node, and an environment and a working directory that lead to it."""
    with fake_node() as fake:
        for name in ("FAAS_NAMESPACE", "NO_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("FAAS_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("FAAS_URL", fake.url)
        monkeypatch.setenv("FAAS_KEY", "secret")
        monkeypatch.chdir(tmp_path)
        yield fake


@pytest.fixture
def faas(capfdbinary: pytest.CaptureFixture[bytes]) -> Faas:
    """Run a command line; its exit code, stdout and stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        printed = capfdbinary.readouterr()
        return code, printed.out.decode(), printed.err.decode()

    return call
